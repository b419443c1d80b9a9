import signal
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from asking_kit import QUESTIONS, SPENT, Scripted, ask, failing_at, in_turn, stored
from clusterllm_plugins.asking import Session
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.questions import Answer, OracleError
from clusterllm_plugins.store import AnswerStore

# Never lose a paid answer.


@pytest.mark.parametrize("batch_size", [1, 5])
def test_each_answer_is_committed_before_the_next_question_is_asked(open_session, path, batch_size):
    committed = []

    def look(question):
        with AnswerStore(path) as other:
            committed.append(len(list(other)))
        return "yes"

    ask(open_session(Scripted(look, batch_size=batch_size)), QUESTIONS[:5])
    assert committed == [0, 1, 2, 3, 4]


def test_a_fatal_error_stops_the_run(open_session):
    oracle = Scripted(failing_at({3: OracleError("the key is wrong", fatal=True)}))
    with pytest.raises(OracleError, match=r"^the key is wrong$"):
        ask(open_session(oracle), QUESTIONS[:10])


def test_what_was_answered_before_a_fatal_error_is_stored(open_session, store):
    with pytest.raises(OracleError):
        ask(open_session(Scripted(failing_at({3: OracleError("wrong key", fatal=True)}))), QUESTIONS[:4])
    assert stored(store) == {0: "yes", 1: "yes", 2: "yes"}


def test_what_was_answered_in_the_batch_of_a_fatal_error_is_stored(open_session, store):
    oracle = Scripted(failing_at({3: OracleError("wrong key", fatal=True)}), batch_size=10)
    with pytest.raises(OracleError):
        ask(open_session(oracle), QUESTIONS[:10])
    assert stored(store) == {0: "yes", 1: "yes", 2: "yes"}


def test_nothing_is_asked_after_a_fatal_error(open_session):
    for attempt in range(10):
        failure = OracleError("the key is wrong", fatal=True)
        oracle = Scripted(failing_at({2: failure}), fingerprint=f"attempt {attempt}")
        with pytest.raises(OracleError):
            ask(open_session(oracle), QUESTIONS[:9])
        assert oracle.asked == QUESTIONS[:3]


def test_what_is_in_flight_at_a_fatal_error_is_awaited_and_stored(open_session, store):
    meeting = threading.Barrier(2)

    def reply(question):
        meeting.wait(timeout=10)
        if question.anchor_index == 0:
            return OracleError("wrong key", fatal=True)
        time.sleep(0.1)
        return "yes"

    with pytest.raises(OracleError, match=r"^wrong key$"):
        ask(open_session(Scripted(reply, concurrency=2)), QUESTIONS[:2])
    assert stored(store) == {1: "yes"}


def test_a_fatal_error_does_not_wait_for_other_retries(store):
    meeting = threading.Barrier(2)

    def reply(question):
        meeting.wait(timeout=10)
        if question.anchor_index == 0:
            return OracleError("wrong key", fatal=True)
        return OracleError("busy", retryable=True, retry_after=2)

    session = Session(Scripted(reply, concurrency=2), plugins=Plugins(discover=False), store=store)
    start = time.monotonic()
    with pytest.raises(OracleError, match=r"^wrong key$"):
        ask(session, QUESTIONS[:2])
    assert time.monotonic() - start < 1.5


def test_a_session_can_go_on_after_a_fatal_error(open_session):
    session = open_session(Scripted(in_turn(OracleError("wrong key", fatal=True), "yes")))
    with pytest.raises(OracleError):
        ask(session, QUESTIONS[:1])
    assert ask(session, QUESTIONS[:1])[0].choice == "yes"


def test_an_unexpected_exception_stops_the_run_and_names_the_oracle(open_session):
    with pytest.raises(OracleError) as caught:
        ask(open_session(Scripted(failing_at({2: ZeroDivisionError("division by zero")}))), QUESTIONS[:5])
    assert str(caught.value) == "oracle 'scripted' failed with ZeroDivisionError: division by zero"
    assert caught.value.fatal


def test_what_was_answered_before_an_unexpected_exception_is_stored(open_session, store):
    with pytest.raises(OracleError):
        ask(open_session(Scripted(failing_at({2: ZeroDivisionError()}))), QUESTIONS[:3])
    assert stored(store) == {0: "yes", 1: "yes"}


