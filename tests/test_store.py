import dataclasses
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from clusterllm_plugins.errors import DataError
from clusterllm_plugins.questions import Answer, Usage, choice_question, pair_question, triplet_question
from clusterllm_plugins.store import AnswerStore

TEXTS = ["The kettle leaks", "Water drips from my kettle", "Die Lampe flackert", "灯太暗了", "The kettle leaks"]
QUESTION = triplet_question(TEXTS, 0, 1, 2)
ANSWER = Answer("2", 0.75, Usage(10, 2, 1, 0.25), "second thoughts")

WRITE_AND_DIE = """
import os, sys
from clusterllm_plugins.questions import Answer, pair_question
from clusterllm_plugins.store import AnswerStore
AnswerStore(sys.argv[1]).put("someone", pair_question(["mug", "cup"], 0, 1), Answer("yes"), with_indices=False)
os._exit(9)
"""


def pairs(count):
    texts = [f"note {number}" for number in range(count + 1)]
    return [pair_question(texts, number, number + 1) for number in range(count)]


def test_nothing_is_known_of_a_question_that_was_never_answered(store):
    assert store.get("someone", QUESTION, with_indices=False) is None


def test_an_answer_is_given_back_whole(store):
    store.put("someone", QUESTION, ANSWER, with_indices=False)
    assert store.get("someone", QUESTION, with_indices=False) == ANSWER


def test_an_abstention_is_an_answer(store):
    store.put("someone", QUESTION, Answer(None, error="unreadable reply: ''"), with_indices=False)
    assert store.get("someone", QUESTION, with_indices=False) == Answer(None, error="unreadable reply: ''")


def test_answers_of_another_oracle_are_not_given(store):
    store.put("someone", QUESTION, ANSWER, with_indices=False)
    assert store.get("someone else", QUESTION, with_indices=False) is None


def test_without_indices_the_same_texts_elsewhere_are_the_same_question(store):
    store.put("someone", QUESTION, ANSWER, with_indices=False)
    assert store.get("someone", triplet_question(TEXTS, 4, 1, 2), with_indices=False) == ANSWER


def test_with_indices_the_same_texts_elsewhere_are_another_question(store):
    store.put("someone", QUESTION, ANSWER, with_indices=True)
    assert store.get("someone", triplet_question(TEXTS, 4, 1, 2), with_indices=True) is None


@pytest.mark.parametrize("change", [{"repeat": 1}, {"instruction": "by colour"}, {"choices": ("1", "2", "none")}])
def test_a_question_that_differs_in_anything_is_another(store, change):
    store.put("someone", QUESTION, ANSWER, with_indices=False)
    assert store.get("someone", dataclasses.replace(QUESTION, **change), with_indices=False) is None


def test_a_later_answer_replaces_an_earlier_one(store):
    store.put("someone", QUESTION, Answer("1"), with_indices=False)
    store.put("someone", QUESTION, Answer("2"), with_indices=False)
    assert [answer for _, _, answer in store] == [Answer("2")]


def test_all_answers_can_be_listed(store):
    other = choice_question(TEXTS, 3, [[1], [0, 2]], none=True)
    store.put("someone", QUESTION, ANSWER, with_indices=False)
    store.put("another", other, Answer("none"), with_indices=True)
    assert list(store) == [("another", other, Answer("none")), ("someone", QUESTION, ANSWER)]


def test_answers_are_there_when_the_file_is_opened_again(path):
    with AnswerStore(path) as store:
        store.put("someone", QUESTION, ANSWER, with_indices=False)
    with AnswerStore(str(path)) as store:
        assert list(store) == [("someone", QUESTION, ANSWER)]


def test_an_answer_is_on_disk_when_put_returns(path):
    died = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, str(path)], check=False)
    assert died.returncode == 9
    with AnswerStore(path) as store:
        assert store.get("someone", pair_question(["mug", "cup"], 0, 1), with_indices=False) == Answer("yes")


def test_another_user_of_the_file_sees_an_answer_at_once(path, store):
    with AnswerStore(path) as other:
        store.put("someone", QUESTION, ANSWER, with_indices=False)
        assert other.get("someone", QUESTION, with_indices=False) == ANSWER


def test_many_threads_may_write_at_once(store):
    questions = pairs(60)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda q: store.put("someone", q, Answer("no"), with_indices=False), questions))
    assert {question for _, question, _ in store} == set(questions)


def test_several_users_of_the_file_may_write_at_once(path):
    questions = pairs(40)
    with AnswerStore(path) as one, AnswerStore(path) as other, ThreadPoolExecutor(2) as pool:

        def write(store, part):
            for question in part:
                store.put("someone", question, Answer("no"), with_indices=False)

        list(pool.map(write, (one, other), (questions[:20], questions[20:])))
        assert {question for _, question, _ in one} == set(questions)


