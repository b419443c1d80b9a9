"""Small pure functions on vectors that several steps share: scaling, k-means, soft assignment."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.protocols import Labels, Vectors

Probabilities = NDArray[np.float64]


def normalise(vectors: Vectors) -> Vectors:
    """Return the rows scaled to length 1, shape (n, dim); a row of zeros stays as it is."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled


def standardise(vectors: Vectors) -> Vectors:
    """Return the columns with mean 0 and variance 1, shape (n, dim); a constant column becomes 0."""
    wide = vectors.astype(np.float64)  # or a constant far from 0 would seem to vary
    centred = wide - wide.mean(axis=0)
    deviations = centred.std(axis=0)
    scaled: Vectors = (centred / np.where(deviations > 1e-12, deviations, 1)).astype(np.float32)
    return scaled


def centroids_of(vectors: Vectors, labels: Labels, n_clusters: int) -> Vectors:
    """Return the mean of each cluster, shape (n_clusters, dim)."""
    sums = np.zeros((n_clusters, vectors.shape[1]), dtype=np.float64)
    np.add.at(sums, labels, vectors)
    counts = np.bincount(labels, minlength=n_clusters)[:, None]
    means: Vectors = (sums / np.maximum(counts, 1)).astype(np.float32)
    return means


def squared_distances(vectors: Vectors, centroids: Vectors) -> NDArray[np.float32]:
    """Return the squared Euclidean distances of rows to centroids, shape (n, n_clusters)."""
    products = vectors @ centroids.T
    lengths = (vectors**2).sum(axis=1)[:, None] + (centroids**2).sum(axis=1)[None, :]
    distances: NDArray[np.float32] = np.maximum(lengths - 2 * products, 0)
    return distances


def offset_distances(vectors: Vectors, centroids: Vectors, offsets: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return squared distances plus each centroid's offset, shape (n, n_clusters)."""
    distances = squared_distances(vectors, centroids)
    return distances if offsets is None else distances + offsets


def kmeans(vectors: Vectors, n_clusters: int, seed: int) -> tuple[Labels, Vectors]:
    """Cluster rows by k-means, ten starts (paper, section 4.1: the final clustering).

    Returns:
        Labels, shape (n,), and centroids, shape (n_clusters, dim). Each row has the label of its nearest centroid.
        There are fewer clusters where there are fewer distinct rows.
    """
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer distinct rows than clusters; the caller sees it
        model = KMeans(n_clusters=n_clusters, n_init=10, random_state=seed).fit(vectors)
    centroids = np.asarray(model.cluster_centers_, dtype=np.float32)
    used = np.unique(nearest(vectors, centroids))
    return nearest(vectors, centroids[used]), centroids[used]


def nearest(
    vectors: Vectors, centroids: Vectors, offsets: NDArray[np.float32] | None = None, block: int = 8192
) -> Labels:
    """Return the index of the nearest centroid of each row, shape (n,), without an n x k matrix.

    Args:
        vectors: Shape (n, dim).
        centroids: Shape (n_clusters, dim).
        offsets: Added to the squared distances, shape (n_clusters,); None = nothing.
        block: Rows at once.
    """
    parts = [
        offset_distances(vectors[start : start + block], centroids, offsets).argmin(axis=1)
        for start in range(0, len(vectors), block)
    ]
    return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, dtype=np.int64)


def soft_assignment(distances: NDArray[np.float32]) -> Probabilities:
    """Return Student's t assignment with one degree of freedom (paper, equation 1).

    Args:
        distances: Squared distances to the centroids, shape (n, n_clusters).

    Returns:
        p_ik proportional to 1 / (1 + distance), each row summing to 1, shape (n, n_clusters).
    """
    kernel = 1.0 / (1.0 + distances.astype(np.float64))
    probabilities: Probabilities = kernel / kernel.sum(axis=1, keepdims=True)
    return probabilities


def kept_clusters(n_clusters: int) -> int:
    """Return how many nearest clusters of a text count: 2% of all, at least two (paper, section 3.1)."""
    return min(n_clusters, max(2, round(0.02 * n_clusters)))


def nearest_assignment(
    vectors: Vectors, centroids: Vectors, offsets: NDArray[np.float32] | None = None
) -> tuple[Labels, Probabilities]:
    """Return each row's nearest clusters and the soft assignment among them alone (paper, equation 1).

    Returns:
        Clusters, nearest first, and their probabilities, renormalised; both of shape (n, kept).
    """
    distances = offset_distances(vectors, centroids, offsets)
    kept = np.argsort(distances, axis=1, kind="stable")[:, : kept_clusters(len(centroids))]
    return kept.astype(np.int64), soft_assignment(np.take_along_axis(distances, kept, axis=1))


def scores_of(
    vectors: Vectors,
    centroids: Vectors,
    labels: Labels,
    offsets: NDArray[np.float32] | None = None,
    block: int = 8192,
) -> NDArray[np.float64]:
    """Return the soft-assignment probability of each row's own cluster among its nearest ones, shape (n,)."""
    scores = np.zeros(len(vectors))
    for start in range(0, len(vectors), block):
        rows = slice(start, start + block)
        kept, probabilities = nearest_assignment(vectors[rows], centroids, offsets)
        scores[rows] = (probabilities * (kept == labels[rows, None])).sum(axis=1)
    return scores