def test_an_interrupt_in_the_oracle_stops_the_run(open_session, store):
    with pytest.raises(KeyboardInterrupt):
        ask(open_session(Scripted(failing_at({2: KeyboardInterrupt()}))), QUESTIONS[:3])
    assert stored(store) == {0: "yes", 1: "yes"}


@pytest.fixture
def interrupted(open_session):
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("this system cannot signal a thread")

    once = threading.Lock()

    def reply(question):
        # Not a certain question: threads ask in any order.
        if len(oracle.asked) >= 6 and once.acquire(blocking=False):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.01)
        return "yes"

    oracle = Scripted(reply, concurrency=2)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            ask(open_session(oracle), QUESTIONS)
    finally:
        signal.signal(signal.SIGINT, before)
    return oracle


def test_an_interrupt_at_the_terminal_stops_the_run(interrupted):
    assert len(interrupted.asked) < len(QUESTIONS)


def test_a_second_interrupt_does_not_wait_for_what_is_in_flight(open_session, store, caplog):
    if not hasattr(signal, "pthread_kill"):
        pytest.skip("this system cannot signal a thread")
    goes_on, once, all_here = threading.Event(), threading.Lock(), threading.Barrier(3)

    def reply(question):
        all_here.wait(timeout=10)
        if once.acquire(blocking=False):
            for _ in range(2):
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                time.sleep(0.5)
        goes_on.wait(timeout=10)
        return "yes"

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            ask(open_session(Scripted(reply, concurrency=3)), QUESTIONS)
        assert time.monotonic() - start < 5
        assert stored(store) == {}
    finally:
        goes_on.set()
        signal.signal(signal.SIGINT, before)
    assert caplog.messages == ["stopping: 3 calls are in flight and awaited; Ctrl-C again does not wait"]


def test_all_that_was_asked_before_an_interrupt_is_stored(interrupted, store):
    assert set(stored(store)) == {question.anchor_index for question in interrupted.asked}


def test_after_an_interrupt_only_what_is_missing_is_asked(interrupted, open_session):
    again = Scripted()
    ask(open_session(again), QUESTIONS)
    assert set(again.asked) == set(QUESTIONS) - set(interrupted.asked)


def test_a_store_that_cannot_be_written_stops_the_run(open_session, path):
    def reply(question):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("DROP TABLE answers")
        return "yes"

    oracle = Scripted(reply, batch_size=5)
    with pytest.raises(DataError, match=r"no such table: answers; free some space and run again$"):
        ask(open_session(oracle), QUESTIONS[:5])
    assert len(oracle.asked) == 1


# Failures and retries.


def test_a_retryable_failure_is_retried(open_session):
    oracle = Scripted(in_turn(OracleError("busy", retryable=True), OracleError("busy", retryable=True), "no"))
    assert ask(open_session(oracle), QUESTIONS[:1])[0].choice == "no"


def test_a_failure_that_is_not_retryable_is_not_retried(open_session):
    oracle = Scripted(lambda question: OracleError("too long"))
    assert ask(open_session(oracle), QUESTIONS[:1]) == [Answer(None, error="too long", failed=True)]
    assert len(oracle.asked) == 1


def test_a_failed_question_does_not_stop_the_others(open_session):
    answers = ask(open_session(Scripted(failing_at({1: OracleError("too long")}))), QUESTIONS[:3])
    assert [answer.choice for answer in answers] == ["yes", None, "yes"]


def test_after_all_retries_the_question_abstains_with_the_last_error(open_session):
    busy = [OracleError(f"busy {number}", retryable=True) for number in range(3)]
    answers = ask(open_session(Scripted(in_turn(*busy), max_retries=2)), QUESTIONS[:1])
    assert answers == [Answer(None, error="busy 2", failed=True)]


@pytest.mark.parametrize(("attributes", "attempts"), [({}, 6), ({"max_retries": 2}, 3), ({"max_retries": 0}, 1)])
def test_as_many_retries_as_the_oracle_allows(open_session, attributes, attempts):
    oracle = Scripted(lambda question: OracleError("busy", retryable=True), **attributes)
    ask(open_session(oracle), QUESTIONS[:1])
    assert len(oracle.asked) == attempts


