"""Hard caps on tokens and money, whatever is called: an oracle (:mod:`clusterllm_plugins.budget`) or an embedder.

Every attempt reserves its worst case before it is sent; what it really took replaces the reservation when its
answer is there. What a failed attempt had reserved stays reserved, since a provider may have billed it. Where there
is no room, an attempt waits for those in flight: most take less than they reserved.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from clusterllm_plugins.questions import Usage
from clusterllm_plugins.stopping import SEEN_AFTER, Stop


class Caps:
    """Caps that are kept also when many threads call at once.

    Args:
        max_tokens: The cap on tokens, or None.
        max_cost: The cap in US dollars, or None.

    Attributes:
        capped: Whether there is a cap.
        usage: What all that was settled took.
    """

    def __init__(self, max_tokens: int | None, max_cost: float | None) -> None:
        self._max_tokens = max_tokens
        self._max_cost = max_cost
        self.capped = max_tokens is not None or max_cost is not None
        self.usage = Usage()
        self._tokens = 0
        self._cost = 0.0
        self._changed = threading.Condition()
        self._in_flight = 0  # attempts

    @contextmanager
    def reserved(self, worst: Sequence[Usage], stop: Stop) -> Iterator[tuple[int, str]]:
        """Reserve worst cases, one after the other while the caps allow it; the attempt is made inside.

        Args:
            worst: Of each item that the attempt is about; where money is capped with its cost.
            stop: Ends waiting for what is in flight.

        Yields:
            For how many there is room, and why not for the next one.
        """
        if not self.capped:
            yield len(worst), ""
            return
        with self._changed:
            while not (room := self._room(worst))[0] and self._in_flight and not stop:
                self._changed.wait(SEEN_AFTER)
            self._in_flight += 1
        try:
            yield room
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()

    def _room(self, worst: Sequence[Usage]) -> tuple[int, str]:
        """Reserve as much as there is room for; the lock is held."""
        for count, usage in enumerate(worst):
            if self._max_tokens is not None and self._tokens + usage.tokens > self._max_tokens:
                return count, f"the cap of {self._max_tokens} tokens is reached"
            if self._max_cost is not None and self._cost + (usage.cost or 0.0) > self._max_cost:
                return count, f"the cap of {self._max_cost} US dollars is reached"
            self._tokens += usage.tokens
            self._cost += usage.cost or 0.0
        return len(worst), ""

    def settle(self, worst: Usage, usage: Usage) -> None:
        """Count what was taken, in place of what was reserved for it."""
        reserved = worst.cost or 0.0
        with self._changed:
            self.usage = self.usage + usage
            self._tokens += usage.tokens - worst.tokens
            self._cost += (reserved if usage.cost is None else usage.cost) - reserved
            self._changed.notify_all()
