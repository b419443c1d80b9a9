"""The gradient of one step of training: texts in chunks of tokens, and GradCache where a step is large.

In: the distinct texts of a step and the loss of their vectors. Out: the gradient, in the parameters. By plain
automatic differentiation all that a step computed is kept until its end. GradCache (Gao, Zhang, Han and Callan, 2021,
arXiv 2101.06983) keeps that of one chunk: it computes the vectors without gradients, then the gradient of the loss in
the vectors, and then goes through the chunks again, each with its part of it. The gradient is the same; it takes
one forward pass more.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_embedders.batching import is_out_of_memory
from clusterllm_embedders.precision import autocast
from clusterllm_plugins.embedding import batches_of
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from clusterllm_embedders.token_table import TokenTable

# Tokens a chunk, padding included: of 256, 512, 1024 and 4096 the fastest on a CPU, with short texts; elsewhere not
# measured.
CPU_CHUNK = 256
OTHER_CHUNK = 4096

# The most tokens of a step that go through plain automatic differentiation; beyond it GradCache bounds memory.
PLAIN_TOKENS = 8192

Loss = Callable[["torch.Tensor"], "torch.Tensor"]


class Gradients:
    """Computes gradients, in smaller parts once memory did not suffice.

    Args:
        model: Is trained.
        table: The tokens of all texts.
        precision: ``"fp32"`` or ``"bf16"``.
        tokens: Of a chunk, padding included; ``None`` = what suits the device.
        plain_tokens: The most tokens of a step without GradCache.

    Attributes:
        tokens: Of a chunk, as it is now.
        is_cached: Whether each step takes GradCache, as memory did not suffice.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        table: TokenTable,
        precision: str,
        tokens: int | None = None,
        plain_tokens: int = PLAIN_TOKENS,
    ) -> None:
        self._model = model
        self._table = table
        self._precision = precision
        self._plain_tokens = plain_tokens
        self._warned = False
        self.tokens = tokens or (CPU_CHUNK if model.device.type == "cpu" else OTHER_CHUNK)
        self.is_cached = False

    @property
    def state(self) -> dict[str, Any]:
        """What a lack of memory has changed so far, JSON-able; it decides the last bits."""
        return {"tokens": self.tokens, "is_cached": self.is_cached}

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self.tokens, self.is_cached = state["tokens"], state["is_cached"]

    def step(self, rows: NDArray[np.int64], loss_of: Loss) -> float:
        """Put the gradient of a loss into the parameters, and return the loss.

        Args:
            rows: The distinct texts of the step.
            loss_of: From their vectors, float, shape (n_rows, dim), in the order of ``rows``.

        Raises:
            ClusterLLMError: If a single text does not fit into memory.
        """
        order = np.argsort(-self._table.lengths[rows], kind="stable")
        lengths = self._table.lengths[rows[order]].tolist()
        inverse = np.argsort(order)
        state = random_state(self._model.device)
        while True:
            chunks = [rows[order[chunk]].tolist() for chunk in batches_of(lengths, self.tokens)]
            cached = self.is_cached or sum(lengths) > self._plain_tokens
            loss = self._tried(self._by_gradcache if cached else self._plainly, chunks, inverse, loss_of)
            if loss is not None:
                return loss
            # As if nothing had been: the same dropout, and no half of a gradient.
            set_random_state(state, self._model.device)
            self._shrink(max(map(len, chunks)), lengths[0], cached)

    def _tried(self, how: Callable[..., torch.Tensor], *arguments: Any) -> float | None:
        """Return the loss, or None where memory does not suffice."""
        import torch

        self._model.zero_grad(set_to_none=True)
        try:
            return float(how(*arguments))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Beyond the except clause, where the error no longer holds what was computed.
        self._model.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _shrink(self, most_rows: int, longest: int, was_cached: bool) -> None:
        """Take GradCache from now on, and chunks of half the tokens where it was taken before."""
        if was_cached and most_rows == 1:
            raise ClusterLLMError(
                f"fine-tuning: out of memory at a text of {longest} tokens on {self._model.device}; set max_length "
                "lower, take a smaller model or another device"
            )
        self.is_cached = True
        self.tokens //= 2
        if not self._warned:
            warnings.warn(
                f"fine-tuning: out of memory; it goes on with {self.tokens} tokens at once, half as many as before",
                ClusterLLMWarning,
                stacklevel=2,
            )
        self._warned = True

    def _plainly(self, chunks: list[list[int]], inverse: NDArray[np.int64], loss_of: Loss) -> torch.Tensor:
        import torch

        with autocast(self._precision, str(self._model.device)):
            vectors = torch.cat([self._vectors(chunk) for chunk in chunks])
        loss = loss_of(vectors[torch.as_tensor(inverse, device=vectors.device)])
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _by_gradcache(self, chunks: list[list[int]], inverse: NDArray[np.int64], loss_of: Loss) -> torch.Tensor:
        import torch

        device = self._model.device
        states, parts = [], []
        with torch.no_grad(), autocast(self._precision, str(device)):
            for chunk in chunks:
                states.append(random_state(device))
                parts.append(self._vectors(chunk))
        end = random_state(device)
        vectors = torch.cat(parts).requires_grad_()
        loss = loss_of(vectors[torch.as_tensor(inverse, device=device)])
        (gradient,) = torch.autograd.grad(loss, vectors)
        shares = torch.split(gradient, [len(chunk) for chunk in chunks])
        for chunk, state, part in zip(chunks, states, shares, strict=True):
            set_random_state(state, device)  # the same dropout as before
            # A context for each chunk: within one, autocast would keep weights that it converted without gradients.
            with autocast(self._precision, str(device)):
                again = self._vectors(chunk)
            again.backward(part)  # type: ignore[no-untyped-call]
        set_random_state(end, device)
        return loss.detach()

    def _vectors(self, rows: list[int]) -> torch.Tensor:
        """Return the vectors of a chunk, of at least single precision, shape (n_rows, dim)."""
        import torch

        vectors: torch.Tensor = self._model(self._table.features(rows))["sentence_embedding"]
        if self._model.truncate_dim is not None:
            vectors = vectors[..., : self._model.truncate_dim]
        return vectors if vectors.dtype == torch.float64 else vectors.float()


def random_state(device: torch.device) -> list[torch.Tensor]:
    """Return the state of torch's random generators, of the CPU and of ``device`` where it is a GPU."""
    import torch

    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def set_random_state(states: Sequence[torch.Tensor], device: torch.device) -> None:
    """Set what :func:`random_state` returned."""
    import torch

    torch.set_rng_state(states[0])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[1], device)
