"""Fine-tuning an embedder on triplets (paper, section 3.1, equation 3).

In: a model and triplets of texts. Out: a copy of the model that has learnt them. Each text is tokenized once, each
distinct text of a batch encoded once, sorted by length. A run that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_embedders.checkpoints import Checkpoints
from clusterllm_embedders.gradients import Gradients, random_state, set_random_state
from clusterllm_embedders.token_table import TokenTable
from clusterllm_plugins.progress import Bar
from clusterllm_plugins.vector_cache import digests_of

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer


MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what AdamW keeps of each parameter


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
    tokens: int | None = None,
    checkpoints: Checkpoints | None = None,
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
        tokens: The most tokens that go through the model together; ``None`` = what suits the device.
        checkpoints: Where the run finds its last state and keeps it, or ``None``.

    Raises:
        ClusterLLMError: If a single text does not fit into memory.
    """
    import torch

    tuned = copy.deepcopy(model)
    if _is_done(tuned, checkpoints):
        return tuned
    used, places = np.unique(triplets, return_inverse=True)
    table = TokenTable(tuned, [texts[index] for index in used.tolist()])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tuned.train()
        run = _Run(tuned, Gradients(tuned, table, precision, tokens), training, seed)
        run.train(places.reshape(triplets.shape), progress, checkpoints)
        tuned.eval()
    tuned.zero_grad(set_to_none=True)  # as large as the model, and of no more use
    if checkpoints is not None and checkpoints.put("tuned", _tensors_of(tuned), {}):
        checkpoints.remove("training")
    return tuned


class _Run:
    """A training as it goes on: model, optimiser, random generators and where it stands."""

    def __init__(self, model: SentenceTransformer, gradients: Gradients, training: Training, seed: int) -> None:
        import torch

        self._model = model
        self._gradients = gradients
        self._training = training
        self._rng = np.random.default_rng(seed)
        self._names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        parameters = dict(model.named_parameters())
        self._optimiser = torch.optim.AdamW(
            [parameters[name] for name in self._names], lr=training.learning_rate, weight_decay=0.0, fused=True
        )
        self._epoch = self._step = 0

    def train(self, triplets: NDArray[np.int64], progress: bool, checkpoints: Checkpoints | None) -> None:
        """Train to the end, from the last checkpoint where there is one.

        Args:
            triplets: Places in the table of texts, shape (n_triplets, 3).
            progress: Whether to show a progress bar.
            checkpoints: Where they are, or ``None``.
        """
        size = self._training.batch_size
        n_steps = -(-len(triplets) // size)
        self._resume(checkpoints)
        done = self._epoch * n_steps + self._step
        with Bar(self._training.epochs * n_steps, "fine-tuning", progress, done=done) as bar:
            while self._epoch < self._training.epochs:
                shuffling = self._rng.bit_generator.state  # a resumed run shuffles this epoch again
                order = self._rng.permutation(len(triplets))
                while self._step < n_steps:
                    batch = triplets[order[self._step * size : (self._step + 1) * size]]
                    self.step(batch)
                    self._step += 1
                    bar.advance()
                    if checkpoints is not None and checkpoints.is_due:
                        self._keep(checkpoints, shuffling)
                self._epoch, self._step = self._epoch + 1, 0

    def step(self, batch: NDArray[np.int64]) -> float:
        """Learn from one batch, shape (n_triplets, 3), and return its loss."""
        import torch

        rows, places = np.unique(batch, return_inverse=True)

        def loss_of(vectors: torch.Tensor) -> torch.Tensor:
            gathered = vectors[torch.as_tensor(places.reshape(batch.shape), device=vectors.device)]
            return triplet_loss(gathered[:, 0], gathered[:, 1], gathered[:, 2], self._training.temperature)

        loss = self._gradients.step(rows, loss_of)
        self._optimiser.step()
        return loss

    def _keep(self, checkpoints: Checkpoints, shuffling: Mapping[str, Any]) -> None:
        tensors = _tensors_of(self._model)
        moments = self._optimiser.state_dict()["state"]
        for number, name in enumerate(self._names):
            # A parameter that has had no gradient yet has no moments.
            for moment, value in moments.get(number, {}).items():
                tensors[f"optimiser.{moment}.{name}"] = value
        for number, state in enumerate(random_state(self._model.device)):
            tensors[f"random.{number}"] = state
        where = {"epoch": self._epoch, "step": self._step, "shuffling": shuffling}
        checkpoints.put("training", tensors, where | self._gradients.state)

    def _resume(self, checkpoints: Checkpoints | None) -> None:
        found = checkpoints.get("training") if checkpoints is not None else None
        if found is None:
            return
        tensors, state = found
        _set_tensors(self._model, tensors)
        described = self._optimiser.state_dict()
        for number, name in enumerate(self._names):
            moments = {m: tensors[f"optimiser.{m}.{name}"] for m in MOMENTS if f"optimiser.{m}.{name}" in tensors}
            if moments:
                described["state"][number] = moments
        self._optimiser.load_state_dict(described)
        set_random_state([tensors[f"random.{n}"] for n in range(2) if f"random.{n}" in tensors], self._model.device)
        self._epoch, self._step = state["epoch"], state["step"]
        self._rng.bit_generator.state = state["shuffling"]
        self._gradients.state = state


def _is_done(model: SentenceTransformer, checkpoints: Checkpoints | None) -> bool:
    """Give the model the weights of an earlier run that came to its end, if there was one."""
    found = checkpoints.get("tuned") if checkpoints is not None else None
    if found is not None:
        _set_tensors(model, found[0])
        model.eval()
    return found is not None


def _tensors_of(model: SentenceTransformer) -> dict[str, torch.Tensor]:
    """Return all parameters and buffers by name, each once."""
    return {f"model.{name}": tensor for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def _set_tensors(model: SentenceTransformer, tensors: Mapping[str, torch.Tensor]) -> None:
    import torch

    with torch.no_grad():
        for name, tensor in _tensors_of(model).items():
            tensor.copy_(tensors[name])


def identity_of(
    fingerprint: str,
    prompt: str | None,
    texts: Sequence[str],
    triplets: NDArray[np.int64],
    training: Training,
    seed: int,
    tokens: int | None,
    device: str,
) -> dict[str, Any]:
    """Return all that decides the result of a fine-tuning but the number of threads, JSON-able.

    Args:
        fingerprint: Of the embedder.
        prompt: What the model puts before each text.
        texts: What the triplets point into.
        triplets: Shape (n_triplets, 3).
        training: The hyperparameters.
        seed: Of the run.
        tokens: The most tokens that go through the model together.
        device: Such as ``"cpu"``.
    """
    import torch

    used, places = np.unique(triplets, return_inverse=True)
    digest = hashlib.sha256(np.ascontiguousarray(places.reshape(triplets.shape), dtype="<i8").tobytes())
    for text in digests_of([texts[index] for index in used.tolist()]):
        digest.update(text)
    return {
        "fingerprint": fingerprint,
        "prompt": prompt,
        "triplets": digest.hexdigest(),
        "training": asdict(training),
        "seed": seed,
        "tokens": tokens,
        "device": device,
        "torch": torch.__version__,
    }


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
