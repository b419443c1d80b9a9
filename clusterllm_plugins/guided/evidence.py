"""What an answer says: the likelihood of each answer, given which cluster its texts belong to.

In: answered questions and the present clusters. Out: log-likelihoods. The model is that of METHOD: a group is
*right* when most of its exemplars belong to the anchor's cluster. Where a right group was shown the oracle picks it
with probability ``accuracy``, else it errs; where none was shown it says "none" or picks a wrong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clusterllm_plugins.protocols import Labels, Vectors

NO_GROUP = -1  # the choice "none"

# How a wrong group is picked, the nearest to the anchor first; measured on real answers, the tail is shared.
_RANK_WEIGHTS = (0.42, 0.22, 0.12, 0.12, 0.06, 0.06)
_TAIL_WEIGHT = 0.05
# Of several right groups the nearest is picked, softly (the scale is a usual difference of cosines between them), or
# any. How often any was not measured on real answers: 0.1 to 0.3 earned the same with an oracle that picks the nearest,
# 0.3 two points more than 0.1 with one that picks any.
_NEARNESS_SCALE = 0.05
_ANY_SHARE = 0.3


@dataclass(frozen=True)
class Reliability:
    """How an oracle answers choices; the defaults are what real models were measured to do.

    Attributes:
        accuracy: Picks a right group where one is shown.
        none_missed: Says "none" where it misses a right group.
        none_right: Says "none" where no right group is shown.
    """

    accuracy: float = 0.85
    none_missed: float = 0.36
    none_right: float = 0.54


PAIR_RELIABILITY = Reliability(accuracy=0.96, none_missed=1.0, none_right=0.9)  # "yes" to one, "no" to two categories
TRIPLET_RELIABILITY = Reliability(accuracy=0.86, none_missed=0.0, none_right=0.0)  # "none" is not admissible


@dataclass(frozen=True)
class Asked:
    """One answered question, by rows.

    Attributes:
        anchor: The row of the text in question.
        groups: The rows of each group's exemplars, the group nearest to the anchor first.
        nearness: The mean :func:`closeness` of each group's exemplars to the anchor, falling.
        choice: The group chosen, or :data:`NO_GROUP`.
        reliability: Of the kind of question.
    """

    anchor: int
    groups: tuple[tuple[int, ...], ...]
    nearness: tuple[float, ...]
    choice: int
    reliability: Reliability = Reliability()

    def clusters(self, labels: Labels) -> NDArray[np.int64]:
        """Return the cluster that most exemplars of each group are in, shape (n_groups,)."""
        return np.array([_majority(labels[list(group)]) for group in self.groups], dtype=np.int64)


def asked(
    points: Vectors, anchor: int, groups: Sequence[Sequence[int]], choice: int, reliability: Reliability | None = None
) -> Asked:
    """Return an answered question with its groups in the order of their nearness.

    Args:
        points: Vectors of the rows (see :class:`Frame`), shape (n_rows, dim).
        anchor: The row of the text in question.
        groups: The rows of each group's exemplars, in the order shown.
        choice: The position of the group chosen, or :data:`NO_GROUP`.
        reliability: Of the kind of question.
    """
    nearness = np.array([float(closeness(points[list(group)], points[anchor]).mean()) for group in groups])
    order = np.argsort(-nearness, kind="stable")
    place = NO_GROUP if choice == NO_GROUP else int(np.flatnonzero(order == choice)[0])
    return Asked(
        anchor,
        tuple(tuple(int(row) for row in groups[number]) for number in order),
        tuple(float(nearness[number]) for number in order),
        place,
        reliability or Reliability(),
    )


def text_likelihoods(questions: Sequence[Asked], labels: Labels, n_clusters: int) -> NDArray[np.float64]:
    """Return the log-likelihood of each answer if its anchor belonged to each cluster.

    Args:
        questions: Answered questions.
        labels: The present cluster of each row, shape (n_rows,).
        n_clusters: How many clusters there are.

    Returns:
        Shape (n_questions, n_clusters).
    """
    rows = np.zeros((len(questions), n_clusters))
    for row, question in zip(rows, questions, strict=True):
        shown = question.clusters(labels)
        model = question.reliability
        chosen = question.choice
        if chosen == NO_GROUP:
            row[:] = _log(model.none_right)
            row[shown] = _log((1 - model.accuracy) * model.none_missed)
        else:
            weights = wrong_weights(len(shown))
            row[:] = _log((1 - model.none_right) * weights[chosen])
            for cluster in set(shown.tolist()):
                # A wrong group was picked among those that are not of this cluster.
                wrong = max(1 - float(weights[shown == cluster].sum()), _TAIL_WEIGHT)
                row[cluster] = _log((1 - model.accuracy) * (1 - model.none_missed) * float(weights[chosen]) / wrong)
            row[shown[chosen]] = _log(model.accuracy)
    return rows


def log_likelihoods(question: Asked, right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log-probability of an answer for several states of knowledge about which groups are right.

    Where a state is uncertain (a probability between 0 and 1), groups are taken to be right independently of each
    other, and the chosen one's share of the right ones is that of the expected others.

    Args:
        question: The answered question.
        right: The probability of each group shown to be right, a state a row, shape (n_states, n_groups).

    Returns:
        Shape (n_states,).
    """
    model, chosen = question.reliability, question.choice
    missed, weights = 1 - model.accuracy, wrong_weights(len(question.groups))
    if chosen == NO_GROUP:
        none_right = (1 - right).prod(axis=1)
        return _log((1 - none_right) * missed * model.none_missed + none_right * model.none_right)
    is_right, others = right[:, chosen], right.copy()
    others[:, chosen] = 0
    nearness = np.array(question.nearness)
    pull = np.exp(np.clip((nearness - nearness[chosen]) / _NEARNESS_SCALE, -50, 50))
    share = (1 - _ANY_SHARE) / (1 + others @ pull) + _ANY_SHARE / (1 + others.sum(axis=1))
    none_right = (1 - others).prod(axis=1)
    wrong = weights[chosen] / np.maximum(1 - others @ weights, _TAIL_WEIGHT)
    picked_wrong = (1 - none_right) * missed * (1 - model.none_missed) * wrong
    picked_wrong += none_right * (1 - model.none_right) * weights[chosen]
    return _log(is_right * model.accuracy * share + (1 - is_right) * picked_wrong)


