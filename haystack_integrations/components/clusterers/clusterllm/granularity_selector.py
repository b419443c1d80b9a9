"""``ClusterLLMGranularitySelector``: how many groups there are, by a chat generator's yes/no answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from haystack import Document, component
from haystack.components.embedders.types import DocumentEmbedder
from haystack.components.generators.chat.types import ChatGenerator

from clusterllm_plugins.errors import ClusterLLMError
from haystack_integrations.components.clusterers.clusterllm.asking import AskingComponent

if TYPE_CHECKING:
    from clusterllm_plugins import ClusterLLM


@component
class ClusterLLMGranularitySelector(AskingComponent):
    """Chooses the number of clusters (ClusterLLM, section 3.2).

    It asks about pairs of documents along the merge hierarchy of their embeddings, "are these two of the same
    category?", and takes the cut that agrees best with the answers. Connect its `n_clusters` to that of a
    `ClusterLLMClusterer`, or to anything else that takes a number.
    """

    def __init__(
        self,
        chat_generator: ChatGenerator | None = None,
        *,
        oracle: str | dict[str, Any] | None = None,
        document_embedder: DocumentEmbedder | None = None,
        embedder: str | dict[str, Any] | None = None,
        n_clusters: list[int] | str = "auto",
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
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        max_workers: int = 3,
        max_retries: int = 5,
        raise_on_failure: bool = False,
        progress_bar: bool = True,
    ) -> None:
        """Creates a selector; nothing is loaded or connected before it is warmed up.

        Args:
            chat_generator: Whom to ask. Set its own retries to 0: `max_retries` are made here.
            oracle: Whom to ask instead: a registered oracle, or `{"name": ..., **settings}`. With neither nobody is
                asked: silhouette and stability of the embeddings decide.
            document_embedder: Embeds the documents.
            embedder: Embeds them instead: a registered embedder, or `{"name": ..., **settings}`. With neither the
                documents bring their embeddings.
            n_clusters: `[low, high]` or `"auto"`.
            max_granularity_questions: Hard cap on distinct yes/no questions.
            max_llm_calls: Likewise; the lower one counts.
            max_cost: Hard cap in US dollars, where the oracle knows its prices.
            max_tokens: Hard cap on tokens.
            instruction: The perspective in words, for example `"in terms of the customer's intent"`.
            demonstrations: Worked examples `[left, right, "yes" or "no"]`.
            redact: Registered redactors, applied in this order before any text goes anywhere.
            store: Path of the SQLite file that keeps the answers.
            cache: Folder that keeps the vectors of `embedder`, so that a second run embeds nothing.
            random_state: A seed.
            meta_fields_to_embed: Fields of `meta` that are looked at along with the content.
            embedding_separator: What stands between these.
            max_workers: Calls of the chat generator at once.
            max_retries: Attempts after the first one, for calls that may succeed later.
            raise_on_failure: Whether a call that fails, or a document that cannot be used, is an error.
            progress_bar: Whether to show progress bars on a terminal.

        Raises:
            ValueError: If a parameter has no meaning, or two exclude each other.
        """
        if isinstance(n_clusters, int):
            raise ClusterLLMError(
                f"ClusterLLMGranularitySelector: n_clusters must be [low, high] or 'auto', not {n_clusters}"
            )
        self._take_parameters(locals())

    @component.output_types(n_clusters=int, scores=list[dict[str, Any]])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Chooses how many groups there are.

        Args:
            documents: What is to be grouped; documents without content or embedding are left out.

        Returns:
            `n_clusters`: the number; 0 where there are not two documents.
            `scores`: for each number that was considered `n_clusters` and `score`, the higher the better.

        Raises:
            TypeError: If `documents` is not a list of documents.
        """
        self._preparation.check(documents)
        self.warm_up()
        prepared = self._prepared(documents)
        return _chosen(self._fit(prepared, **_ALONE).run()) if len(prepared.documents) > 1 else _nothing()

    @component.output_types(n_clusters=int, scores=list[dict[str, Any]])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Chooses how many groups there are without blocking the event loop.

        Args:
            documents: What is to be grouped.

        Returns:
            What `run` returns.

        Raises:
            TypeError: If `documents` is not a list of documents.
        """
        self._preparation.check(documents)
        await self.warm_up_async()
        prepared = await self._prepared_async(documents)
        return _chosen(await self._fit(prepared, **_ALONE).run_async()) if len(prepared.documents) > 1 else _nothing()


_ALONE: dict[str, Any] = {"method": "paper", "max_questions": 0}  # nothing is asked about what belongs together


def _nothing() -> dict[str, Any]:
    return {"n_clusters": 0, "scores": []}


def _chosen(model: ClusterLLM) -> dict[str, Any]:
    curve = model.report_["n_clusters"]["curve"]
    scores = [{"n_clusters": int(number), "score": float(score)} for number, score in curve]
    return {"n_clusters": int(model.n_clusters_), "scores": scores}
