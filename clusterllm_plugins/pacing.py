"""How long to wait: so that requests and tokens a minute stay within what a provider allows, and before a retry.

Requests are spaced evenly, so that no minute, wherever it starts, holds more than the limit.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

DEFAULT_MAX_RETRIES = 5
FIRST_WAIT = 0.5  # seconds before the first retry at most; doubled each time
LONGEST_WAIT = 60.0  # seconds


def backoff(attempt: int, retry_after: float | None, jitter: random.Random) -> float:
    """Return the seconds before the next attempt: what the provider says, else exponential with full jitter."""
    if retry_after is not None:
        return retry_after
    return jitter.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2.0**attempt))


class Pacer:
    """Spaces attempts of all threads together.

    Args:
        requests_per_minute: The limit, or ``None``.
        tokens_per_minute: The limit, or ``None``.
        clock: Returns seconds, never going back.
    """

    def __init__(
        self, requests_per_minute: float | None, tokens_per_minute: float | None, clock: Callable[[], float]
    ) -> None:
        self._per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._free = clock()
        self._lock = threading.Lock()

    @property
    def needs_tokens(self) -> bool:
        """Whether the limit depends on how many tokens an attempt takes."""
        return self._per_token > 0

    def charge(self, tokens: int) -> None:
        """Count tokens that could not be foreseen against the attempts to come."""
        with self._lock:
            self._free = max(self._clock(), self._free) + tokens * self._per_token

    def reserve(self, requests: int, tokens: int) -> float:
        """Reserve the next free moment and return how many seconds away it is."""
        with self._lock:
            now = self._clock()
            start = max(now, self._free)
            self._free = start + self._seconds(requests, tokens)
            return start - now

    def settle(self, requests: int, reserved: int, used: int) -> None:
        """Give back what an attempt that was reserved did not take; its requests count in any case."""
        with self._lock:
            self._free += self._seconds(requests, used) - self._seconds(requests, reserved)

    def _seconds(self, requests: int, tokens: int) -> float:
        return max(requests * self._per_request, tokens * self._per_token)
