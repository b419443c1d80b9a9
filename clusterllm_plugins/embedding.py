"""Calling an embedder: each distinct text once, the longest first, in blocks, with its output checked.

Texts of equal length stand side by side, so that an embedder's batches are padded little.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.errors import DataError
from clusterllm_plugins.progress import Bar
from clusterllm_plugins.protocols import Embedder, Vectors, has_methods, optional
from clusterllm_plugins.vectors import blocks

BLOCK = 1024  # texts a call: often enough for a progress bar, a multiple of usual batch sizes


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


def embed_texts(embedder: Embedder, texts: Sequence[str], progress: bool = False) -> Vectors:
    """Embed ``texts``.

    Returns:
        One vector per text, float32, shape (n_texts, dim).

    Raises:
        DataError: If the embedder gives something else than finite vectors of one size.
    """
    distinct, places = distinct_longest_first(texts)
    order = np.argsort(places, kind="stable")  # the texts, those of each distinct one side by side
    ends = np.searchsorted(places[order], np.arange(len(distinct)), side="right")
    vectors: Vectors | None = None
    with Bar(len(distinct), "embedding", progress, unit="text") as bar:
        for start in range(0, len(distinct), BLOCK):
            block = distinct[start : start + BLOCK]
            embedded = _checked(embedder, embedder.embed(block), len(block))
            if vectors is None:
                vectors = np.empty((len(texts), embedded.shape[1]), dtype=np.float32)
            if embedded.shape[1] != vectors.shape[1]:
                raise DataError(f"embedder {type(embedder).__name__} gave vectors of different sizes")
            of_block = order[ends[start - 1] if start else 0 : ends[start + len(block) - 1]]
            vectors[of_block] = embedded[places[of_block] - start]
            bar.advance(len(block))
    if vectors is None:
        raise DataError("there are no texts to embed")
    return vectors


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
    for part in blocks(n_texts):
        finite = np.isfinite(vectors[part]).all(axis=1)
        if not finite.all():
            raise DataError(f"embeddings must be finite, row {part.start + int(finite.argmin())} is not")
    return vectors


def _checked(embedder: Embedder, output: object, n_texts: int) -> Vectors:
    try:
        return check_embeddings(output, n_texts)
    except DataError as error:
        raise DataError(f"embedder {type(embedder).__name__}: {error}") from error
