import sqlite3
import threading

import pytest

from clusterllm_plugins import databases
from clusterllm_plugins.databases import to_wal


@pytest.fixture
def busy(tmp_path):
    """A new file that another connection is writing to."""
    other = sqlite3.connect(tmp_path / "new.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()


@pytest.fixture
def connection(busy, tmp_path):
    connection = sqlite3.connect(tmp_path / "new.sqlite", timeout=0)
    yield connection
    connection.close()


def test_a_new_file_that_another_process_makes_is_waited_for(busy, connection):
    timer = threading.Timer(0.2, busy.execute, ["COMMIT"])
    timer.start()
    to_wal(connection)
    timer.join()
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_it_is_not_waited_for_without_end(busy, connection, monkeypatch):
    monkeypatch.setattr(databases, "_TRIES", 2)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        to_wal(connection)
