import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from clusterllm_plugins import ClusterLLM, embedding
from clusterllm_plugins.embedding import embed_texts
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning, DataError
from clusterllm_plugins.vector_cache import INDEX, VectorCache, digests_of

TEXTS = [f"text {'x' * (number % 7)} {number}" for number in range(43)]


class Counting:
    """Vectors that depend on what else is in the block, and a record of what was embedded."""

    def __init__(self, fingerprint="counting", fails_after=None, size=3):
        self.fingerprint = fingerprint
        self.embedded = []
        self.calls = 0
        self.fails_after = fails_after
        self.size = size

    def embed(self, texts):
        if self.calls == self.fails_after:
            raise KeyboardInterrupt
        self.calls += 1
        self.embedded += texts
        whole = sum(len(text) for text in texts)
        return np.array([[len(text), hash_of(text), whole][: self.size] for text in texts], dtype=np.float32)


def hash_of(text):
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:2])


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "vectors"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 8)


def test_a_second_run_embeds_nothing(folder):
    first, second = Counting(), Counting()
    vectors = embed_texts(first, TEXTS, cache=folder)
    assert np.array_equal(embed_texts(second, TEXTS, cache=folder), vectors)
    assert (len(first.embedded), second.embedded) == (43, [])


def test_the_vectors_are_those_without_a_cache(folder):
    assert np.array_equal(embed_texts(Counting(), TEXTS, cache=folder), embed_texts(Counting(), TEXTS))


def test_only_new_texts_are_embedded(folder):
    embed_texts(Counting(), TEXTS, cache=folder)
    embedder = Counting()
    vectors = embed_texts(embedder, [*TEXTS[::-1], "new", "newer", "new"], cache=folder)
    assert sorted(embedder.embedded) == ["new", "newer"]
    assert vectors[:, 1].tolist() == [hash_of(text) for text in [*TEXTS[::-1], "new", "newer", "new"]]


@pytest.mark.parametrize("blocks", range(5))
def test_an_interrupted_run_goes_on_to_the_same_vectors(folder, blocks):
    with pytest.raises(KeyboardInterrupt):
        embed_texts(Counting(fails_after=blocks), TEXTS, cache=folder)
    resumed = Counting()
    vectors = embed_texts(resumed, TEXTS, cache=folder)
    assert len(resumed.embedded) == 43 - 8 * blocks
    assert np.array_equal(vectors, embed_texts(Counting(), TEXTS))


def test_another_fingerprint_has_vectors_of_its_own(folder):
    vectors = embed_texts(Counting("one"), TEXTS, cache=folder)
    other, again = Counting("other", size=2), Counting("one")
    assert embed_texts(other, TEXTS, cache=folder).shape == (43, 2)
    assert len(other.embedded) == 43
    assert np.array_equal(embed_texts(again, TEXTS, cache=folder), vectors)
    assert again.embedded == []


def test_no_text_is_written(folder):
    embed_texts(Counting(), ["an unlikely secret", "another"], cache=folder)
    with VectorCache(folder, "counting"):  # open, so that what SQLite has not tidied up yet is looked at too
        assert not any(b"unlikely" in path.read_bytes() for path in folder.iterdir())


def test_progress_counts_only_what_is_embedded(folder, monkeypatch):
    totals = []
    make = embedding.Bar
    monkeypatch.setattr(
        embedding, "Bar", lambda total, *args, **kwargs: totals.append(total) or make(total, *args, **kwargs)
    )
    embed_texts(Counting(), TEXTS[:30], cache=folder)
    embed_texts(Counting(), TEXTS, cache=folder)
    assert totals == [30, 13]


def test_an_embedder_without_a_fingerprint_is_not_kept_and_says_so(folder):
    embedder = Counting(fingerprint=None)
    with pytest.warns(ClusterLLMWarning, match="embedder Counting has no fingerprint: its vectors are not kept"):
        embed_texts(embedder, TEXTS, cache=folder)
    assert not folder.exists()


# What a killed or another process leaves


