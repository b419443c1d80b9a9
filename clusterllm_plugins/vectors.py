"""Small pure functions on vectors that several steps share: scaling, k-means, soft assignment.

Where there are many rows they are worked on in blocks: beside what goes in and comes out, memory is that of a block.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.protocols import Labels, Vectors

Probabilities = NDArray[np.float64]

BLOCK = 32_768  # rows at once, where they are scaled or summed up
DISTANCE_BLOCK = 8192  # rows at once, where each has a distance to every centroid
SQUARABLE = 1e-15  # below this length, and above its inverse, squares of float32 lose digits or overflow
# Above so many rows k-means starts from a sample and goes on in a few passes (see ``kmeans_of_many``).
SAMPLED_ABOVE = 20_000


def blocks(n_rows: int, size: int | None = None) -> Iterator[slice]:
    """Yield slices that cover ``n_rows`` rows, of :data:`BLOCK` or ``size`` rows each."""
    size = size or BLOCK
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def normalise(vectors: Vectors, rows: NDArray[np.int64] | None = None) -> Vectors:
    """Return the rows scaled to length 1, a new array; a row of zeros stays as it is.

    Args:
        vectors: Shape (n, dim).
        rows: Which rows, shape (n_rows,); by default all.

    Returns:
        float32, shape (n_rows, dim).
    """
    scaled: Vectors = np.empty((len(vectors) if rows is None else len(rows), vectors.shape[1]), dtype=np.float32)
    for part in blocks(len(scaled)):
        some = np.asarray(vectors[part] if rows is None else vectors[rows[part]])
        with np.errstate(over="ignore"):
            lengths = np.linalg.norm(some, axis=1, keepdims=True)
        odd = np.flatnonzero(~((lengths > SQUARABLE) & (lengths < 1 / SQUARABLE)))
        scaled[part] = some / np.where(lengths > 0, lengths, 1)
        if len(odd):  # zeros, and rows whose squares float32 does not hold
            rest = some[odd].astype(np.float64)
            lengths = np.linalg.norm(rest, axis=1, keepdims=True)
            scaled[part.start + odd] = rest / np.where(lengths > 0, lengths, 1)
    return scaled


def standardise(vectors: Vectors) -> Vectors:
    """Return the columns with mean 0 and variance 1, shape (n, dim); a constant column becomes 0."""
    # In float64, or a constant far from 0 would seem to vary.
    mean = sum(vectors[part].sum(axis=0, dtype=np.float64) for part in blocks(len(vectors))) / len(vectors)
    squares = np.zeros(vectors.shape[1])
    for part in blocks(len(vectors)):
        squares += ((vectors[part] - mean) ** 2).sum(axis=0)
    deviations = np.sqrt(squares / len(vectors))
    deviations = np.where(deviations > 1e-12, deviations, 1)
    scaled: Vectors = np.empty(vectors.shape, dtype=np.float32)
    for part in blocks(len(vectors)):
        scaled[part] = (vectors[part] - mean) / deviations
    return scaled


def sums_of(vectors: Vectors, labels: Labels, n_clusters: int) -> NDArray[np.float64]:
    """Return the sum of each cluster's rows, shape (n_clusters, dim)."""
    from scipy.sparse import csr_matrix

    sums = np.zeros((n_clusters, vectors.shape[1]))
    for part in blocks(len(vectors)):
        own = labels[part]
        # A product with a sparse matrix, as np.add.at goes row by row.
        members = csr_matrix((np.ones(len(own)), (own, np.arange(len(own)))), shape=(n_clusters, len(own)))
        sums += members @ np.asarray(vectors[part])
    return sums


def centroids_of(vectors: Vectors, labels: Labels, n_clusters: int) -> Vectors:
    """Return the mean of each cluster, shape (n_clusters, dim)."""
    counts = np.bincount(labels, minlength=n_clusters)[:, None]
    means: Vectors = (sums_of(vectors, labels, n_clusters) / np.maximum(counts, 1)).astype(np.float32)
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


def kmeans(vectors: Vectors, n_clusters: int, seed: int, limit: int = SAMPLED_ABOVE) -> tuple[Labels, Vectors]:
    """Cluster rows by k-means, ten starts (paper, section 4.1: the final clustering).

    Args:
        vectors: Shape (n, dim).
        n_clusters: How many clusters.
        seed: Of the starts.
        limit: Above so many rows the starts are made on a sample (see :mod:`clusterllm_plugins.lloyd`).

    Returns:
        Labels, shape (n,), and centroids, shape (n_clusters, dim). Each row has the label of its nearest centroid.
        There are fewer clusters where there are fewer distinct rows.
    """
    if len(vectors) > limit:
        from clusterllm_plugins.lloyd import kmeans_of_many

        centroids = kmeans_of_many(vectors, n_clusters, seed, limit)
    else:
        centroids = kmeans_of_few(vectors, n_clusters, seed)
    labels = nearest(vectors, centroids)
    used = np.unique(labels)
    if len(used) == len(centroids):
        return labels, centroids
    return nearest(vectors, centroids[used]), centroids[used]


