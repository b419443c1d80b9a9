"""Rate limits: how long to wait so that requests and tokens a minute stay within what a provider allows.

Requests are spaced evenly, so that no minute, wherever it starts, holds more than the limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


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
            self._free = start + max(requests * self._per_request, tokens * self._per_token)
            return start - now
