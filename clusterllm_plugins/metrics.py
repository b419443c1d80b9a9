"""How well clusters match known categories: for evaluation only, never for the method.

All take two label arrays of equal length. ACC, NMI and ARI are the paper's measures (section 4.1); V-measure
equals NMI with the arithmetic mean and is given under its own name; B-cubed is that of Bagga and Baldwin (1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from clusterllm_plugins.errors import DataError


def contingency(truth: ArrayLike, labels: ArrayLike) -> NDArray[np.int64]:
    """Return how many texts each category shares with each cluster, shape (n_categories, n_clusters).

    Raises:
        DataError: If the two are empty or not of one length.
    """
    rows, columns = np.asarray(truth), np.asarray(labels)
    if rows.shape != columns.shape or rows.ndim != 1 or not len(rows):
        raise DataError(f"truth and labels must be of one length, got {rows.shape} and {columns.shape}")
    categories, row = np.unique(rows, return_inverse=True)
    clusters, column = np.unique(columns, return_inverse=True)
    table = np.zeros((len(categories), len(clusters)), dtype=np.int64)
    np.add.at(table, (row, column), 1)
    return table


def accuracy(truth: ArrayLike, labels: ArrayLike) -> float:
    """Return ACC: the share of texts in the right cluster under the best one-to-one matching (Hungarian)."""
    from scipy.optimize import linear_sum_assignment

    table = contingency(truth, labels)
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / table.sum())


def nmi(truth: ArrayLike, labels: ArrayLike) -> float:
    """Return the mutual information, normalised by the arithmetic mean of the entropies."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(np.asarray(truth), np.asarray(labels)))


def ari(truth: ArrayLike, labels: ArrayLike) -> float:
    """Return the adjusted Rand index (Hubert and Arabie 1985)."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(np.asarray(truth), np.asarray(labels)))


def v_measure(truth: ArrayLike, labels: ArrayLike) -> float:
    """Return the harmonic mean of homogeneity and completeness (Rosenberg and Hirschberg 2007)."""
    from sklearn.metrics import v_measure_score

    return float(v_measure_score(np.asarray(truth), np.asarray(labels)))


def b_cubed(truth: ArrayLike, labels: ArrayLike) -> tuple[float, float, float]:
    """Return B-cubed precision, recall and their harmonic mean.

    A text's precision is the share of its cluster that is of its category, its recall the share of its category
    that is in its cluster; both are averaged over the texts.
    """
    table = contingency(truth, labels).astype(np.float64)
    total = table.sum()
    precision = float((table**2 / table.sum(axis=0, keepdims=True)).sum() / total)
    recall = float((table**2 / table.sum(axis=1, keepdims=True)).sum() / total)
    return precision, recall, 2 * precision * recall / (precision + recall)


def effective_number(labels: ArrayLike) -> float:
    """Return exp(entropy of the cluster sizes): how many equal clusters would be as diverse."""
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    shares = counts / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def evaluate(truth: Sequence[Any], labels: ArrayLike) -> dict[str, float]:
    """Return every measure by name, each in [0, 1] (ARI may be negative)."""
    categories = np.asarray(truth)
    precision, recall, f1 = b_cubed(categories, labels)
    return {
        "acc": accuracy(categories, labels),
        "nmi": nmi(categories, labels),
        "ari": ari(categories, labels),
        "v_measure": v_measure(categories, labels),
        "b_cubed_precision": precision,
        "b_cubed_recall": recall,
        "b_cubed_f1": f1,
    }
