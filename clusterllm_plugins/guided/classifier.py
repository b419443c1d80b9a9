"""From answers about some texts to clusters of all texts: a linear classifier that learns both.

The classifier is multinomial logistic regression. It learns from the rows whose cluster is known from
an answer, and from the surer rows as they are clustered now (self-training): the clusters keep their shape where
nothing was asked, and bend where answers say so. It beat discriminant analysis with a shared covariance, and labels
spread over a graph of neighbours, on recorded and on simulated answers (docs/method.md).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.vectors import centroids_of, nearest, offset_distances

INVERSE_PENALTY = 10.0  # C of scikit-learn: METHOD's value, and flat from 3 to 30 on recorded answers
ITERATIONS = 60  # bounds the time of a fit; other values were not compared
SURE_SHARE = 0.7  # of the rows teach as they are clustered now
ANSWER_WEIGHT = 2.0  # of an answered row, against 1 of another
# Before anything is learnt. A text whose two nearest centroids differ by 0.05 in squared distance (0.025 in cosine)
# has odds of e; 0.1 earned the same within the spread of seeds, 0.2 less.
CENTROID_TEMPERATURE = 0.05
NEVER = -1e3  # the bias of a cluster that has no row
_JUST_NEARER = 1e-4  # more than what float32 rounds
_SPARE, _LONGEST = 1.1, 30.0  # of a centre that wins a single row


@dataclass(frozen=True)
class Frame:
    """Where the vectors of a corpus lie: unit vectors, centred and scaled to a mean squared length of 1.

    Some embedders put all texts into a narrow cone (cosines of E5 lie between 0.7 and 1). What is measured in
    distances, temperatures and penalties, would mean something else there; in this frame it means the same.

    Attributes:
        mean: Of the unit vectors, shape (dim,).
        scale: The root of their mean squared distance to it.
    """

    mean: Vectors
    scale: float

    @classmethod
    def of(cls, unit: Vectors) -> Frame:
        """Return the frame of vectors of length 1, shape (n, dim)."""
        mean = unit.mean(axis=0)
        scale = float(np.sqrt(((unit - mean) ** 2).sum(axis=1).mean()))
        return cls(mean, scale or 1.0)

    def points(self, unit: Vectors) -> Vectors:
        """Return vectors of length 1 within the frame, shape as given."""
        points: Vectors = ((unit - self.mean) / self.scale).astype(np.float32)
        return points


@dataclass(frozen=True)
class LinearClassifier:
    """Scores ``points @ weights.T + biases``; the largest is the cluster.

    Attributes:
        weights: Shape (n_clusters, dim).
        biases: Shape (n_clusters,).
    """

    weights: Vectors
    biases: NDArray[np.float32]

    def scores(self, points: Vectors) -> NDArray[np.float32]:
        """Return the score of each row for each cluster, shape (n, n_clusters)."""
        scores: NDArray[np.float32] = points @ self.weights.T + self.biases
        return scores

    def of_unit_vectors(self, frame: Frame) -> LinearClassifier:
        """Return the classifier that gives unit vectors the scores that this one gives their points in a frame."""
        weights = self.weights / frame.scale
        return LinearClassifier(weights, (self.biases - weights @ frame.mean).astype(np.float32))

    def as_centres(self) -> tuple[Vectors, NDArray[np.float32]]:
        """Return centres and offsets whose nearest one, ``|u - c|^2 + o`` at least, is the best-scored cluster.

        For unit vectors ``|u - c|^2 + o = 1 + |c|^2 + o - 2 u.c``: with ``c = s w`` and ``o = const - |c|^2 - 2 s b``
        that is a constant less ``2 s`` times the score. The scale s makes the longest centre a unit vector, so that
        distances are of the size that k-means gives.

        Returns:
            Centres, shape (n_clusters, dim), and offsets, at least 0, shape (n_clusters,).
        """
        lengths = np.linalg.norm(self.weights, axis=1)
        scale = 1 / max(float(lengths.max()), 1e-9)
        centres = (scale * self.weights).astype(np.float32)
        offsets = -((centres**2).sum(axis=1)) - 2 * scale * self.biases
        return centres, (offsets - offsets.min()).astype(np.float32)


def train(points: Vectors, targets: Labels, weights: NDArray[np.float64], n_clusters: int) -> LinearClassifier:
    """Fit the classifier.

    Args:
        points: Vectors of the rows (see :class:`Frame`), shape (n, dim).
        targets: The cluster of each row, shape (n,).
        weights: How much each row counts; rows of weight 0 are left out, shape (n,).
        n_clusters: How many clusters there are; one without a row is never chosen.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    rows = np.flatnonzero(weights > 0)
    seen = np.unique(targets[rows])
    full = np.zeros((n_clusters, points.shape[1]), dtype=np.float32)
    biases = np.full(n_clusters, NEVER, dtype=np.float32)
    if len(seen) == 1:
        biases[seen] = 0
        return LinearClassifier(full, biases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=INVERSE_PENALTY, max_iter=ITERATIONS, tol=1e-3).fit(
            points[rows].astype(np.float64), targets[rows], sample_weight=weights[rows]
        )
    if len(seen) == 2:  # scikit-learn keeps one row for two classes
        full[seen] = np.concatenate([-model.coef_, model.coef_]) / 2
        biases[seen] = np.concatenate([-model.intercept_, model.intercept_]) / 2
    else:
        full[seen], biases[seen] = model.coef_, model.intercept_
    return LinearClassifier(full, biases)