def right_gains(question: Asked, groups: NDArray[np.int64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much likelier an answer is where a group is right than where it is not, as logarithms.

    An oracle picks one of several right groups. So an answer that picked another group says little against one where
    that other is likely right too.

    Args:
        question: The answered question.
        groups: Which places show the same thing, and so are right together, shape (n_groups,).
        right: The probability of each place to be right by everything else, shape (n_groups,).

    Returns:
        Shape (n_groups,).
    """
    same = groups[:, None] == groups[None, :]
    return log_likelihoods(question, np.where(same, 1.0, right)) - log_likelihoods(question, np.where(same, 0.0, right))


def closeness(points: Vectors, target: Vectors) -> NDArray[np.float32]:
    """Return -|x - target|^2 / 2 but for a constant, shape (n,): of unit vectors the cosine."""
    values: NDArray[np.float32] = points @ target - (points**2).sum(axis=1) / 2
    return values


@cache
def wrong_weights(n_groups: int) -> NDArray[np.float64]:
    """Return how likely each group is to be picked where all are wrong, the nearest first, shape (n_groups,)."""
    weights = np.array([*_RANK_WEIGHTS, *[_TAIL_WEIGHT] * n_groups][:n_groups])
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def _majority(labels: Labels) -> int:
    return int(np.bincount(labels).argmax())


def _log(probability: ArrayLike) -> NDArray[np.float64]:
    logarithm: NDArray[np.float64] = np.log(np.maximum(probability, 1e-6))
    return logarithm
