import dataclasses
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

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


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written_is_an_error_when_it_is_opened(path):
    AnswerStore(path).close()
    path.chmod(0o444)
    with pytest.raises(DataError, match="readonly database"):
        AnswerStore(path)
