"""Threads that work off a list of jobs, and what an interrupt does to them.

The first Ctrl-C lets what is in flight end, so that what is paid for is kept; the second does not wait. That is why
these threads are our own: those of a pool keep the process from ending.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from clusterllm_plugins.stopping import SEEN_AFTER, Stop

log = logging.getLogger(__name__)

Job = TypeVar("Job")


def work_off(jobs: Sequence[Job], work: Callable[[Job], None], n_threads: int, stop: Stop) -> list[Exception]:
    """Call ``work`` with each job, in order, from several threads.

    Args:
        jobs: What is to be done.
        work: Does one of them.
        n_threads: How many are done at once.
        stop: Once it is set no further job is begun; any error sets it.

    Returns:
        The errors, in order of time.

    Raises:
        KeyboardInterrupt: As it came, here or in ``work``; after what was in flight has ended, or at the second one.
    """
    return _Crew(jobs, work, n_threads, stop).run()


class _Crew:
    """Threads and what they share."""

    def __init__(self, jobs: Sequence[Job], work: Callable[[Job], None], n_threads: int, stop: Stop) -> None:
        self._jobs = deque(jobs)
        self._work = work
        self._stop = stop
        self._changed = threading.Condition()
        self._in_flight = 0
        self._errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, name=f"clusterllm-{number}", daemon=True)
            for number in range(min(n_threads, len(jobs)))
        ]

    def run(self) -> list[Exception]:
        try:
            for thread in self._threads:
                thread.start()
            self._wait()
        except BaseException:
            self._stop.set()
            if self._in_flight:
                log.warning("stopping: %d calls are in flight and awaited; Ctrl-C again does not wait", self._in_flight)
            self._wait()
            raise
        interrupts = [error for error in self._errors if not isinstance(error, Exception)]
        if interrupts:
            raise interrupts[0]
        return [error for error in self._errors if isinstance(error, Exception)]

    def _wait(self) -> None:
        """Wait until nothing is in flight and nothing more will be."""
        with self._changed:
            while self._in_flight or (self._jobs and not self._stop):
                self._changed.wait(SEEN_AFTER)  # without a limit an interrupt is not seen on every system

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stop or not self._jobs:
                    return
                job = self._jobs.popleft()
                self._in_flight += 1
            try:
                self._work(job)
            except BaseException as error:
                # Here, not where the error is noticed: this thread would begin another job before that.
                self._stop.set()
                self._errors.append(error)
            with self._changed:
                self._in_flight -= 1
                self._changed.notify_all()
