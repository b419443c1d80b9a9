"""Texts through a sentence-transformers model in batches of so many tokens, not of so many texts.

Texts are tokenized once, sorted by their number of tokens, and cut into batches whose texts, padded to the longest,
keep to a budget. On a CPU each core takes a batch of its own: the threads of one batch wait for each other at every
layer. A batch that does not fit into memory is halved and tried again.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.embedding import batches_of
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning
from clusterllm_plugins.protocols import Vectors

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

# Tokens a batch. On a CPU more are slower, as what is computed no longer fits into the caches of the processor
# (benchmarks/RESULTS.md, section "speed"). Elsewhere: what 32 texts of 512 tokens take, the default batch of
# sentence-transformers; not measured on a GPU.
CPU_TOKENS = 1024
OTHER_TOKENS = 16384

# Texts that are tokenized together, and the most that their number times the characters of the longest may be.
TOKENIZED = 1024
TOKENIZED_CHARACTERS = 2**22

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|failed to allocate", re.IGNORECASE)

Features = dict[str, Any]
Forward = Callable[[Features], "torch.Tensor"]
Warn = Callable[[Sequence[str], int], None]


def default_prompt(model: SentenceTransformer) -> str | None:
    """Return what a model by its own configuration puts before each text."""
    return model.prompts.get(model.default_prompt_name or "") or None


def is_padded(features: Features, n_texts: int) -> bool:
    """Return whether features have a row of tokens per text; those of static embeddings and the like have not."""
    import torch

    mask = features.get("attention_mask")
    return isinstance(mask, torch.Tensor) and mask.ndim == 2 and len(mask) == n_texts


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error says that memory does not suffice."""
    import torch

    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or bool(_NO_MEMORY.search(str(error)))


class Batches:
    """Puts texts through a model.

    Args:
        model: Tokenizes.
        forward: From features on the model's device to vectors, shape (rows, dim).
        normalize: Whether vectors are scaled to length 1.
        tokens: The budget of a batch, padding included; ``None`` = what suits the device.
        most: The most texts of a batch, or ``None``.
        parallel: Whether several threads may be in ``forward`` at once.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        forward: Forward,
        normalize: bool,
        tokens: int | None,
        most: int | None,
        parallel: bool = False,
    ) -> None:
        self._model = model
        self._forward = forward
        self._normalize = normalize
        self._most = most
        self.tokens = tokens or (CPU_TOKENS if model.device.type == "cpu" else OTHER_TOKENS)
        self._parallel = parallel
        self._halved = False

    def vectors(self, texts: Sequence[str], warn: Warn) -> Vectors:
        """Return a vector per text, float32, shape (n_texts, dim).

        Args:
            texts: At least one, the longest first.
            warn: Is given the texts that may have been cut, and the model's limit at which they were.

        Raises:
            ClusterLLMError: If a single text does not fit into memory.
        """
        blocks = batches_of([len(text) for text in texts], TOKENIZED_CHARACTERS, TOKENIZED)
        return np.concatenate([self._tokenized(texts[block], warn) for block in blocks])

    def _tokenized(self, texts: Sequence[str], warn: Warn) -> Vectors:
        model = self._model
        features = model.preprocess(list(texts), prompt=default_prompt(model))
        if not is_padded(features, len(texts)):
            # Static embeddings and the like have no padding, and no limit that batches must keep to.
            whole = model.encode(list(texts), normalize_embeddings=self._normalize, show_progress_bar=False)
            return np.asarray(whole, dtype=np.float32)
        lengths: NDArray[np.int64] = features["attention_mask"].sum(dim=1).numpy()
        limit = model.max_seq_length
        if limit is not None and lengths.max() >= limit:
            warn([texts[row] for row in np.flatnonzero(lengths >= limit).tolist()], limit)
        order = np.argsort(-lengths, kind="stable")
        rows = self._in_order(features, order, lengths[order].tolist())
        vectors = np.empty_like(rows)
        vectors[order] = rows
        return vectors

    def _in_order(self, features: Features, order: NDArray[np.int64], lengths: list[int]) -> Vectors:
        """Return the vectors of the rows of ``features`` in ``order``, whose lengths fall."""
        done: list[Vectors] = []
        start = 0
        while start < len(order):
            batches = list(batches_of(lengths, self.tokens, self._most, start))
            parts = [self._part(features, order[batch], lengths[batch.start]) for batch in batches]
            for batch, found in zip(batches, self._all_tried(parts), strict=False):
                if found is None:
                    self._halve(batch.stop - batch.start, lengths[batch.start])
                    break
                done.append(found)
                start = batch.stop
        return np.concatenate(done)

    def _all_tried(self, parts: Sequence[Features]) -> Iterator[Vectors | None]:
        """Yield what :meth:`_tried` returns for each batch, in order."""
        import torch

        threads = torch.get_num_threads()
        workers = min(threads, len(parts)) if self._parallel else 1
        if workers == 1:
            yield from map(self._tried, parts)
            return
        try:
            # Of a pool that ends with them: threads that wait for work would be lost in a forked process.
            with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
                yield from pool.map(self._tried, parts)
        finally:
            torch.set_num_threads(threads)  # what a worker sets becomes the number of all threads to come

    def _part(self, features: Features, rows: NDArray[np.int64], width: int) -> Features:
        """Return the rows of a batch, without the columns that hold nothing but padding."""
        import torch

        mask = features["attention_mask"]
        is_left = getattr(self._model.tokenizer, "padding_side", "right") == "left"
        columns = slice(-width, None) if is_left else slice(0, width)
        part: Features = {}
        for name, value in features.items():
            if isinstance(value, torch.Tensor) and value.ndim and len(value) == len(mask):
                kept = value[torch.from_numpy(rows)]
                part[name] = kept[:, columns] if value.shape[:2] == mask.shape else kept
            else:
                part[name] = value
        return part

    def _tried(self, part: Features) -> Vectors | None:
        """Return the vectors of a batch, or None where memory does not suffice."""
        import torch

        device = self._model.device
        try:
            with torch.inference_mode():
                moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in part.items()}
                return self._finished(self._forward(moved))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Beyond the except clause, where the error no longer holds what was computed.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _finished(self, vectors: torch.Tensor) -> Vectors:
        """Do what ``encode`` does behind the model."""
        import torch

        if self._model.truncate_dim is not None:
            vectors = vectors[..., : self._model.truncate_dim]
        vectors = vectors.float()
        finished: Vectors = (
            (torch.nn.functional.normalize(vectors, dim=1) if self._normalize else vectors).cpu().numpy()
        )
        return finished

    def _halve(self, n_texts: int, longest: int) -> None:
        """Take half the tokens of a batch that did not fit from now on.

        Raises:
            ClusterLLMError: If it was a single text.
        """
        if n_texts == 1:
            raise ClusterLLMError(
                f"embedder 'sentence-transformers': out of memory at a text of {longest} tokens on "
                f"{self._model.device}; set max_length lower, take a smaller model or another device"
            )
        tokens = n_texts * longest
        self.tokens = tokens // 2
        if not self._halved:
            warnings.warn(
                f"embedder 'sentence-transformers': out of memory with {tokens} tokens a batch; "
                "half as many from now on",
                ClusterLLMWarning,
                stacklevel=2,
            )
        self._halved = True
