"""``clusterllm``: puts a cluster on each doc, or on each span of a group.

It is fitted once on a corpus, where an oracle may be asked; afterwards it needs neither, and only numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from clusterllm_plugins.components import redaction_of
from clusterllm_plugins.corpus import make_corpus
from clusterllm_plugins.errors import ClusterLLMError, DataError
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.recording import Known
from clusterllm_plugins.spacy.attributes import DEFAULT_VECTORS, PREFIX, Attributes
from clusterllm_plugins.spacy.base import Arrays
from clusterllm_plugins.spacy.corpora import components_before
from clusterllm_plugins.spacy.embedder import ClusterLLMEmbedder
from clusterllm_plugins.spacy.granularity import ClusterLLMGranularity
from clusterllm_plugins.spacy.learning import LearningPipe, check_learning
from clusterllm_plugins.spacy.material import Material, Reading, known_answers
from clusterllm_plugins.spacy.scoring import score_clusters
from clusterllm_plugins.spacy.units import Unit, VectorSource, check_span_key, units_of
from clusterllm_plugins.vectors import nearest, normalise, scores_of

if TYPE_CHECKING:
    from clusterllm_plugins.estimator import ClusterLLM

REFINEMENTS = ("auto", "embedder", "map")


@dataclass(frozen=True)
class Clusters:
    """What a fit gives.

    Attributes:
        centroids: What vectors are assigned by, shape (n_clusters, dim).
        offsets: Added to the squared distances to them, shape (n_clusters,).
        adapter: The linear map that the answers taught, shape (dim, dim), or ``None``.
        labels: A name per cluster.
        space: Which embedder's vectors they are of, where that is known.
        report: What happened, JSON-able.
    """

    centroids: Vectors
    offsets: Vectors
    adapter: Vectors | None
    labels: tuple[str, ...]
    space: str | None
    report: dict[str, Any]


@dataclass(frozen=True)
class Assigned:
    """The clusters of some docs' units, in order, and how surely: shape (n_units,) both."""

    clusters: Labels
    scores: NDArray[np.float64]


