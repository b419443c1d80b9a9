"""Fine-tuning an embedder on triplets (paper, section 3.1, equation 3).

In: a model and triplets of texts. Out: a copy of the model that has learnt them. Each distinct text of a batch
is encoded once.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clusterllm_embedders.precision import autocast
from clusterllm_plugins.progress import Bar

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer


CHUNK = 12  # texts that go through the model together


@dataclass(frozen=True)
class Training:
    """Hyperparameters of fine-tuning.

    Attributes:
        learning_rate: Of AdamW, without decay or schedule.
        temperature: tau of the loss.
        batch_size: Triplets a step.
        epochs: Passes over the triplets.
    """

    learning_rate: float = 2e-5
    temperature: float = 0.05
    batch_size: int = 16
    epochs: int = 5


INSTRUCTOR_LARGE = Training(learning_rate=2e-6, temperature=0.01, batch_size=4, epochs=15)
E5_LARGE = Training(learning_rate=2e-6, temperature=0.01, batch_size=4, epochs=5)


def training_for(model: str) -> Training:
    """Return the paper's hyperparameters for the two models it published them for, else this project's."""
    name = model.lower()
    if "instructor-large" in name:
        return INSTRUCTOR_LARGE
    if "e5-large" in name:
        return E5_LARGE
    return Training()


def finetuned(
    model: SentenceTransformer,
    texts: Sequence[str],
    triplets: NDArray[np.int64],
    *,
    training: Training,
    precision: str,
    seed: int,
    progress: bool,
) -> SentenceTransformer:
    """Return a copy of ``model`` that has learnt from ``triplets``; the global random state stays as it was.

    Args:
        model: What to start from.
        texts: The texts that the triplets point into, with any prefix.
        triplets: Positions (anchor, chosen, rejected), shape (n_triplets, 3).
        training: The hyperparameters.
        precision: ``"fp32"`` or ``"bf16"`` (autocast; the weights stay fp32).
        seed: Decides the order of the triplets and the dropout.
        progress: Whether to show a progress bar.
    """
    import torch

    tuned = copy.deepcopy(model)
    parameters = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=0.0, fused=True)
    rng = np.random.default_rng(seed)
    starts = range(0, len(triplets), training.batch_size)
    with (
        torch.random.fork_rng(),
        Bar(training.epochs * len(starts), "fine-tuning", progress) as bar,
    ):
        torch.manual_seed(seed)
        tuned.train()
        for _ in range(training.epochs):
            order = rng.permutation(len(triplets))
            for start in starts:
                batch = triplets[order[start : start + training.batch_size]]
                with autocast(precision, str(tuned.device)):
                    vectors = _encode(tuned, texts, batch)
                loss = triplet_loss(*vectors, training.temperature)
                optimiser.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                bar.advance()
        tuned.eval()
    return tuned


def _encode(
    model: SentenceTransformer, texts: Sequence[str], batch: NDArray[np.int64]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the vectors of anchors, chosen and rejected texts, each (batch, dim), with gradients.

    The distinct texts go through the model a few at a time, sorted by length: a single long text would
    otherwise pad all others to its length.
    """
    import torch

    unique, places = np.unique(batch, return_inverse=True)
    distinct = [texts[index] for index in unique.tolist()]
    order = sorted(range(len(distinct)), key=lambda row: len(distinct[row]))
    parts = []
    for start in range(0, len(order), CHUNK):
        features = model.preprocess([distinct[row] for row in order[start : start + CHUNK]])
        moved = {
            name: value.to(model.device) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }
        parts.append(model(moved)["sentence_embedding"].float())
    row_of = np.empty(len(order), dtype=np.int64)
    row_of[order] = np.arange(len(order))
    rows = torch.as_tensor(row_of[places.reshape(batch.shape)], device=parts[0].device)
    gathered = torch.cat(parts)[rows]
    return gathered[:, 0], gathered[:, 1], gathered[:, 2]


def triplet_loss(
    anchors: torch.Tensor, chosen: torch.Tensor, rejected: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Return the paper's loss (equation 3) of one batch.

    Softmax cross-entropy over cosine similarities / tau: each anchor's chosen text against the rejected texts
    of the whole batch, plus each chosen text's anchor against the other anchors.

    Args:
        anchors: Shape (batch, dim).
        chosen: Shape (batch, dim).
        rejected: Shape (batch, dim).
        temperature: tau.
    """
    import torch
    from torch.nn import functional

    a, p, n = (functional.normalize(vectors, dim=1) for vectors in (anchors, chosen, rejected))
    own = (a * p).sum(dim=1, keepdim=True)
    forward = torch.cat([own, a @ n.T], dim=1) / temperature
    backward = p @ a.T / temperature
    first = torch.zeros(len(a), dtype=torch.long, device=a.device)
    same = torch.arange(len(a), device=a.device)
    return functional.cross_entropy(forward, first) + functional.cross_entropy(backward, same)
