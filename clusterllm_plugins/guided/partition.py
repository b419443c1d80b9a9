"""``merge_clusters``: answers about whole clusters, used on a partition that somebody already has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from clusterllm_plugins.embedding import check_embeddings
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.guided.classifier import Frame
from clusterllm_plugins.guided.evidence import Asked
from clusterllm_plugins.guided.pieces import Pieces
from clusterllm_plugins.guided.planning import asked_by_places
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.questions import Answer, Question
from clusterllm_plugins.vectors import normalise

_LEARNING_STEPS = 3  # further ones change nothing


def merge_clusters(
    labels: Sequence[int] | Labels,
    embeddings: Any,
    answers: Iterable[tuple[Question, Answer]],
    n_clusters: tuple[int, int] | None = None,
) -> Labels:
    """Merge the clusters of a partition that answers say are one category.

    Each answer to "with which of these groups does this text belong, or with none?" gives log-odds to the clusters of
    the text and of the groups; two clusters are merged where they are likelier one category than not.

    Args:
        labels: The cluster of each text, -1 for none, shape (n_texts,).
        embeddings: Vectors of the texts, shape (n_texts, dim).
        answers: Questions, whose indices are positions in these lists, and their answers.
        n_clusters: The smallest and the largest number of clusters that may be left; ``None`` = from 1 to as many as
            there are. Where the answers leave more than the largest, what is likeliest one is merged too.

    Returns:
        Labels numbered from 0 in the order of the old ones, int64, -1 where it was -1, shape (n_texts,).

    Raises:
        DataError: If the parts do not fit together.
    """
    given = np.asarray(labels)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise DataError("labels must be a list of whole numbers, one a text")
    vectors = check_embeddings(embeddings, len(given))
    kept = np.flatnonzero(given >= 0)
    numbers, pieces = np.unique(given[kept], return_inverse=True)
    low, high = _bounds(n_clusters, len(numbers))
    pairs = list(answers)
    if not len(numbers):
        return given.astype(np.int64)
    place = np.full(len(given), -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    unit = normalise(vectors, kept)
    points = Frame.of(unit).points(unit)
    evidence = _evidence(pairs, place, points)
    state = Pieces(points, pieces.astype(np.int64), np.ones(len(kept)), len(numbers), 1, 0, evidence)
    for _ in range(_LEARNING_STEPS):
        state.learn_reliability()
    merged = np.full(len(given), -1, dtype=np.int64)
    merged[kept] = state.merged(high, low)[pieces]
    return merged


def _bounds(n_clusters: Any, n_now: int) -> tuple[int, int]:
    if n_clusters is None:
        return 1, max(n_now, 1)
    is_pair = isinstance(n_clusters, tuple | list) and len(n_clusters) == 2
    if not is_pair or not all(isinstance(bound, int | np.integer) for bound in n_clusters):
        raise DataError(f"n_clusters must be two whole numbers (low, high), not {n_clusters!r}")
    low, high = (int(bound) for bound in n_clusters)
    if not 1 <= low <= high:
        raise DataError(f"n_clusters must be (low, high) with 1 <= low <= high, not {n_clusters!r}")
    return low, high


def _evidence(answers: Iterable[tuple[Question, Answer]], place: Labels, points: Vectors) -> list[Asked]:
    found = []
    for number, pair in enumerate(answers):
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], Question)):
            raise DataError(f"answers must be (Question, Answer) pairs, number {number} is not")
        question, answer = pair
        positions = (question.anchor_index, *(i for group in question.group_indices for i in group))
        if not all(0 <= position < len(place) for position in positions):
            raise DataError(f"answer {number} is about text {max(positions)}, but there are {len(place)} texts")
        if answer.choice is not None and (taken := asked_by_places(question, answer, place, points)) is not None:
            found.append(taken)
    return found
