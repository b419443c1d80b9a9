"""``ClusterLLMTextEmbedder``."""

from __future__ import annotations

import asyncio
from typing import Any

from haystack import component
from haystack.utils import ComponentDevice

from haystack_integrations.components.embedders.clusterllm.embedding import EmbeddingComponent


@component
class ClusterLLMTextEmbedder(EmbeddingComponent):
    """Embeds a text, for example a query, as `ClusterLLMDocumentEmbedder` with the same parameters embeds documents.

    ### Usage example

    ```python
    from haystack_integrations.components.embedders.clusterllm import ClusterLLMTextEmbedder

    ClusterLLMTextEmbedder(artifact_path="fitted").run("where is my parcel?")["embedding"]
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
        precision: str = "auto",
        trust_remote_code: bool = False,
        cache: str | None = None,
    ) -> None:
        """Creates an embedder; nothing is loaded before it is warmed up.

        Args:
            model: A sentence-transformers model: its name on the hub, or a folder.
            embedder: Instead, a registered embedder or `{"name": ..., **settings}`; with none of the three, minilm.
            artifact_path: Instead, the folder of a fitted ClusterLLM model; the only way for an embedder that learns
                from a corpus, as `lsa`.
            device: Where `model` runs; by default a GPU where there is one, when it is warmed up.
            prefix: What stands before the text.
            suffix: What stands behind the text.
            batch_size: Has no effect on a single text; there, so that both embedders take the same parameters.
            progress_bar: Whether to show progress bars on a terminal.
            normalize_embeddings: Whether the embeddings of `model` have length 1.
            precision: Of `model`: `"fp32"`, `"bf16"`, or `"auto"`: what the processor can do.
            trust_remote_code: Whether `model` may run code of its own.
            cache: Folder that keeps the vectors, so that no text is embedded twice; not with `artifact_path`.

        Raises:
            ValueError: If more than one of model, embedder and artifact_path is given, or cache with the last.
        """
        self._take_parameters(locals())

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """Embeds a text.

        Args:
            text: What to embed.

        Returns:
            `embedding`: its vector.

        Raises:
            TypeError: If `text` is not a text.
            ValueError: If the embedder cannot be made, or must learn from a corpus first.
        """
        if not isinstance(text, str):
            raise TypeError(
                "ClusterLLMTextEmbedder takes a text; to embed a list of Documents use ClusterLLMDocumentEmbedder"
            )
        return {"embedding": self._embed([self._text(text)], may_fit=False)[0].tolist()}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Embeds a text on a thread.

        Args:
            text: What to embed.

        Returns:
            What `run` returns.

        Raises:
            TypeError: If `text` is not a text.
            ValueError: If the embedder cannot be made, or must learn from a corpus first.
        """
        return await asyncio.to_thread(self.run, text)
