"""``ClusterLLMAssigner``: puts documents into clusters that were found before; asks nobody."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack import Document, component
from haystack.components.embedders.types import DocumentEmbedder

from clusterllm_plugins.errors import ClusterLLMError
from haystack_integrations.components.clusterers.clusterllm.documents import Preparation, Prepared, with_embeddings
from haystack_integrations.components.clusterers.clusterllm.parameters import WithParameters, run_async_of

if TYPE_CHECKING:
    from clusterllm_plugins import ClusterLLM


@component
class ClusterLLMAssigner(WithParameters):
    """Assigns new documents to the clusters of a fitted model: for indexing and serving, without a language model.

    The folder is what `ClusterLLMClusterer(artifact_path=...)`, `ClusterLLM.save` or `clusterllm cluster` wrote. A
    model with an embedder of its own embeds the documents; one that was fitted on embeddings reads those of the
    documents, or has `document_embedder` make them.
    """

    nested_names = ("document_embedder",)
    artifact_path: str
    document_embedder: DocumentEmbedder | None
    progress_bar: bool

    def __init__(
        self,
        artifact_path: str,
        *,
        document_embedder: DocumentEmbedder | None = None,
        meta_prefix: str = "cluster",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        raise_on_failure: bool = False,
        progress_bar: bool = True,
    ) -> None:
        """Creates an assigner; the model is read when it is warmed up.

        Args:
            artifact_path: Folder of a fitted model.
            document_embedder: The one that embedded the documents of the fit.
            meta_prefix: What the keys in `meta` start with.
            meta_fields_to_embed: As in the fit.
            embedding_separator: As in the fit.
            raise_on_failure: Whether a document that cannot be used is an error.
            progress_bar: Whether to show progress bars on a terminal.
        """
        self._keep(locals())
        self._model: ClusterLLM | None = None

    def warm_up(self) -> None:
        """Reads the model, once, and warms the embedder up.

        Raises:
            ValueError: If the folder is not a fitted model.
        """
        if self._model is None:
            self._read()
        WithParameters.warm_up(self)  # not super(): @component makes another class of this one

    async def warm_up_async(self) -> None:
        """Reads the model, once, and warms the embedder up on the event loop that serves it."""
        if self._model is None:
            await asyncio.to_thread(self._read)
        await WithParameters.warm_up_async(self)

    @component.output_types(documents=list[Document], failed_documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Assigns documents to clusters.

        Args:
            documents: What to assign.

        Returns:
            `documents`: copies with `cluster_id`, `cluster_label` and `cluster_score` in their meta.
            `failed_documents`: copies of those that could not be used, with the reason as `cluster_error`.

        Raises:
            TypeError: If `documents` is not a list of documents.
            ValueError: If the folder is not a fitted model, or the embeddings are not those that it was fitted on.
        """
        self._preparation.check(documents)
        self.warm_up()
        if self.document_embedder is not None and documents:
            documents = with_embeddings(self, documents, self.document_embedder.run(documents=documents))
        return self._assigned(documents)

    @component.output_types(documents=list[Document], failed_documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Assigns documents to clusters without blocking the event loop.

        Args:
            documents: What to assign.

        Returns:
            What `run` returns.

        Raises:
            TypeError: If `documents` is not a list of documents.
            ValueError: If the folder is not a fitted model, or the embeddings are not those that it was fitted on.
        """
        self._preparation.check(documents)
        await self.warm_up_async()
        if self.document_embedder is not None and documents:
            result = await run_async_of(self.document_embedder, documents=documents)
            documents = with_embeddings(self, documents, result)
        return await asyncio.to_thread(self._assigned, documents)

    @property
    def _preparation(self) -> Preparation:
        """How documents become texts and vectors, and what they get."""
        return Preparation.of(type(self).__name__, self._parameters)

    def _read(self) -> None:
        from clusterllm_plugins import ClusterLLM

        self._model = ClusterLLM.load(Path(self.artifact_path)).set_params(progress=self.progress_bar)

    def _assigned(self, documents: list[Document]) -> dict[str, Any]:
        model = self._model
        assert model is not None
        reads_embeddings = model.space_.embedder is None
        if self.document_embedder is not None and not reads_embeddings:
            raise ClusterLLMError(
                f"{type(self).__name__}: the model in {self.artifact_path} has an embedder of its own; "
                "leave document_embedder out"
            )
        prepared = self._preparation.prepare(documents, with_embeddings=reads_embeddings)
        done, failed = self._sorted_out(model, prepared) if prepared.documents else ([], [])
        return {"documents": done, "failed_documents": [*prepared.failed, *failed]}

    def _sorted_out(self, model: ClusterLLM, prepared: Prepared) -> tuple[list[Document], list[Document]]:
        labels, scores = model.predict_with_scores(prepared.texts, embeddings=prepared.embeddings)
        done, failed = [], []
        for document, label, score in zip(prepared.documents, labels.tolist(), scores.tolist(), strict=True):
            if label < 0:
                failed.append(self._preparation.failed(document, "has nothing left after redaction"))
            else:
                done.append(self._preparation.clustered(document, label, model.cluster_labels_[label], score))
        return done, failed
