"""Calling an embedder: each distinct text once, the longest first, in blocks, with its output checked.

Texts of about one length stand side by side, so that an embedder's batches are padded little. The blocks are cut from
the texts that must be embedded, one after the other, and a cache keeps each as a whole: a run that was killed and
resumed cuts the remaining texts into the same blocks, and its vectors are the same to the last bit. An embedder that
has ``embed_each`` gets all texts at once, and a cache keeps what that gives as it comes.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning, DataError
from clusterllm_plugins.progress import Bar
from clusterllm_plugins.protocols import Embedder, Keep, Vectors, has_methods, optional
from clusterllm_plugins.questions import Usage
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


def usage_since(embedder: Embedder | None, before: Usage | None) -> dict[str, Any] | None:
    """Return the tokens, requests and cost that an embedder has taken since it had taken ``before``, if it counts."""
    now: Usage | None = optional(embedder, "usage")
    if now is None or before is None:
        return None
    return {
        "input_tokens": now.input_tokens - before.input_tokens,
        "requests": now.requests - before.requests,
        "cost": None if now.cost is None else now.cost - (before.cost or 0.0),
    }


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


def batches_of(lengths: Sequence[int], budget: int, most: int | None = None, start: int = 0) -> Iterator[slice]:
    """Yield batches of all items from ``start`` on; the arguments are those of :func:`end_of_batch`."""
    while start < len(lengths):
        end = end_of_batch(lengths, start, budget, most)
        yield slice(start, end)
        start = end


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
        return _collected(embedder, distinct, progress)[places]
    with closing(VectorCache(cache, fingerprint)) as kept:
        return _recalled(kept, embedder, distinct, progress)[places]


def _collected(embedder: Embedder, distinct: Sequence[str], progress: bool) -> Vectors:
    """Return the vectors of distinct texts."""
    vectors = np.empty((0, 0), dtype=np.float32)

    def keep(places: NDArray[np.int64], some: Vectors) -> None:
        nonlocal vectors
        if not len(vectors):
            vectors = np.empty((len(distinct), some.shape[1]), dtype=np.float32)
        vectors[places] = some

    _embed(embedder, distinct, progress, keep, lambda done: "without a cache none is kept" if done else "")
    return vectors


def _recalled(kept: VectorCache, embedder: Embedder, distinct: Sequence[str], progress: bool) -> Vectors:
    """Return the vectors of distinct texts after embedding those that are not kept."""
    digests = digests_of(distinct)
    rows = kept.rows(digests)
    missing = np.flatnonzero(rows < 0)

    def keep(places: NDArray[np.int64], vectors: Vectors) -> None:
        asked = [digests[place] for place in missing[places].tolist()]
        kept.put(asked, vectors)
        rows[missing[places]] = kept.rows(asked)  # not those just written, where another process was quicker

    def told(done: int) -> str:
        had = len(distinct) - len(missing) + done
        return f"{had} of {len(distinct)} texts are embedded and kept in the cache, the same run goes on there"

    _embed(embedder, [distinct[place] for place in missing.tolist()], progress, keep, told)
    return kept.read(rows)


def _embed(
    embedder: Embedder,
    distinct: Sequence[str],
    progress: bool,
    keep: Callable[[NDArray[np.int64], Vectors], None],
    told: Callable[[int], str],
) -> None:
    """Embed distinct texts, the longest first.

    Args:
        embedder: What makes the vectors.
        distinct: Shape (n_texts,); none is fine.
        progress: Whether to show a progress bar.
        keep: Is given places and their vectors, from any thread, one call at a time.
        told: Returns what an error says besides, of so many texts that were embedded before it.
    """
    is_done = np.zeros(len(distinct), dtype=bool)
    width: int | None = None
    lock = threading.Lock()

    with Bar(len(distinct), "embedding", progress, unit="text") as bar:

        def take(positions: Sequence[int], output: Vectors) -> None:
            nonlocal width
            places = np.asarray(positions, dtype=np.int64)
            vectors = _checked(embedder, output, len(places))
            with lock:
                if width not in (None, vectors.shape[1]):
                    raise DataError(f"embedder {type(embedder).__name__} gave vectors of different sizes")
                width = vectors.shape[1]
                keep(places, vectors)
                is_done[places] = True
                bar.advance(len(places))

        if not len(distinct):
            return
        if not has_methods(embedder, "embed_each"):
            for block in batches_of([len(text) for text in distinct], BLOCK_CHARACTERS, BLOCK):
                take(range(block.start, block.stop), embedder.embed(distinct[block]))
            return
        each: Callable[[Sequence[str], Keep], None] = embedder.embed_each  # type: ignore[attr-defined]
        try:
            each(distinct, take)
        except ClusterLLMError as error:
            if more := told(int(is_done.sum())):
                error.args = (f"{error}; {more}",)
            raise
    if not is_done.all():
        raise DataError(f"embedder {type(embedder).__name__} gave no vector for {int((~is_done).sum())} texts")


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
