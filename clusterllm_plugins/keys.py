"""Keys are taken out of what is shown or written: an oracle's error or reply, a line of a log.

A key that is held (in the environment, or by whoever asks) is known as it is; of others, only what they look like.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote

# What providers' keys look like: a short prefix and a long random rest, or a token of three parts.
SHAPE = r"(?:(?:sk|pk|rk|xai|gsk)-|(?:sk|hf|gsk|ghp)_|AKIA|AIza)(?=[\w-]*\d)[\w-]{16,}|eyJ[\w-]{6,}\.[\w-]{6,}\.[\w-]*"
# Words of a setting's name that say that it holds a key. Not: of which variable, or how many tokens.
_SECRET = r"(?:api|access|auth|private|secret|account|subscription|client)[_-]?(?:key|token|secret)|password|passwd"
SECRET_NAME = re.compile(rf"(?:.*[_-])?(?:{_SECRET}|secret|credentials?|authorization)|key|token", re.IGNORECASE)
# A user, with or without a password, or a key within an address; a regular expression is none.
IN_ADDRESS = re.compile(
    r"://[^/\s@\\\[(]+@|[?&](?:[\w-]*(?:key|token|secret|passwd|password|signature)|sig)=[^&\s]+", re.IGNORECASE
)

_VARIABLE = re.compile(r"KEY\d*$|API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD")
_SHOWN = re.compile(
    rf"\b(?:{SHAPE})|\bsk-[\w*-]{{6,}}|(?<=Bearer )[^\s'\"]+|(?<=key=)[^&\s'\"]+|(?<=://)[^/\s@'\"]+(?=@)"
)
_SHAPED = re.compile(rf"\b(?:{SHAPE})")
_LEAST = 8  # characters: shorter is no key


def without_keys(text: str, secrets: Iterable[str] = ()) -> str:
    """Return ``text`` without ``secrets``, the keys of the environment, and all that may be a key: for errors."""
    return _SHOWN.sub("***", _without_held(text, secrets))


def without_held_keys(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the same, but keep what is no key for certain: for what a model wrote, as "Bearer tokens"."""
    return _SHAPED.sub("***", _without_held(text, secrets))


def held_keys() -> set[str]:
    """Return the keys of the environment, by the names of its variables."""
    return {value for name, value in os.environ.items() if _VARIABLE.search(name.upper()) and len(value) >= _LEAST}


def shows_key(error: BaseException | None, secrets: Iterable[str] = ()) -> bool:
    """Return whether an error, or one that it came from, holds a key."""
    secrets, seen = list(secrets), set[int]()
    left = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        told = f"{one} {one.args} {getattr(getattr(one, 'response', None), 'text', '')} {getattr(one, 'body', '')}"
        if without_keys(told, secrets) != told:
            return True
        left += [one.__cause__, one.__context__]
    return False


def _without_held(text: str, secrets: Iterable[str]) -> str:
    words = {word for value in (*held_keys(), *secrets) for word in str(value).split()[-1:] if len(word) >= _LEAST}
    forms = {form for word in words for form in _forms(word)}
    for form in sorted(forms, key=len, reverse=True):  # one may be a part of another
        # In small letters, too: some servers tell it so.
        text = re.sub(re.escape(form), "***", text, flags=re.IGNORECASE) if form.lower() in text.lower() else text
    return text


def _forms(key: str) -> Iterator[str]:
    """Yield the ways in which a key is written: as it is, in JSON, in Python, in an address, as a header has it."""
    yield from (key, json.dumps(key)[1:-1], repr(key)[1:-1], quote(key), quote(key, safe=""))
    for told in (key, f":{key}", f"Bearer {key}"):
        yield base64.b64encode(told.encode()).decode().rstrip("=")
