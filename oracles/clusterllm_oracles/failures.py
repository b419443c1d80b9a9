"""Errors of other people's clients as ours: what may pass, what never will, and nothing that shows a key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
        where: Which oracle it comes from, the start of the message.
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
    status, body = _status(answered), getattr(getattr(answered, "response", None), "text", "")
    exhausted = "insufficient_quota" in f"{body} {getattr(answered, 'code', '')}"
    lasting = fatal or exhausted or status in (401, 403, 404)
    retryable = not lasting and (status in (408, 409, 429) or status >= 500)
    waits = retry_after_of(answered)
    return trouble(where, reason, secrets=secrets, fatal=lasting, retryable=retryable, retry_after=waits)


def trouble(where: str, reason: str, *, secrets: Iterable[str] = (), **kind: Any) -> OracleError:
    """Return an error of one line that shows no key; ``kind`` are the arguments of :class:`OracleError`."""
    # Cut last, or a part of a key could stay.
    return OracleError(without_keys(" ".join(f"{where}: {reason}".split()), secrets)[:LONGEST], **kind)


def retry_after_of(error: Exception) -> float | None:
    """Return the seconds that a response's Retry-After header asks for."""
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    value = headers.get("retry-after")
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:
        return None


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
