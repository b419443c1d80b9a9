"""``clusterllm_granularity``: chooses how many clusters there are (paper, section 3.2), and puts that on each doc.

It asks yes/no questions along the merge hierarchy of the vectors. A ``clusterllm`` after it takes its number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc

from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.recording import Known
from clusterllm_plugins.spacy.attributes import DEFAULT_VECTORS, PREFIX, Attributes
from clusterllm_plugins.spacy.base import Arrays
from clusterllm_plugins.spacy.learning import LearningPipe, check_learning
from clusterllm_plugins.spacy.material import Material, Reading, known_answers
from clusterllm_plugins.spacy.units import VectorSource, check_span_key


@dataclass(frozen=True)
class Choice:
    """A number of clusters, and how it was found."""

    n_clusters: int
    report: dict[str, Any]


class ClusterLLMGranularity(LearningPipe):
    """Sets ``doc._.clusterllm_n_clusters``, the same on every doc.

    Args:
        nlp: The pipeline that it is made for.
        name: Its name there.
        vectors: Where the vectors are: ``"doc._.NAME"``, ``"doc.vector"`` or ``"doc.tensor"``.
        n_clusters: ``(low, high)`` or ``"auto"``.
        max_granularity_questions: Hard cap on distinct pair questions.
        max_cost: Hard cap in US dollars, or ``None``.
        max_tokens: Hard cap on tokens, or ``None``.
        instruction: The perspective in words.
        demonstrations: Worked examples ``(left, right, "yes" | "no")`` shown with the questions.
        redact: Redactors, applied in this order; the embedder component must have the same.
        store: Path of the SQLite file that keeps the answers; ``None`` keeps them in memory.
        progress: Whether to show progress bars on a terminal.
        random_state: A seed.
        prefix: What the custom attribute starts with.
        span_key: Count clusters of the spans of this group instead of docs.

    Raises:
        ClusterLLMError: If something given cannot be used; the message says what to do.
    """

    def __init__(
        self,
        nlp: Language | None,
        name: str = "clusterllm_granularity",
        *,
        vectors: str = DEFAULT_VECTORS,
        n_clusters: Sequence[int] | str = "auto",
        max_granularity_questions: int = 594,
        max_cost: float | None = None,
        max_tokens: int | None = None,
        instruction: str | None = None,
        demonstrations: Sequence[Sequence[str]] = (),
        redact: Sequence[Any] = (),
        store: str | Path | None = None,
        progress: bool = True,
        random_state: int = 0,
        prefix: str = PREFIX,
        span_key: str | None = None,
    ) -> None:
        settings = {key: value for key, value in locals().items() if key not in ("self", "nlp", "name", "__class__")}
        super().__init__(nlp, name, settings)
        # Granularity alone: nothing is asked about perspective.
        self._estimator_settings: dict[str, Any] = {"method": "paper", "max_questions": 0, "iterations": 1} | {
            key: value for key, value in settings.items() if key not in ("vectors", "prefix", "span_key")
        }
        with self._named_errors():
            if isinstance(n_clusters, int):
                raise ClusterLLMError(f"n_clusters must be (low, high) or 'auto', not {n_clusters!r}")
            check_learning(self._estimator_settings)
            check_span_key(span_key)
            self.attributes = Attributes(prefix)
            self.attributes.register(self.attributes.n_clusters)
            self.reading = Reading(VectorSource(vectors), span_key, tuple(redact))
        self._choice: Choice | None = None
        self.answers: Known = []

    @property
    def fitted(self) -> bool:
        """Whether a number was chosen."""
        return self._choice is not None

    @property
    def chosen(self) -> int:
        """The number of clusters.

        Raises:
            UnfittedError: If it was not chosen yet.
        """
        self._require_fitted()
        assert self._choice is not None
        return self._choice.n_clusters

    @property
    def report(self) -> dict[str, Any]:
        """What happened in the fit, JSON-able; empty before it."""
        return self._choice.report if self._choice is not None else {}

    def predict(self, docs: list[Doc]) -> int:
        """Return the number of clusters."""
        return self.chosen

    def set_annotations(self, docs: list[Doc], predictions: int) -> None:
        """Set the number on each doc."""
        for doc in docs:
            doc._.set(self.attributes.n_clusters, predictions)

    def fit_material(
        self, material: Material, nlp: Language | None, oracle: Any, answers: str | Path | Known | None
    ) -> None:
        """Choose the number of clusters of a gathered corpus."""
        from clusterllm_plugins.estimator import ClusterLLM

        with self._named_errors():
            known = [pair for pair in known_answers(answers, material.texts) if pair[0].kind == "pair"]
            model = ClusterLLM(**self._estimator_settings, oracle=oracle)
            model.check(material.texts)
            embeddings = material.vectors
            if material.embedder is not None:
                material.embedder.learn_if_needed(material.texts)
                embeddings = material.embedder.embed(material.texts)
            model.fit(material.texts, embeddings=embeddings, answers=known)
        self._choice = Choice(model.n_clusters_, model.report_)
        self.answers = list(zip(model.questions_, model.answers_, strict=True))

    def _learns_with_another(self, nlp: Language | None) -> bool:
        others = [other for _, other in nlp.components] if nlp is not None else []
        return any(
            isinstance(other, LearningPipe) and other.leaves_number_open and other.reading == self.reading
            for other in others
        )

    def _unfitted(self) -> str:
        return (
            f"initialize a 'clusterllm' after it, call nlp.get_pipe({self.name!r}).fit(docs), or nlp.initialize() with "
            f"a corpus in [initialize.components.{self.name}.corpus]"
        )

    def _state(self) -> tuple[dict[str, Any], Arrays]:
        if self._choice is None:
            return {"fitted": False}, {}
        return {"fitted": True, "n_clusters": self._choice.n_clusters, "report": self._choice.report}, {}

    def _set_state(self, state: dict[str, Any], arrays: Arrays, folder: Path | None) -> None:
        self._choice = Choice(state["n_clusters"], state["report"]) if state["fitted"] else None
