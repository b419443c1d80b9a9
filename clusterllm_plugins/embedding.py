"""Calling an embedder: each distinct text once, the longest first, in blocks, with its output checked.

Texts of about one length stand side by side, so that an embedder's batches are padded little. The blocks are cut from
the texts that must be embedded, one after the other, and a cache keeps each as a whole: a run that was killed and
resumed cuts the remaining texts into the same blocks, and its vectors are the same to the last bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.errors import ClusterLLMWarning, DataError
from clusterllm_plugins.progress import Bar
from clusterllm_plugins.protocols import Embedder, Vectors, has_methods, optional
from clusterllm_plugins.vector_cache import VectorCache, digests_of

BLOCK = 1024  # texts a call: often enough for a progress bar
BLOCK_CHARACTERS = 2**17  # and at most so many characters: what a killed run embeds again stays small


def distinct_longest_first(texts: Sequence[str]) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct texts, the longest first, and the place of each text among them, shape (n_texts,)."""
    distinct = sorted(set(texts), key=lambda text: (-len(text), text))
    place = {text: number for number, text in enumerate(distinct)}
    return distinct, np.array([place[text] for text in texts], dtype=np.int64)


def fit_if_needed(embedder: Embedder, texts: Sequence[str], progress: bool = False) -> None:
    """Let an embedder that learns from the corpus do so, unless it already has."""
    if has_methods(embedder, "fit") and not optional(embedder, "fitted", False):
        with Bar.at_work("learning from the texts", progress):
            embedder.fit(texts)  # type: ignore[attr-defined]


def end_of_batch(lengths: Sequence[int], start: int, budget: int, most: int | None = None) -> int:
    """Return where a batch ends that begins at ``start``: its items, padded to the longest, keep to a budget.

    Args:
        lengths: Of all items, the longest first.
        start: The first item of the batch.
        budget: The most that items times longest length may be; one item is always taken.
        most: The most items, or ``None``.
    """
    fitting = max(1, budget // max(1, lengths[start]))
    return min(len(lengths), start + (fitting if most is None else min(fitting, most)))


def embed_texts(
    embedder: Embedder, texts: Sequence[str], progress: bool = False, cache: str | Path | None = None
) -> Vectors:
    """Embed ``texts``.

    Args:
        embedder: What makes the vectors.
        texts: Shape (n_texts,).
        progress: Whether to show a progress bar, over what is not in the cache.
        cache: A folder that keeps vectors (see :mod:`clusterllm_plugins.vector_cache`), or ``None``.

    Returns:
        One vector per text, float32, shape (n_texts, dim).

    Raises:
        DataError: If there are no texts, the embedder gives something else than finite vectors of one size, or the
            cache cannot be used.
    """
    if not len(texts):
        raise DataError("there are no texts to embed")
    distinct, places = distinct_longest_first(texts)
    fingerprint = None if cache is None else optional(embedder, "fingerprint")
    if cache is not None and fingerprint is None:
        message = f"embedder {type(embedder).__name__} has no fingerprint: its vectors are not kept"
        warnings.warn(message, ClusterLLMWarning, stacklevel=2)
    if cache is None or fingerprint is None:
        blocks = [vectors for _, vectors in _embedded(embedder, distinct, progress)]
        vectors: Vectors = np.concatenate(blocks)
    else:
        with closing(VectorCache(cache, fingerprint)) as kept:
            vectors = _recalled(kept, embedder, distinct, progress)
    return vectors[places]


def _recalled(kept: VectorCache, embedder: Embedder, distinct: Sequence[str], progress: bool) -> Vectors:
    """Return the vectors of distinct texts after embedding those that are not kept."""
    digests = digests_of(distinct)
    rows = kept.rows(digests)
    missing = np.flatnonzero(rows < 0)
    for block, vectors in _embedded(embedder, [distinct[place] for place in missing.tolist()], progress):
        asked = [digests[place] for place in missing[block].tolist()]
        kept.put(asked, vectors)
        rows[missing[block]] = kept.rows(asked)  # not those just written, where another process was quicker
    return kept.read(rows)


def _embedded(embedder: Embedder, distinct: Sequence[str], progress: bool) -> Iterator[tuple[slice, Vectors]]:
    """Yield blocks of distinct texts, the longest first, and their vectors."""
    lengths = [len(text) for text in distinct]
    width: int | None = None
    with Bar(len(distinct), "embedding", progress, unit="text") as bar:
        start = 0
        while start < len(distinct):
            block = slice(start, end_of_batch(lengths, start, BLOCK_CHARACTERS, BLOCK))
            vectors = _checked(embedder, embedder.embed(distinct[block]), block.stop - start)
            if width not in (None, vectors.shape[1]):
                raise DataError(f"embedder {type(embedder).__name__} gave vectors of different sizes")
            width, start = vectors.shape[1], block.stop
            yield block, vectors
            bar.advance(len(vectors))


def check_embeddings(embeddings: object, n_texts: int) -> Vectors:
    """Return precomputed vectors as float32, shape (n_texts, dim).

    Raises:
        DataError: If they do not fit the texts, or are not finite.
    """
    try:
        vectors = np.asarray(embeddings, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise DataError(f"embeddings must be an array of numbers ({error})") from error
    if vectors.ndim != 2 or len(vectors) != n_texts or not vectors.shape[1]:
        raise DataError(f"embeddings must have shape ({n_texts}, dim) for {n_texts} texts, got {vectors.shape}")
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise DataError(f"embeddings must be finite, row {row} is not")
    return vectors


def _checked(embedder: Embedder, output: object, n_texts: int) -> Vectors:
    try:
        return check_embeddings(output, n_texts)
    except DataError as error:
        raise DataError(f"embedder {type(embedder).__name__}: {error}") from error