def test_rows_that_were_written_and_not_indexed_are_written_over(folder):
    with VectorCache(folder, "f") as cache:
        cache.put([b"a" * 32], np.ones((1, 4), dtype=np.float32))
        rows = cache._path
    with rows.open("ab") as file:
        file.write(b"torn tail")
    with VectorCache(folder, "f") as cache:
        cache.put([b"b" * 32, b"c" * 32], np.array([[2] * 4, [3] * 4], dtype=np.float32))
        assert cache.read(cache.rows([b"c" * 32, b"a" * 32, b"b" * 32]))[:, 0].tolist() == [3, 1, 2]


def test_a_block_whose_index_fails_is_not_there_at_all(folder):
    fails = "CREATE TRIGGER fails BEFORE UPDATE ON spaces BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    with VectorCache(folder, "f") as cache:
        cache._index.execute(fails)
        with pytest.raises(DataError, match="disk full; give another folder"):
            cache.put([b"a" * 32], np.ones((1, 4), dtype=np.float32))
        assert cache.rows([b"a" * 32]).tolist() == [-1]
        cache._index.execute("DROP TRIGGER fails")
        cache.put([b"a" * 32], np.full((1, 4), 5, dtype=np.float32))
        assert cache.read(cache.rows([b"a" * 32])).tolist() == [[5] * 4]


def test_what_is_there_stays_where_two_processes_embed_one_text(folder):
    with VectorCache(folder, "f") as one, VectorCache(folder, "f") as other:
        one.put([b"a" * 32], np.ones((1, 2), dtype=np.float32))
        other.put([b"a" * 32, b"b" * 32], np.full((2, 2), 7, dtype=np.float32))
        for cache in (one, other):
            assert cache.read(cache.rows([b"a" * 32, b"b" * 32])).tolist() == [[1, 1], [7, 7]]