def test_answers_can_be_kept_in_memory():
    with AnswerStore() as store:
        store.put("someone", QUESTION, ANSWER, with_indices=False)
        assert store.get("someone", QUESTION, with_indices=False) == ANSWER


def test_stores_in_memory_share_nothing():
    with AnswerStore() as one, AnswerStore() as other:
        one.put("someone", QUESTION, ANSWER, with_indices=False)
        assert list(other) == []


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    path = tmp_path / "nowhere" / "answers.sqlite"
    with pytest.raises(DataError) as caught:
        AnswerStore(path)
    assert str(caught.value) == (f"answer store {path}: unable to open database file; give another path as the store")


def test_a_file_that_is_no_database_is_an_error(path):
    path.write_text("These are not the answers you are looking for. " * 20)
    with pytest.raises(DataError) as caught:
        AnswerStore(path)
    assert str(caught.value) == f"answer store {path}: file is not a database; give another path as the store"


def test_a_file_that_is_no_database_is_left_as_it_is(path):
    path.write_text("My notes. " * 100)
    with pytest.raises(DataError):
        AnswerStore(path)
    assert path.read_text() == "My notes. " * 100


def test_a_store_of_another_schema_is_an_error(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version=7")
    with pytest.raises(DataError) as caught:
        AnswerStore(path)
    assert str(caught.value) == (
        f"answer store {path}: has schema 7, this version reads 1; give another path as the store"
    )


def test_an_answer_that_cannot_be_written_is_an_error(path, store):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE answers")
    with pytest.raises(DataError) as caught:
        store.put("someone", QUESTION, ANSWER, with_indices=False)
    assert str(caught.value) == f"answer store {path}: no such table: answers; free some space and run again"


def test_a_store_that_cannot_be_read_is_an_error(path, store):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE answers")
    with pytest.raises(DataError, match="no such table: answers"):
        store.get("someone", QUESTION, with_indices=False)


def test_leaving_the_context_closes_the_file(path):
    with AnswerStore(path) as store:
        pass
    with pytest.raises(DataError, match="closed database"):
        store.put("someone", QUESTION, ANSWER, with_indices=False)


@pytest.fixture
def as_nobody(tmp_path):
    """Return what a function says in a process that may not write everywhere."""
    if not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")

    def run(function):
        reading, writing = os.pipe()
        if not (child := os.fork()):
            try:
                if os.geteuid() == 0:
                    os.setuid(65534)
                function()
                said = "nothing"
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writing, said.encode())
            os._exit(0)
        os.waitpid(child, 0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            return pipe.read()

    return run


def test_a_file_that_may_not_be_written_is_an_error_when_it_is_opened(as_nobody):
    with tempfile.TemporaryDirectory() as name:  # whose parents everyone may enter
        folder = Path(name)
        AnswerStore(folder / "answers.sqlite").close()
        (folder / "answers.sqlite").chmod(0o444)
        folder.chmod(0o555)
        assert as_nobody(lambda: AnswerStore(folder / "answers.sqlite")) == (
            f"DataError: answer store {folder}/answers.sqlite: attempt to write a readonly database; "
            "give another path as the store"
        )
        folder.chmod(0o755)


FILL = """
import resource, sys
from clusterllm_plugins.questions import Answer, pair_question
from clusterllm_plugins.store import AnswerStore
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
store, count = AnswerStore(sys.argv[1]), 0
try:
    while True:
        texts = [f"mug {count}", "cup" * 100]
        store.put("someone", pair_question(texts, 0, 1), Answer("yes"), with_indices=False)
        count += 1
finally:
    print(count)
"""


def fill(path, most):
    pytest.importorskip("resource")
    command = [sys.executable, "-c", FILL, str(path), str(most)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.strip(), done.stderr.strip().splitlines()[-1]


def test_a_full_disk_is_an_error_before_anything_is_asked(path):
    assert fill(path, 0) == (
        "",
        f"clusterllm_plugins.errors.DataError: answer store {path}: disk I/O error; give another path as the store",
    )


def test_what_was_stored_before_the_disk_was_full_stays(path):
    count, error = fill(path, 500_000)
    assert error == (
        f"clusterllm_plugins.errors.DataError: answer store {path}: disk I/O error; free some space and run again"
    )
    with AnswerStore(path) as store:
        assert len(list(store)) == int(count) > 20


def test_closing_while_others_write_is_an_error_for_them_only(path):
    store = AnswerStore(path)
    failures = []

    def write():
        try:
            while True:
                store.put("oracle", QUESTION, ANSWER, with_indices=False)
        except DataError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    store.close()
    for thread in threads:
        thread.join()
    assert len(failures) == 4
