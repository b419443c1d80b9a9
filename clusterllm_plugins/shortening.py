"""Texts cut to a length, never within what a reader sees as one character."""

from __future__ import annotations

import unicodedata

_LONGEST_CHARACTER = 32  # code points; a longer one is no character of any language
_JOINER = "\u200d"


def shorten(text: str, most: int) -> str:
    """Return the beginning of a text, at most ``most`` code points; an accent stays with its letter, or both go."""
    if len(text) <= most:
        return text
    end = most
    while end > max(0, most - _LONGEST_CHARACTER) and _is_within(text, end):
        end -= 1
    return text[: end if end and not _is_within(text, end) else most]


def _is_within(text: str, place: int) -> bool:
    """Return whether ``place`` stands within a character: before an accent, or in the midst of an emoji."""
    before, after = text[place - 1], text[place]
    if _is_flag_letter(after) and _is_flag_letter(before):
        start = place
        while start and _is_flag_letter(text[start - 1]) and place - start < 2 * _LONGEST_CHARACTER:
            start -= 1
        return (place - start) % 2 == 1
    return (
        _JOINER in (before, after)
        or unicodedata.category(after)[0] == "M"
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # a colour of skin
        or "\u1160" <= after <= "\u11ff"  # the rest of a Hangul syllable
        or "\U000e0020" <= after <= "\U000e007f"  # the rest of a flag
        or (before, after) == ("\r", "\n")
    )


def _is_flag_letter(char: str) -> bool:
    return "\U0001f1e6" <= char <= "\U0001f1ff"