def test_every_retry_is_waited_for(open_session, waits):
    ask(open_session(Scripted(lambda question: OracleError("busy", retryable=True), max_retries=3)), QUESTIONS[:1])
    assert len(waits) == 3


def test_waits_grow_and_are_spread(open_session, waits):
    for number in range(20):
        ask(open_session(Scripted(lambda question: OracleError("busy", retryable=True))), QUESTIONS[number:][:1])
    attempts = [waits[number::5] for number in range(5)]
    for attempt, waited in enumerate(attempts):
        assert all(0 <= wait <= 0.5 * 2**attempt for wait in waited)
        assert max(waited) > 0.5 * 2**attempt / 2 > min(waited)
        assert len(set(waited)) == 20


def test_the_wait_that_the_provider_asks_for_is_kept(open_session, waits):
    failures = (OracleError("busy", retryable=True, retry_after=seconds) for seconds in (7.5, 0.0))
    ask(open_session(Scripted(in_turn(*failures, "yes"))), QUESTIONS[:1])
    assert waits == [7.5, 0.0]


def test_only_what_is_left_of_a_batch_is_asked_again(open_session):
    oracle = Scripted(in_turn("yes", "no", OracleError("busy", retryable=True), "yes", "no"), batch_size=4)
    answers = ask(open_session(oracle), QUESTIONS[:4])
    assert [question.anchor_index for question in oracle.asked] == [0, 1, 2, 2, 3]
    assert [answer.choice for answer in answers] == ["yes", "no", "yes", "no"]


def test_a_failure_is_not_stored(open_session, store):
    ask(open_session(Scripted(failing_at({1: OracleError("too long")}))), QUESTIONS[:3])
    assert stored(store) == {0: "yes", 2: "yes"}


def test_a_failure_is_asked_again_by_the_next_session(open_session):
    ask(open_session(Scripted(failing_at({1: OracleError("too long")}))), QUESTIONS[:3])
    again = Scripted(lambda question: "no")
    answers = ask(open_session(again), QUESTIONS[:3])
    assert (again.asked, answers[1].choice) == ([QUESTIONS[1]], "no")


def test_twenty_failures_in_a_row_stop_the_run(open_session):
    oracle = Scripted(lambda question: OracleError("the line is dead"))
    with pytest.raises(OracleError) as caught:
        ask(open_session(oracle), QUESTIONS)
    assert str(caught.value) == "20 calls in a row failed, the last with: the line is dead"
    assert caught.value.fatal


def test_failures_in_a_row_are_counted_over_several_rounds(open_session):
    session = open_session(Scripted(lambda question: OracleError("the line is dead")))
    ask(session, QUESTIONS[:16])
    with pytest.raises(OracleError, match=r"^20 calls in a row failed"):
        ask(session, QUESTIONS[16:32])


def test_failures_with_answers_in_between_do_not_stop_the_run(open_session):
    lost = {number: OracleError("lost") for number in range(60) if number % 20 != 19}
    answers = ask(open_session(Scripted(failing_at(lost))), QUESTIONS)
    assert [answer.choice for answer in answers].count("yes") == 3


def test_one_failure_of_a_large_batch_does_not_stop_the_run(open_session):
    oracle = Scripted(failing_at({0: OracleError("too long")}), batch_size=30)
    answers = ask(open_session(oracle), QUESTIONS)
    assert [answer.choice for answer in answers[30:]] == ["yes"] * 30


def test_fewer_answers_than_questions_are_a_failure_of_the_rest(open_session, store):
    class Terse(Scripted):
        def answer(self, questions):
            return [Answer("yes")]

    answers = ask(open_session(Terse(batch_size=2)), QUESTIONS[:2])
    assert answers == [
        Answer("yes"),
        Answer(None, error="the oracle gave fewer answers than the 2 questions", failed=True),
    ]
    assert stored(store) == {0: "yes"}


def test_an_inadmissible_choice_abstains_and_was_paid_for(open_session):
    answers = ask(open_session(Scripted(lambda question: Answer("perhaps", usage=SPENT))), QUESTIONS[:1])
    assert answers == [Answer(None, usage=SPENT, error="not an admissible choice: 'perhaps'")]


def test_something_that_is_no_answer_abstains(open_session):
    answers = ask(open_session(Scripted(lambda question: 7)), QUESTIONS[:1])
    assert answers == [Answer(None, error="the oracle gave int instead of an Answer")]
