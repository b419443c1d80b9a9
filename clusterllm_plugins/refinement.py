"""Using the answers: triplets out of answers, and a linear map that learns from them (paper, section 3.1).

In: answered questions and frozen vectors. Out: refined vectors. The map is the paper's fine-tuning for an
embedder that cannot be trained: the same triplets and the same loss, but only a matrix learns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.progress import Bar
from clusterllm_plugins.protocols import Vectors
from clusterllm_plugins.questions import NONE, Answer, Question
from clusterllm_plugins.sampling import Triplets
from clusterllm_plugins.vectors import normalise

Matrix = NDArray[np.float32]


def triplets_of(questions: Sequence[Question], answers: Iterable[Answer]) -> Triplets:
    """Return the triplets that the answers to choices imply.

    The chosen group's exemplars are set against those of each group that was not chosen, the first with the
    first and so on; "none" and abstentions imply nothing. The paper's triplet implies just itself.

    Returns:
        Positions (anchor, chosen, rejected), shape (n_triplets, 3).
    """
    triplets: list[tuple[int, int, int]] = []
    for question, answer in zip(questions, answers, strict=True):
        if question.kind != "choice" or answer.choice in (None, NONE):
            continue
        chosen = int(answer.choice or 0) - 1
        for number, group in enumerate(question.group_indices):
            if number != chosen:
                right = question.group_indices[chosen]
                triplets += [(question.anchor_index, p, n) for p, n in zip(right, group, strict=False)]
    return np.array([t for t in triplets if len(set(t)) == 3], dtype=np.int64).reshape(-1, 3)


@dataclass(frozen=True)
class AdapterTraining:
    """How the linear map is trained; every value is explained in docs/method.md.

    Attributes:
        learning_rate: Of Adam.
        temperature: tau of the loss.
        batch_size: Triplets a step.
        epochs: Passes over the triplets.
        pull: Weight of the squared distance to the identity, which keeps the map near the vectors as they are.
    """

    learning_rate: float = 3e-5
    temperature: float = 0.05
    batch_size: int = 16
    epochs: int = 15
    pull: float = 0.1


def train_adapter(
    vectors: Vectors,
    triplets: Triplets,
    *,
    seed: int,
    training: AdapterTraining | None = None,
    progress: bool = False,
) -> Matrix:
    """Learn a linear map, from the identity, that brings anchors to what was chosen for them.

    Args:
        vectors: Frozen vectors, shape (n, dim).
        triplets: Positions (anchor, chosen, rejected), shape (n_triplets, 3).
        seed: Decides the order of the triplets.
        training: The hyperparameters.
        progress: Whether to show a progress bar.

    Returns:
        The map, shape (dim, dim); refined vectors are ``vectors @ map``.
    """
    training = training or AdapterTraining()
    matrix: Matrix = np.eye(vectors.shape[1], dtype=np.float32)
    identity = matrix.copy()
    optimiser = _Adam(matrix.shape, training.learning_rate)
    rng = np.random.default_rng(seed)
    rows, places = np.unique(triplets, return_inverse=True)
    unit, triplets = normalise(vectors, rows), places.reshape(triplets.shape)
    starts = range(0, len(triplets), training.batch_size)
    with Bar(training.epochs * len(starts), "adapting", progress) as bar:
        for _ in range(training.epochs):
            order = rng.permutation(len(triplets))
            for start in starts:
                batch = triplets[order[start : start + training.batch_size]]
                anchors, chosen, rejected = (unit[batch[:, column]] for column in range(3))
                _, gradient = triplet_loss(matrix, anchors, chosen, rejected, training.temperature)
                matrix = optimiser.step(matrix, gradient + training.pull * (matrix - identity))
                bar.advance()
    return matrix


def triplet_loss(
    matrix: Matrix, anchors: Vectors, chosen: Vectors, rejected: Vectors, temperature: float
) -> tuple[float, Matrix]:
    """Return the paper's loss (equation 3) of one batch and its gradient for the map.

    Softmax cross-entropy over cosine similarities / tau: each anchor's chosen text against the rejected texts
    of the whole batch, plus each chosen text's anchor against the other anchors.

    Args:
        matrix: The map, shape (dim, dim).
        anchors: Frozen vectors, shape (batch, dim).
        chosen: Likewise.
        rejected: Likewise.
        temperature: tau.
    """
    a, p, n = (_Mapped(vectors, matrix) for vectors in (anchors, chosen, rejected))
    own = (a.unit * p.unit).sum(axis=1, keepdims=True)
    forward = np.concatenate([own, a.unit @ n.unit.T], axis=1) / temperature
    backward = p.unit @ a.unit.T / temperature
    size = len(anchors)
    loss_forward, grad_forward = _cross_entropy(forward, np.zeros(size, dtype=np.int64))
    loss_backward, grad_backward = _cross_entropy(backward, np.arange(size))
    d_own = grad_forward[:, :1] / temperature
    d_rejected = grad_forward[:, 1:] / temperature
    d_anchors = grad_backward / temperature
    gradient = (
        a.gradient(d_own * p.unit + d_rejected @ n.unit + d_anchors.T @ p.unit)
        + p.gradient(d_own * a.unit + d_anchors @ a.unit)
        + n.gradient(d_rejected.T @ a.unit)
    )
    return loss_forward + loss_backward, gradient


class _Mapped:
    """Vectors after the map, scaled to length 1, and the way back for gradients."""

    def __init__(self, vectors: Vectors, matrix: Matrix) -> None:
        self._vectors = vectors
        mapped = vectors @ matrix
        self._lengths = np.maximum(np.linalg.norm(mapped, axis=1, keepdims=True), 1e-12)
        self.unit = mapped / self._lengths

    def gradient(self, by_unit: NDArray[Any]) -> Matrix:
        """Return the gradient for the map, given that for the unit vectors."""
        along = (by_unit * self.unit).sum(axis=1, keepdims=True)
        gradient: Matrix = self._vectors.T @ ((by_unit - along * self.unit) / self._lengths)
        return gradient


def _cross_entropy(logits: NDArray[Any], targets: NDArray[np.int64]) -> tuple[float, NDArray[Any]]:
    """Return the mean cross-entropy of rows and its gradient for the logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    totals = exponentials.sum(axis=1, keepdims=True)
    rows = np.arange(len(logits))
    loss = float((np.log(totals[:, 0]) - shifted[rows, targets]).mean())
    gradient = exponentials / totals
    gradient[rows, targets] -= 1
    return loss, gradient / len(logits)


class _Adam:
    """Adam (Kingma and Ba 2015) for one matrix, with the usual constants."""

    def __init__(self, shape: tuple[int, ...], learning_rate: float) -> None:
        self._rate = learning_rate
        self._mean = np.zeros(shape, dtype=np.float32)
        self._square = np.zeros(shape, dtype=np.float32)
        self._steps = 0

    def step(self, matrix: Matrix, gradient: Matrix) -> Matrix:
        self._steps += 1
        self._mean = 0.9 * self._mean + 0.1 * gradient
        self._square = 0.999 * self._square + 0.001 * gradient**2
        mean = self._mean / (1 - 0.9**self._steps)
        square = self._square / (1 - 0.999**self._steps)
        updated: Matrix = (matrix - self._rate * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)
        return updated
