"""Questions about whole clusters: which pieces are one category, which clusters hold two.

A *piece* is a set of rows that is moved as a whole: a cluster of k-means, or half of one. Its core texts are asked
"with which of these other pieces do you belong, or none?". One answer moves a hundred texts, so these questions come
first. The answers give each pair of pieces log-odds of being one category; pieces are merged greedily by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.guided.evidence import (
    NO_GROUP,
    PAIR_RELIABILITY,
    TRIPLET_RELIABILITY,
    Asked,
    Reliability,
    closeness,
    right_gains,
)
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.vectors import normalise

# Log-odds that two pieces are of one category before anything was asked, by how near they are: rounded values (27% for
# the nearest, 9%, 3%, below 1%) near the shares of such pairs among k-means clusters of eight sets.
_PRIOR_BY_RANK = ((1, -1.0), (4, -2.3), (8, -3.5))
_PRIOR_FAR = -5.0
_PRIOR_HALVES = -0.3  # the two halves of one cluster: 42%
# Several questions about one pair err together (the same exemplars are shown): each counts for this share of one.
_EVIDENCE_SHARE = 0.8
_PRIOR_QUESTIONS = 20  # that the usual reliability counts for
_READINGS = 3  # of all answers; two earned a point less on five sets, five no more
MOST_QUESTIONS = 6  # about one piece; more of its core texts say the same
SMALLEST_SPLIT = 8  # rows of a piece that may be cut in two

Query = tuple[int, Sequence[Sequence[int]]]  # an anchor's row, and the rows of each group's exemplars


class Ask(Protocol):
    """Asks questions within a cap."""

    @property
    def left(self) -> int:
        """How many questions may still be asked."""

    def __call__(self, questions: Sequence[Query], description: str = ...) -> list[Asked | None]:
        """Return what was answered to each question, None where it was not."""


@dataclass
class Pieces:
    """Pieces and what was answered about them.

    Attributes:
        points: Vectors of the rows (see :class:`Frame`), shape (n_rows, dim).
        labels: The piece of each row, shape (n_rows,).
        weights: How many texts each row stands for, shape (n_rows,).
        candidates: How many other pieces a question shows.
        exemplars: How many texts of each.
        seed: Of splitting.
        answered: Questions whose candidates did not hold the anchor's own piece when they were asked.
    """

    points: Vectors
    labels: Labels
    weights: NDArray[np.float64]
    candidates: int
    exemplars: int
    seed: int
    answered: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._halves: list[tuple[int, int]] = []
        self.tried: set[int] = set()  # pieces whose halves turned out to be one
        self._asked_of: dict[int, int] = {}
        self._used = {question.anchor for question in self.answered}
        self._describe()

    def _describe(self) -> None:
        """Work out sizes, core texts and likeness of the pieces as they are now."""
        self.n_pieces = int(self.labels.max()) + 1
        self.sizes = np.bincount(self.labels, weights=self.weights, minlength=self.n_pieces)
        self.cores = core_rows(self.points, self.labels, self.n_pieces)
        means = np.stack([self.points[rows].mean(axis=0) if len(rows) else self.points[0] * 0 for rows in self.cores])
        unit_means = normalise(means)
        likeness = (unit_means @ unit_means.T).astype(np.float64)
        np.fill_diagonal(likeness, -2.0)
        empty = self.sizes == 0
        likeness[empty, :] = likeness[:, empty] = -2.0
        self.neighbours = np.argsort(-likeness, axis=1, kind="stable")
        ranks = np.empty_like(self.neighbours)
        np.put_along_axis(ranks, self.neighbours, np.arange(self.n_pieces)[None, :], axis=1)
        ranks = np.minimum(ranks, ranks.T)
        self.prior = np.full(likeness.shape, _PRIOR_FAR)
        for rank, odds in reversed(_PRIOR_BY_RANK):
            self.prior[ranks < rank] = odds
        for one, other in self._halves:
            self.prior[one, other] = self.prior[other, one] = _PRIOR_HALVES

    def odds(self) -> NDArray[np.float64]:
        """Return the log-odds that each pair of pieces is one category, shape (n_pieces, n_pieces)."""
        return _Merging(self).odds

    def expected_effect(self) -> NDArray[np.float64]:
        """Return how many texts hang on the next question about each piece, shape (n_pieces,).

        Of a pair that is one category with probability p, the smaller piece's texts are misplaced with probability
        min(p, 1 - p) whatever is decided now; a question shows several pairs at once. This is the planner's measure
        (expected change times size).
        """
        odds = self.odds()
        doubt = 1 / (1 + np.exp(np.abs(odds)))  # min(p, 1 - p)
        stake = doubt * np.minimum(self.sizes[:, None], self.sizes[None, :])
        np.fill_diagonal(stake, 0)
        effect: NDArray[np.float64] = np.take_along_axis(stake, self.neighbours[:, : self.candidates], axis=1).sum(
            axis=1
        )
        for piece in range(self.n_pieces):
            if self._asked_of.get(piece, 0) >= MOST_QUESTIONS or self._next_core(piece) is None:
                effect[piece] = 0
        return effect

    def question(self, piece: int) -> tuple[int, list[list[int]]] | None:
        """Return the next question about a piece: a core text of it and the nearest other pieces' exemplars."""
        anchor = self._next_core(piece)
        others = [other for other in self.neighbours[piece].tolist() if other != piece and self.sizes[other] > 0]
        if anchor is None or len(others) < 2:
            return None
        return anchor, [self.cores[other][: self.exemplars].tolist() for other in others[: self.candidates]]

    def learn_reliability(self) -> Reliability:
        """Estimate how reliable the answers are from how they fit together, and read them again by it.

        One step of expectation maximisation, with hard assignments: the pieces are merged by what is known so far, then
        the questions count by whether a group of the anchor's own category was shown. The usual values count as
        :data:`_PRIOR_QUESTIONS` questions more.
        """
        usual = Reliability()
        groups = self.merged(self.n_pieces)
        shown_right = picked_right = shown_none = said_none = 0
        for question in filter(_is_open_choice, self.answered):
            right = groups[question.clusters(self.labels)] == groups[self.labels[question.anchor]]
            if right.any():
                shown_right += 1
                picked_right += question.choice != NO_GROUP and bool(right[question.choice])
            else:
                shown_none += 1
                said_none += question.choice == NO_GROUP
        prior = _PRIOR_QUESTIONS
        learnt = replace(
            usual,
            accuracy=(picked_right + usual.accuracy * prior) / (shown_right + prior),
            none_right=(said_none + usual.none_right * prior) / (shown_none + prior),
        )
        self.answered = [
            replace(question, reliability=learnt) if _is_open_choice(question) else question
            for question in self.answered
        ]
        return learnt

    def ask(self, ask: Ask, limit: int, worth: float) -> int:
        """Ask about the pieces on which most hangs, in batches, until nothing is worth a question.

        Args:
            ask: Asks questions.
            limit: The most questions.
            worth: How many texts must hang on a question.

        Returns:
            How many were asked.
        """
        count = 0
        while count < limit:
            effect = self.expected_effect()
            # A batch small enough that the answers to one half can spare the other.
            size = min(max(4, self.n_pieces // 6), limit - count, ask.left)
            chosen = [piece for piece in np.argsort(-effect, kind="stable")[:size].tolist() if effect[piece] > worth]
            questions = [(piece, question) for piece in chosen if (question := self.question(piece)) is not None]
            if not questions:
                break
            answers = ask([question for _, question in questions])
            for (piece, (anchor, _)), answer in zip(questions, answers, strict=True):
                self._used.add(anchor)
                self._asked_of[piece] = self._asked_of.get(piece, 0) + 1
                if answer is not None:
                    self.answered.append(answer)
            count += len(questions)
        if count:
            self.learn_reliability()
        return count

    def merged(self, at_most: int, at_least: int = 1) -> Labels:
        """Return the group of each piece after merging, shape (n_pieces,).

        Merges while two groups are likelier one category than not; then goes on, where more than ``at_most`` are
        left, with what is expected to misplace the fewest texts; stops at ``at_least``.
        """
        return _Merging(self).run(at_most, at_least)

    def settle(self, at_least: int = 1) -> bool:
        """Make one piece of what is likelier one category than not; return whether anything merged."""
        groups = self.merged(self.n_pieces, at_least)
        if groups.max() + 1 == self.n_pieces:
            return False
        self.labels = groups[self.labels]
        same = {int(groups[one]) for one, other in self._halves if groups[one] == groups[other]}
        self.tried = {int(groups[piece]) for piece in self.tried} | same
        self._halves, self._asked_of = [], {}
        self._describe()
        return True

    def split(self, count: int, doubted: Iterable[Asked] = ()) -> int:
        """Cut up to ``count`` pieces in two, provisionally; what was answered decides whether they stay cut.

        Args:
            count: The most pieces to cut.
            doubted: Answers about single texts. With them, the pieces are cut that have most texts that belong with
                none of the groups shown: along these texts. Without, those whose halves lie farthest apart.

        Returns:
            How many were cut.
        """
        doubts = list(doubted)
        proposals = self._cuts_by_doubt(doubts) if doubts else self._cuts_by_spread()
        return self._cut(sorted(proposals, key=lambda cut: -cut[0])[:count])

    def _cut(self, chosen: Sequence[tuple[float, int, NDArray[np.int64]]]) -> int:
        for _, piece, rows in chosen:
            new = int(self.labels.max()) + 1
            self.labels[rows] = new
            self._halves.append((piece, new))
            self._asked_of[piece] = 0
        if chosen:
            self._describe()
        return len(chosen)

    def split_smallest(self, count: int) -> int:
        """Cut the smallest pieces that can be cut: where nobody can be asked, the least is lost by it."""
        fitting = [
            piece for piece in np.argsort(self.sizes, kind="stable").tolist() if self.sizes[piece] >= SMALLEST_SPLIT
        ]
        return self._cut([cut for cut in self._cuts_by_spread() if cut[1] in set(fitting[:count])])

    def undo_unasked(self) -> None:
        """Put together again what was cut and then not asked about: a guess makes no cluster."""
        asked_about = {
            (min(own, piece), max(own, piece))
            for question in self.answered
            for own in [int(self.labels[question.anchor])]
            for piece in question.clusters(self.labels).tolist()
        }
        merged = np.arange(self.n_pieces)
        for one, other in self._halves:
            if (min(one, other), max(one, other)) not in asked_about:
                merged[merged == merged[other]] = merged[one]
        self.labels = np.unique(merged[self.labels], return_inverse=True)[1].astype(np.int64)
        kept = np.unique(merged)
        self._asked_of = {place: self._asked_of.get(int(piece), 0) for place, piece in enumerate(kept)}
        self.tried = {int(np.searchsorted(kept, merged[piece])) for piece in self.tried}
        self._halves = []
        self._describe()

    def _cuts_by_spread(self) -> Iterable[tuple[float, int, NDArray[np.int64]]]:
        for piece in range(self.n_pieces):
            rows = np.flatnonzero(self.labels == piece)
            if len(rows) < SMALLEST_SPLIT or piece in self.tried:
                continue
            second, gain = _halves_of(self.points[rows], None, self.seed)
            if second.any():  # of equal vectors there are no halves
                yield gain, piece, rows[second]

    def _cuts_by_doubt(self, doubted: Sequence[Asked]) -> Iterable[tuple[float, int, NDArray[np.int64]]]:
        unplaced: dict[int, list[int]] = {}
        placed: dict[int, list[int]] = {}
        for question in doubted:
            side = unplaced if question.choice == NO_GROUP else placed
            side.setdefault(int(self.labels[question.anchor]), []).append(question.anchor)
        for piece, none in unplaced.items():
            rows = np.flatnonzero(self.labels == piece)
            if len(rows) < SMALLEST_SPLIT or len(none) < 2:
                continue
            known = placed.get(piece, [])
            starts = np.stack([self.points[known or rows].mean(axis=0), self.points[none].mean(axis=0)])
            second, _ = _halves_of(self.points[rows], starts, self.seed)
            smaller = min(second.sum(), len(rows) - second.sum())
            if smaller >= 3:
                yield (len(none) + 0.3) / (len(none) + len(known) + 1) * smaller, piece, rows[second]

    def _next_core(self, piece: int) -> int | None:
        return next((row for row in self.cores[piece].tolist() if row not in self._used), None)


class _Merging:
    """Greedy merging of pieces; of each pair of groups the log-odds of all answers together.

    What an answer says of one pair depends on the others that it is about. Each answer is read by what is known of
    these without it: by the prior, then twice by all answers (rounds of loopy belief propagation), and again wherever
    groups are merged.

    Attributes:
        odds: The log-odds that two groups are one category, shape (n_pieces, n_pieces).
        trace: How many groups there were before each merge, and its log-odds.
    """

    def __init__(self, pieces: Pieces) -> None:
        count = pieces.n_pieces
        self._questions = pieces.answered
        self._group = np.arange(count)
        self._sizes = pieces.sizes.astype(np.float64).copy()
        self._own = [int(pieces.labels[question.anchor]) for question in pieces.answered]
        self._shown = [question.clusters(pieces.labels) for question in pieces.answered]
        self._about: list[set[int]] = [set() for _ in range(count)]
        for number, (own, shown) in enumerate(zip(self._own, self._shown, strict=True)):
            for piece in {own, *shown.tolist()}:
                self._about[piece].add(number)
        self._gains = [np.zeros(len(shown)) for shown in self._shown]
        self._prior = pieces.prior.copy()
        self.odds = self._prior
        for _ in range(_READINGS):
            gains = np.zeros((count, count))
            for number in range(len(self._questions)):
                self._read(number)
                own, others, said = self._says(number)
                gains[own, others] += said
            self.odds = self._prior + _EVIDENCE_SHARE * (gains + gains.T)
        self.trace: list[tuple[int, float]] = []

    def run(self, at_most: int, at_least: int) -> Labels:
        """Merge and return the group of each piece, numbered from 0 without gaps."""
        alive = np.ones(len(self._group), dtype=bool)
        while alive.sum() > at_least:
            odds = np.where(alive[:, None] & alive[None, :] & ~np.eye(len(alive), dtype=bool), self.odds, -np.inf)
            smaller = np.minimum(self._sizes[:, None], self._sizes[None, :])
            # Texts expected to be better placed by the merge, less those worse: size x (p - (1 - p)).
            worth = np.where(np.isfinite(odds), smaller * np.tanh(np.where(np.isfinite(odds), odds, 0) / 2), -np.inf)
            one, other = (int(place) for place in np.unravel_index(int(worth.argmax()), worth.shape))
            if not np.isfinite(worth[one, other]) or (odds[one, other] <= 0 and alive.sum() <= at_most):
                break
            self.trace.append((int(alive.sum()), float(odds[one, other])))
            self._merge(one, other)
            alive[other] = False
        numbered: Labels = np.unique(self._group, return_inverse=True)[1].astype(np.int64)
        return numbered

    def _merge(self, one: int, other: int) -> None:
        """Put the other group into the first, and read again what is about it."""
        self._group[self._group == other] = one
        self._about[one] |= self._about[other]
        self._sizes[one] += self._sizes[other]
        self._prior[one] = np.maximum(self._prior[one], self._prior[other])
        gains = np.zeros(len(self._group))
        for number in sorted(self._about[one]):
            self._read(number)
            own, others, said = self._says(number)
            if own == one:
                gains[others] += said
            else:
                gains[own] += said[others == one].sum()
        self.odds[one] = self.odds[:, one] = self._prior[one] + _EVIDENCE_SHARE * gains
        self._prior[:, one] = self._prior[one]

    def _read(self, number: int) -> None:
        """Work out what an answer says of each group it showed, given what the others say."""
        own, groups = self._group[self._own[number]], self._group[self._shown[number]]
        odds = self.odds[own, groups] - _EVIDENCE_SHARE * self._gains[number]
        right = np.where(groups == own, 1.0, 1 / (1 + np.exp(np.clip(-odds, -50, 50))))
        self._gains[number] = right_gains(self._questions[number], groups, right)

    def _says(self, number: int) -> tuple[int, NDArray[np.int64], NDArray[np.float64]]:
        """Return an anchor's group, the other groups that its question showed, and what the answer says of each."""
        own = int(self._group[self._own[number]])
        groups, places = np.unique(self._group[self._shown[number]], return_index=True)
        others = groups != own
        return own, groups[others], self._gains[number][places[others]]


def worth_of(most: float, n_rows: int, questions: int) -> float:
    """Return how many texts must hang on a question: few where there are almost as many questions as texts."""
    return min(most, 2 * n_rows / max(questions, 1))


def merging_curve(pieces: Pieces) -> list[tuple[int, float]]:
    """Return (groups left, log-odds of the merge that leaves so many) of merging all pieces into one."""
    merging = _Merging(pieces)
    merging.run(1, 1)
    return [(before - 1, round(odds, 4)) for before, odds in merging.trace]


def _is_open_choice(question: Asked) -> bool:
    """Return whether a question is a choice with "none" among the answers, whose reliability can be learnt."""
    return question.reliability not in (PAIR_RELIABILITY, TRIPLET_RELIABILITY)


def core_rows(points: Vectors, labels: Labels, n_clusters: int) -> list[NDArray[np.int64]]:
    """Return the rows of each cluster, the nearest to its mean first."""
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(n_clusters + 1))
    cores = []
    for cluster in range(n_clusters):
        rows = order[bounds[cluster] : bounds[cluster + 1]]
        if len(rows):
            rows = rows[np.argsort(-closeness(points[rows], points[rows].mean(axis=0)), kind="stable")]
        cores.append(rows.astype(np.int64))
    return cores


def _halves_of(vectors: Vectors, starts: NDArray[np.floating] | None, seed: int) -> tuple[NDArray[np.bool_], float]:
    """Return which rows are in the second half by 2-means, and by how much that lowers the squared distances."""
    from sklearn.cluster import KMeans

    if len(np.unique(vectors, axis=0)) < 2:
        return np.zeros(len(vectors), dtype=bool), 0.0
    if starts is None:
        model = KMeans(2, n_init=3, random_state=seed)
    else:
        model = KMeans(2, init=starts.astype(vectors.dtype), n_init=1, max_iter=5, random_state=seed)
    model.fit(vectors)
    total = float(((vectors - vectors.mean(axis=0)) ** 2).sum())
    return model.labels_ == 1, total - float(model.inertia_)
