"""Ward's hierarchy with an assignment copied at every merge, as the published code keeps it; re-created."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.protocols import Vectors


def copied_hierarchy(vectors: Vectors) -> list[NDArray[np.int64]]:
    """Return the assignment of the texts after each of Ward's merges, a copy each, shape (n_texts,).

    The tree is scikit-learn's. An array is the cheapest form that the copies can have: the reference's may well take
    longer. Item ``n_texts - k`` has k clusters.
    """
    from sklearn.cluster import AgglomerativeClustering

    n = len(vectors)
    merges = AgglomerativeClustering(n_clusters=None, distance_threshold=0, linkage="ward").fit(vectors).children_
    assignments = [np.arange(n)]
    for step, (left, right) in enumerate(merges):
        assignment = assignments[-1].copy()
        assignment[(assignment == left) | (assignment == right)] = n + step
        assignments.append(assignment)
    return assignments