class ClusterLLMClusterer(LearningPipe):
    """Sets ``doc._.clusterllm_cluster``, ``doc._.clusterllm_label`` and ``doc._.clusterllm_score``.

    Args:
        nlp: The pipeline that it is made for.
        name: Its name there.
        vectors: Where the vectors are: ``"doc._.NAME"``, ``"doc.vector"`` or ``"doc.tensor"``.
        n_clusters: A number, ``(low, high)``, or ``"auto"``: that of a ``clusterllm_granularity`` before it, where
            there is one, else found by the fit.
        method: As of :class:`clusterllm_plugins.ClusterLLM`, like the next ones.
        max_questions: Hard cap on distinct questions about perspective, per iteration.
        iterations: 2 is the paper's "-iter".
        max_granularity_questions: Hard cap on distinct pair questions.
        max_cost: Hard cap in US dollars, or ``None``.
        max_tokens: Hard cap on tokens, or ``None``.
        instruction: The perspective in words.
        demonstrations: Worked examples ``(left, right, "yes" | "no")`` shown with pair questions.
        redact: Redactors, applied in this order; the embedder component must have the same.
        store: Path of the SQLite file that keeps the answers; ``None`` keeps them in memory.
        progress: Whether to show progress bars on a terminal.
        random_state: A seed.
        refine: What the answers teach: ``"embedder"`` fine-tunes the embedder component, ``"map"`` learns a linear map
            on its vectors, ``"auto"`` the first where the embedder can be trained and no other clusterer of the
            pipeline reads its vectors.
        prefix: What the custom attributes start with.
        span_key: Cluster the spans of this group instead of docs; ``"sents"``, ``"ents"`` = sentences, entities.
        write_cats: Whether ``doc.cats`` gets every cluster's name: 1.0 for the doc's own, else 0.0.
        write_user_data: Whether ``doc.user_data`` gets, under the prefix, the results as plain dicts.
        scorer: Compares clusters with gold categories; ``None`` = no scores.

    Raises:
        ClusterLLMError: If something given cannot be used; the message says what to do.
    """

    def __init__(
        self,
        nlp: Language | None,
        name: str = "clusterllm",
        *,
        vectors: str = DEFAULT_VECTORS,
        n_clusters: int | Sequence[int] | str = "auto",
        method: str = "auto",
        max_questions: int = 1024,
        iterations: int = 1,
        max_granularity_questions: int = 594,
        max_cost: float | None = None,
        max_tokens: int | None = None,
        instruction: str | None = None,
        demonstrations: Sequence[Sequence[str]] = (),
        redact: Sequence[Any] = (),
        store: str | Path | None = None,
        progress: bool = True,
        random_state: int = 0,
        refine: str = "auto",
        prefix: str = PREFIX,
        span_key: str | None = None,
        write_cats: bool = False,
        write_user_data: bool = False,
        scorer: Callable[..., dict[str, Any]] | None = score_clusters,
    ) -> None:
        settings = {key: value for key, value in locals().items() if key not in ("self", "nlp", "name", "__class__")}
        super().__init__(nlp, name, settings)
        own = ("vectors", "refine", "prefix", "span_key", "write_cats", "write_user_data", "scorer")
        self._estimator_settings = {key: value for key, value in settings.items() if key not in own}
        with self._named_errors():
            check_learning(self._estimator_settings)
            check_span_key(span_key)
            if refine not in REFINEMENTS:
                raise ClusterLLMError(f"refine must be one of {', '.join(REFINEMENTS)}, not {refine!r}")
            if write_cats and span_key is not None:
                raise ClusterLLMError("write_cats works on docs, not with span_key")
            self.attributes = Attributes(prefix)
            self.attributes.register(self.attributes.cluster, self.attributes.label, self.attributes.score)
            self.reading = Reading(VectorSource(vectors), span_key, tuple(redact))
            self._redaction = redaction_of(redact)
        self.span_key = span_key
        self._refine = refine
        self._write_cats = write_cats
        self._write_user_data = write_user_data
        self._clusters: Clusters | None = None
        self.answers: Known = []
        self.scorer = scorer

    @property
    def fitted(self) -> bool:
        """Whether there are clusters."""
        return self._clusters is not None

    @property
    def leaves_number_open(self) -> bool:
        """Whether it takes the number of clusters from a granularity component before it, and lets that learn too."""
        return bool(self._estimator_settings["n_clusters"] == "auto")

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the clusters; empty before the fit."""
        return self._clusters.labels if self._clusters is not None else ()

    @property
    def report(self) -> dict[str, Any]:
        """What happened in the fit, JSON-able; empty before it."""
        return self._clusters.report if self._clusters is not None else {}

    @property
    def centroids(self) -> Vectors:
        """The centroids of the normalised vectors, shape (n_clusters, dim).

        Raises:
            UnfittedError: If there are none yet.
        """
        return self._fitted_clusters().centroids

    def predict(self, docs: list[Doc]) -> Assigned:
        """Return the nearest cluster of each unit of the docs; -1 for an empty one. Asks nobody."""
        clusters = self._fitted_clusters()
        with self._named_errors():
            units = [unit for doc in docs for unit in units_of(doc, self.span_key)]
            kept = np.array([place for place, unit in enumerate(units) if self._has_text(unit)], dtype=np.int64)
            labels = np.full(len(units), -1, dtype=np.int64)
            scores = np.zeros(len(units))
            if len(kept):
                filled = [units[place] for place in kept]
                unit_vectors = self._mapped(clusters, self.reading.source.read(filled))
                self._check_space(clusters, filled)
                labels[kept] = nearest(unit_vectors, clusters.centroids, clusters.offsets)
                scores[kept] = scores_of(unit_vectors, clusters.centroids, labels[kept], clusters.offsets)
            return Assigned(labels, scores)

    def set_annotations(self, docs: list[Doc], predictions: Assigned) -> None:
        """Set the number and name of the cluster, and its score, on each unit."""
        names = self.labels
        rows = zip(predictions.clusters.tolist(), predictions.scores.tolist(), strict=True)
        for doc in docs:
            results = []
            for unit, (cluster, score) in zip(units_of(doc, self.span_key), rows, strict=False):
                label = names[cluster] if cluster >= 0 else ""
                unit._.set(self.attributes.cluster, cluster)
                unit._.set(self.attributes.label, label)
                unit._.set(self.attributes.score, score)
                results.append(_plain(unit, cluster, label, score))
            if self._write_cats:
                doc.cats.update({name: float(name == results[0]["label"]) for name in names})
            if self._write_user_data:
                doc.user_data[self.attributes.prefix] = results if self.span_key is not None else results[0]

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        """Return what the scorer says; nothing where spans are clustered, which have no gold categories."""
        if self.scorer is None or self.span_key is not None:
            return {}
        return self.scorer(examples, **{"prefix": self.attributes.prefix, **kwargs})

    def fit_material(
        self, material: Material, nlp: Language | None, oracle: Any, answers: str | Path | Known | None
    ) -> None:
        """Find clusters in a gathered corpus."""
        from clusterllm_plugins.estimator import ClusterLLM

        known = known_answers(answers, material.texts)
        settings = dict(self._estimator_settings)
        granularity = self._granularity(nlp) if settings["n_clusters"] == "auto" else None
        tunes = self._tunes(material.embedder, nlp)
        model = ClusterLLM(**settings, oracle=oracle)
        model.check(material.texts)  # before an embedder learns from a corpus that will not do
        if granularity is not None:
            if not granularity.fitted:
                granularity.fit_material(material, nlp, oracle, answers)
            distinct = make_corpus(material.texts, self._redaction, warn=False).distinct
            model.set_params(n_clusters=min(granularity.chosen, len(distinct)))
        embeddings = material.vectors
        if material.embedder is not None:
            material.embedder.learn_if_needed(material.texts)
            model.set_params(
                embedder=material.embedder.untuned() if tunes else material.embedder.embedder,
                cache=material.embedder.cache,
            )
            embeddings = None if tunes else material.embedder.embed(material.texts)
        model.fit(material.texts, embeddings=embeddings, answers=known)
        if granularity is not None:
            model.report_["n_clusters"]["how"] = f"by component {granularity.name!r}"
        self._take(model, material, tunes=tunes)

    def _take(self, model: ClusterLLM, material: Material, *, tunes: bool) -> None:
        """Keep what a fit has found; a fine-tuned embedder goes into its component."""
        space = material.space
        if material.embedder is not None:
            if tunes:
                material.embedder.untune()
            if model.space_.tuned:
                lesson = hashlib.sha256(model.cluster_centers_.tobytes()).hexdigest()
                material.embedder.tune(model.space_.embedder, lesson)  # type: ignore[arg-type]
            space = material.embedder.space
        self._clusters = Clusters(
            model.cluster_centers_,
            model.cluster_offsets_,
            model.space_.adapter,
            tuple(model.cluster_labels_),
            space,
            model.report_,
        )
        self.answers = list(zip(model.questions_, model.answers_, strict=True))

    def _tunes(self, embedder: ClusterLLMEmbedder | None, nlp: Language | None) -> bool:
        """Return whether the answers shall fine-tune the embedder component."""
        if self._refine == "map":
            return False
        possible = embedder is not None and embedder.can_be_tuned
        if self._refine == "embedder":
            if not possible:
                raise ClusterLLMError(
                    "refine is 'embedder', but there is no component before it whose embedder can be trained"
                )
            return True
        return possible and not any(
            isinstance(other, ClusterLLMClusterer) and other is not self and other.reading.source == self.reading.source
            for _, other in (nlp.components if nlp is not None else ())
        )

    def _granularity(self, nlp: Language | None) -> ClusterLLMGranularity | None:
        """Return the component before this one that chooses the number of clusters of the same vectors."""
        found = None
        for other in components_before(self, nlp):
            if isinstance(other, ClusterLLMGranularity) and (
                (other.reading.source, other.reading.span_key) == (self.reading.source, self.span_key)
            ):
                found = other
        if found is not None:
            self.reading.check_redaction(found.name, found.reading.redact)
        return found

    def _has_text(self, unit: Unit) -> bool:
        """Return whether redaction leaves something to be clustered."""
        return bool(self._redaction.text(unit.text).strip())

    def _mapped(self, clusters: Clusters, vectors: Vectors) -> Vectors:
        size = len(clusters.adapter) if clusters.adapter is not None else clusters.centroids.shape[1]
        if vectors.shape[1] != size:
            raise DataError(
                f"{self.reading.source.where} holds vectors of size {vectors.shape[1]}, it was fitted on size {size}: "
                "use the embedder that it was fitted with, or fit it again"
            )
        return normalise(vectors if clusters.adapter is None else (vectors @ clusters.adapter).astype(np.float32))

    def _check_space(self, clusters: Clusters, units: list[Unit]) -> None:
        source = self.reading.source
        if clusters.space is not None and any(source.space(unit) not in (None, clusters.space) for unit in units):
            raise DataError(
                f"{source.where} holds vectors of another embedder than it was fitted with, or of another state of it: "
                "use that one, or fit it again"
            )

    def _fitted_clusters(self) -> Clusters:
        self._require_fitted()
        assert self._clusters is not None
        return self._clusters

    def _unfitted(self) -> str:
        return (
            f"call nlp.get_pipe({self.name!r}).fit(docs), or nlp.initialize() with a corpus in "
            f"[initialize.components.{self.name}.corpus]"
        )

    def _state(self) -> tuple[dict[str, Any], Arrays]:
        if self._clusters is None:
            return {"fitted": False}, {}
        found = self._clusters
        arrays = {"centroids": found.centroids, "offsets": found.offsets}
        if found.adapter is not None:
            arrays["adapter"] = found.adapter
        return {"fitted": True, "labels": list(found.labels), "space": found.space, "report": found.report}, arrays

    def _set_state(self, state: dict[str, Any], arrays: Arrays, folder: Path | None) -> None:
        self._clusters = None
        if state["fitted"]:
            self._clusters = Clusters(
                arrays["centroids"],
                arrays.get("offsets", np.zeros(len(arrays["centroids"]), np.float32)),
                arrays.get("adapter"),
                tuple(state["labels"]),
                state["space"],
                state["report"],
            )


def _plain(unit: Unit, cluster: int, label: str, score: float) -> dict[str, Any]:
    result: dict[str, Any] = {"cluster": cluster, "label": label, "score": score}
    if not isinstance(unit, Doc):
        result |= {"start_char": unit.start_char, "end_char": unit.end_char}
    return result
