"""The merge hierarchy (paper, section 3.2): Ward's method in linear memory.

In: vectors, each with the weight of the texts it stands for. Out: a :class:`Dendrogram`, the cut at any number
of clusters, and the members on both sides of any merge. There is no n x n matrix and no copy of the tree: a
merge's members are a slice of one order of the leaves. Nothing here knows a label.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.progress import Bar
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.vectors import centroids_of, kmeans

# Ward's method takes time quadratic in its leaves: above so many texts it runs on centroids.
DIRECT_LIMIT = 10_000


@dataclass(frozen=True)
class Dendrogram:
    """A binary tree of merges, in the order of their heights.

    Attributes:
        children: The two nodes of each merge, shape (n_leaves - 1, 2). Nodes below ``n_leaves`` are leaves,
            node ``n_leaves + t`` is the result of merge ``t``.
        heights: Ward's distance of each merge, not decreasing, shape (n_leaves - 1,).
    """

    children: NDArray[np.int64]
    heights: NDArray[np.float64]

    @property
    def n_leaves(self) -> int:
        """The number of leaves."""
        return len(self.children) + 1


def ward_tree(vectors: Vectors, weights: NDArray[np.float64] | None = None, progress: bool = False) -> Dendrogram:
    """Build Ward's hierarchy by nearest-neighbour chains.

    Clusters a, b of weights w and centroids c are sqrt(2 w_a w_b / (w_a + w_b)) ||c_a - c_b|| apart, which equals
    scipy's ``linkage(..., "ward")``. A chain of ever nearer neighbours ends in a pair that are each other's
    nearest, and such a pair may be merged at once, since Ward's distance is reducible (Murtagh 1983). The time
    is O(n² dim), the memory O(n dim).

    Args:
        vectors: The leaves, shape (n, dim).
        weights: How many texts a leaf stands for, shape (n,); by default one.
        progress: Whether to show a progress bar.
    """
    pool = _Pool(vectors, weights)
    n_merges = len(vectors) - 1
    merged = np.empty((n_merges, 2), dtype=np.int64)
    heights = np.empty(n_merges)
    chain: list[int] = []  # nodes, each the nearest of the one before it
    gaps: list[float] = []  # squared Ward distance of each to the one before it
    with Bar(n_merges, "hierarchy", progress, unit="merge") as bar:
        for step in range(n_merges):
            if not chain:
                chain, gaps = [pool.any_node()], [np.inf]
            while True:
                node, gap = pool.nearest(chain[-1])
                # Only a strictly smaller gap to a new node goes on: ties and rounding could circle for ever.
                if len(chain) > 1 and (gap >= gaps[-1] or node in chain):
                    break
                chain.append(node)
                gaps.append(gap)
            one, other, height = chain.pop(), chain.pop(), gaps.pop()
            gaps.pop()
            merged[step] = min(one, other), max(one, other)
            heights[step] = np.sqrt(max(height, 0.0))
            pool.merge(one, other, len(vectors) + step)
            bar.advance()
    return _sorted_by_height(merged, heights)


class _Pool:
    """The clusters that are not merged yet: their centroids, weights and node numbers, in compact arrays."""

    def __init__(self, vectors: Vectors, weights: NDArray[np.float64] | None) -> None:
        n = len(vectors)
        # About their mean: far from the origin, squared lengths would swallow the distances.
        self._centroids = np.asarray(vectors - vectors.mean(axis=0, dtype=np.float64), dtype=np.float32)
        self._weights = np.ones(n) if weights is None else np.array(weights, dtype=np.float64)
        self._squares = (self._centroids.astype(np.float64) ** 2).sum(axis=1)
        self._nodes = np.arange(n)
        self._alive = np.ones(n, dtype=bool)
        self._n_alive = n
        self._place = {node: node for node in range(n)}

    def any_node(self) -> int:
        return int(self._nodes[np.argmax(self._alive)])

    def nearest(self, node: int) -> tuple[int, float]:
        """Return the nearest other node and its squared Ward distance."""
        place = self._place[node]
        squared = self._squares + self._squares[place] - 2.0 * (self._centroids @ self._centroids[place])
        weight = self._weights[place]
        distances = np.where(self._alive, 2 * weight * self._weights / (weight + self._weights) * squared, np.inf)
        distances[place] = np.inf
        best = int(distances.argmin())
        return int(self._nodes[best]), max(float(distances[best]), 0.0)

    def merge(self, one: int, other: int, node: int) -> None:
        a, b = self._place.pop(one), self._place.pop(other)
        weight = self._weights[a] + self._weights[b]
        self._centroids[a] = (self._weights[a] * self._centroids[a] + self._weights[b] * self._centroids[b]) / weight
        self._weights[a] = weight
        self._squares[a] = (self._centroids[a].astype(np.float64) ** 2).sum()
        self._nodes[a] = node
        self._alive[b] = False
        self._place[node] = a
        self._n_alive -= 1
        if self._n_alive < 0.6 * len(self._alive):
            self._compact()

    def _compact(self) -> None:
        """Drop what is merged, so that a search costs what is left."""
        kept = self._alive
        self._centroids, self._weights = self._centroids[kept], self._weights[kept]
        self._squares, self._nodes = self._squares[kept], self._nodes[kept]
        self._alive = np.ones(len(self._nodes), dtype=bool)
        self._place = {int(node): place for place, node in enumerate(self._nodes)}


def _sorted_by_height(merged: NDArray[np.int64], heights: NDArray[np.float64]) -> Dendrogram:
    """Renumber the merges of a chain, which come in no order, by their heights."""
    n_leaves = len(merged) + 1
    # A parent comes after its children also where rounding makes it the lower one.
    order = np.argsort(_monotone(merged, heights), kind="stable")
    number = np.empty(2 * n_leaves - 1, dtype=np.int64)
    number[:n_leaves] = np.arange(n_leaves)
    number[n_leaves + order] = n_leaves + np.arange(len(order))
    return Dendrogram(number[merged[order]], _monotone(merged, heights)[order])


def _monotone(merged: NDArray[np.int64], heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the heights with each at least its children's."""
    n_leaves = len(merged) + 1
    raised = heights.copy()
    for step, pair in enumerate(merged):
        for child in pair:
            if child >= n_leaves:
                raised[step] = max(raised[step], raised[child - n_leaves])
    return raised


