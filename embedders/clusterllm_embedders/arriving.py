"""Vectors that arrive in parts, in any order: what the embedders that have ``embed_each`` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from clusterllm_plugins.errors import ClusterLLMError
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


def keep_rest(keep: Keep, n_texts: int, sent: Sequence[int], width: int | None, where: str) -> None:
    """Give ``keep`` zeros for the texts that were not sent, since they are blank.

    Args:
        keep: As :class:`clusterllm_plugins.protocols.Embedder` describes it.
        n_texts: Of all texts.
        sent: The positions of the others.
        width: The size of a vector, as far as it is known.
        where: The start of an error.

    Raises:
        ClusterLLMError: If the size is not known.
    """
    if blank := sorted(set(range(n_texts)) - set(sent)):
        if width is None:
            raise ClusterLLMError(f"{where}: all texts are blank, and the size of a vector is not known yet")
        keep(blank, np.zeros((len(blank), width), dtype=np.float32))


def finished(vectors: Vectors, normalize: bool) -> Vectors:
    """Return ``vectors`` as float32, scaled to length 1 where that is wanted, shape (n, dim)."""
    return normalise(vectors) if normalize else np.ascontiguousarray(vectors, dtype=np.float32)


def valid(text: str) -> str:
    """Return ``text`` with lone surrogates, which no UTF-8 has, as question marks."""
    return text.encode(errors="replace").decode()
