"""One fit, step by step: embed, ask, refine, choose the number of clusters, cluster (paper, section 3).

In: a corpus, a space and a session. Out: a :class:`Fitted`. The estimator is a thin shell around it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.asking import Session
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.corpus import Corpus
from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.granularity import (
    Granularity,
    answered_pairs,
    choose_by_pairs,
    choose_unasked,
    sample_pairs,
    sampled_rows,
)
from clusterllm_plugins.hierarchy import build_hierarchy
from clusterllm_plugins.naming import name_clusters
from clusterllm_plugins.progress import Bar
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.questions import Question, pair_question, triplet_question
from clusterllm_plugins.recording import Known
from clusterllm_plugins.refinement import triplets_of
from clusterllm_plugins.sampling import Triplets, entropy_triplets
from clusterllm_plugins.space import Space
from clusterllm_plugins.vectors import blocks, kmeans, normalise, scores_of


@dataclass(frozen=True)
class FitSettings:
    """What a fit needs to know, checked."""

    low: int
    high: int
    max_questions: int
    iterations: int
    max_granularity_questions: int
    instruction: str | None
    demonstrations: tuple[tuple[str, str, str], ...]
    seed: int
    progress: bool


@dataclass
class Fitted:
    """What a fit gives.

    Attributes:
        labels: Shape (n_texts,), -1 for an empty text.
        scores: Soft-assignment probability of each text's own cluster, 0 for an empty text, shape (n_texts,).
        centroids: What texts are assigned by: of the normalised vectors, shape (n_clusters, dim).
        offsets: Added to the squared distances to them, shape (n_clusters,).
        vectors: Of all texts in the refined space, shape (n_texts, dim); zeros for an empty text.
        space: How further texts become vectors.
        names: A name per cluster.
        notes: What was warned of.
        report: What happened, JSON-able.
    """

    labels: Labels
    scores: NDArray[np.float64]
    centroids: Vectors
    offsets: NDArray[np.float32]
    vectors: Vectors
    space: Space
    names: list[str]
    notes: list[str]
    report: dict[str, Any] = field(default_factory=dict)


def embed_corpus(corpus: Corpus, space: Space, progress: bool, cache: str | Path | None = None) -> Vectors:
    """Return the vectors of all texts, zeros for an empty one, shape (n_texts, dim)."""
    kept = space.embed([corpus.texts[position] for position in corpus.kept], progress, cache)
    if len(kept) == len(corpus.texts):
        return kept
    vectors = np.zeros((len(corpus.texts), kept.shape[1]), dtype=np.float32)
    vectors[corpus.kept] = kept
    return vectors


def fit_paper(
    corpus: Corpus,
    space: Space,
    vectors: Vectors,
    session: Session | None,
    known: Known,
    settings: FitSettings,
) -> Fitted:
    """Run ClusterLLM as published (paper, section 3).

    Args:
        corpus: The texts.
        space: How they became vectors.
        vectors: Those vectors, shape (n_texts, dim).
        session: Asks the oracle; ``None`` = nobody is asked.
        known: Answers already had.
        settings: The rest.
    """
    report: dict[str, Any] = {"triplets": []}
    notes: list[str] = []
    for iteration in range(settings.iterations):
        triplets = _answered_triplets(corpus, vectors, session, settings, iteration)
        if iteration == 0:
            recorded = known_triplets(corpus, known)
            triplets = np.concatenate([recorded, triplets])
        report["triplets"].append(len(triplets))
        if len(triplets):
            space, mapped = space.refined(corpus.texts, vectors, triplets, settings.seed + iteration, settings.progress)
            vectors = embed_corpus(corpus, space, settings.progress) if mapped is None else mapped
    report["refinement"] = space.refinement
    granularity = _granularity(corpus, vectors, session, known, settings, notes)
    report["n_clusters"] = {
        "value": granularity.n_clusters,
        "how": granularity.how,
        "curve": [list(point) for point in granularity.curve],
    }
    labels, centroids = plain_clusters(corpus, vectors, granularity.n_clusters, settings, notes)
    return finished(
        corpus, space, vectors, labels, centroids, np.zeros(len(centroids), np.float32), None, notes, report
    )


def perspective_questions(
    corpus: Corpus, vectors: Vectors, settings: FitSettings, iteration: int = 0
) -> list[Question]:
    """Return the triplet questions of one iteration (paper, section 3.1)."""
    if settings.max_questions == 0 or len(corpus.distinct) < 3:
        return []
    of_distinct = vectors if len(corpus.distinct) == len(vectors) else vectors[corpus.distinct]
    triplets = corpus.distinct[
        entropy_triplets(of_distinct, settings.max_questions, settings.seed + iteration, settings.progress)
    ]
    return [
        triplet_question(corpus.texts, int(anchor), int(one), int(other), settings.instruction)
        for anchor, one, other in triplets
    ]


def granularity_questions(corpus: Corpus, vectors: Vectors, settings: FitSettings) -> tuple[Any, list[Question]]:
    """Return the merge hierarchy of the distinct texts and the pair questions along it (section 3.2)."""
    hierarchy = build_hierarchy(
        normalise(vectors, corpus.distinct),
        max(200, settings.high + 1),
        settings.seed,
        corpus.weights,
        settings.progress,
    )
    pairs = corpus.distinct[
        sample_pairs(hierarchy, settings.low, settings.high, settings.max_granularity_questions, settings.seed)
    ]
    questions = [
        pair_question(
            corpus.texts,
            int(left),
            int(right),
            instruction=settings.instruction,
            demonstrations=settings.demonstrations,
        )
        for left, right in pairs
    ]
    return hierarchy, questions


def _answered_triplets(
    corpus: Corpus, vectors: Vectors, session: Session | None, settings: FitSettings, iteration: int
) -> Triplets:
    if session is None:
        return np.empty((0, 3), dtype=np.int64)
    questions = perspective_questions(corpus, vectors, settings, iteration)
    answers = session.ask(questions, QuestionCap(settings.max_questions), "asking triplets")
    return triplets_of(questions, answers)


def known_triplets(corpus: Corpus, known: Known) -> Triplets:
    """Return the triplets that known answers imply, without those about an empty text."""
    triplets = triplets_of([question for question, _ in known], [answer for _, answer in known])
    return triplets[(corpus.place[triplets] >= 0).all(axis=1)]


def _granularity(
    corpus: Corpus,
    vectors: Vectors,
    session: Session | None,
    known: Known,
    settings: FitSettings,
    notes: list[str],
) -> Granularity:
    if settings.low == settings.high:
        return Granularity(settings.low, "given", [])
    pairs = list(answered_pairs([q for q, _ in known], [a for _, a in known]))
    if session is None and not pairs:
        return unasked_number(corpus, vectors, settings)
    asked = replace(settings, max_granularity_questions=0) if session is None else settings
    hierarchy, questions = granularity_questions(corpus, vectors, asked)
    if session is not None:
        answers = session.ask(questions, QuestionCap(settings.max_granularity_questions), "asking pairs")
        pairs += answered_pairs(questions, answers)
    placed = [
        (int(corpus.place[left]), int(corpus.place[right]), same)
        for left, right, same in pairs
        if corpus.place[left] >= 0 and corpus.place[right] >= 0
    ]
    chosen = choose_by_pairs(hierarchy, dict.fromkeys(placed), settings.low, settings.high)
    if chosen is None:
        note = "no pair was said to be of one category: the number of clusters comes from the vectors alone"
        notes.append(note)
        warnings.warn(note, ClusterLLMWarning, stacklevel=5)
        return unasked_number(corpus, vectors, settings)
    return chosen


def unasked_number(corpus: Corpus, vectors: Vectors, settings: FitSettings) -> Granularity:
    """Return the number of clusters that the vectors alone suggest."""
    sample = corpus.distinct[sampled_rows(len(corpus.distinct), settings.seed)]
    return choose_unasked(normalise(vectors, sample), settings.low, settings.high, settings.seed, settings.progress)


def plain_clusters(
    corpus: Corpus,
    vectors: Vectors,
    n_clusters: int,
    settings: FitSettings,
    notes: list[str],
) -> tuple[Labels, Vectors]:
    """Cluster the texts that are not empty by k-means (paper, section 4.1).

    Returns:
        Labels, shape (n_kept,), and centroids, shape (n_clusters, dim); fewer where there are fewer distinct vectors.
    """
    with Bar.at_work("clustering", settings.progress):
        labels, centroids = kmeans(normalise(vectors, corpus.kept), n_clusters, settings.seed)
    if len(centroids) < n_clusters:
        note = f"the texts have only {len(centroids)} distinct vectors: there are not {n_clusters} clusters"
        notes.append(note)
        warnings.warn(note, ClusterLLMWarning, stacklevel=5)
    return labels, centroids


def finished(
    corpus: Corpus,
    space: Space,
    vectors: Vectors,
    kept_labels: Labels,
    centres: Vectors,
    offsets: NDArray[np.float32],
    names: Sequence[str] | None,
    notes: list[str],
    report: dict[str, Any],
) -> Fitted:
    """Return the result of a fit: labels and scores of all texts, names by keywords where none are given.

    Args:
        corpus: The texts.
        space: How further texts become vectors.
        vectors: Of all texts in that space, shape (n_texts, dim).
        kept_labels: Of the texts that are not empty, shape (n_kept,).
        centres: What texts are assigned by, shape (n_clusters, dim).
        offsets: Added to the squared distances to them, shape (n_clusters,).
        names: A name per cluster, or None.
        notes: What was warned of.
        report: What happened.
    """
    labels = np.full(len(corpus.texts), -1, dtype=np.int64)
    labels[corpus.kept] = kept_labels
    scores = np.zeros(len(corpus.texts))
    for part in blocks(len(corpus.kept)):
        rows = corpus.kept[part]
        scores[rows] = scores_of(normalise(vectors[rows]), centres, kept_labels[part], offsets)
    if names is None:
        names = name_clusters([corpus.texts[position] for position in corpus.kept], kept_labels, len(centres))
    return Fitted(labels, scores, centres, offsets, vectors, space, list(names), notes, report)
