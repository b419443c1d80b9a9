"""Paid calls that are no questions, such as those of an embedder, by the rules of asking.

Fixed threads, rate limits, retries with backoff, a circuit breaker and caps are those of the session
(:mod:`clusterllm_plugins.asking`), and so is what an interrupt does. In: batches of items and a function that sends
some of them and keeps what comes back. Each call keeps its result before its thread makes the next one.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from clusterllm_plugins.caps import Caps
from clusterllm_plugins.circuit import PATIENCE, Circuit
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.keys import shows_key, without_keys
from clusterllm_plugins.pacing import DEFAULT_MAX_RETRIES, Pacer, backoff
from clusterllm_plugins.questions import OracleError, Usage
from clusterllm_plugins.stopping import SEEN_AFTER, Stop
from clusterllm_plugins.workers import work_off

Item = TypeVar("Item")


@dataclass(frozen=True)
class Limits:
    """What calls keep to.

    Attributes:
        concurrency: Calls at once.
        max_retries: Attempts after the first one; those made while every call fails do not count.
        requests_per_minute: ``None`` = no limit.
        tokens_per_minute: Likewise.
        max_tokens: The most tokens that all calls together may take, or ``None``.
        max_cost: The most US dollars likewise.
        patience: Seconds that are paused in all, where every call fails, before it is given up.

    Raises:
        ClusterLLMError: If one has no meaning.
    """

    concurrency: int = 8
    max_retries: int = DEFAULT_MAX_RETRIES
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ClusterLLMError(f"concurrency must be at least 1, not {self.concurrency}")
        for name in ("max_retries", "max_tokens", "max_cost", "patience"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise ClusterLLMError(f"{name} must be at least 0, not {value}")
        for name in ("requests_per_minute", "tokens_per_minute"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ClusterLLMError(f"{name} must be above 0 or None, not {value}")


class Caller(Generic[Item]):
    """Makes calls; caps and rate limits hold for all that it ever makes, from however many threads it is used.

    Args:
        where: Who is called, the start of messages.
        limits: What the calls keep to.
        worst_case: The most that one attempt takes for an item; where money is capped with its cost.
        sleep: Waits so many seconds; by default until the calls are stopped at most.
        clock: Tells the time in seconds.
    """

    def __init__(
        self,
        where: str,
        limits: Limits,
        worst_case: Callable[[Item], Usage],
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._where = where
        self._limits = limits
        self._worst_case = worst_case
        self._sleep = sleep
        self._caps = Caps(limits.max_tokens, limits.max_cost)
        self._pacer = Pacer(limits.requests_per_minute, limits.tokens_per_minute, clock)
        self._places = threading.BoundedSemaphore(limits.concurrency)

    @property
    def usage(self) -> Usage:
        """What all calls so far took."""
        return self._caps.usage

    def make(self, batches: Sequence[Sequence[Item]], call: Callable[[Sequence[Item]], Usage]) -> None:
        """Make a call for each batch, or more where a cap has room for a part of it only.

        Args:
            batches: Items.
            call: Sends some of them, keeps what comes back, and returns what that took. It signals trouble with
                :class:`OracleError` and does not retry.

        Raises:
            ClusterLLMError: If a call fails for good or a cap is reached, in one line; what was in flight is awaited
                and kept before.
        """
        run = _Run(self, call)
        errors = work_off(batches, run.work, self._limits.concurrency, run.stop)
        if not errors:
            return
        error = errors[0]
        if isinstance(error, ClusterLLMError):
            raise error
        reason = str(error) if isinstance(error, OracleError) else f"{self._where}: {type(error).__name__}: {error}"
        cause = None if shows_key(error) else error
        raise ClusterLLMError(without_keys(" ".join(reason.split()))) from cause


class _Run(Generic[Item]):
    """The calls of one :meth:`Caller.make`: they stop together."""

    def __init__(self, caller: Caller[Item], call: Callable[[Sequence[Item]], Usage]) -> None:
        self._caller = caller
        self._limits = caller._limits
        self._call = call
        self.stop = Stop()
        self._sleep = caller._sleep or self.stop.pause
        self._circuit = Circuit(self.stop, self._sleep, self._limits.patience, "run it again later")
        self._jitter = random.Random()

    def work(self, batch: Sequence[Item]) -> None:
        """Make the calls that a batch needs."""
        left = list(batch)
        while left and not self.stop:
            del left[: self._called(left)]

    def _called(self, items: Sequence[Item]) -> int:
        """Make one call, again as long as it fails in passing; return for how many of ``items`` there was room."""
        attempt = 0
        while True:
            with self._circuit.passage(), self._place():
                if self.stop:
                    return 0
                worst = [self._caller._worst_case(item) for item in items]
                with self._caller._caps.reserved(worst, self.stop) as (room, refused):
                    if not room:
                        setting = "max_cost" if "dollars" in refused else "max_tokens"
                        raise ClusterLLMError(f"{self._caller._where}: {refused}; raise {setting}")
                    failure = self._attempt(items[:room], worst[:room])
                if failure is None:
                    return room
                if failure.retryable and self._limits.max_retries:
                    self._circuit.failed(failure)
            if self._circuit.is_open and failure.retryable:  # that is what is waited for, as long as its patience lasts
                continue
            if not failure.retryable or attempt == self._limits.max_retries:
                raise failure
            self._sleep(backoff(attempt, failure.retry_after, self._jitter))
            attempt += 1

    def _attempt(self, items: Sequence[Item], worst: Sequence[Usage]) -> OracleError | None:
        """Call once and count what it took; return what failed, if so."""
        most = sum(worst, Usage())
        if (seconds := self._caller._pacer.reserve(1, most.tokens)) > 0:
            self._sleep(seconds)
            if self.stop:
                return OracleError("stopped")
        try:
            usage = self._call(items)
        except OracleError as error:
            return error
        self._circuit.answered()
        self._caller._caps.settle(most, usage)
        self._caller._pacer.settle(1, most.tokens, usage.tokens)
        return None

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Wait until fewer than ``concurrency`` calls are in flight, those of other threads' runs included."""
        places = self._caller._places
        while not places.acquire(timeout=SEEN_AFTER):
            if self.stop:
                yield
                return
        try:
            yield
        finally:
            places.release()
