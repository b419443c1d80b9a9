"""About how many tokens a language model reads in a text, without any tokenizer.

Tokenizers of language models first cut a text into words, numbers, punctuation and blanks, and then each word into
pieces that are frequent. The first step is done here as they do it; the second is a mean by the length and the script
of a word, fitted to OpenAI's o200k_base (gpt-4o, gpt-4.1). Others differ little in English; older ones take up to
several times as many in scripts other than Latin.
"""

from __future__ import annotations

import re

CHAT_TOKENS = 7  # that OpenAI's chat puts around a single message

# A word takes a blank before it along, and so does punctuation; digits go by three.
_PIECES = re.compile(
    r"(?P<thai>[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+)"  # written without blanks: by the character
    r"|(?P<kana>[\u3005-\u3007\u3040-\u30ff]+)"
    r"|(?P<han>[\u3400-\u4dbf\u4e00-\u9fff]+)"
    r"|(?P<hangul>[\uac00-\ud7af]+)"
    r"|(?P<contraction>['\u2019](?:[sdmt]|ll|ve|re)\b)"
    r"|(?P<ascii>[A-Za-z]+(?![^\W\d_]))"
    r"|(?P<latin>[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+)"
    r"|(?P<cyrillic>[\u0400-\u052f]+)"
    r"|(?P<indic>[\u0900-\u0dff]+)"
    r"|(?P<arabic>[\u0600-\u06ff]+)"
    r"|(?P<other>[^\W\d_]+)"
    r"|(?P<digits>\d{1,3})"
    r"|(?P<lines>\s*[\r\n]+)"
    r"|(?P<blanks>[^\S\r\n]{2,})"
    r"|(?P<marks>(?:[^\w\s]|_)+\n*)"
)
_PER_CHARACTER = {"thai": 0.42, "kana": 0.66, "han": 0.74, "hangul": 0.8}
_CHARACTERS_PER_TOKEN = {"latin": 3.1, "cyrillic": 3.8, "indic": 3.1, "arabic": 2.9, "other": 2.3}
_PER_MARKS = 1.0  # of one or two marks; each further two take one more
_LONG, _TITLE, _UPPER = 0.35, 0.15, 0.25  # more for each letter beyond what is mostly one token
_LONG_FROM, _TITLE_FROM, _UPPER_FROM = 12, 3, 2
_PER_LETTER = 0.02  # of words in lower case, which are mostly frequent


def estimate_tokens(text: str) -> int:
    """Return about how many tokens ``text`` has."""
    return round(sum(_tokens(str(match.lastgroup), match[0]) for match in _PIECES.finditer(text)))


def _tokens(kind: str, piece: str) -> float:
    size = len(piece)
    if kind in _PER_CHARACTER:
        return max(1.0, _PER_CHARACTER[kind] * size)
    if kind in _CHARACTERS_PER_TOKEN:
        return max(1.0, size / _CHARACTERS_PER_TOKEN[kind])
    if kind == "ascii":
        return _word(piece)
    if kind == "marks":
        return _PER_MARKS * max(1, (size + 1) // 3)
    return 1.0


def _word(word: str) -> float:
    size = len(word)
    if size > 1 and word.isupper():
        return 1 + _UPPER * max(0, size - _UPPER_FROM)
    if word[0].isupper():
        return 1 + _TITLE * max(0, size - _TITLE_FROM)
    return 1 + _PER_LETTER * max(0, size - 4) + _LONG * max(0, size - _LONG_FROM)
