"""How many clusters there are: many pieces are merged, and cut, until questions about them bring nothing new.

In: vectors and somebody who answers. Out: a number, the pieces' groups, an interval and the curve behind them. The
number is the *effective* one, exp(entropy of the groups' sizes): a group that holds a handful of texts is no category.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from clusterllm_plugins.guided.pieces import Ask, Pieces, merging_curve, worth_of
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.vectors import kmeans

# To start from: few, since a category in many pieces is hard to put together again (each answer links a piece to one
# of the others only), while cutting goes as deep as the answers say.
MOST_PIECES = 24
_ROWS_PER_PIECE = 8  # at least, where rows are few
WORTH = 5.0  # texts that must hang on a question about pieces, where questions are few
_GROWTHS = 6  # times that pieces are cut: up to 64 times as many
_QUESTIONS_PER_CUT = 3
_SAMPLES = 40  # of the answers, for the interval
# What the answers' own spread does not show (pieces that mix categories, errors that repeat), in ln k. Chosen, not
# fitted: about twice the errors seen on seven of the eight sets on which the method was developed.
_MODEL_SPREAD = 0.2
_QUANTILE_90 = 1.645


@dataclass(frozen=True)
class FoundNumber:
    """A number of clusters and how it was found.

    Attributes:
        n_clusters: The number.
        interval: Of 90%, (low, high).
        curve: (number of groups, log-odds that the merge which leaves so many is right), falling numbers.
        how: In words.
        labels: The group of each row, n_clusters of them, shape (n_rows,).
    """

    n_clusters: int
    interval: tuple[int, int]
    curve: list[tuple[int, float]]
    how: str
    labels: Labels


def first_labels(points: Vectors, most: int, seed: int) -> Labels:
    """Return the pieces to start from: k-means with more clusters than there are categories, where texts allow it.

    Args:
        points: Vectors of the rows (see :class:`Frame`), shape (n_rows, dim).
        most: The most pieces.
        seed: Of k-means.
    """
    count = max(2, min(most, len(points) // _ROWS_PER_PIECE))
    return kmeans(points, min(count, len(points)), seed)[0]


def find_number(pieces: Pieces, ask: Ask, limit: int, low: int, high: int) -> FoundNumber:
    """Ask about pieces, merge and cut them, until nothing is worth a question.

    Args:
        pieces: More of them than there are categories.
        ask: Asks questions.
        limit: The most questions.
        low: The smallest number admitted.
        high: The largest.
    """
    left = limit - _settle(pieces, ask, limit)
    for _ in range(_GROWTHS):
        if left < _QUESTIONS_PER_CUT or not pieces.split(max(2, left // _QUESTIONS_PER_CUT)):
            break
        left -= _settle(pieces, ask, left)
    groups = pieces.merged(pieces.n_pieces)
    number = int(np.clip(round(_effective(pieces, groups)), low, min(high, pieces.n_pieces)))
    while pieces.n_pieces < low and pieces.split(low - pieces.n_pieces):
        number = min(low, pieces.n_pieces)
    groups = pieces.merged(number, number)
    return FoundNumber(
        len(np.unique(groups)),
        _interval(pieces, number, low, high),
        merging_curve(pieces),
        f"{len(pieces.answered)} answers about clusters",
        groups[pieces.labels],
    )


def _settle(pieces: Pieces, ask: Ask, limit: int) -> int:
    """Ask, merge, and ask again about what is left, until nothing merges; return how many were asked."""
    count = 0
    while True:
        count += pieces.ask(ask, limit - count, worth_of(WORTH, len(pieces.labels), ask.left))
        pieces.undo_unasked()
        if not pieces.settle(2) or count >= limit:
            return count


def _effective(pieces: Pieces, groups: Labels) -> float:
    sizes = np.bincount(groups, weights=pieces.sizes)
    shares = sizes[sizes > 0] / sizes.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _interval(pieces: Pieces, number: int, low: int, high: int) -> tuple[int, int]:
    """Return the 90% interval: the spread over resampled answers, and what that cannot show (in logarithms)."""
    rng = np.random.default_rng(pieces.seed)
    logs = []
    for _ in range(_SAMPLES if pieces.answered else 0):
        drawn = rng.integers(len(pieces.answered), size=len(pieces.answered))
        sample = replace(pieces, answered=[pieces.answered[place] for place in drawn])
        logs.append(np.log(_effective(sample, sample.merged(sample.n_pieces))))
    spread = float(np.hypot(np.std(logs) if logs else 0.0, _MODEL_SPREAD))
    factor = np.exp(_QUANTILE_90 * spread)
    return max(low, int(np.floor(number / factor))), min(high, int(np.ceil(number * factor)))
