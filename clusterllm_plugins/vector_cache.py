"""The cache of vectors: a folder that keeps what an embedder made, so that no text is embedded twice.

In: the fingerprint of an embedder and SHA-256 digests of texts; no text is written. Out: float32 vectors. Each
fingerprint has a file of rows, which only grows and is read memory-mapped; an SQLite file says which row is whose.
Rows are on disk before the index names them, and a call of ``put`` is one transaction: after a kill at any moment
each ``put`` is there as a whole or not at all. Several processes may use one folder at once.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins.databases import to_wal
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.protocols import Vectors

SCHEMA_VERSION = 1
INDEX = "index.sqlite"
_ASKED = 500  # digests a query: SQLite takes about a thousand variables
_CACHE_KIB = 65536  # of the index in memory: digests come in no order
_READ = 65536  # rows that are read and checked at once

_SCHEMA = """
CREATE TABLE IF NOT EXISTS spaces (
    id INTEGER PRIMARY KEY,
    fingerprint TEXT NOT NULL UNIQUE,
    dimensions INTEGER NOT NULL,
    n_rows INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS vectors (
    space INTEGER NOT NULL,
    digest BLOB NOT NULL,
    place INTEGER NOT NULL,
    PRIMARY KEY (space, digest)
) WITHOUT ROWID;
"""


def digests_of(texts: Sequence[str]) -> list[bytes]:
    """Return the SHA-256 of each text."""
    return [hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts]


class VectorCache:
    """The vectors of one embedder in a folder, for one thread at a time; a context manager that closes its files.

    Args:
        folder: Made where missing.
        fingerprint: Of the embedder, which must name everything that could change a vector.

    Raises:
        DataError: If the folder cannot be used, or is of another version.
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        self.folder = Path(folder)
        self.fingerprint = fingerprint
        self._path = self.folder / f"{hashlib.sha256(fingerprint.encode()).hexdigest()[:16]}.f32"
        with self._one_line_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            # Transactions are begun by hand; any thread may write, as long as one at a time does.
            self._index = sqlite3.connect(
                self.folder / INDEX, timeout=60, isolation_level=None, check_same_thread=False
            )
            self._open()

    def _open(self) -> None:
        version = self._index.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise DataError(
                f"cache of vectors {self.folder}: has version {version}, this one reads {SCHEMA_VERSION}; "
                "give another folder"
            )
        to_wal(self._index)
        # After a loss of power the last blocks may be missing, none is torn; a killed process loses nothing.
        self._index.execute("PRAGMA synchronous=NORMAL")
        self._index.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._index.executescript(f"{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};")

    def rows(self, digests: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the row of each digest, -1 where it has none, shape (n_digests,)."""
        rows = np.full(len(digests), -1, dtype=np.int64)
        with self._one_line_errors():
            space = self._space()
            for start in range(0, len(digests) if space else 0, _ASKED):
                asked = digests[start : start + _ASKED]
                marks = ",".join("?" * len(asked))
                sql = f"SELECT digest, place FROM vectors WHERE space = ? AND digest IN ({marks})"
                found = dict(self._index.execute(sql, (space[0], *asked)))  # type: ignore[index]
                rows[start : start + len(asked)] = [found.get(digest, -1) for digest in asked]
        return rows

    def put(self, digests: Sequence[bytes], vectors: Vectors) -> None:
        """Keep vectors, shape (n_digests, dim), all or none; a digest that has one keeps that.

        Raises:
            DataError: If they are of another size than those kept, or cannot be written.
        """
        with self._one_line_errors(), self._transaction():
            space, dimensions, n_rows = self._space() or (None, vectors.shape[1], 0)
            if vectors.shape[1] != dimensions:
                raise DataError(
                    f"cache of vectors {self.folder}: vectors of size {vectors.shape[1]} and {dimensions} have one "
                    f"fingerprint, {self.fingerprint!r}; give another folder"
                )
            self._append(np.ascontiguousarray(vectors, dtype="<f4"), n_rows)
            if space is None:
                values = (self.fingerprint, dimensions, 0)
                sql = "INSERT INTO spaces (fingerprint, dimensions, n_rows) VALUES (?, ?, ?)"
                space = self._index.execute(sql, values).lastrowid
            self._index.executemany(
                "INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)",
                # Sorted, so that neighbours in the index are written together.
                sorted((space, digest, n_rows + number) for number, digest in enumerate(digests)),
            )
            self._index.execute("UPDATE spaces SET n_rows = ? WHERE id = ?", (n_rows + len(digests), space))

    def read(self, rows: NDArray[np.int64]) -> Vectors:
        """Return the vectors of rows, float32, shape (n_rows, dim).

        Raises:
            DataError: If the files do not hold what the index says.
        """
        with self._one_line_errors():
            _, dimensions, n_rows = self._space() or (0, 0, 0)
            size = self._path.stat().st_size if self._path.exists() else 0
            if rows.min() < 0 or rows.max() >= n_rows or size < n_rows * dimensions * 4:
                raise self._damaged()
            kept = np.memmap(self._path, dtype="<f4", mode="r", shape=(n_rows, dimensions))
            vectors = np.empty((len(rows), dimensions), dtype=np.float32)
            for start in range(0, len(rows), _READ):
                part = vectors[start : start + _READ]
                part[:] = kept[rows[start : start + _READ]]
                if not np.isfinite(part).all():
                    raise self._damaged()
            return vectors

    def close(self) -> None:
        """Close the files."""
        self._index.close()

    def _space(self) -> tuple[int, int, int] | None:
        """Return the number of this fingerprint, its dimensions and how many rows are in use, if it is known."""
        found: tuple[int, int, int] | None = self._index.execute(
            "SELECT id, dimensions, n_rows FROM spaces WHERE fingerprint = ?", (self.fingerprint,)
        ).fetchone()
        return found

    def _append(self, vectors: Vectors, n_rows: int) -> None:
        """Write rows behind the first ``n_rows``, over what a killed process may have left there."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(descriptor, "r+b") as file:
            start = n_rows * vectors.shape[1] * 4
            if file.seek(0, os.SEEK_END) < start:
                raise self._damaged()
            file.seek(start)
            file.write(vectors.tobytes())
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._index.execute("BEGIN IMMEDIATE")  # other processes wait here, so that one at a time appends rows
        try:
            yield
        except BaseException:
            self._index.execute("ROLLBACK")
            raise
        self._index.execute("COMMIT")

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise DataError(f"cache of vectors {self.folder}: {reason}; give another folder") from error

    def _damaged(self) -> DataError:
        return DataError(f"cache of vectors {self.folder}: damaged; delete the folder, the texts are embedded again")

    def __enter__(self) -> VectorCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
