"""Which questions to ask: entropy sampling of triplets (paper, section 3.1).

In: vectors of distinct texts. Out: triplets (anchor, first, second) of positions, where the anchor is a text
that a first clustering is unsure about, and the candidates stand for two of its nearest clusters. Nothing here
knows a label.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.hierarchy import DIRECT_LIMIT, cut, ward_tree
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.vectors import centroids_of, kmeans, nearest_assignment, standardise

Triplets = NDArray[np.int64]

FIRST_CLUSTERS = 100
# On small data so many clusters would hold a handful of texts each, mostly of one category.
TEXTS_PER_CLUSTER = 20
UNSURE_SHARE = 0.2
# A round that finds no new triplet may be bad luck; so many in a row mean that there are hardly any left.
STALE_ROUNDS = 10


def first_clustering(vectors: Vectors, seed: int, progress: bool = False) -> Labels:
    """Cluster only to sample from: 100 clusters (the paper's Ward threshold depends on the embedder).

    Args:
        vectors: Standardised vectors, shape (n, dim).
        seed: Of the k-means that takes Ward's place above ``DIRECT_LIMIT`` texts.
        progress: Whether to show a progress bar.

    Returns:
        Labels, shape (n,).
    """
    n_clusters = min(FIRST_CLUSTERS, max(2, len(vectors) // TEXTS_PER_CLUSTER), len(vectors))
    if len(vectors) <= DIRECT_LIMIT:
        return cut(ward_tree(vectors, progress=progress), n_clusters)
    return kmeans(vectors, n_clusters, seed, DIRECT_LIMIT)[0]


def entropy(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return h_i = -sum_k p_ik log p_ik of each row (paper, equation 2), shape (n,)."""
    safe = np.where(probabilities > 0, probabilities, 1)
    entropies: NDArray[np.float64] = -(probabilities * np.log(safe)).sum(axis=1)
    return entropies


def entropy_triplets(vectors: Vectors, n_triplets: int, seed: int, progress: bool = False) -> Triplets:
    """Sample triplets whose anchors are the texts of the highest entropy (paper, section 3.1).

    Args:
        vectors: Of distinct texts, shape (n, dim).
        n_triplets: How many; fewer come back where distinct ones run out.
        seed: Decides every draw.
        progress: Whether to show progress bars.

    Returns:
        Positions (anchor, first, second), shape (at most n_triplets, 3); which candidate comes first is random.
    """
    rng = np.random.default_rng(seed)
    scaled = standardise(vectors)
    labels = first_clustering(scaled, seed, progress)
    n_clusters = int(labels.max()) + 1
    if n_clusters < 2:
        return np.empty((0, 3), dtype=np.int64)
    kept, probabilities = nearest_assignment(scaled, centroids_of(scaled, labels, n_clusters))
    members = [np.flatnonzero(labels == cluster) for cluster in range(n_clusters)]
    # The sort is stable so that equal entropies keep one order on every machine.
    order = np.argsort(-entropy(probabilities), kind="stable")
    anchors = rng.permutation(order[: max(1, round(UNSURE_SHARE * len(vectors)))])

    def one_round() -> Iterator[tuple[int, int, int]]:
        for anchor in anchors:
            one, other = rng.choice(kept[anchor], size=2, replace=False)
            yield int(anchor), int(rng.choice(members[one])), int(rng.choice(members[other]))

    return _distinct((one_round() for _ in count()), n_triplets)


def random_triplets(n_texts: int, n_triplets: int, seed: int) -> Triplets:
    """Sample three different texts at random each time: the paper's ablation (section 5.3)."""
    rng = np.random.default_rng(seed)

    def rounds() -> Iterator[Iterable[tuple[int, int, int]]]:
        while n_texts >= 3:
            drawn = [rng.choice(n_texts, size=3, replace=False) for _ in range(max(1, n_triplets))]
            yield [(int(anchor), int(one), int(other)) for anchor, one, other in drawn]

    return _distinct(rounds(), n_triplets)


def _distinct(rounds: Iterator[Iterable[tuple[int, int, int]]], n_triplets: int) -> Triplets:
    """Take valid, distinct triplets off rounds of draws until there are enough or hardly any new ones."""
    seen: set[tuple[int, int, int]] = set()
    triplets: list[tuple[int, int, int]] = []
    stale = 0
    for drawn in rounds:
        before = len(triplets)
        for anchor, one, other in drawn:
            if len(triplets) >= n_triplets:
                break  # a round over the anchors of a million texts is long
            key = (anchor, min(one, other), max(one, other))
            if len(set(key)) == 3 and key not in seen:
                seen.add(key)
                triplets.append((anchor, one, other))
        stale = stale + 1 if len(triplets) == before else 0
        if len(triplets) >= n_triplets or stale >= STALE_ROUNDS:
            break
    return np.array(triplets, dtype=np.int64).reshape(-1, 3)
