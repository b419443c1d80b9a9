"""What happens where every call fails: a pause, one call that finds out, and an end."""

import itertools
import threading
import time

import pytest

from asking_kit import QUESTIONS, Metered, Scripted, ask, errors, in_turn, stored
from clusterllm_plugins.circuit import FIRST_PAUSE, LONGEST_PAUSE, OPENS_AFTER
from clusterllm_plugins.questions import OracleError, Usage

DOWN = OracleError("down", retryable=True)


class Line:
    """An oracle that does not answer before it is up again, and the time that passes meanwhile."""

    def __init__(self, up_again):
        self.now, self.up_again = 0.0, up_again
        self.lock = threading.Lock()
        self.calls = []  # when

    def sleep(self, seconds):
        with self.lock:
            self.now += seconds
        time.sleep(0.005)  # others come to wait, too

    def oracle(self, **attributes):
        def reply(question):
            self.calls.append(self.now)
            return DOWN if self.now < self.up_again else "yes"

        return Scripted(reply, **attributes)


def test_an_outage_costs_no_question_its_retries(open_session):
    line = Line(up_again=100)
    answers = ask(open_session(line.oracle(concurrency=16), sleep=line.sleep), QUESTIONS)
    assert errors(answers) == [None] * len(QUESTIONS)


def test_in_an_outage_one_call_at_a_time_is_made(open_session):
    running, peak = 0, []
    line = Line(up_again=60)
    lock = threading.Lock()

    def reply(question):
        nonlocal running
        with lock:
            running += 1
            if 10 < line.now < line.up_again:  # after the calls that opened it
                peak.append(running)
            line.calls.append(line.now)
        time.sleep(0.002)
        with lock:
            running -= 1
        return DOWN if line.now < line.up_again else "yes"

    ask(open_session(Scripted(reply, concurrency=8), sleep=line.sleep), QUESTIONS)
    assert set(peak) == {1}


def test_pauses_double_up_to_a_limit(open_session, waits):
    with pytest.raises(OracleError):
        ask(open_session(Scripted(lambda question: DOWN, max_retries=100)), QUESTIONS[:1])
    pauses = waits[OPENS_AFTER - 1 :]
    assert pauses == [min(FIRST_PAUSE * 2**number, LONGEST_PAUSE) for number in range(len(pauses))]


def test_a_pause_is_as_long_as_the_provider_asks_for(open_session, waits):
    busy = OracleError("busy", retryable=True, retry_after=20)
    ask(open_session(Scripted(in_turn(*[busy] * OPENS_AFTER, "yes"), max_retries=10)), QUESTIONS[:1])
    assert waits[-1] == 20


def test_after_an_answer_nothing_is_waited_for(open_session, waits):
    oracle = Scripted(in_turn(*[DOWN] * OPENS_AFTER, *["yes"] * 30), max_retries=10)
    ask(open_session(oracle), QUESTIONS[:30])
    assert len(waits) == OPENS_AFTER


def test_pauses_begin_anew_after_an_answer(open_session, waits):
    once = [*[DOWN] * (OPENS_AFTER + 2), "yes"]
    ask(open_session(Scripted(in_turn(*once, *once), max_retries=20)), QUESTIONS[:2])
    assert waits[-3:] == [1.0, 2.0, 4.0]
    assert len([wait for wait in waits if wait == 4.0]) == 2


def test_failures_with_answers_in_between_open_nothing(open_session, waits):
    turns = itertools.cycle([DOWN, DOWN, DOWN, "yes"])
    ask(open_session(Scripted(lambda question: next(turns))), QUESTIONS)
    assert all(wait not in (1.0, 2.0) for wait in waits)


def test_an_outage_that_does_not_pass_ends_the_run_and_loses_nothing(open_session, store):
    oracle = Scripted(lambda question: "yes" if question in QUESTIONS[:5] else DOWN)
    with pytest.raises(OracleError) as caught:
        ask(open_session(oracle), QUESTIONS)
    assert str(caught.value) == "no answer for 603 s: down; the same run goes on later, no answer is lost"
    assert caught.value.fatal
    assert len(stored(store)) == 5


def test_the_oracle_says_how_long_an_outage_is_waited_for(open_session, waits):
    with pytest.raises(OracleError, match=r"^no answer for 7 s: down"):
        ask(open_session(Scripted(lambda question: DOWN, patience=5)), QUESTIONS)
    assert waits[-3:] == [1.0, 2.0, 4.0]


def test_a_provider_that_asks_for_too_long_a_wait_ends_the_run(open_session, waits):
    tomorrow = OracleError("quota used up", retryable=True, retry_after=86_400)
    with pytest.raises(OracleError, match=r"^86400 s are to be waited: quota used up; the same run goes on later"):
        ask(open_session(Scripted(lambda question: tomorrow)), QUESTIONS[:1])
    assert waits == []


def test_an_oracle_that_allows_no_retries_is_not_waited_for(open_session, waits):
    with pytest.raises(OracleError, match=r"^20 calls in a row failed"):
        ask(open_session(Scripted(lambda question: DOWN, max_retries=0)), QUESTIONS)
    assert waits == []


def test_a_failure_that_lasts_is_not_waited_for(open_session, waits):
    ask(open_session(Scripted(lambda question: OracleError("too long"))), QUESTIONS[:19])
    assert waits == []


def test_it_is_said_once(open_session, caplog):
    line = Line(up_again=20)
    ask(open_session(line.oracle(concurrency=4), sleep=line.sleep), QUESTIONS)
    assert caplog.messages == ["8 calls in a row failed, the last with: down; pausing"]


def test_a_stopped_run_does_not_wait_for_the_pause(open_session):
    halt = threading.Event()
    session = open_session(Scripted(lambda question: DOWN, concurrency=16, max_retries=9), halt=halt, sleep=None)
    threading.Timer(0.5, halt.set).start()
    start = time.monotonic()
    with pytest.raises(OracleError, match=r"^stopped$"):
        ask(session, QUESTIONS)
    assert time.monotonic() - start < 5


def test_what_an_outage_may_have_cost_is_little(open_session):
    line = Line(up_again=100)
    oracle = Metered(Usage(100, 0, 1), line.oracle().reply, concurrency=16)
    session = open_session(oracle, sleep=line.sleep, max_tokens=100_000)
    ask(session, QUESTIONS)
    # The calls that opened it and those in flight then, and one after each pause up to 100 seconds.
    assert sum(moment < line.up_again for moment in line.calls) <= OPENS_AFTER + 16 + 8


def test_a_run_that_is_stopped_between_two_questions_says_so(open_session):
    halt = threading.Event()

    def reply(question):
        if question == QUESTIONS[5]:
            halt.set()
        return "yes"

    with pytest.raises(OracleError, match=r"^stopped$"):
        ask(open_session(Scripted(reply), halt=halt), QUESTIONS)
