"""The texts of one fit: redacted, with the empty ones and duplicates found once and for all.

In: the user's texts. Out: a :class:`Corpus`. Positions are always those in the user's list.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.errors import ClusterLLMWarning, DataError
from clusterllm_plugins.files import is_unicode
from clusterllm_plugins.prompts import MAX_TEXT_CHARACTERS
from clusterllm_plugins.redaction import Redaction

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Texts and which of them count.

    Attributes:
        texts: All texts, redacted.
        kept: Positions of the texts that are not empty, shape (n_kept,).
        distinct: The first position of each distinct text, shape (n_distinct,).
        place: For every text the place of its equal in ``distinct``, -1 for an empty one, shape (n_texts,).
        redaction: What was taken out of them.
        notes: What was warned of.
    """

    texts: list[str]
    kept: Positions
    distinct: Positions
    place: Positions
    redaction: Redaction
    notes: list[str]

    @property
    def weights(self) -> NDArray[np.float64]:
        """How often each distinct text occurs, shape (n_distinct,)."""
        return np.bincount(self.place[self.kept], minlength=len(self.distinct)).astype(np.float64)

    def part(self, rows: Positions) -> Corpus:
        """Return the corpus in which only some distinct texts count, and all others are as empty ones.

        Args:
            rows: Places in ``distinct``, rising, shape (n_rows,).
        """
        new_place = np.full(len(self.distinct) + 1, -1, dtype=np.int64)
        new_place[rows] = np.arange(len(rows))
        place = new_place[self.place]  # of an empty text the last one, -1
        return replace(self, kept=np.flatnonzero(place >= 0), distinct=self.distinct[rows], place=place)


def check_texts(texts: Sequence[str]) -> list[str]:
    """Return ``texts`` as a list.

    Raises:
        DataError: If it is a single text, or holds something that is no text.
    """
    if isinstance(texts, str | bytes):
        raise DataError("texts must be a sequence of texts, not a single one")
    listed = list(texts)
    for position, text in enumerate(listed):
        if not isinstance(text, str):
            raise DataError(f"text {position} is {type(text).__name__}, not a str")
        if not is_unicode(text):
            raise DataError(f"text {position} holds half of a surrogate pair, which is no character")
    return listed


def make_corpus(
    texts: Sequence[str], redaction: Redaction, *, warn: bool = True, is_asked_about: bool = False
) -> Corpus:
    """Redact ``texts``, warn of empty ones and of duplicates.

    Args:
        texts: Shape (n_texts,).
        redaction: What is taken out of them.
        warn: Whether to warn; the notes are made all the same.
        is_asked_about: Whether an oracle will be asked: texts of which a question shows the beginning only are told.

    Raises:
        DataError: If fewer than two texts are not empty.
        ClusterLLMError: If a redactor fails.
    """
    clean = [redaction.text(text) for text in check_texts(texts)]
    kept = np.array([position for position, text in enumerate(clean) if text.strip()], dtype=np.int64)
    if len(kept) < 2:
        raise DataError(f"clustering needs at least two texts that are not empty, got {len(kept)}")
    first: dict[str, int] = {}
    place = np.full(len(clean), -1, dtype=np.int64)
    distinct: list[int] = []
    for position in kept.tolist():
        number = first.setdefault(clean[position], len(distinct))
        if number == len(distinct):
            distinct.append(position)
        place[position] = number
    notes = []
    if len(kept) < len(clean):
        notes.append(f"{_count(len(clean) - len(kept), 'empty text')} got the label -1")
    if len(distinct) < len(kept):
        notes.append(f"{_count(len(kept) - len(distinct), 'text')} repeated an earlier one")
    long = sum(len(text) > MAX_TEXT_CHARACTERS for text in clean)
    if long and is_asked_about:
        shown = f"only the first {MAX_TEXT_CHARACTERS} are shown to a language model"
        notes.append(f"{_count(long, 'text')} of more than {MAX_TEXT_CHARACTERS} characters: {shown}")
    for note in notes if warn else ():
        warnings.warn(note, ClusterLLMWarning, stacklevel=3)
    return Corpus(clean, kept, np.array(distinct, dtype=np.int64), place, redaction, notes)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
