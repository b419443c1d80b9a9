"""What an endpoint refuses, read from its words: a parameter that it does not take, or a text that it filters."""

from __future__ import annotations

import re
from collections.abc import Collection

REFUSING = (400, 422, 500, 501)  # the statuses by which servers say that they do not take a parameter

_LOGPROBS = re.compile(r"log[ _-]?prob", re.IGNORECASE)
_UNSUPPORTED = re.compile(
    r"unsupported|not (?:be |currently )?(?:support|permit|allow|enable|recogni|accept|available|known)"
    r"|unrecogni|unknown|unexpected|invalid|forbidden|(?:does|do)(?: not|n.t) (?:support|accept|take)|deprecated",
    re.IGNORECASE,
)
# One text is too long: that says nothing about the others.
_TOO_LONG = re.compile(r"context.?(?:length|window|size)|maximum context|too (?:large|long|many)|exceed", re.IGNORECASE)
_FILTERED = re.compile(
    r"content_filter|content_policy_violation|ResponsibleAIPolicyViolation|content management policy"
    r"|data_inspection_failed"
)
_CONSTRAIN = "set constrain to another one"
_ADVICE = {
    "temperature": 'set temperature to null (in a TOML file "") and it is not sent, or to another value',
    "max_tokens": "set limit = 'max_completion_tokens'",
    "max_completion_tokens": "set limit = 'max_tokens'",
    "response_format": _CONSTRAIN,
    "structured_outputs": _CONSTRAIN,
    "grammar": _CONSTRAIN,
}


def names_logprobs(said: str) -> bool:
    """Return whether an error is about log-probabilities."""
    return _LOGPROBS.search(said) is not None


def is_filtered(said: str) -> bool:
    """Return whether a content filter refused the text of one request."""
    return _FILTERED.search(said) is not None


def advice_on(said: str, sent: Collection[str]) -> str | None:
    """Return what to set where an error refuses one of the parameters ``sent``; None where it is about another thing.

    Args:
        said: What the endpoint stated.
        sent: The names of the parameters of the request.
    """
    if not _UNSUPPORTED.search(said) or _TOO_LONG.search(said):
        return None
    for name, advice in _ADVICE.items():
        if name in sent and re.search(rf"(?<![\w]){name}(?!\w)", said):
            return f"the endpoint refuses {name}; {advice}"
    return None
