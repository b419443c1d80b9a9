"""A circuit breaker: where every call fails, all threads pause, and one call at a time finds out whether it passed.

An outage would otherwise use up the retries of one question after the other, and with them its budget. The pauses
grow; when all of them together reach the patience, or the provider asks for a longer one, the run ends.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from clusterllm_plugins.questions import OracleError
from clusterllm_plugins.stopping import SEEN_AFTER, Stop

log = logging.getLogger(__name__)

OPENS_AFTER = 8  # failed calls in a row
FIRST_PAUSE = 1.0  # seconds; doubled each time
LONGEST_PAUSE = 60.0  # seconds
PATIENCE = 600.0  # seconds of pauses, unless the oracle says otherwise


class Circuit:
    """Counts failed calls in a row, of all threads together.

    Args:
        stop: Ends all waiting.
        sleep: Waits so many seconds.
        patience: The most seconds that are paused before the run ends.
        advice: What the error says that ends it.
    """

    def __init__(
        self,
        stop: Stop,
        sleep: Callable[[float], object],
        patience: float = PATIENCE,
        advice: str = "the same run goes on later, no answer is lost",
    ) -> None:
        self._stop = stop
        self._sleep = sleep
        self._patience = patience
        self._advice = advice
        self._condition = threading.Condition()
        self._waiting: deque[object] = deque()
        self._trying = False  # whether a call finds out
        self._forget()

    def _forget(self) -> None:
        self._failures = 0
        self._pause = FIRST_PAUSE
        self._paused = 0.0

    @property
    def is_open(self) -> bool:
        """Whether calls are held back."""
        return self._failures >= OPENS_AFTER

    @contextmanager
    def passage(self) -> Iterator[None]:
        """Wait until a call may be made; it is made, and reported, inside."""
        with self._condition:
            turn = object()
            self._waiting.append(turn)  # in turns, so that no question's retries are used up before another's
            while self.is_open and (self._trying or self._waiting[0] is not turn) and not self._stop:
                self._condition.wait(SEEN_AFTER)
            self._waiting.remove(turn)
            trying = self.is_open
            self._trying = self._trying or trying
            pause = self._pause
        try:
            if trying:
                self._sleep(pause)
                self._paused += pause
                self._pause = min(2 * pause, LONGEST_PAUSE)
            yield
        finally:
            if trying:
                with self._condition:
                    self._trying = False
                    self._condition.notify_all()

    def answered(self) -> None:
        """Report a call that was answered: whoever waits goes on."""
        with self._condition:
            if self._failures:
                self._forget()
                self._condition.notify_all()

    def failed(self, failure: OracleError) -> None:
        """Report a call that failed in passing.

        Raises:
            OracleError: If the patience is at its end; it is fatal.
        """
        with self._condition:
            self._failures += 1
            if self._failures == OPENS_AFTER:
                log.warning("%d calls in a row failed, the last with: %s; pausing", self._failures, failure)
            wanted = failure.retry_after or 0.0
            if self.is_open:
                self._pause = max(self._pause, wanted)
            if self._paused < self._patience and wanted <= self._patience:
                return
        waited = (
            f"{wanted:.0f} s are to be waited" if wanted > self._patience else f"no answer for {self._paused:.0f} s"
        )
        raise OracleError(f"{waited}: {failure}; {self._advice}", fatal=True)