KILLED = """
    import hashlib, sys, time
    import numpy as np
    from clusterllm_plugins import embedding
    from clusterllm_plugins.embedding import embed_texts

    embedding.BLOCK = 8

    class Slow:
        fingerprint = "counting"
        def embed(self, texts):
            time.sleep(0.02)
            whole = sum(map(len, texts))
            value = lambda text: int.from_bytes(hashlib.sha256(text.encode()).digest()[:2])
            return np.array([[len(text), value(text), whole] for text in texts], dtype=np.float32)

    print("ready", flush=True)
    embed_texts(Slow(), [f"text {'x' * (number % 7)} {number}" for number in range(400)], cache=sys.argv[1])
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_process_is_resumed_to_the_same_vectors(folder):
    texts = [f"text {'x' * (number % 7)} {number}" for number in range(400)]
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        for _ in range(1000):
            time.sleep(0.01)
            rows = list(folder.glob("*.f32"))
            if rows and rows[0].stat().st_size >= 10 * 8 * 3 * 4:
                break
        process.send_signal(signal.SIGKILL)
    resumed = Counting()
    vectors = embed_texts(resumed, texts, cache=folder)
    assert 0 < len(resumed.embedded) < 400
    assert np.array_equal(vectors, embed_texts(Counting(), texts))


def test_two_processes_fill_one_folder(folder):
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(folder)]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    texts = [f"text {'x' * (number % 7)} {number}" for number in range(400)]
    late = Counting()
    vectors = embed_texts(late, texts, cache=folder)
    assert late.embedded == []
    assert vectors[:, 1].tolist() == [hash_of(text) for text in texts]


# What cannot be used


def test_vectors_of_another_size_under_one_fingerprint_are_refused(folder):
    embed_texts(Counting(), TEXTS[:3], cache=folder)
    with pytest.raises(DataError, match="vectors of size 2 and 3 have one fingerprint, 'counting'"):
        embed_texts(Counting(size=2), TEXTS, cache=folder)


@pytest.mark.parametrize("damage", [lambda rows: rows.unlink(), lambda rows: os.truncate(rows, 12)])
def test_missing_rows_are_told(folder, damage):
    embed_texts(Counting(), TEXTS, cache=folder)
    damage(next(folder.glob("*.f32")))
    with pytest.raises(DataError, match=r"^cache of vectors .*: damaged; delete the folder"):
        embed_texts(Counting(), TEXTS, cache=folder)


def test_rows_that_are_no_numbers_are_told(folder):
    embed_texts(Counting(), TEXTS, cache=folder)
    next(folder.glob("*.f32")).write_bytes(b"\xff" * 43 * 12)
    with pytest.raises(DataError, match="damaged"):
        embed_texts(Counting(), TEXTS, cache=folder)


def test_an_index_that_is_no_database_is_told(folder):
    folder.mkdir()
    (folder / INDEX).write_bytes(b"no database, " * 100)
    with pytest.raises(DataError, match=r"^cache of vectors .*: file is not a database; give another folder$"):
        embed_texts(Counting(), TEXTS, cache=folder)


def test_an_index_of_another_version_is_refused(folder):
    folder.mkdir()
    with sqlite3.connect(folder / INDEX) as index:
        index.execute("PRAGMA user_version=9")
    index.close()
    with pytest.raises(DataError, match="has version 9, this one reads 1"):
        VectorCache(folder, "f")


def test_a_file_in_place_of_the_folder_is_told(folder):
    folder.write_text("a file")
    with pytest.raises(DataError, match=r"^cache of vectors .*give another folder$"):
        embed_texts(Counting(), TEXTS, cache=folder)


def test_texts_are_told_apart_by_their_sha256():
    assert digests_of(["a", "é"]) == [hashlib.sha256(text.encode()).digest() for text in ("a", "é")]


# The estimator


def test_a_second_fit_embeds_nothing(folder, texts):
    first, second = Counting(), Counting()
    labels = [
        ClusterLLM(embedder, n_clusters=3, cache=folder, progress=False).fit_predict(texts).tolist()
        for embedder in (first, second)
    ]
    assert labels[0] == labels[1]
    assert (len(first.embedded), second.embedded) == (len(set(texts)), [])


def test_an_embedder_that_learns_is_kept_by_what_it_learnt(folder, texts):
    for corpus in (texts, texts[:10], texts):
        ClusterLLM("lsa", n_clusters=2, cache=folder, progress=False).fit(corpus)
    assert len(list(folder.glob("*.f32"))) == 2


def test_new_texts_are_not_kept(folder, texts):
    model = ClusterLLM(Counting(), n_clusters=3, cache=folder, progress=False).fit(texts)
    size = next(folder.glob("*.f32")).stat().st_size
    model.predict(["not seen before"])
    assert next(folder.glob("*.f32")).stat().st_size == size


def test_a_cache_that_is_no_path_is_refused(texts):
    with pytest.raises(ClusterLLMError, match="cache must be a path or None, not 3"):
        ClusterLLM("lsa", cache=3).fit(texts)


def test_the_command_keeps_vectors_in_its_folder(tmp_path, texts):
    from clusterllm_plugins.runs import CACHE, Run

    file = tmp_path / "texts.txt"
    file.write_text("\n".join(texts))
    Run(file, tmp_path / "out", {"embedder": {"name": "lsa"}, "n_clusters": 3}).execute()
    (rows,) = (tmp_path / "out" / CACHE).glob("*.f32")
    before = rows.stat().st_mtime_ns
    Run(file, tmp_path / "out", {"embedder": {"name": "lsa"}, "n_clusters": 3}).execute()
    assert rows.stat().st_mtime_ns == before


def test_the_command_takes_a_cache_that_several_runs_share(tmp_path, texts):
    from clusterllm_plugins.runs import CACHE, Run

    file = Path(tmp_path / "texts.txt")
    file.write_text("\n".join(texts))
    for n in (2, 3):
        settings = {"embedder": {"name": "lsa"}, "n_clusters": n, "cache": str(tmp_path / "shared")}
        Run(file, tmp_path / f"out{n}", settings).execute()
    assert len(list((tmp_path / "shared").glob("*.f32"))) == 1
    assert not (tmp_path / "out2" / CACHE).exists()