def nearest_centroid(points: Vectors, labels: Labels, n_clusters: int) -> LinearClassifier:
    """Return the classifier whose probabilities are softmax(-|x - centroid|^2 / CENTROID_TEMPERATURE).

    Args:
        points: Vectors of the rows (see :class:`Frame`), shape (n, dim).
        labels: The cluster of each row, shape (n,).
        n_clusters: How many clusters there are; one without a row is never chosen.
    """
    centroids = centroids_of(points, labels, n_clusters)
    biases = -(centroids**2).sum(axis=1) / CENTROID_TEMPERATURE
    biases[np.bincount(labels, minlength=n_clusters) == 0] = NEVER
    return LinearClassifier(2 * centroids / CENTROID_TEMPERATURE, biases.astype(np.float32))


def without_empty(
    unit: Vectors, centres: Vectors, offsets: NDArray[np.float32]
) -> tuple[Labels, Vectors, NDArray[np.float32]]:
    """Return the nearest cluster of each row, and centres and offsets with which no cluster is empty where that can be.

    The centre of an empty cluster goes to the row that is farthest from its own, as k-means does it. From a centre
    ``s u``, the row u times s, a row v is ``2 s (1 - u.v)`` farther than u: s is so long that u alone changes.

    Args:
        unit: Vectors of length 1, shape (n, dim).
        centres: Shape (n_clusters, dim).
        offsets: Shape (n_clusters,).
    """
    n_clusters = len(centres)
    centres, offsets = centres.copy(), offsets.copy()
    labels = nearest(unit, centres, offsets)
    for _ in range(n_clusters):
        sizes = np.bincount(labels, minlength=n_clusters)
        empty = np.flatnonzero(sizes == 0)
        if not len(empty) or sizes.max() < 2:
            break
        own = offset_distances(unit, centres, offsets).min(axis=1)
        farthest = int(np.where(sizes[labels] > 1, own, -np.inf).argmax())
        nearer = own[farthest] - _JUST_NEARER * max(1.0, float(own[farthest]))
        apart = 2 * (1 - unit @ unit[farthest])
        others = apart > _JUST_NEARER
        length = float(np.clip(((own - nearer)[others] / apart[others]).max(initial=1) * _SPARE, 1, _LONGEST))
        centres[empty[0]] = length * unit[farthest]
        offsets[empty[0]] = nearer - (length - 1) ** 2
        labels = nearest(unit, centres, offsets)
    return labels, centres, offsets


def softmax(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the rows as probabilities, shape as given."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    probabilities: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def margins(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how much likelier the best cluster of each row is than its second, shape (n,)."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    best = np.partition(probabilities, -2, axis=1)[:, -2:]
    gaps: NDArray[np.float64] = best[:, 1] - best[:, 0]
    return gaps
