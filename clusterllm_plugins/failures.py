"""Errors of other people's clients as ours: what may pass, what never will, and nothing that shows a key."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from clusterllm_plugins.keys import without_keys
from clusterllm_plugins.questions import OracleError

LONGEST = 500  # characters of a message

# Errors of Python, requests, httpx and openai without an HTTP status: those that may pass, and those that will not.
_PASSING = {
    "APIConnectionError",
    "ChunkedEncodingError",
    "ConnectionError",
    "Timeout",
    "TimeoutError",
    "TransportError",
}
_LASTING = {"InvalidHeader", "InvalidSchema", "InvalidURL", "MissingSchema", "UnsupportedProtocol"}


def oracle_error(where: str, error: Exception, *, secrets: Iterable[str] = (), fatal: bool = False) -> OracleError:
    """Return an error of one line; a wrong key, model or endpoint or an empty account stops the run.

    Args:
        where: Which oracle or embedder it comes from, the start of the message.
        error: What was raised; its causes are looked at too.
        secrets: What must not stand in the message, besides the keys of the environment.
        fatal: Whether it stops the run in any case.
    """
    chain = list(_chain(error))
    reason = f"{type(error).__name__}: {error}"
    answered = next((one for one in chain if _status(one)), None)
    if answered is None:
        names = {cls.__name__ for one in chain for cls in type(one).__mro__}
        lasting = fatal or bool(names & _LASTING)
        return trouble(where, reason, secrets=secrets, retryable=not lasting and bool(names & _PASSING), fatal=lasting)
    if answered is not error:
        reason += f" ({answered})"  # many an error that is raised from another leaves out the status
    body = getattr(getattr(answered, "response", None), "text", "")
    kind = kind_of(_status(answered), f"{body} {getattr(answered, 'code', '')}")
    if fatal:
        kind = {"fatal": True, "retryable": False}
    return trouble(where, reason, secrets=secrets, **kind, retry_after=retry_after_of(answered))


def kind_of(status: int, said: str) -> dict[str, bool]:
    """Return whether an HTTP status, and what was said with it, stops the run, and whether it may pass."""
    lasting = status in (401, 402, 403, 404) or "insufficient_quota" in said
    return {"fatal": lasting, "retryable": not lasting and (status in (408, 409, 429) or status >= 500)}


def trouble(where: str, reason: str, *, secrets: Iterable[str] = (), **kind: Any) -> OracleError:
    """Return an error of one line that shows no key; ``kind`` are the arguments of :class:`OracleError`."""
    # Cut last, or a part of a key could stay.
    return OracleError(without_keys(" ".join(f"{where}: {reason}".split()), secrets)[:LONGEST], **kind)


def retry_after_of(error: Exception) -> float | None:
    """Return the seconds that a response asks to wait: by ``retry-after-ms``, else by Retry-After in either form."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    milliseconds, value = _number(headers.get("retry-after-ms")), headers.get("retry-after")
    seconds = _number(value) if milliseconds is None else milliseconds / 1000
    if seconds is None and (until := _date(value)) is not None:
        # By the clock of who says it, where that is told: ours may be wrong.
        seconds = (until - (_date(headers.get("date")) or datetime.now(UTC))).total_seconds()
    return None if seconds is None else max(0.0, seconds)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _date(value: Any) -> datetime | None:
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _chain(error: BaseException | None) -> Iterator[Exception]:
    """Yield an error, its cause and so on."""
    while isinstance(error, Exception):
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _status(error: Exception) -> int:
    """Return the HTTP status of an error, whichever library it comes from, or 0."""
    answer = getattr(error, "response", error)
    status = getattr(answer, "status_code", None) or getattr(answer, "code", None)
    return status if isinstance(status, int) and status >= 400 else 0
