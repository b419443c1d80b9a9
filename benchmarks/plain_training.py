"""Fine-tuning on triplets in the plain way, for benchmarks to compare with: fp32, small batches, a pass a column.

The loss is that of the paper (equation 3); what is plain is the way. Each step sends the anchors, the chosen and the
rejected texts through the model one after another, padded to the longest of each, also where a text occurs twice.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def train_plainly(
    model: SentenceTransformer,
    texts: Sequence[str],
    triplets: NDArray[np.int64],
    *,
    epochs: int,
    batch_size: int = 4,
    learning_rate: float = 2e-5,
    temperature: float = 0.05,
    seed: int = 0,
) -> SentenceTransformer:
    """Return a copy of ``model`` that has learnt from ``triplets``.

    Args:
        model: What to start from.
        texts: The texts that the triplets point into.
        triplets: Positions (anchor, chosen, rejected), shape (n_triplets, 3).
        epochs: Passes over the triplets.
        batch_size: Triplets a step (paper: 4).
        learning_rate: Of AdamW, without decay or schedule.
        temperature: tau of the loss.
        seed: Decides the order of the triplets and the dropout.
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize

    tuned = copy.deepcopy(model).float()
    optimiser = torch.optim.AdamW(tuned.parameters(), lr=learning_rate, weight_decay=0.0)
    rng = np.random.default_rng(seed)

    def vectors_of(column: NDArray[np.int64]) -> Any:
        features = tuned.preprocess([texts[position] for position in column.tolist()])
        moved = {name: value.to(tuned.device) if hasattr(value, "to") else value for name, value in features.items()}
        return normalize(tuned(moved)["sentence_embedding"], dim=1)

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tuned.train()
        for _ in range(epochs):
            order = rng.permutation(len(triplets))
            for start in range(0, len(order), batch_size):
                batch = triplets[order[start : start + batch_size]]
                anchors, chosen, rejected = (vectors_of(batch[:, column]) for column in range(3))
                own = (anchors * chosen).sum(dim=1, keepdim=True)
                forward = torch.cat([own, anchors @ rejected.T], dim=1) / temperature
                backward = chosen @ anchors.T / temperature
                same = torch.arange(len(batch), device=forward.device)
                loss = cross_entropy(forward, torch.zeros_like(same)) + cross_entropy(backward, same)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        tuned.eval()
    return tuned
