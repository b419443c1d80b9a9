"""What makes the vectors of both embedders: a registered embedder, or a fitted model with what its answers taught."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack.utils import ComponentDevice

from clusterllm_plugins.components import resolve_embedder
from clusterllm_plugins.embedding import embed_texts, fit_if_needed
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.plugins import Plugins, refuse_keys
from clusterllm_plugins.protocols import Embedder, Vectors
from haystack_integrations.components.clusterers.clusterllm.parameters import WithParameters, check_one_of

if TYPE_CHECKING:
    from clusterllm_plugins import ClusterLLM


_FIRST_RUN = threading.Lock()  # of the module: a component with a lock of its own could not be copied


class EmbeddingComponent(WithParameters):
    """The base of both embedders."""

    def _take_parameters(self, parameters: dict[str, Any]) -> None:
        """Keep the parameters.

        Raises:
            ClusterLLMError: If more than one of model, embedder and artifact_path is given, or cache with the last.
        """
        self._keep(parameters)
        given = [name for name in ("model", "embedder", "artifact_path") if self._parameters[name] is not None]
        if len(given) > 1:
            raise ClusterLLMError(f"{type(self).__name__} takes one of {', '.join(given)}, not {len(given)}")
        check_one_of(type(self).__name__, artifact_path=parameters["artifact_path"], cache=parameters["cache"])
        if isinstance(self._parameters["embedder"], Mapping):
            refuse_keys(self._parameters["embedder"], type(self).__name__)
        self._embedder: Embedder | None = None
        self._fitted: ClusterLLM | None = None

    def warm_up(self) -> None:
        """Makes the embedder, or reads the fitted model, once.

        Raises:
            ValueError: If it cannot.
        """
        if self._embedder is not None or self._fitted is not None:
            return
        path = self._parameters["artifact_path"]
        if path is not None:
            from clusterllm_plugins import ClusterLLM

            fitted = ClusterLLM.load(Path(path))
            if fitted.space_.embedder is None:
                raise ClusterLLMError(
                    f"{type(self).__name__}: the model in {path} was fitted on embeddings, it has no embedder"
                )
            self._fitted = fitted
        else:
            self._embedder, _ = resolve_embedder(Plugins(), self._spec())

    def _spec(self) -> str | dict[str, Any]:
        """Return which registered embedder to make."""
        parameters = self._parameters
        if parameters["model"] is None:
            spec: str | dict[str, Any] = parameters["embedder"] or "auto"
            return spec
        # Resolved here, not at construction: a GPU that is there now may not be where a pipeline is loaded.
        device: ComponentDevice | None = parameters["device"]
        return {
            "name": "sentence-transformers",
            "model": parameters["model"],
            "device": device.to_torch_str() if device is not None else None,
            "batch_size": parameters["batch_size"],
            "normalize": parameters["normalize_embeddings"],
            "precision": parameters["precision"],
            "trust_remote_code": parameters["trust_remote_code"],
        }

    def _text(self, text: str) -> str:
        return f"{self._parameters['prefix']}{text}{self._parameters['suffix']}"

    def _embed(self, texts: Sequence[str], *, may_fit: bool) -> Vectors:
        """Return vectors, shape (n_texts, dim); an embedder that learns from a corpus does so where ``may_fit``."""
        with _FIRST_RUN:
            self.warm_up()
            if may_fit and self._embedder is not None:
                fit_if_needed(self._embedder, [text for text in texts if text.strip()])
        if self._fitted is not None:
            return self._fitted.embed(texts)
        assert self._embedder is not None
        return embed_texts(self._embedder, texts, self._parameters["progress_bar"], self._parameters["cache"])
