"""``ClusterLLMDocumentGrouper``: embed, choose how many groups, and group, as one component."""

from __future__ import annotations

from typing import Any

from haystack import Pipeline, super_component
from haystack.components.embedders.types import DocumentEmbedder
from haystack.components.generators.chat.types import ChatGenerator

from haystack_integrations.components.clusterers.clusterllm.clusterer import ClusterLLMClusterer
from haystack_integrations.components.clusterers.clusterllm.granularity_selector import ClusterLLMGranularitySelector
from haystack_integrations.components.clusterers.clusterllm.parameters import WithParameters, check_one_of
from haystack_integrations.components.embedders.clusterllm import ClusterLLMDocumentEmbedder


@super_component
class ClusterLLMDocumentGrouper(WithParameters):
    """The common case: embeds documents, chooses how many groups there are, and groups them.

    It is a pipeline of an embedder, `ClusterLLMGranularitySelector` and `ClusterLLMClusterer`; build that by hand where
    another parameter of theirs is needed.
    """

    nested_names = ("chat_generator", "document_embedder")

    def __init__(
        self,
        chat_generator: ChatGenerator | None = None,
        *,
        document_embedder: DocumentEmbedder | None = None,
        embedder: str | dict[str, Any] | None = None,
        n_clusters: list[int] | str = "auto",
        instruction: str | None = None,
        max_questions: int = 1024,
        max_granularity_questions: int = 594,
        store: str | None = None,
        cache: str | None = None,
        max_workers: int = 3,
        raise_on_failure: bool = False,
        progress_bar: bool = True,
    ) -> None:
        """Creates the pipeline.

        Args:
            chat_generator: Whom to ask; `None` = nobody.
            document_embedder: Embeds the documents.
            embedder: Embeds them instead: a registered embedder, or `{"name": ..., **settings}`; with neither, minilm
                where it is installed, else lsa.
            n_clusters: `[low, high]` or `"auto"`.
            instruction: The perspective in words.
            max_questions: Hard cap on distinct questions about what belongs together.
            max_granularity_questions: Hard cap on distinct yes/no questions about how many groups there are.
            store: Path of the SQLite file that keeps the answers.
            cache: Folder that keeps the vectors of `embedder`, so that a second run embeds nothing.
            max_workers: Calls of the chat generator at once.
            raise_on_failure: Whether a call that fails, or a document that cannot be used, is an error.
            progress_bar: Whether to show progress bars on a terminal.

        Raises:
            ValueError: If a parameter has no meaning, or two exclude each other.
        """
        self._keep(locals())
        check_one_of(type(self).__name__, document_embedder=document_embedder, embedder=embedder)
        asking: dict[str, Any] = {
            "instruction": instruction,
            "store": store,
            "max_workers": max_workers,
            "raise_on_failure": raise_on_failure,
            "progress_bar": progress_bar,
        }
        self.pipeline = Pipeline()
        self.pipeline.add_component(
            "embedder",
            document_embedder or ClusterLLMDocumentEmbedder(embedder=embedder, cache=cache, progress_bar=progress_bar),
        )
        self.pipeline.add_component(
            "selector",
            ClusterLLMGranularitySelector(
                chat_generator, n_clusters=n_clusters, max_granularity_questions=max_granularity_questions, **asking
            ),
        )
        self.pipeline.add_component(
            "clusterer", ClusterLLMClusterer(chat_generator, max_questions=max_questions, **asking)
        )
        self.pipeline.connect("embedder.documents", "selector.documents")
        self.pipeline.connect("embedder.documents", "clusterer.documents")
        self.pipeline.connect("selector.n_clusters", "clusterer.n_clusters")
        self.input_mapping = {"documents": ["embedder.documents"]}
        self.output_mapping = {
            f"clusterer.{name}": name for name in ("documents", "clusters", "failed_documents", "stats")
        }
