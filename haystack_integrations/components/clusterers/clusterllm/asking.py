"""What the components that ask an oracle share: their parameters, and what is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from haystack import Document

from clusterllm_plugins.components import redaction_of
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.plugins import refuse_keys
from clusterllm_plugins.protocols import has_methods
from clusterllm_plugins.settings import check_settings, cluster_range, seed_of
from haystack_integrations.components.clusterers.clusterllm.documents import Preparation, Prepared, with_embeddings
from haystack_integrations.components.clusterers.clusterllm.fitting import Fit
from haystack_integrations.components.clusterers.clusterllm.parameters import WithParameters, check_one_of, run_async_of

if TYPE_CHECKING:
    from clusterllm_plugins import ClusterLLM

NESTED = ("chat_generator", "document_embedder")
# What is not a setting of ClusterLLM, or has another name there.
_OWN = {
    *NESTED,
    "artifact_path",
    "embedding_separator",
    "max_llm_calls",
    "max_retries",
    "max_workers",
    "meta_fields_to_embed",
    "meta_prefix",
    "progress_bar",
    "raise_on_failure",
}
_EMPTY_LISTS = ("demonstrations", "redact")
_MANY = 10**9  # more texts than any fit has: how many there will be is not known yet
_DEFAULTS = {"method": "paper", "max_questions": 0, "iterations": 1}  # of a component that leaves these out


class AskingComponent(WithParameters):
    """The base of components that ask an oracle."""

    nested_names = NESTED

    def _take_parameters(self, parameters: Mapping[str, Any]) -> None:
        """Keep the parameters, once those that can be checked now are.

        Raises:
            ClusterLLMError: If one has no meaning, or two exclude each other.
        """
        self._keep(parameters)
        name = type(self).__name__
        check_one_of(name, chat_generator=parameters["chat_generator"], oracle=parameters["oracle"])
        check_one_of(name, document_embedder=parameters["document_embedder"], embedder=parameters["embedder"])
        for spec in (parameters["oracle"], parameters["embedder"], *(parameters["redact"] or [])):
            if isinstance(spec, Mapping):
                refuse_keys(spec, name)
        for nested in NESTED:
            if (given := parameters[nested]) is not None and not has_methods(given, "run"):
                raise ClusterLLMError(f"{name}: {nested} must be a component, not {type(given).__name__}")
        for number, least in (("max_workers", 1), ("max_retries", 0), ("max_llm_calls", 0)):
            if parameters[number] is not None and parameters[number] < least:
                raise ClusterLLMError(f"{name}: {number} must be at least {least}, not {parameters[number]}")
        settings = self._settings()
        check_settings({**_DEFAULTS, **settings})
        cluster_range(settings["n_clusters"], _MANY)
        seed_of(settings["random_state"])

    @property
    def _preparation(self) -> Preparation:
        """How documents become texts and vectors, and what they get."""
        return Preparation.of(type(self).__name__, self._parameters)

    def _settings(self) -> dict[str, Any]:
        """Return the settings of :class:`ClusterLLM` among the parameters."""
        settings = {name: value for name, value in self._parameters.items() if name not in _OWN}
        for name in _EMPTY_LISTS:
            settings[name] = settings[name] or []
        return {**settings, "progress": self._parameters["progress_bar"]}

    def _prepared(self, documents: list[Document]) -> Prepared:
        """Return documents ready for a fit; a document embedder has embedded them."""
        embedder = self._parameters["document_embedder"]
        if embedder is not None and documents:
            documents = with_embeddings(self, documents, embedder.run(documents=self._to_embed(documents)))
        return self._preparation.prepare(documents, with_embeddings=self._parameters["embedder"] is None)

    async def _prepared_async(self, documents: list[Document]) -> Prepared:
        embedder = self._parameters["document_embedder"]
        if embedder is not None and documents:
            result = await run_async_of(embedder, documents=self._to_embed(documents))
            documents = with_embeddings(self, documents, result)
        return self._preparation.prepare(documents, with_embeddings=self._parameters["embedder"] is None)

    def _to_embed(self, documents: list[Document]) -> list[Document]:
        """Return what a document embedder gets: the documents, or only their texts where something is redacted."""
        if not self._parameters["redact"]:
            return documents
        redaction = redaction_of(self._parameters["redact"])
        return [Document(id=doc.id, content=redaction.text(self._preparation.text(doc))) for doc in documents]

    def _fit(self, prepared: Prepared, **overrides: Any) -> Fit:
        """Return the fit of prepared documents."""
        from clusterllm_oracles.haystack import HaystackOracle
        from clusterllm_plugins import ClusterLLM

        parameters = self._parameters
        oracle = None
        if parameters["chat_generator"] is not None:
            oracle = HaystackOracle(
                parameters["chat_generator"],
                concurrency=parameters["max_workers"],
                max_retries=parameters["max_retries"],
                raise_on_failure=parameters["raise_on_failure"],
            )
        settings = {**self._settings(), **overrides}
        settings["embedder"] = settings["embedder"] or "auto"
        model: ClusterLLM = ClusterLLM(**{**settings, "oracle": oracle or parameters["oracle"]})
        _limit_calls(model, parameters["max_llm_calls"])
        return Fit(model, oracle, prepared.texts, prepared.embeddings, parameters["raise_on_failure"])


def _limit_calls(model: ClusterLLM, limit: int | None) -> None:
    """Lower a model's caps so that both kinds of questions together keep to ``limit``."""
    if limit is None:
        return
    if model.method == "auto" and not isinstance(model.n_clusters, int):
        # Both kinds are needed: what one leaves, the other does not take.
        share = min(1.0, limit / max(1, model.max_questions + model.max_granularity_questions))
        perspective = int(model.max_questions * share)
        granularity = int(model.max_granularity_questions * share)
        model.set_params(max_questions=perspective, max_granularity_questions=granularity)
        return
    iterations = model.iterations if model.method == "paper" else 1  # only the paper's method has more than one
    perspective = min(model.max_questions, limit // iterations)
    left = limit - perspective * iterations
    model.set_params(max_questions=perspective, max_granularity_questions=min(model.max_granularity_questions, left))
