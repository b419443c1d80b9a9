"""Vectors that arrive in parts, in any order: what the embedders that have ``embed_each`` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from clusterllm_plugins.protocols import Keep, Vectors
from clusterllm_plugins.vectors import normalise


def in_order(embed_each: Callable[[Sequence[str], Keep], None], texts: Sequence[str], width: int | None) -> Vectors:
    """Return all vectors that ``embed_each`` gives, float32, shape (n_texts, dim).

    Args:
        embed_each: As :class:`clusterllm_plugins.protocols.Embedder` describes it.
        texts: Shape (n_texts,).
        width: The size of a vector where there is no text, as far as it is known.
    """
    rows: dict[int, Vectors] = {}

    def keep(positions: Sequence[int], vectors: Vectors) -> None:
        rows.update(zip(positions, vectors, strict=True))

    embed_each(texts, keep)
    if not rows:
        return np.empty((0, width or 0), dtype=np.float32)
    return np.stack([rows[position] for position in range(len(texts))])


def finished(vectors: Vectors, normalize: bool) -> Vectors:
    """Return ``vectors`` as float32, scaled to length 1 where that is wanted, shape (n, dim)."""
    return normalise(vectors) if normalize else np.ascontiguousarray(vectors, dtype=np.float32)


def valid(text: str) -> str:
    """Return ``text`` with lone surrogates, which no UTF-8 has, as question marks."""
    return text.encode(errors="replace").decode()
