"""The store of answers: one SQLite file, one commit an answer, so that a paid answer is never lost.

In: the fingerprint of an oracle and a (redacted) question. Out: its answer, if it was ever had. Names that an
oracle wrote are kept likewise, in a table of their own. Several processes may use one file at once (write-ahead log).
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from clusterllm_plugins.databases import to_wal
from clusterllm_plugins.describing import Asked, Description
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.questions import Answer, Question

SCHEMA_VERSION = 1  # a file without the table of descriptions is of it too, and gets one

_ROWS_AT_ONCE = 1000

_TABLES = ("answers", "descriptions")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS {table} (
    fingerprint TEXT NOT NULL,
    key TEXT NOT NULL,
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (fingerprint, key)
) WITHOUT ROWID
"""


class AnswerStore:
    """Answers by oracle and question; a context manager that closes the file.

    Args:
        path: The SQLite file, made where missing; ``None`` keeps the answers in memory.

    Raises:
        DataError: If the file cannot be opened or written, or is of another schema.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = None if path is None else Path(path)
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(
                ":memory:" if self.path is None else self.path, timeout=30, check_same_thread=False
            )
            self._open()
        except sqlite3.Error as error:
            raise DataError(f"answer store {self.path}: {error}; give another path as the store") from error

    def _open(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise DataError(
                f"answer store {self.path}: has schema {version}, this version reads {SCHEMA_VERSION}; "
                "give another path as the store"
            )
        to_wal(self._connection)
        with self._connection:
            for table in _TABLES:
                self._connection.execute(_SCHEMA.format(table=table))
            # A write now, while nothing is paid yet: a read-only file or a full disk shows here.
            self._connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    def get(self, fingerprint: str, question: Asked, *, with_indices: bool) -> Answer | None:
        """Return the stored answer, or None."""
        key = question.canonical(with_indices=with_indices)
        try:
            with self._lock:
                row = self._connection.execute(
                    f"SELECT answer FROM {_table(question)} WHERE fingerprint = ? AND key = ?", (fingerprint, key)
                ).fetchone()
        except sqlite3.Error as error:
            raise DataError(f"answer store {self.path}: {error}; give another path as the store") from error
        return None if row is None else Answer.from_dict(json.loads(row[0]))

    def put(self, fingerprint: str, question: Asked, answer: Answer, *, with_indices: bool) -> None:
        """Commit an answer before returning.

        Raises:
            DataError: If it cannot be written.
        """
        row = (
            fingerprint,
            question.canonical(with_indices=with_indices),
            question.canonical(with_indices=True),
            json.dumps(answer.to_dict(), sort_keys=True, ensure_ascii=False),
        )
        try:
            with self._lock, self._connection:
                self._connection.execute(f"INSERT OR REPLACE INTO {_table(question)} VALUES (?, ?, ?, ?)", row)
        except sqlite3.Error as error:
            raise DataError(f"answer store {self.path}: {error}; free some space and run again") from error

    def __iter__(self) -> Iterator[tuple[str, Question, Answer]]:
        """Yield (fingerprint, question, answer) of every stored answer to a question, without holding all of them."""
        for fingerprint, question, answer in self._rows("answers"):
            yield fingerprint, Question.from_dict(json.loads(question)), Answer.from_dict(json.loads(answer))

    def names(self) -> Iterator[tuple[str, Description, Answer]]:
        """Yield (fingerprint, description, answer) of every stored name likewise."""
        for fingerprint, description, answer in self._rows("descriptions"):
            record = json.loads(description)
            asked = Description(tuple(record["texts"]), record.get("instruction"))
            yield fingerprint, asked, Answer.from_dict(json.loads(answer))

    def _rows(self, table: str) -> Iterator[tuple[str, str, str]]:
        """Yield (fingerprint, question, answer) in the order of the keys; others may write meanwhile."""
        after = ("", "")
        while True:
            try:
                with self._lock:
                    rows = self._connection.execute(
                        f"SELECT fingerprint, key, question, answer FROM {table} WHERE (fingerprint, key) > (?, ?) "
                        "ORDER BY fingerprint, key LIMIT ?",
                        (*after, _ROWS_AT_ONCE),
                    ).fetchall()
            except sqlite3.Error as error:
                raise DataError(f"answer store {self.path}: {error}; give another path as the store") from error
            for fingerprint, key, question, answer in rows:
                after = (fingerprint, key)
                yield fingerprint, question, answer
            if len(rows) < _ROWS_AT_ONCE:
                return

    def close(self) -> None:
        """Close the file; what is being written is written first."""
        with self._lock:  # a connection that is closed under a statement of another thread takes the process down
            self._connection.close()

    def __enter__(self) -> AnswerStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _table(question: Asked) -> str:
    return "descriptions" if isinstance(question, Description) else "answers"
