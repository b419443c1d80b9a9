"""Calls on an event loop from another thread, which waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import CancelledError, wait
from typing import Any, TypeVar

from clusterllm_plugins.questions import OracleError

LOOP_SEEN_AFTER = 1.0  # seconds until it is seen at most that a loop has ended

Result = TypeVar("Result")


def waited_for(call: Coroutine[Any, Any, Result], loop: asyncio.AbstractEventLoop, where: str) -> Result:
    """Run ``call`` on ``loop``, which runs on another thread, and return what it returns.

    Raises:
        OracleError: If nothing will ever come of the call, since it was cancelled or the loop has ended; the message
            begins with ``where``.
    """
    if loop.is_closed():
        call.close()
        raise OracleError(f"{where}: the event loop has ended", fatal=True)
    done = asyncio.run_coroutine_threadsafe(call, loop)
    while not wait([done], LOOP_SEEN_AFTER).done:
        if not loop.is_running():
            raise OracleError(f"{where}: the event loop has ended", fatal=True)
    try:
        return done.result()
    except CancelledError:
        raise OracleError(f"{where}: the call was cancelled", fatal=True) from None
