"""An embedder that counts letters: enough to show what an embedder must do."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class LetterEmbedder:
    """Embeds a text as the share of each letter in it, shape (26,)."""

    fingerprint = "letters:1"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 vectors, shape (n_texts, 26)."""
        counts = np.array([[text.lower().count(letter) for letter in ALPHABET] for text in texts], dtype=np.float32)
        shares: NDArray[np.float32] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        return shares
