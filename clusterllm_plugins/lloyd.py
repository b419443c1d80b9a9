"""k-means of many rows: started on a sample, then Lloyd's passes over all of them in blocks.

In: vectors, also memory-mapped ones. Out: centroids. No copy of the vectors is made, and no n x k matrix.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.protocols import Vectors
from clusterllm_plugins.vectors import DISTANCE_BLOCK, blocks, kmeans_of_few, sums_of

STARTS = 10  # on the sample, as on few rows
MOST_PASSES = 50
ENOUGH = 1e-4  # a pass that lowers the squared distances by a smaller share is the last


def kmeans_of_many(vectors: Vectors, n_clusters: int, seed: int, n_sampled: int) -> Vectors:
    """Return the centroids of k-means, shape (n_clusters, dim); equal ones where there are too few distinct rows.

    Args:
        vectors: Shape (n, dim).
        n_clusters: How many.
        seed: Of the sample, and of the starts on it.
        n_sampled: How many rows the starts are made on; more where there are many clusters.
    """
    n = len(vectors)
    sample = np.random.default_rng(seed).choice(n, min(n, max(n_sampled, 20 * n_clusters)), replace=False)
    centroids = kmeans_of_few(np.asarray(vectors[np.sort(sample)]), n_clusters, seed, STARTS)
    before = np.inf
    for _ in range(MOST_PASSES):
        centroids, total, n_empty = _pass(vectors, centroids)
        if not n_empty and before - total <= ENOUGH * total:
            break
        before = total
    return centroids


def _pass(vectors: Vectors, centroids: Vectors) -> tuple[Vectors, float, int]:
    """Move each centroid to the mean of the rows that are nearest to it.

    Returns:
        The new centroids, the sum of squared distances to the old ones, and how many had no row and went to rows
        that are far from theirs.
    """
    n_clusters = len(centroids)
    sums, counts = np.zeros(centroids.shape), np.zeros(n_clusters)
    gaps = np.empty(len(vectors), dtype=np.float32)  # the squared distance of each row to its centroid
    halves: NDArray[np.float32] = (centroids**2).sum(axis=1) / 2
    for part in blocks(len(vectors), DISTANCE_BLOCK):
        some = np.asarray(vectors[part])
        # The largest of x.c - |c|^2 / 2 is the nearest: |x|^2 is the same for all.
        closeness = some @ centroids.T - halves
        own = closeness.argmax(axis=1)
        gaps[part] = (some**2).sum(axis=1) - 2 * np.take_along_axis(closeness, own[:, None], axis=1)[:, 0]
        sums += sums_of(some, own, n_clusters)
        counts += np.bincount(own, minlength=n_clusters)
    moved: Vectors = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        moved[empty] = vectors[np.argsort(-gaps, kind="stable")[: len(empty)]]
    return moved, float(gaps.sum(dtype=np.float64)), len(empty)
