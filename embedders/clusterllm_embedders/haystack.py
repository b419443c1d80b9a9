"""``haystack``: any document embedder or text embedder of Haystack."""

from __future__ import annotations

import importlib.util
import inspect
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clusterllm_embedders.arriving import finished, in_order, keep_rest, valid

# One wheel holds both: what tells one component of Haystack from another, and which keys it holds, is said once.
from clusterllm_oracles.haystack import identity_of, secrets_of
from clusterllm_plugins.errors import ClusterLLMError, MissingExtraError
from clusterllm_plugins.failures import oracle_error
from clusterllm_plugins.keys import shows_key, without_keys
from clusterllm_plugins.plugins import refuse_keys
from clusterllm_plugins.protocols import Keep, Vectors, has_methods

_WHERE = "embedder 'haystack'"


class HaystackEmbedder:
    """Embeds texts with a component, warmed up when it is first used; a blank text's vector is zeros.

    Retries, rate limits and batches within a call are the component's own. Vectors are kept in the cache, where there
    is one, after each call.

    Args:
        embedder: A document embedder, with ``run(documents)``, a text embedder, with ``run(text)``, or one of them
            serialized: ``{"type": ..., "init_parameters": ...}``.
        batch_size: Documents a call; a text embedder takes one text a call.
        normalize: Whether vectors are scaled to length 1.

    Raises:
        MissingExtraError: If haystack-ai is not installed.
        ClusterLLMError: If ``embedder`` is none.
    """

    def __init__(self, embedder: Any, batch_size: int = 128, normalize: bool = True) -> None:
        if importlib.util.find_spec("haystack") is None:
            raise MissingExtraError(_WHERE, "haystack")
        if batch_size < 1:
            raise ClusterLLMError(f"{_WHERE}: batch_size must be at least 1, not {batch_size}")
        self.embedder = _component(embedder)
        self.normalize = normalize
        self._takes = _takes(self.embedder)
        self.batch_size = batch_size if self._takes == "documents" else 1
        self.fingerprint = f"haystack-embedder:{identity_of(self.embedder, _IRRELEVANT)}:n{normalize}"
        self._where = f"{_WHERE} ({type(self.embedder).__name__})"
        self._width: int | None = None
        self._is_warm = False
        self._lock = threading.Lock()

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text, float32, shape (n_texts, dim).

        Raises:
            ClusterLLMError: If the component fails, in one line.
        """
        return in_order(self.embed_each, texts, self._width)

    def embed_each(self, texts: Sequence[str], keep: Keep) -> None:
        """Call ``keep`` with the positions and vectors of each call of the component.

        Raises:
            ClusterLLMError: If the component fails, in one line.
        """
        positions = [position for position, text in enumerate(texts) if text.strip()]
        for start in range(0, len(positions), self.batch_size):
            part = positions[start : start + self.batch_size]
            found = self._found([valid(texts[position]) for position in part])
            got = [place for place, vector in enumerate(found) if vector is not None]
            if got:
                # Also where others are missing: these may be paid for.
                keep([part[place] for place in got], self._checked([found[place] for place in got]))
            if len(got) < len(part):
                raise ClusterLLMError(
                    f"{self._where}: gave no embedding for {len(part) - len(got)} of {len(part)} texts"
                )
        keep_rest(keep, len(texts), positions, self._width, self._where)

    def _checked(self, found: Sequence[Any]) -> Vectors:
        try:
            vectors = np.array(found, dtype=np.float32)
        except (TypeError, ValueError):
            vectors = np.empty(0, dtype=np.float32)
        if vectors.ndim != 2 or not vectors.shape[1] or self._width not in (None, vectors.shape[1]):
            raise ClusterLLMError(f"{self._where}: embeddings are not lists of numbers, all of one size")
        if not np.isfinite(vectors).all():
            raise ClusterLLMError(f"{self._where}: an embedding is not finite")
        self._width = vectors.shape[1]
        return finished(vectors, self.normalize)

    def _found(self, texts: Sequence[str]) -> list[Any]:
        """Return what the component gives for texts, ``None`` where it gives nothing."""
        try:
            with self._lock:
                if not self._is_warm and has_methods(self.embedder, "warm_up"):
                    self.embedder.warm_up()
                self._is_warm = True
            if self._takes == "text":
                return [self.embedder.run(text=text)["embedding"] for text in texts]
            return self._of_documents(texts)
        except ClusterLLMError:
            raise
        except Exception as error:
            secrets = secrets_of(self.embedder)
            failure = ClusterLLMError(str(oracle_error(self._where, error, secrets=secrets)))
            cause = None if shows_key(error, secrets) else error
        raise failure from cause  # not above, where an error that quotes the key would be its context

    def _of_documents(self, texts: Sequence[str]) -> list[Any]:
        from haystack import Document

        # Ids of our own: those that Haystack makes of the content are the same for equal texts.
        documents = [Document(id=str(place), content=text) for place, text in enumerate(texts)]
        embedded = {document.id: document.embedding for document in self.embedder.run(documents=documents)["documents"]}
        return [embedded.get(document.id) for document in documents]


# Parameters of embedders that change no vector.
_IRRELEVANT = {
    "api_key",
    "azure_ad_token",
    "batch_size",
    "http_client_kwargs",
    "max_retries",
    "progress_bar",
    "timeout",
    "token",
}


def _component(given: Any) -> Any:
    """Return a component, made where it is given as its serialized form."""
    if not isinstance(given, Mapping):
        return given
    refuse_keys(given, _WHERE)
    from haystack.utils import deserialize_component_inplace

    holder = {"embedder": dict(given)}
    try:
        deserialize_component_inplace(holder, key="embedder")
    except Exception as error:
        reason = without_keys(" ".join(str(error).split()))
        raise ClusterLLMError(f"{_WHERE}: embedder cannot be made ({reason})") from error
    return holder["embedder"]


def _takes(component: Any) -> str:
    """Return what the component's ``run`` takes, ``"documents"`` or ``"text"``."""
    if has_methods(component, "run"):
        parameters = inspect.signature(component.run).parameters
        for name in ("documents", "text"):
            if name in parameters:
                return name
    raise ClusterLLMError(
        f"{_WHERE}: embedder must be a document embedder or a text embedder, not {type(component).__name__}"
    )
