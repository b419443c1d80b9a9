"""Questions about single texts: those between two clusters are asked where they belong.

In: clusters, and answers so far. Out: clusters and a classifier that say the same as most answers. Texts are asked in
rounds, the least sure first; after each round the classifier learns from all answers so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.guided.classifier import (
    ANSWER_WEIGHT,
    SURE_SHARE,
    LinearClassifier,
    margins,
    nearest_centroid,
    softmax,
    train,
)
from clusterllm_plugins.guided.evidence import Asked, closeness, text_likelihoods
from clusterllm_plugins.guided.pieces import Ask, Query
from clusterllm_plugins.guided.planning import Shape
from clusterllm_plugins.protocols import Labels, Vectors

# An exemplar should be typical of its cluster in the vectors and for the classifier: closeness plus this x probability.
_PROBABILITY_SHARE = 0.3


@dataclass(frozen=True)
class Held:
    """An answer, and what the classifier said before it learnt from it.

    Attributes:
        question: The answered question.
        shares: The probability that the classifier gave each group shown, shape (n_groups,).
    """

    question: Asked
    shares: NDArray[np.float64]


@dataclass
class Reassignment:
    """Clusters of all rows that learn from answers about some.

    Attributes:
        points: Vectors of the rows (see :class:`Frame`), shape (n_rows, dim).
        labels: The cluster of each row, shape (n_rows,).
        n_clusters: How many there are.
        shape: How much a question shows.
        answered: Answers so far.
        held: What each answer about a text says of the clusterings before it was learnt.
        classifier: Gives each row its probabilities: at first by the nearest centroid, then trained.
        probabilities: Of each cluster for each row, shape (n_rows, n_clusters).
    """

    points: Vectors
    labels: Labels
    n_clusters: int
    shape: Shape
    answered: list[Asked] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        """Take the clusters as they are: by the nearest centroid, softly."""
        self.classifier: LinearClassifier = nearest_centroid(self.points, self.labels, self.n_clusters)
        self.probabilities = softmax(self.classifier.scores(self.points))

    def ask(self, ask: Ask, count: int, rounds: int) -> list[Asked]:
        """Ask about ``count`` texts in ``rounds`` rounds, learning after each; return what was answered."""
        answers: list[Asked] = []
        sizes = np.diff(np.linspace(0, count, rounds + 1).round().astype(int))
        for size in sizes.tolist():
            answers += self._round(ask, size)
        return answers

    def _round(self, ask: Ask, count: int) -> list[Asked]:
        questions = self._questions(min(count, ask.left))
        answers = [answer for answer in ask(questions, "asking about texts") if answer is not None] if questions else []
        self.held += [self._hold(answer) for answer in answers]
        self.answered += answers
        if answers:
            self.learn()
        return answers

    def restart(self, labels: Labels, answered: list[Asked]) -> None:
        """Go on from another clustering of the same number, with further answers about it."""
        self.labels = labels
        self.answered += answered
        self._begin()

    def learn(self) -> None:
        """Train on the answers so far and on the surer rows as they are clustered now, and cluster again.

        A row that was asked about gets the cluster of the largest posterior: the classifier's probability times the
        likelihood of the answers about it.
        """
        if not self.answered:
            return
        rows, likelihoods = self._likelihoods()
        posterior = self._posterior(rows, likelihoods)
        targets = self.probabilities.argmax(axis=1)
        targets[rows] = posterior.argmax(axis=1)
        gaps = margins(self.probabilities)
        weights = (gaps >= np.quantile(gaps, 1 - SURE_SHARE)).astype(np.float64)
        # Squared: what an answer leaves open between two clusters says little about either.
        weights[rows] = ANSWER_WEIGHT * posterior.max(axis=1) ** 2
        self.classifier = train(self.points, targets, weights, self.n_clusters)
        self.probabilities = softmax(self.classifier.scores(self.points))
        self.labels = self.probabilities.argmax(axis=1)
        self.labels[rows] = self._posterior(rows, likelihoods).argmax(axis=1)

    def _likelihoods(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the rows that were asked about, and the log-likelihood of all answers about each."""
        each = text_likelihoods(self.answered, self.labels, self.n_clusters)
        rows, place = np.unique([question.anchor for question in self.answered], return_inverse=True)
        total = np.zeros((len(rows), self.n_clusters))
        np.add.at(total, place, each)
        return rows, total

    def _posterior(self, rows: NDArray[np.int64], likelihoods: NDArray[np.float64]) -> NDArray[np.float64]:
        return softmax(np.log(self.probabilities[rows] + 1e-12) + likelihoods)

    def _questions(self, count: int) -> list[Query]:
        """Return questions about the texts that are least sure of their cluster, of those not asked about yet.

        The margin between the two likeliest clusters is what an answer can overturn; entropy and the probability of
        the likeliest cluster earned the same within the spread of seeds.
        """
        asked_rows = {question.anchor for question in self.answered}
        exemplars = self._exemplars()
        questions: list[Query] = []
        for row in np.argsort(margins(self.probabilities), kind="stable").tolist():
            if len(questions) >= count:
                break
            if row in asked_rows:
                continue
            likeliest = np.argsort(-self.probabilities[row], kind="stable")[: self.shape.candidates].tolist()
            groups = [[other for other in exemplars[k] if other != row][: self.shape.exemplars] for k in likeliest]
            groups = [group for group in groups if group]
            if len(groups) >= 2:
                questions.append((row, groups))
        return questions

    def _exemplars(self) -> list[list[int]]:
        """Return the most typical rows of each cluster, one more than a question shows."""
        exemplars = []
        for cluster in range(self.n_clusters):
            rows = np.flatnonzero(self.labels == cluster)
            if len(rows):
                typical = closeness(self.points[rows], self.points[rows].mean(axis=0))
                typical = typical + _PROBABILITY_SHARE * self.probabilities[rows, cluster]
                rows = rows[np.argsort(-typical, kind="stable")[: self.shape.exemplars + 1]]
            exemplars.append(rows.tolist())
        return exemplars

    def _hold(self, answer: Asked) -> Held:
        shown = answer.clusters(self.labels)
        shares = self.probabilities[answer.anchor, shown]
        repeated = [place for place, cluster in enumerate(shown.tolist()) if cluster in shown[:place]]
        shares[repeated] = 0  # a cluster shown twice counts once
        return Held(answer, shares)
