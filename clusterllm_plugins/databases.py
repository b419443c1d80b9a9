"""SQLite files that several processes may open at once."""

from __future__ import annotations

import sqlite3
import time

_TRIES = 200
_PAUSE = 0.05  # seconds


def to_wal(connection: sqlite3.Connection) -> None:
    """Let readers and a writer work at once.

    SQLite's own timeout does not hold for this: where another process is changing a new file, too, it fails at once.
    """
    for attempt in range(_TRIES):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if attempt == _TRIES - 1 or "locked" not in str(error):
                raise
            time.sleep(_PAUSE)
