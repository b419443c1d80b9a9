"""Whether a run is to stop, by an error or an interrupt in it or from outside, and waiting until then at most."""

from __future__ import annotations

import threading
import time

SEEN_AFTER = 0.2  # seconds at most until whoever waits for something else sees that the run is to stop


class Stop:
    """A flag that every thread of a run looks at.

    Args:
        halt: Set from outside; it stays set.
    """

    def __init__(self, halt: threading.Event | None = None) -> None:
        self._halt = halt or threading.Event()
        self._inside = threading.Event()

    def __bool__(self) -> bool:
        return self._inside.is_set() or self._halt.is_set()

    def set(self) -> None:
        """Stop the run from inside."""
        self._inside.set()

    def clear(self) -> None:
        """Let another round begin."""
        self._inside.clear()

    def pause(self, seconds: float) -> None:
        """Wait, unless the run is to stop."""
        end = time.monotonic() + seconds
        while not self._halt.is_set() and (left := end - time.monotonic()) > 0:
            if self._inside.wait(min(left, SEEN_AFTER)):
                return