def kmeans_of_few(vectors: Vectors, n_clusters: int, seed: int, n_starts: int = 10) -> Vectors:
    """Return the centroids of k-means by scikit-learn, shape (n_clusters, dim); some may be equal."""
    from sklearn.cluster import KMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer distinct rows than clusters; the caller sees it
        model = KMeans(n_clusters=n_clusters, n_init=n_starts, random_state=seed).fit(vectors)
    return np.asarray(model.cluster_centers_, dtype=np.float32)


def nearest(
    vectors: Vectors, centroids: Vectors, offsets: NDArray[np.float32] | None = None, block: int = DISTANCE_BLOCK
) -> Labels:
    """Return the index of the nearest centroid of each row, shape (n,), without an n x k matrix.

    Args:
        vectors: Shape (n, dim).
        centroids: Shape (n_clusters, dim).
        offsets: Added to the squared distances, shape (n_clusters,); None = nothing.
        block: Rows at once.
    """
    labels = np.empty(len(vectors), dtype=np.int64)
    for part in blocks(len(vectors), block):
        labels[part] = offset_distances(vectors[part], centroids, offsets).argmin(axis=1)
    return labels


def nearest_with_scores(
    vectors: Vectors, centroids: Vectors, offsets: NDArray[np.float32] | None = None, block: int = DISTANCE_BLOCK
) -> tuple[Labels, NDArray[np.float64]]:
    """Return what :func:`nearest` and then :func:`scores_of` give, in one pass over the rows."""
    labels, scores = np.empty(len(vectors), dtype=np.int64), np.empty(len(vectors))
    for part in blocks(len(vectors), block):
        distances = offset_distances(vectors[part], centroids, offsets)
        labels[part] = distances.argmin(axis=1)
        scores[part] = _own_shares(distances, labels[part])
    return labels, scores


def assigned(
    vectors: Vectors, rows: NDArray[np.int64], centroids: Vectors, offsets: NDArray[np.float32] | None = None
) -> tuple[Labels, NDArray[np.float64]]:
    """Return what :func:`nearest_with_scores` gives for some rows, scaled to length 1, both of shape (n_rows,)."""
    labels, scores = np.empty(len(rows), dtype=np.int64), np.empty(len(rows))
    for part in blocks(len(rows)):
        labels[part], scores[part] = nearest_with_scores(normalise(vectors, rows[part]), centroids, offsets)
    return labels, scores


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
    vectors: Vectors,
    centroids: Vectors,
    offsets: NDArray[np.float32] | None = None,
    block: int = DISTANCE_BLOCK,
) -> tuple[Labels, Probabilities]:
    """Return each row's nearest clusters and the soft assignment among them alone (paper, equation 1).

    Returns:
        Clusters, nearest first, and their probabilities, renormalised; both of shape (n, kept).
    """
    shape = len(vectors), kept_clusters(len(centroids))
    kept, probabilities = np.empty(shape, dtype=np.int64), np.empty(shape)
    for part in blocks(len(vectors), block):
        distances = offset_distances(vectors[part], centroids, offsets)
        kept[part] = np.argsort(distances, axis=1, kind="stable")[:, : shape[1]]
        probabilities[part] = soft_assignment(np.take_along_axis(distances, kept[part], axis=1))
    return kept, probabilities


def scores_of(
    vectors: Vectors,
    centroids: Vectors,
    labels: Labels,
    offsets: NDArray[np.float32] | None = None,
    block: int = DISTANCE_BLOCK,
) -> NDArray[np.float64]:
    """Return the soft-assignment probability of each row's own cluster among its nearest ones, shape (n,)."""
    scores = np.empty(len(vectors))
    for part in blocks(len(vectors), block):
        scores[part] = _own_shares(offset_distances(vectors[part], centroids, offsets), labels[part])
    return scores


def _own_shares(distances: NDArray[np.float32], labels: Labels) -> NDArray[np.float64]:
    """Return the scores of rows by their squared distances to all centroids, shape (n, n_clusters)."""
    n_kept = kept_clusters(distances.shape[1])
    # Partitioned before it is sorted: sorting all would take most of the time of predicting.
    kept = np.sort(np.partition(distances, n_kept - 1, axis=1)[:, :n_kept], axis=1)
    own = np.take_along_axis(distances, labels[:, None], axis=1)
    kernels = 1.0 / (1.0 + np.concatenate([own, kept], axis=1).astype(np.float64))
    shares: NDArray[np.float64] = kernels[:, 0] / kernels[:, 1:].sum(axis=1)
    return np.where(own[:, 0] <= kept[:, -1], shares, 0.0)
