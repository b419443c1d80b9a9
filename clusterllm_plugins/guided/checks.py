"""Is the oracle of use, how often is it right, and did asking help?

Three tests, each on answers that the clustering in question has not learnt from:

* *core checks*, asked first: a typical text of a plain cluster, with that cluster among the candidates. Whoever
  understands the texts picks it far more often than chance. Where the plain clusters are too poor for that, the same
  question in another order tells: whoever guesses, or likes a place, picks another group. Nothing more is asked of an
  oracle that passes neither test;
* a *duel*, asked last: random texts that the plain and the refined clustering place differently. Where the answers
  favour the plain one, it stays;
* *held answers*: each answer about an unsure text is compared with what the classifier said before it learnt from it.
  They give the oracle's accuracy by maximum likelihood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.stats import binom, binomtest

from clusterllm_plugins.guided.evidence import NO_GROUP, Reliability, closeness, wrong_weights
from clusterllm_plugins.guided.pieces import Ask, Query, core_rows
from clusterllm_plugins.guided.planning import Asker
from clusterllm_plugins.guided.reassign import Held
from clusterllm_plugins.protocols import Labels, Vectors

LEVEL = 0.005  # of the core checks: an oracle of no use passes once in two hundred times
CERTAIN = 0.0001  # below this p no further core check is asked
DUEL_LEVEL = 0.05  # of the duel: the plain clustering stays only where the answers say that it is better
MOST_DUELS = 48
_BATCH = 16
_MOST_CHECKS = 96
_CHECK_SHARE = 8  # at most every eighth question is a core check, but for the first two or three batches
CHECK_CANDIDATES = 8


@dataclass(frozen=True)
class CoreChecks:
    """What the core checks gave.

    Attributes:
        asked: How many were answered, those asked again included.
        picked: In how many a group was picked, not "none", the first time.
        own: In how many of these it was the text's own cluster.
        expected: In how many of these a guess would have picked it.
        again: In how many of these a group was picked the second time too.
        same: In how many of those it was the same group.
        p_value: The probability that a guess does as well, in the better of the two tests (times two, for it is the
            better of two).
    """

    asked: int = 0
    picked: int = 0
    own: int = 0
    expected: float = 0.0
    again: int = 0
    same: int = 0
    p_value: float = 1.0

    @property
    def passed(self) -> bool:
        """Whether the oracle understands the texts."""
        return self.p_value < LEVEL


def core_checks(ask: Asker, points: Vectors, labels: Labels, n_clusters: int, exemplars: int, seed: int) -> CoreChecks:
    """Ask about typical texts until it is clear whether the oracle's answers are better than a guess.

    Args:
        ask: Asks, within its cap.
        points: Vectors of the rows (see :class:`Frame`), shape (n_rows, dim).
        labels: The plain clustering, shape (n_rows,).
        n_clusters: How many clusters it has.
        exemplars: Texts shown of each candidate.
        seed: Of the choice of texts.
    """
    cores = core_rows(points, labels, n_clusters)
    questions = _core_questions(points, cores, exemplars, seed)
    limit = min(_MOST_CHECKS, max(2 * _BATCH, min(3 * _BATCH, ask.cap.limit // 4), ask.cap.limit // _CHECK_SHARE))
    own, same = _Count(), _Count()
    asked = used = start = 0
    while start < len(questions) and used < limit and ask.left:
        batch = questions[start : start + min(_BATCH, limit - used)]
        start, used = start + len(batch), used + len(batch)
        picked: list[tuple[Query, tuple[int, ...]]] = []
        for query, answer in zip(batch, ask(batch, "checking the oracle"), strict=True):
            asked += answer is not None
            # "none" says nothing here: a typical text of a mixed cluster may well belong nowhere.
            if answer is not None and answer.choice != NO_GROUP:
                picked.append((query, answer.groups[answer.choice]))
                own.add(picked[-1][1] == tuple(query[1][0]), len(query[1]))
        if own.p_value < CERTAIN:
            break
        repeated = picked[: limit - used]
        used += len(repeated)
        reordered = [(anchor, groups[::-1]) for (anchor, groups), _ in repeated]
        for (query, before), answer in zip(repeated, ask(reordered, "checking the oracle"), strict=True):
            asked += answer is not None
            if answer is not None and answer.choice != NO_GROUP:
                same.add(answer.groups[answer.choice] == before, len(query[1]))
        if min(own.p_value, same.p_value) < CERTAIN:
            break
    p_value = min(1.0, 2 * min(own.p_value, same.p_value))
    return CoreChecks(asked, own.tried, own.hits, round(own.expected, 1), same.tried, same.hits, p_value)


class _Count:
    """Hits among tries, each of which a guess hits with its own probability."""

    def __init__(self) -> None:
        self.hits = self.tried = 0
        self.expected = 0.0

    def add(self, hit: bool, n_groups: int) -> None:
        self.hits += hit
        self.tried += 1
        self.expected += 1 / n_groups

    @property
    def p_value(self) -> float:
        """The probability that guesses hit as often or more."""
        return float(binom.sf(self.hits - 1, self.tried, self.expected / self.tried)) if self.tried else 1.0


def _core_questions(points: Vectors, cores: Sequence[np.ndarray], exemplars: int, seed: int) -> list[Query]:
    """Return questions about typical texts, their own cluster first, over the clusters in random order."""
    means = np.stack([points[rows].mean(axis=0) if len(rows) else points[0] * 0 for rows in cores])
    large = [number for number, rows in enumerate(cores) if len(rows) >= 2]
    questions: list[Query] = []
    turns = max((len(cores[number]) for number in large), default=0)
    rng = np.random.default_rng(seed)
    for turn in range(min(turns, _MOST_CHECKS)):
        for number in rng.permutation(large).tolist():
            if turn >= max(1, len(cores[number]) // 2) or len(questions) >= _MOST_CHECKS:
                continue  # the outer half is not typical
            anchor = int(cores[number][turn])
            near = np.argsort(-closeness(means, means[number]), kind="stable").tolist()
            others = [other for other in near if other != number and len(cores[other])]
            # Near and far ones: the nearest are often of the text's own category, which k-means has cut.
            spread = np.linspace(0, len(others) - 1, min(len(others), CHECK_CANDIDATES - 1)).round().astype(int)
            others = [others[place] for place in spread.tolist()]
            groups = [
                [row for row in cores[one].tolist()[: exemplars + 1] if row != anchor] for one in (number, *others)
            ]
            groups = [group[:exemplars] for group in groups if group]
            if len(groups) >= 2:
                questions.append((anchor, groups))
    return questions


@dataclass(frozen=True)
class Duel:
    """Answers about texts that the plain and the refined clustering place differently.

    Attributes:
        refined: How often the refined clustering's group was picked.
        plain: How often the plain one's was.
        p_value: Of the sign test that the plain one is the better.
    """

    refined: int
    plain: int
    p_value: float

    @property
    def favours_plain(self) -> bool:
        """Whether the answers say that the plain clustering is the better."""
        return self.p_value < DUEL_LEVEL


def duel(ask: Ask, points: Vectors, plain: Labels, refined: Labels, used: set[int], exemplars: int, seed: int) -> Duel:
    """Let answers choose between two clusterings: of random texts that they place differently, whose group fits?

    The texts are drawn without a look at how sure either is of them: among the texts that the refined clustering is
    unsure of it would be right less often than it is.

    Args:
        ask: Asks, within its cap.
        points: Vectors of the rows (see :class:`Frame`), shape (n_rows, dim).
        plain: The clustering before any answer, shape (n_rows,).
        refined: The clustering after all, shape (n_rows,).
        used: Rows that were asked about.
        exemplars: Texts shown of each group.
        seed: Of the choice of texts.
    """
    cores = [core_rows(points, labels, int(labels.max()) + 1) for labels in (plain, refined)]
    rng = np.random.default_rng(seed)
    questions: list[Query] = []
    for row in (row for row in rng.permutation(len(points)).tolist() if row not in used):
        sides = [
            [other for other in core[labels[row]][: exemplars + 1].tolist() if other != row][:exemplars]
            for core, labels in zip(cores, (plain, refined), strict=True)
        ]
        if len(questions) < MOST_DUELS and all(sides) and _differ(sides, plain, refined, row):
            questions.append((row, sides))
    wins = losses = 0
    p_value = 1.0
    for start in range(0, len(questions), _BATCH):
        batch = questions[start : start + min(_BATCH, ask.left)]
        for (_, groups), answer in zip(batch, ask(batch, "comparing clusterings"), strict=True):
            if answer is not None and answer.choice != NO_GROUP:
                picked = answer.groups[answer.choice]
                losses += picked == tuple(groups[0])
                wins += picked == tuple(groups[1])
        if wins + losses:
            p_value = float(binomtest(losses, wins + losses, alternative="greater").pvalue)
        if losses <= wins or p_value < CERTAIN or not ask.left:
            break  # only a plain clustering that is ahead is worth more questions
    return Duel(wins, losses, p_value)


def _differ(groups: Sequence[Sequence[int]], plain: Labels, refined: Labels, row: int) -> bool:
    """Return whether the plain cluster's exemplars are of another refined cluster, and the other way round."""
    of_plain, of_refined = (np.asarray(group) for group in groups)
    return bool((refined[of_plain] != refined[row]).all() and (plain[of_refined] != plain[row]).all())


