"""How many clusters there are (paper, section 3.2): yes/no questions along the merge hierarchy.

In: a hierarchy and answers to "are these two of one category?". Out: the number of clusters whose cut agrees
best with the answers. Without an oracle, :func:`choose_unasked` looks at the vectors alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.hierarchy import Hierarchy
from clusterllm_plugins.progress import Bar
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.questions import Answer, Question
from clusterllm_plugins.vectors import kmeans

BETA = 0.92  # the paper's; below 1 a wrong "together" weighs more than a missed one
MOST_CLUSTERS = 199
UNASKED_SAMPLE = 3000
UNASKED_CANDIDATES = 12


@dataclass(frozen=True)
class Granularity:
    """A number of clusters and how it was found.

    Attributes:
        n_clusters: The number.
        how: In words.
        curve: (number of clusters, score) of every candidate.
        interval: Of 90%, (low, high), where answers about clusters gave the number.
        labels: The clusters that these answers made, -1 for an empty text, shape (n_texts,); likewise.
    """

    n_clusters: int
    how: str
    curve: list[tuple[int, float]]
    interval: tuple[int, int] | None = None
    labels: Labels | None = None


def sample_pairs(hierarchy: Hierarchy, low: int, high: int, limit: int, seed: int) -> NDArray[np.int64]:
    """Draw pairs across the merges (paper, section 3.2): one random member of either side.

    For each k from ``low`` to ``high``, the merge that takes k clusters to k - 1 gives ``limit // merges`` pairs
    (the paper: one or three), fewer where its sides are small. With fewer questions than merges they are
    spread evenly.

    Returns:
        Positions (left, right) of distinct pairs, shape (at most limit, 2).
    """
    rng = np.random.default_rng(seed)
    numbers = np.arange(max(low, 2), min(high, hierarchy.tree.n_leaves) + 1)
    if len(numbers) > limit:
        numbers = numbers[np.linspace(0, len(numbers) - 1, limit).round().astype(int)] if limit else numbers[:0]
    each = limit // len(numbers) if len(numbers) else 0
    pairs: list[tuple[int, int]] = []
    for number in numbers:
        left, right = hierarchy.sides(int(number))
        wanted = min(each, len(left) * len(right))
        if wanted == len(left) * len(right):
            drawn = [(int(a), int(b)) for a in left for b in right]
        else:
            chosen: dict[tuple[int, int], None] = {}
            while len(chosen) < wanted:
                chosen[int(rng.choice(left)), int(rng.choice(right))] = None
            drawn = list(chosen)
        pairs += drawn
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def f_beta(together: NDArray[np.bool_], yes: NDArray[np.bool_], beta: float = BETA) -> NDArray[np.float64]:
    """Return the F-beta of "in one cluster" against the answers (paper, section 3.2).

    Args:
        together: Whether each pair is in one cluster of each cut, shape (n_cuts, n_pairs).
        yes: Whether each pair was said to be of one category, shape (n_pairs,).
        beta: The weight of recall against precision.

    Returns:
        F = (1 + beta²) P R / (beta² P + R) of each cut, shape (n_cuts,); 0 where nothing right is together.
    """
    hits = (together & yes).sum(axis=1)
    # In counts, F-beta is (1 + beta²) TP / ((1 + beta²) TP + beta² FN + FP).
    missed = yes.sum() - hits
    wrong = (together & ~yes).sum(axis=1)
    weighted = (1 + beta**2) * hits
    below = weighted + beta**2 * missed + wrong
    scores: NDArray[np.float64] = weighted / np.where(below > 0, below, 1)
    return scores


def choose_by_pairs(
    hierarchy: Hierarchy, pairs: Iterable[tuple[int, int, bool]], low: int, high: int
) -> Granularity | None:
    """Return the number of clusters whose cut agrees best with the answers (paper, section 3.2).

    Args:
        hierarchy: The merges of the texts.
        pairs: (left, right, whether they were said to be of one category).
        low: The smallest number considered.
        high: The largest.

    Returns:
        The choice, the middle one where several are equally good, or None where no pair was answered "yes":
        then every cut agrees equally badly.
    """
    answered = list(pairs)
    yes = np.array([same for _, _, same in answered], dtype=bool)
    if not yes.any():
        return None
    last = np.array([hierarchy.last_together(left, right) for left, right, _ in answered])
    numbers = np.arange(low, min(high, hierarchy.tree.n_leaves) + 1)
    scores = f_beta(last[None, :] >= numbers[:, None], yes)
    best = numbers[np.isclose(scores, scores.max(), rtol=0, atol=1e-12)]
    return Granularity(
        int(best[len(best) // 2]),
        f"F-beta against {len(answered)} answered pairs",
        [(int(number), round(float(score), 6)) for number, score in zip(numbers, scores, strict=True)],
    )


def select_n_clusters(
    texts: Sequence[str],
    embeddings: Any,
    oracle: Any,
    *,
    n_clusters: tuple[int, int] | str = "auto",
    max_questions: int = 594,
    instruction: str | None = None,
    store: str | Path | None = None,
    redact: Sequence[Any] = (),
    progress: bool = False,
    random_state: Any = 0,
) -> Granularity:
    """Choose the number of clusters by questions about clusters: vectors in, an oracle in, a number and interval out.

    Many clusters of k-means are merged where the oracle says that a typical text of one belongs with another, and cut
    where it says that the halves do not belong together, until nothing new comes of it. The number is the effective
    one, exp(entropy of the clusters' sizes).

    Args:
        texts: Shape (n_texts,).
        embeddings: Their vectors, of any embedder, shape (n_texts, dim).
        oracle: A registered name, ``{"name": ..., **settings}``, or an oracle.
        n_clusters: ``(low, high)``, or ``"auto"``.
        max_questions: Hard cap on distinct questions.
        instruction: The perspective in words.
        store: Path of the SQLite file that keeps the answers; ``None`` keeps them in memory.
        redact: Redactors, applied in this order before any text goes anywhere.
        progress: Whether to show progress bars on a terminal.
        random_state: A seed.

    Raises:
        ClusterLLMError: If something given cannot be used; the message says what to do.
        OracleError: If the oracle says that no question can succeed.
    """
    from clusterllm_plugins.guided.alone import number_of_clusters

    return number_of_clusters(
        texts,
        embeddings,
        oracle,
        n_clusters=n_clusters,
        max_questions=max_questions,
        instruction=instruction,
        store=store,
        redact=redact,
        progress=progress,
        random_state=random_state,
    )


def answered_pairs(questions: Sequence[Question], answers: Sequence[Answer]) -> Iterable[tuple[int, int, bool]]:
    """Yield (left, right, same category) of every pair question that was answered."""
    for question, answer in zip(questions, answers, strict=True):
        if question.kind == "pair" and answer.choice is not None:
            (right,) = question.group_indices[0]
            yield question.anchor_index, right, answer.choice == "yes"


def sampled_rows(n_rows: int, seed: int) -> NDArray[np.int64]:
    """Return the rows that :func:`choose_unasked` looks at, in their order, at most :data:`UNASKED_SAMPLE`."""
    if n_rows <= UNASKED_SAMPLE:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(seed).choice(n_rows, UNASKED_SAMPLE, replace=False))


def choose_unasked(vectors: Vectors, low: int, high: int, seed: int, progress: bool = False) -> Granularity:
    """Choose the number of clusters by silhouette and stability alone, on a sample of the texts.

    For some numbers between ``low`` and ``high``, evenly spaced in their logarithm: the silhouette of k-means
    (Rousseeuw 1987) plus the adjusted Rand index between two k-means runs that started differently. Both are at
    most 1, so neither swamps the other; the sum is a heuristic, not a likelihood.
    """
    from sklearn.metrics import adjusted_rand_score, silhouette_score

    sample = vectors if len(vectors) <= UNASKED_SAMPLE else vectors[sampled_rows(len(vectors), seed)]
    most = min(high, len(sample) - 1)
    spaced = np.geomspace(max(low, 2), max(most, 2), UNASKED_CANDIDATES).round().astype(int)
    curve = []
    numbers = sorted(set(spaced.tolist()))
    with Bar(len(numbers), "numbers of clusters", progress, unit="number") as bar:
        for number in numbers:
            labels, _ = kmeans(sample, number, seed)
            other, _ = kmeans(sample, number, seed + 1)
            silhouette = silhouette_score(sample, labels) if 1 < _count(labels) < len(sample) else 0.0
            curve.append((number, round(float(silhouette + adjusted_rand_score(labels, other)), 6)))
            bar.advance()
    best = max(curve, key=lambda point: point[1])[0]
    return Granularity(best, "silhouette and stability of the vectors; no oracle was asked", curve)


def _count(labels: Labels) -> int:
    return len(np.unique(labels))
