"""Keys are taken out of what is shown or written: an oracle's error, a line of a log."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_KEY = re.compile(r"\bsk-[\w-]{6,}|(?<=Bearer )[^\s'\"]+|(?<=key=)[^&\s'\"]+|(?<=://)[^/\s@'\"]+(?=@)")


def without_keys(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` without ``secrets``, the keys of the environment, and all that looks like a key."""
    held = [value for name, value in os.environ.items() if name.endswith("_KEY") or "TOKEN" in name]
    words = {
        word for value in (*held, *secrets) for word in str(value).split()[-1:] if len(word) >= 8
    }  # shorter is no key
    for word in sorted(words, key=len, reverse=True):  # one may be a part of another
        text = text.replace(word, "***")
    return _KEY.sub("***", text)