def estimate_reliability(held: Sequence[Held]) -> Reliability:
    """Return the oracle's reliability with the accuracy that makes the held answers likeliest, drawn to what is usual.

    Each answer is a mixture: with the classifier's probability (its temperature is estimated too, since a classifier
    is rarely as sure as it seems) a group is right, else none is. How often none is right follows from how often the
    oracle said so: were it free, every error could be explained by it.
    """
    usual = Reliability()
    if not held:
        return usual
    start = np.array([np.log(usual.accuracy / (1 - usual.accuracy)), np.log(2.0)])
    said_none = float(np.mean([one.question.choice == NO_GROUP for one in held]))

    def loss(parameters: np.ndarray) -> float:
        accuracy, temperature = 1 / (1 + np.exp(-parameters[0])), np.exp(parameters[1])
        missed_none = (1 - accuracy) * usual.none_missed
        unplaced = float(np.clip((said_none - missed_none) / (usual.none_right - missed_none), 0.0, 0.95))
        total = 0.0
        for one in held:
            chosen = one.question.choice
            if chosen == NO_GROUP:
                continue  # it has had its say above
            sharpened = one.shares ** (1 / temperature)
            shares = (1 - unplaced) * sharpened / max(sharpened.sum(), 1e-12)
            missed = (1 - unplaced - shares[chosen]) * (1 - accuracy) * (1 - usual.none_missed)
            weight = wrong_weights(len(shares))[chosen]
            chance = shares[chosen] * accuracy + (missed + unplaced * (1 - usual.none_right)) * weight
            total -= float(np.log(max(chance, 1e-12)))
        return total + _PRIOR_STRENGTH * float(((parameters - start) ** 2).sum())

    best = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 200, "xatol": 1e-2, "fatol": 1e-2})
    return Reliability(float(1 / (1 + np.exp(-best.x[0]))), usual.none_missed, usual.none_right)


_PRIOR_STRENGTH = 1.0  # as a handful of answers: a few held ones must not give 0 or 1


def order_bias(places: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return how often the group shown first was picked, against what a random order gives."""
    if not places:
        return {"first_chosen": None, "expected": None, "p_value": None}
    first = sum(place == 0 for _, place in places)
    expected = float(np.mean([1 / shown for shown, _ in places]))
    return {
        "first_chosen": round(first / len(places), 4),
        "expected": round(expected, 4),
        "p_value": round(float(binomtest(first, len(places), expected).pvalue), 4),
    }
