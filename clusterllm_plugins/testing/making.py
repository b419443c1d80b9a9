"""What the checks of oracles and embedders share: making one, whom it contacts, what it shows."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket
from typing import Any, TypeVar
from unittest.mock import patch

from clusterllm_plugins.keys import without_keys

LONGEST_MAKING = 1.0  # seconds; the best of three counts, as a machine may be busy

_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")

Component = TypeVar("Component")


def made(make: Callable[[], Component], what: str) -> Component:
    """Return a component, made at once and without contacting anybody; ``what`` is "an oracle" or "an embedder"."""
    seconds = math.inf
    for _ in range(3):
        start = time.perf_counter()
        with contacting_nobody(f"making {what}"):
            component = make()
        seconds = min(seconds, time.perf_counter() - start)
    assert seconds < LONGEST_MAKING, f"making it takes {seconds:.1f} s: load what is heavy when it is first used"
    return component


@contextmanager
def contacting_nobody(what: str) -> Iterator[None]:
    """Fail where anything is connected to, or a name looked up, meanwhile, also where the failure is caught."""
    tried: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        tried.append(str([argument for argument in arguments if not isinstance(argument, socket)]))
        raise OSError("no network is allowed here")

    try:
        with (
            patch.object(socket, "connect", refuse),
            patch.object(socket, "connect_ex", refuse),
            patch("socket.getaddrinfo", refuse),
        ):
            yield
    finally:
        assert not tried, f"{what} must contact nobody, but it tried to: {tried[0]}"


def check_identity(fingerprint: object, of_another: object, kind: str) -> None:
    """Check a fingerprint, and that of another one of the same settings."""
    assert isinstance(fingerprint, str), "fingerprint must be a str"
    assert fingerprint, "fingerprint must not be empty"
    assert of_another == fingerprint, f"two {kind} of the same settings must have one fingerprint"
    assert not _ADDRESS.search(fingerprint), f"fingerprint must not hold an address in memory: {fingerprint}"
    check_keyless(fingerprint, "fingerprint must not hold a key")


def check_keyless(text: str, complaint: str) -> None:
    """Check that a text shows no key."""
    if without_keys(text) != text:
        raise AssertionError(complaint)  # no assert: pytest would show what it compares
