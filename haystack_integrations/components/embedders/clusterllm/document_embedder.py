"""``ClusterLLMDocumentEmbedder``."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from haystack import Document, component
from haystack.utils import ComponentDevice

from haystack_integrations.components.clusterers.clusterllm.documents import text_of
from haystack_integrations.components.embedders.clusterllm.embedding import EmbeddingComponent


@component
class ClusterLLMDocumentEmbedder(EmbeddingComponent):
    """Embeds documents with any registered embedder, a sentence-transformers model, or a fitted ClusterLLM model.

    The embeddings of a fitted model are those that its answers refined: documents of one cluster lie close together,
    which serves retrieval as well. Embed queries by `ClusterLLMTextEmbedder` with the same parameters.

    ### Usage example

    ```python
    from haystack import Document
    from haystack_integrations.components.embedders.clusterllm import ClusterLLMDocumentEmbedder

    embedder = ClusterLLMDocumentEmbedder(artifact_path="fitted")
    embedder.run([Document(content="Where is my parcel?")])["documents"][0].embedding
    ```
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        embedder: str | dict[str, Any] | None = None,
        artifact_path: str | None = None,
        device: ComponentDevice | None = None,
        prefix: str = "",
        suffix: str = "",
        batch_size: int | None = None,
        progress_bar: bool = True,
        normalize_embeddings: bool = True,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        precision: str = "auto",
        trust_remote_code: bool = False,
        cache: str | None = None,
    ) -> None:
        """Creates an embedder; nothing is loaded before it is warmed up.

        Args:
            model: A sentence-transformers model: its name on the hub, or a folder.
            embedder: Instead, a registered embedder or `{"name": ..., **settings}`; with none of the three, minilm
                where it is installed, else lsa. `lsa` learns from the documents of the first run.
            artifact_path: Instead, the folder of a fitted ClusterLLM model.
            device: Where `model` runs; by default a GPU where there is one, when it is warmed up.
            prefix: What stands before each text.
            suffix: What stands behind each text.
            batch_size: The most texts that `model` embeds at once; by default as many as suit their lengths.
            progress_bar: Whether to show progress bars on a terminal.
            normalize_embeddings: Whether the embeddings of `model` have length 1.
            meta_fields_to_embed: Fields of `meta` that are embedded along with the content.
            embedding_separator: What stands between these.
            precision: Of `model`: `"fp32"`, `"bf16"`, or `"auto"`: what the processor can do.
            trust_remote_code: Whether `model` may run code of its own.
            cache: Folder that keeps the vectors, so that no text is embedded twice; not with `artifact_path`.

        Raises:
            ValueError: If more than one of model, embedder and artifact_path is given, or cache with the last.
        """
        self._take_parameters(locals())

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Embeds documents.

        Args:
            documents: What to embed.

        Returns:
            `documents`: copies with their embeddings.

        Raises:
            TypeError: If `documents` is not a list of documents.
            ValueError: If the embedder cannot be made.
        """
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise TypeError(
                "ClusterLLMDocumentEmbedder takes a list of Documents; to embed a text use ClusterLLMTextEmbedder"
            )
        if not documents:
            return {"documents": []}
        fields, separator = self._parameters["meta_fields_to_embed"] or [], self._parameters["embedding_separator"]
        texts = [self._text(text_of(document, fields, separator)) for document in documents]
        vectors = self._embed(texts, may_fit=True).tolist()
        return {"documents": [replace(doc, embedding=vector) for doc, vector in zip(documents, vectors, strict=True)]}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Embeds documents on a thread.

        Args:
            documents: What to embed.

        Returns:
            What `run` returns.

        Raises:
            TypeError: If `documents` is not a list of documents.
            ValueError: If the embedder cannot be made.
        """
        return await asyncio.to_thread(self.run, documents)
