"""``ClusterLLMClusterer``: groups documents, guided by a chat generator's answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from haystack import Document, component
from haystack.components.embedders.types import DocumentEmbedder
from haystack.components.generators.chat.types import ChatGenerator

from clusterllm_plugins.components import redaction_of
from clusterllm_plugins.vectors import normalise
from haystack_integrations.components.clusterers.clusterllm.asking import AskingComponent
from haystack_integrations.components.clusterers.clusterllm.documents import Prepared, summaries
from haystack_integrations.components.clusterers.clusterllm.fitting import Fit, no_stats, stats_of

if TYPE_CHECKING:
    from clusterllm_plugins import ClusterLLM


@component
class ClusterLLMClusterer(AskingComponent):
    """Groups documents and names the groups; a chat generator is asked where it is not clear what belongs together.

    The method is ClusterLLM (Zhang, Wang and Shang, EMNLP 2023): a fixed number of short questions, "does A go with B
    or with C?", whose answers refine the embeddings, and yes/no questions that choose how many clusters there are.

    ### Usage example

    ```python
    from haystack import Document
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack_integrations.components.clusterers.clusterllm import ClusterLLMClusterer

    clusterer = ClusterLLMClusterer(
        chat_generator=OpenAIChatGenerator(model="gpt-4o-mini"), embedder="minilm", n_clusters=[5, 30]
    )
    result = clusterer.run([Document(content="Where is my parcel?"), Document(content="My lamp is broken"), ...])
    result["documents"][0].meta["cluster_label"]
    ```
    """

    def __init__(
        self,
        chat_generator: ChatGenerator | None = None,
        *,
        oracle: str | dict[str, Any] | None = None,
        document_embedder: DocumentEmbedder | None = None,
        embedder: str | dict[str, Any] | None = None,
        n_clusters: int | list[int] | str = "auto",
        method: str = "auto",
        max_questions: int = 1024,
        iterations: int = 1,
        max_granularity_questions: int = 594,
        max_llm_calls: int | None = None,
        max_cost: float | None = None,
        max_tokens: int | None = None,
        instruction: str | None = None,
        demonstrations: list[list[str]] | None = None,
        redact: list[Any] | None = None,
        store: str | None = None,
        cache: str | None = None,
        random_state: int = 0,
        artifact_path: str | None = None,
        meta_prefix: str = "cluster",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        max_workers: int = 3,
        max_retries: int = 5,
        raise_on_failure: bool = False,
        progress_bar: bool = True,
    ) -> None:
        """Creates a clusterer; nothing is loaded or connected before it is warmed up.

        Args:
            chat_generator: Whom to ask. Set its own retries to 0: `max_retries` are made here.
            oracle: Whom to ask instead: a registered oracle, or `{"name": ..., **settings}`. With neither nobody is
                asked.
            document_embedder: Embeds the documents. Its embeddings are refined by a linear map.
            embedder: Embeds them instead: a registered embedder, or `{"name": ..., **settings}`; one that can be
                trained is fine-tuned on the answers. With neither the documents bring their embeddings.
            n_clusters: A number, `[low, high]`, or `"auto"`: then the answers choose.
            method: `"paper"` is ClusterLLM as published, `"auto"` the best that is known.
            max_questions: Hard cap on distinct questions about what belongs together (of `"paper"`: per iteration).
            iterations: 2 is the paper's "-iter".
            max_granularity_questions: Hard cap on distinct questions about the number, asked where it is open.
            max_llm_calls: Hard cap on all distinct questions together; retries of failed calls come on top.
            max_cost: Hard cap in US dollars, where the oracle knows its prices.
            max_tokens: Hard cap on tokens.
            instruction: The perspective in words, for example `"in terms of the customer's intent"`.
            demonstrations: Worked examples `[left, right, "yes" or "no"]` for the yes/no questions.
            redact: Registered redactors, applied in this order before any text goes anywhere.
            store: Path of the SQLite file that keeps the answers; a second run asks only what is missing.
            cache: Folder that keeps the vectors of `embedder`, so that a second run embeds nothing; `None` keeps none.
            random_state: A seed.
            artifact_path: Folder that the fitted model is saved to, for `ClusterLLMAssigner` and the embedders.
            meta_prefix: What the keys in `meta` start with.
            meta_fields_to_embed: Fields of `meta` that are clustered along with the content.
            embedding_separator: What stands between these.
            max_workers: Calls of the chat generator at once.
            max_retries: Attempts after the first one, for calls that may succeed later.
            raise_on_failure: Whether a call that fails, or a document that cannot be used, is an error.
            progress_bar: Whether to show progress bars on a terminal.

        Raises:
            ValueError: If a parameter has no meaning, or two exclude each other.
        """
        self._take_parameters(locals())

    @component.output_types(
        documents=list[Document],
        clusters=list[dict[str, Any]],
        failed_documents=list[Document],
        stats=dict[str, Any],
        artifact_path=str,
    )
    def run(self, documents: list[Document], n_clusters: int | None = None) -> dict[str, Any]:
        """Groups documents.

        Args:
            documents: What to group.
            n_clusters: How many groups; takes the place of the init parameter.

        Returns:
            `documents`: copies with `cluster_id`, `cluster_label` and `cluster_score` in their meta.
            `clusters`: for each `id`, `label`, `size`, `keywords` and `exemplar_ids`, the most typical documents.
            `failed_documents`: copies of those that could not be used, with the reason as `cluster_error`.
            `stats`: what was asked, and what it took.
            `artifact_path`: where the fitted model is; empty where it was not saved.

        Raises:
            TypeError: If `documents` is not a list of documents.
            ValueError: If they cannot be grouped as asked.
        """
        self._preparation.check(documents)
        self.warm_up()
        prepared = self._enough(self._prepared(documents))
        return (
            self._outputs(self._fit_of(prepared, n_clusters).run(), prepared)
            if prepared.documents
            else _nothing(prepared)
        )

    @component.output_types(
        documents=list[Document],
        clusters=list[dict[str, Any]],
        failed_documents=list[Document],
        stats=dict[str, Any],
        artifact_path=str,
    )
    async def run_async(self, documents: list[Document], n_clusters: int | None = None) -> dict[str, Any]:
        """Groups documents without blocking the event loop; `max_workers` calls of the chat generator run at once.

        Args:
            documents: What to group.
            n_clusters: How many groups; takes the place of the init parameter.

        Returns:
            What `run` returns.

        Raises:
            TypeError: If `documents` is not a list of documents.
            ValueError: If they cannot be grouped as asked.
        """
        self._preparation.check(documents)
        await self.warm_up_async()
        prepared = self._enough(await self._prepared_async(documents))
        if not prepared.documents:
            return _nothing(prepared)
        model = await self._fit_of(prepared, n_clusters).run_async()
        return await asyncio.to_thread(self._outputs, model, prepared)

    def _fit_of(self, prepared: Prepared, n_clusters: int | None) -> Fit:
        return self._fit(prepared, **({} if n_clusters is None else {"n_clusters": n_clusters}))

    def _enough(self, prepared: Prepared) -> Prepared:
        """Count a single document, which there is nothing to compare with, as failed."""
        if len(prepared.documents) != 1:
            return prepared
        failed = self._preparation.failed(prepared.documents[0], "is the only one: there is nothing to group it with")
        return Prepared([], [], None, [*prepared.failed, failed])

    def _outputs(self, model: ClusterLLM, prepared: Prepared) -> dict[str, Any]:
        """Return the outputs of a fitted model, which is saved where that was asked for."""
        path = self._parameters["artifact_path"] or ""
        if path:
            model.save(Path(path))
        labels, scores = model.labels_, model.cluster_scores_
        done, failed = [], list(prepared.failed)
        for document, label, score in zip(prepared.documents, labels.tolist(), scores.tolist(), strict=True):
            if label < 0:
                failed.append(self._preparation.failed(document, "has nothing left after redaction"))
            else:
                done.append(self._preparation.clustered(document, label, model.cluster_labels_[label], score))
        redaction = redaction_of(self._parameters["redact"] or [])
        clusters = summaries(
            prepared.documents,
            [redaction.text(text) for text in prepared.texts],
            labels,
            normalise(model.embeddings_),
            model.cluster_centers_,
            model.cluster_labels_,
        )
        stats = {**stats_of(model), "documents": len(done), "failed_documents": len(failed)}
        return {
            "documents": done,
            "clusters": clusters,
            "failed_documents": failed,
            "stats": stats,
            "artifact_path": path,
        }


def _nothing(prepared: Prepared) -> dict[str, Any]:
    """Return the outputs where there is nothing to group."""
    return {
        "documents": [],
        "clusters": [],
        "failed_documents": prepared.failed,
        "stats": {**no_stats(), "documents": 0, "failed_documents": len(prepared.failed)},
        "artifact_path": "",
    }