def cut(tree: Dendrogram, n_clusters: int) -> Labels:
    """Return the labels of the leaves when the tree is cut into ``n_clusters``, shape (n_leaves,).

    Raises:
        ValueError: If there are fewer leaves than clusters.
    """
    n = tree.n_leaves
    if not 1 <= n_clusters <= n:
        raise ValueError(f"cannot cut {n} leaves into {n_clusters} clusters")
    label = np.full(2 * n - 1, -1, dtype=np.int64)
    last = 2 * n - 1 - n_clusters  # the first node that is not made yet at this cut
    n_labels = 0
    for node in range(last, -1, -1):
        if label[node] < 0:
            label[node] = n_labels
            n_labels += 1
        if node >= n:
            label[tree.children[node - n]] = label[node]
    return np.unique(label[:n], return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True)
class Hierarchy:
    """A tree over texts: a dendrogram whose leaves are texts or small clusters of texts.

    Attributes:
        tree: The merges.
        leaf: The leaf of each text, shape (n_texts,).
        texts: All texts in the order of the leaves: each node's members are a slice of it, shape (n_texts,).
        spans: The start and end of that slice for each node, shape (2 n_leaves - 1, 2).
    """

    tree: Dendrogram
    leaf: Labels
    texts: NDArray[np.int64]
    spans: NDArray[np.int64]

    def members(self, node: int) -> NDArray[np.int64]:
        """Return the texts of a node."""
        start, end = self.spans[node]
        return self.texts[start:end]

    def sides(self, n_clusters: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the texts on both sides of the merge that takes ``n_clusters`` clusters to one fewer."""
        left, right = self.tree.children[self.tree.n_leaves - n_clusters]
        return self.members(left), self.members(right)

    def labels(self, n_clusters: int) -> Labels:
        """Return the labels of the texts when the tree is cut into ``n_clusters``, shape (n_texts,)."""
        return cut(self.tree, n_clusters)[self.leaf]

    def last_together(self, left: int, right: int) -> int:
        """Return the largest number of clusters at which two texts are in one cluster."""
        n = self.tree.n_leaves
        one, other = int(self.leaf[left]), int(self.leaf[right])
        if one == other:
            return n
        # Of two nodes the smaller number was merged first: climb from there until the paths meet.
        while one != other:
            if one < other:
                one = int(self._parents[one])
            else:
                other = int(self._parents[other])
        return n - 1 - (one - n)

    @cached_property
    def _parents(self) -> NDArray[np.int64]:
        n = self.tree.n_leaves
        parents = np.full(2 * n - 1, -1, dtype=np.int64)
        parents[self.tree.children] = n + np.arange(n - 1)[:, None]
        return parents


def build_hierarchy(
    vectors: Vectors,
    n_coarse: int,
    seed: int,
    weights: NDArray[np.float64] | None = None,
    progress: bool = False,
) -> Hierarchy:
    """Build the hierarchy of texts: directly, or for many texts on the centroids of small clusters.

    Args:
        vectors: One per text, shape (n_texts, dim).
        n_coarse: Above ``DIRECT_LIMIT`` texts, how many clusters k-means makes first (paper: 200).
        seed: Of that k-means.
        weights: How often each text occurs, shape (n_texts,); by default once.
        progress: Whether to show a progress bar.
    """
    weights = np.ones(len(vectors)) if weights is None else weights
    if len(vectors) <= DIRECT_LIMIT:
        return hierarchy_of(ward_tree(vectors, weights, progress), np.arange(len(vectors)))
    leaf, _ = kmeans(vectors, n_coarse, seed, DIRECT_LIMIT)
    sizes = np.bincount(leaf, weights=weights).astype(np.float64)
    return hierarchy_of(ward_tree(centroids_of(vectors, leaf, len(sizes)), sizes, progress), leaf)


def hierarchy_of(tree: Dendrogram, leaf: Labels) -> Hierarchy:
    """Lay out the texts of ``tree`` so that each node's members are one slice.

    Args:
        tree: The merges of the leaves.
        leaf: The leaf of each text, shape (n_texts,).
    """
    n = tree.n_leaves
    counts = np.zeros(2 * n - 1, dtype=np.int64)
    counts[:n] = np.bincount(leaf, minlength=n)
    for step, (left, right) in enumerate(tree.children):
        counts[n + step] = counts[left] + counts[right]
    starts = np.zeros(2 * n - 1, dtype=np.int64)
    for step in range(n - 2, -1, -1):
        left, right = tree.children[step]
        starts[left] = starts[n + step]
        starts[right] = starts[left] + counts[left]
    texts = np.argsort(starts[leaf], kind="stable").astype(np.int64)
    return Hierarchy(tree, leaf, texts, np.stack([starts, starts + counts], axis=1))
