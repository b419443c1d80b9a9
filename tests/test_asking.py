import dataclasses
import logging
import signal
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from clusterllm_plugins.asking import Session, known_key
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.errors import ClusterLLMError, DataError
from clusterllm_plugins.hookspecs import hookimpl
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.questions import Answer, OracleError, Usage, choice_question, pair_question
from clusterllm_plugins.redaction import Redaction
from clusterllm_plugins.store import AnswerStore

TEXTS = [f"note {number}" for number in range(61)]
QUESTIONS = [pair_question(TEXTS, number, number + 1) for number in range(60)]
SPENT = Usage(10, 1, 1)


class Scripted:
    fingerprint = "scripted"

    def __init__(self, reply=None, **attributes):
        self.reply = reply or (lambda question: "yes")
        self.asked = []
        vars(self).update(attributes)

    def answer(self, questions):
        for question in questions:
            self.asked.append(question)
            reply = self.reply(question)
            if isinstance(reply, BaseException):
                raise reply
            yield Answer(reply, usage=SPENT) if reply is None or isinstance(reply, str) else reply


class Metered(Scripted):
    def __init__(self, worst, reply=None, **attributes):
        super().__init__(reply, **attributes)
        self.worst = worst

    def worst_case(self, question):
        return self.worst


def in_turn(*replies):
    left = list(replies)
    return lambda question: left.pop(0)


def failing_at(failures):
    return lambda question: failures.get(question.anchor_index, "yes")


def stored(store):
    return {question.anchor_index: answer.choice for _, question, answer in store}


def errors(answers):
    return [answer.error for answer in answers]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


@pytest.fixture
def store(path):
    with AnswerStore(path) as store:
        yield store


@pytest.fixture
def waits():
    return []


@pytest.fixture
def open_session(store, waits):
    def make(oracle, *hooks, **settings):
        plugins = Plugins(discover=False)
        for number, hook in enumerate(hooks):
            plugins.register(hook, f"hook-{number}")
        settings = {"store": store, "sleep": waits.append} | settings
        return Session(oracle, plugins=plugins, **settings)

    return make


def ask(session, questions, limit=1000):
    return session.ask(questions, QuestionCap(limit))


# Answers and their order.


def test_no_questions_have_no_answers(open_session):
    assert ask(open_session(Scripted()), []) == []


def test_an_answer_is_what_the_oracle_said(open_session):
    answer = Answer("no", 0.75, Usage(20, 2, 1, 0.5), "reluctantly")
    assert ask(open_session(Scripted(lambda question: answer)), QUESTIONS[:1]) == [answer]


def test_answers_are_in_the_order_of_the_questions_whoever_is_first(open_session):
    def slowest_first(question):
        time.sleep(0.02 * (3 - question.anchor_index % 4))
        return "yes" if question.anchor_index % 3 else "no"

    answers = ask(open_session(Scripted(slowest_first, concurrency=4)), QUESTIONS[:16])
    assert [answer.choice for answer in answers] == ["yes" if number % 3 else "no" for number in range(16)]


def test_answers_to_a_batch_are_in_the_order_of_the_questions(open_session):
    oracle = Scripted(lambda question: "yes" if question.anchor_index % 3 else "no", batch_size=7)
    answers = ask(open_session(oracle), QUESTIONS[:16])
    assert [answer.choice for answer in answers] == ["yes" if number % 3 else "no" for number in range(16)]


def test_an_oracle_may_give_its_answers_as_a_list(open_session):
    class Listing(Scripted):
        def answer(self, questions):
            return [Answer("no") for _ in questions]

    answers = ask(open_session(Listing(batch_size=2)), QUESTIONS[:3])
    assert [answer.choice for answer in answers] == ["no"] * 3


def test_the_same_question_twice_is_asked_once(open_session):
    oracle = Scripted(in_turn("yes", "no"))
    answers = ask(open_session(oracle), [QUESTIONS[0], QUESTIONS[1], QUESTIONS[0]])
    assert [answer.choice for answer in answers] == ["yes", "no", "yes"]


def test_the_same_texts_elsewhere_are_asked_once_where_only_texts_matter(open_session):
    texts = ["mug", "cup", "mug"]
    oracle = Scripted(in_turn("yes", "no"))
    answers = ask(open_session(oracle), [pair_question(texts, 0, 1), pair_question(texts, 2, 1)])
    assert [answer.choice for answer in answers] == ["yes", "yes"]


def test_the_same_texts_elsewhere_are_asked_again_where_indices_matter(open_session):
    texts = ["mug", "cup", "mug"]
    oracle = Scripted(in_turn("yes", "no"), uses_indices=True)
    answers = ask(open_session(oracle), [pair_question(texts, 0, 1), pair_question(texts, 2, 1)])
    assert [answer.choice for answer in answers] == ["yes", "no"]


def test_a_repeat_is_asked_again(open_session):
    oracle = Scripted(in_turn("yes", "no"))
    answers = ask(open_session(oracle), [QUESTIONS[0], dataclasses.replace(QUESTIONS[0], repeat=1)])
    assert [answer.choice for answer in answers] == ["yes", "no"]


# How many at once.


class Watched(Scripted):
    def __init__(self, **attributes):
        super().__init__(**attributes)
        self.batches, self.running, self.peak = [], 0, 0
        self.lock = threading.Lock()

    def answer(self, questions):
        with self.lock:
            self.batches.append(len(questions))
            self.running += 1
            self.peak = max(self.peak, self.running)
        time.sleep(0.01)
        with self.lock:
            self.running -= 1
        return super().answer(questions)


def test_one_question_at_a_time_unless_the_oracle_says_otherwise(open_session):
    oracle = Watched()
    ask(open_session(oracle), QUESTIONS[:4])
    assert (oracle.peak, oracle.batches) == (1, [1, 1, 1, 1])


def test_no_more_threads_than_the_oracle_allows(open_session):
    oracle = Watched(concurrency=3)
    ask(open_session(oracle), QUESTIONS[:20])
    assert oracle.peak <= 3


def test_as_many_threads_as_the_oracle_allows(open_session):
    meeting = threading.Barrier(3)

    def together(question):
        meeting.wait(timeout=10)
        return "yes"

    answers = ask(open_session(Scripted(together, concurrency=3)), QUESTIONS[:6])
    assert [answer.choice for answer in answers] == ["yes"] * 6


def test_no_batch_is_larger_than_the_oracle_allows(open_session):
    oracle = Watched(batch_size=4)
    ask(open_session(oracle), QUESTIONS[:10])
    assert oracle.batches == [4, 4, 2]


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def moments(open_session):
    def record(oracle, count):
        clock, found = Clock(), []
        reply = oracle.reply

        def note_moment(question):
            found.append(clock.now)
            return reply(question)

        oracle.reply = note_moment
        ask(open_session(oracle, clock=clock, sleep=clock.sleep), QUESTIONS[:count])
        return found

    return record


def test_no_minute_has_more_requests_than_the_oracle_allows(moments):
    found = moments(Scripted(requests_per_minute=3), 10)
    assert all(later - earlier >= 60 for earlier, later in zip(found, found[3:], strict=False))


def test_a_limit_of_requests_is_used_up(moments):
    assert moments(Scripted(requests_per_minute=3), 10)[-1] <= 180


def test_retries_count_towards_the_limit_of_requests(moments):
    busy = OracleError("busy", retryable=True, retry_after=0.0)
    found = moments(Scripted(in_turn(busy, busy, "yes"), requests_per_minute=2), 1)
    assert found[2] - found[0] >= 60


def test_no_minute_has_more_tokens_than_the_oracle_allows(moments):
    found = moments(Metered(Usage(90, 10, 1), tokens_per_minute=250), 7)
    assert all(later - earlier >= 60 for earlier, later in zip(found, found[3:], strict=False))


def test_a_limit_of_tokens_is_kept_without_a_worst_case_too(moments):
    spent = Answer("yes", usage=Usage(90, 10, 1))
    found = moments(Scripted(lambda question: spent, tokens_per_minute=200), 4)
    assert found[3] - found[0] >= 60


def test_without_limits_nothing_is_waited_for(moments):
    assert moments(Metered(Usage(90, 10, 1)), 5) == [0.0] * 5


# The cap on distinct questions.


def test_no_more_questions_are_asked_than_the_cap_allows(open_session):
    oracle = Scripted()
    ask(open_session(oracle), QUESTIONS[:5], limit=3)
    assert oracle.asked == QUESTIONS[:3]


def test_a_question_over_the_cap_abstains_and_says_why(open_session):
    answers = ask(open_session(Scripted()), QUESTIONS[:2], limit=1)
    assert answers[1] == Answer(None, error="not asked: the cap of 1 questions is reached")


def test_the_cap_holds_with_many_threads(open_session):
    oracle = Scripted(concurrency=16)
    ask(open_session(oracle), QUESTIONS, limit=25)
    assert len(oracle.asked) == 25


def test_one_cap_holds_over_several_rounds(open_session):
    oracle, cap = Scripted(), QuestionCap(3)
    session = open_session(oracle)
    for start in range(0, 6, 2):
        session.ask(QUESTIONS[start : start + 2], cap)
    assert oracle.asked == QUESTIONS[:3]


def test_the_same_question_twice_counts_once(open_session):
    answers = ask(open_session(Scripted()), [QUESTIONS[0], QUESTIONS[0], QUESTIONS[1]], limit=2)
    assert errors(answers) == [None, None, None]


def test_a_repeat_counts_as_a_question(open_session):
    oracle = Scripted()
    ask(open_session(oracle), [QUESTIONS[0], dataclasses.replace(QUESTIONS[0], repeat=1)], limit=1)
    assert oracle.asked == [QUESTIONS[0]]


def test_a_question_that_was_asked_before_is_admitted_at_the_cap(open_session):
    session, cap = open_session(Scripted()), QuestionCap(1)
    first = session.ask(QUESTIONS[:1], cap)
    assert session.ask(QUESTIONS[:1], cap) == first


def test_a_cap_of_zero_asks_nothing(open_session):
    oracle = Scripted()
    ask(open_session(oracle), QUESTIONS[:3], limit=0)
    assert oracle.asked == []


# Recalled and known answers.


def test_what_was_answered_is_not_asked_again(open_session):
    ask(open_session(Scripted(concurrency=4)), QUESTIONS[:8])
    again = Scripted(lambda question: "no")
    answers = ask(open_session(again), QUESTIONS[:8])
    assert ([answer.choice for answer in answers], again.asked) == (["yes"] * 8, [])


def test_an_answer_of_another_oracle_is_not_recalled(open_session):
    ask(open_session(Scripted()), QUESTIONS[:1])
    (answer,) = ask(open_session(Scripted(lambda question: "no", fingerprint="another")), QUESTIONS[:1])
    assert answer.choice == "no"


def test_a_recalled_answer_counts_as_a_question(open_session):
    ask(open_session(Scripted()), QUESTIONS[:1])
    again = Scripted()
    ask(open_session(again), QUESTIONS[:2], limit=1)
    assert again.asked == []


def test_a_recalled_answer_takes_nothing(open_session):
    ask(open_session(Scripted()), QUESTIONS[:1])
    session = open_session(Scripted())
    ask(session, QUESTIONS[:1])
    assert session.usage == Usage()


def test_a_recalled_answer_needs_no_budget(open_session):
    ask(open_session(Scripted()), QUESTIONS[:1])
    (answer,) = ask(open_session(Metered(Usage(100)), max_tokens=0), QUESTIONS[:1])
    assert answer.choice == "yes"


def test_an_abstention_is_final(open_session):
    ask(open_session(Scripted(lambda question: Answer(None, error="unreadable reply: ''"))), QUESTIONS[:1])
    again = Scripted()
    answers = ask(open_session(again), QUESTIONS[:1])
    assert (errors(answers), again.asked) == (["unreadable reply: ''"], [])


def test_a_known_answer_is_not_asked(open_session):
    oracle = Scripted()
    (answer,) = ask(open_session(oracle, known={known_key(QUESTIONS[0]): Answer("no")}), QUESTIONS[:1])
    assert (answer.choice, oracle.asked) == ("no", [])


def test_a_known_answer_counts_against_no_cap_on_questions(open_session):
    oracle = Scripted()
    ask(open_session(oracle, known={known_key(QUESTIONS[0]): Answer("no")}), QUESTIONS[:3], limit=2)
    assert oracle.asked == QUESTIONS[1:3]


def test_a_known_answer_takes_nothing(open_session):
    session = open_session(Scripted(), known={known_key(QUESTIONS[0]): Answer("no", usage=SPENT)})
    ask(session, QUESTIONS[:1])
    assert session.usage == Usage()


def test_a_known_answer_is_preferred_to_a_recalled_one(open_session):
    ask(open_session(Scripted()), QUESTIONS[:1])
    (answer,) = ask(open_session(Scripted(), known={known_key(QUESTIONS[0]): Answer("no")}), QUESTIONS[:1])
    assert answer.choice == "no"


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

    def reply(question):
        if question.anchor_index == 5:
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
    assert ask(open_session(oracle), QUESTIONS[:1]) == [Answer(None, error="too long")]
    assert len(oracle.asked) == 1


def test_a_failed_question_does_not_stop_the_others(open_session):
    answers = ask(open_session(Scripted(failing_at({1: OracleError("too long")}))), QUESTIONS[:3])
    assert [answer.choice for answer in answers] == ["yes", None, "yes"]


def test_after_all_retries_the_question_abstains_with_the_last_error(open_session):
    busy = [OracleError(f"busy {number}", retryable=True) for number in range(3)]
    answers = ask(open_session(Scripted(in_turn(*busy), max_retries=2)), QUESTIONS[:1])
    assert answers == [Answer(None, error="busy 2")]


@pytest.mark.parametrize(("attributes", "attempts"), [({}, 6), ({"max_retries": 2}, 3), ({"max_retries": 0}, 1)])
def test_as_many_retries_as_the_oracle_allows(open_session, attributes, attempts):
    oracle = Scripted(lambda question: OracleError("busy", retryable=True), **attributes)
    ask(open_session(oracle), QUESTIONS[:1])
    assert len(oracle.asked) == attempts


def test_every_retry_is_waited_for(open_session, waits):
    ask(open_session(Scripted(lambda question: OracleError("busy", retryable=True), max_retries=3)), QUESTIONS[:1])
    assert len(waits) == 3


def test_waits_grow_to_a_limit_and_are_spread(open_session, waits):
    ask(open_session(Scripted(lambda question: OracleError("busy", retryable=True), max_retries=30)), QUESTIONS[:1])
    assert all(0 <= wait <= min(60, 0.5 * 2**attempt) for attempt, wait in enumerate(waits))
    assert len(set(waits[7:])) == 23


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
        Answer(None, error="the oracle gave fewer answers than the 2 questions"),
    ]
    assert stored(store) == {0: "yes"}


def test_an_inadmissible_choice_abstains_and_was_paid_for(open_session):
    answers = ask(open_session(Scripted(lambda question: Answer("perhaps", usage=SPENT))), QUESTIONS[:1])
    assert answers == [Answer(None, usage=SPENT, error="not an admissible choice: 'perhaps'")]


def test_something_that_is_no_answer_abstains(open_session):
    answers = ask(open_session(Scripted(lambda question: 7)), QUESTIONS[:1])
    assert answers == [Answer(None, error="the oracle gave int instead of an Answer")]


# Usage and prices.


def test_usage_is_that_of_all_new_answers(open_session):
    session = open_session(Scripted(concurrency=4))
    ask(session, QUESTIONS[:7])
    ask(session, QUESTIONS[:9])
    assert session.usage == Usage(90, 9, 9)


def test_an_abstention_is_part_of_the_usage(open_session):
    session = open_session(Scripted(lambda question: Answer(None, usage=SPENT)))
    ask(session, QUESTIONS[:2])
    assert session.usage == Usage(20, 2, 2)


class PerToken:
    @hookimpl
    def price_usage(self, usage, oracle):
        return usage.tokens * 0.5 if oracle.fingerprint == "scripted" else None


def test_a_plugin_prices_an_answer(open_session):
    session = open_session(Scripted(), PerToken())
    (answer,) = ask(session, QUESTIONS[:1])
    assert (answer.usage.cost, session.usage.cost) == (5.5, 5.5)


def test_the_price_is_stored_with_the_answer(open_session, store):
    ask(open_session(Scripted(), PerToken()), QUESTIONS[:1])
    assert [answer.usage.cost for _, _, answer in store] == [5.5]


def test_a_price_that_the_oracle_knows_stands(open_session):
    answer = Answer("yes", usage=Usage(10, 1, 1, 0.25))
    assert ask(open_session(Scripted(lambda question: answer), PerToken()), QUESTIONS[:1]) == [answer]


def test_a_cost_is_unknown_where_nobody_knows_prices(open_session):
    session = open_session(Scripted(fingerprint="another"), PerToken())
    ask(session, QUESTIONS[:1])
    assert session.usage == SPENT


def test_a_failing_price_is_logged_once_and_unknown(open_session, caplog):
    class Broken:
        @hookimpl
        def price_usage(self, usage):
            raise LookupError("no table")

    answers = ask(open_session(Scripted(), Broken()), QUESTIONS[:3])
    assert {answer.usage.cost for answer in answers} == {None}
    assert caplog.messages == ["price_usage failed with LookupError: no table; the work goes on"]


# Caps on tokens and money.


@pytest.mark.parametrize("cap", [{"max_tokens": 1000}, {"max_cost": 1.0}])
def test_a_cap_without_a_worst_case_is_an_error(open_session, cap):
    with pytest.raises(ClusterLLMError) as caught:
        open_session(Scripted(), **cap)
    assert str(caught.value) == (
        "max_tokens and max_cost need an oracle that states a worst case (a method worst_case); "
        "Scripted does not: cap max_questions instead"
    )


def test_a_cap_on_money_without_prices_is_an_error_before_anything_is_asked(open_session):
    oracle = Metered(Usage(100, 10, 1))

    def run():
        ask(open_session(oracle, max_cost=1.0), QUESTIONS[:1])

    with pytest.raises(ClusterLLMError) as caught:
        run()
    assert str(caught.value) == (
        "max_cost needs prices, and this oracle's are unknown: "
        "give them as settings of the oracle, or cap max_questions or max_tokens instead"
    )
    assert oracle.asked == []


def test_the_worst_case_of_the_next_question_must_fit(open_session):
    oracle = Metered(Usage(90, 10, 1))
    ask(open_session(oracle, max_tokens=111), QUESTIONS[:5])
    assert oracle.asked == QUESTIONS[:2]


def test_a_question_that_just_fits_is_asked(open_session):
    oracle = Metered(Usage(90, 10, 1))
    ask(open_session(oracle, max_tokens=100), QUESTIONS[:5])
    assert oracle.asked == QUESTIONS[:1]


def test_a_question_over_the_cap_on_tokens_says_so(open_session):
    (answer,) = ask(open_session(Metered(Usage(90, 10, 1)), max_tokens=99), QUESTIONS[:1])
    assert answer == Answer(None, error="not asked: the cap of 99 tokens is reached")


def test_a_question_over_the_cap_on_money_says_so(open_session):
    (answer,) = ask(open_session(Metered(Usage(90, 10, 1, 2.0)), max_cost=1.5), QUESTIONS[:1])
    assert answer == Answer(None, error="not asked: the cap of 1.5 US dollars is reached")


def test_prices_of_plugins_count_towards_the_cap_on_money(open_session):
    oracle = Metered(Usage(90, 10, 1))
    ask(open_session(oracle, PerToken(), max_cost=55.5), QUESTIONS[:5])
    assert oracle.asked == QUESTIONS[:2]


def test_what_was_not_asked_for_a_budget_is_asked_by_a_richer_session(open_session):
    ask(open_session(Metered(Usage(90, 10, 1)), max_tokens=100), QUESTIONS[:3])
    rich = Metered(Usage(90, 10, 1))
    ask(open_session(rich, max_tokens=1000), QUESTIONS[:3])
    assert rich.asked == QUESTIONS[1:3]


def test_a_retry_needs_a_budget_of_its_own(open_session):
    oracle = Metered(Usage(90, 10, 1), lambda question: OracleError("busy", retryable=True))
    (answer,) = ask(open_session(oracle, max_tokens=250), QUESTIONS[:1])
    assert (len(oracle.asked), answer.error) == (2, "not asked: the cap of 250 tokens is reached")


def test_what_a_failed_attempt_may_have_taken_stays_reserved(open_session):
    oracle = Metered(Usage(90, 10, 1), failing_at({0: OracleError("too long")}))
    ask(open_session(oracle, max_tokens=210), QUESTIONS[:5])
    assert oracle.asked == QUESTIONS[:2]


class Ledger(Metered):
    def __init__(self, worst, most, **attributes):
        super().__init__(worst, concurrency=16, **attributes)
        self.most = most
        self.committed, self.peak = 0, 0
        self.lock = threading.Lock()

    def _count(self, change):
        with self.lock:
            self.committed += change
            self.peak = max(self.peak, self.committed)

    def answer(self, questions):
        for question in questions:
            self._count(self.most)
            time.sleep(0.001 * (question.anchor_index % 3))
            if question.anchor_index % 5 == 4:
                raise OracleError("lost", retryable=True)
            share = question.anchor_index % 4 + 1
            spent = Usage(self.worst.input_tokens * share // 4, 0, 1, self.worst.cost and self.worst.cost * share / 4)
            self._count(-self.most + self.most * share / 4)
            yield Answer("yes", usage=spent)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_cap_on_tokens_holds_at_every_moment(open_session, batch_size):
    ledger = Ledger(Usage(100, 0, 1), 100, batch_size=batch_size)
    ask(open_session(ledger, max_tokens=2000), QUESTIONS)
    assert 1000 < ledger.peak <= 2000


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_cap_on_money_holds_at_every_moment(open_session, batch_size):
    ledger = Ledger(Usage(100, 0, 1, 0.5), 0.5, batch_size=batch_size)
    ask(open_session(ledger, max_cost=8.0), QUESTIONS)
    assert 4 < ledger.peak <= 8


# Redaction.


def hide(text):
    return text.replace("note", "***")


def test_nothing_is_asked_where_a_redactor_fails_on_any_question(open_session, store):
    oracle = Scripted()

    def strict(text):
        if text == TEXTS[5]:
            raise ValueError(text)
        return text

    with pytest.raises(ClusterLLMError, match=r"^redactor 'strict' failed with ValueError: nothing was sent$"):
        ask(open_session(oracle, redaction=Redaction([("strict", strict)])), QUESTIONS[:6])
    assert (oracle.asked, list(store)) == ([], [])


def test_the_oracle_gets_redacted_questions(open_session):
    oracle = Scripted()
    ask(open_session(oracle, redaction=Redaction([("hide", hide)])), QUESTIONS[:1])
    assert [question.texts for question in oracle.asked] == [("*** 0", "*** 1")]


def test_the_store_gets_redacted_questions(open_session, store):
    ask(open_session(Scripted(), redaction=Redaction([("hide", hide)])), QUESTIONS[:1])
    assert [question.texts for _, question, _ in store] == [("*** 0", "*** 1")]


def test_no_trace_of_what_was_redacted_is_on_disk(open_session, path, store):
    ask(open_session(Scripted(), redaction=Redaction([("hide", hide)])), QUESTIONS[:3])
    store.close()
    assert all(b"note" not in file.read_bytes() for file in path.parent.iterdir())


def test_plugins_get_redacted_questions(open_session):
    class Curious:
        def __init__(self):
            self.texts = []

        @hookimpl
        def recall_answer(self, question):
            self.texts.append(question.texts)

        @hookimpl
        def answer_received(self, question):
            self.texts.append(question.texts)

    curious = Curious()
    ask(open_session(Scripted(), curious, redaction=Redaction([("hide", hide)])), QUESTIONS[:1])
    assert curious.texts == [("*** 0", "*** 1")] * 2


def test_the_worst_case_is_that_of_the_redacted_question(open_session):
    class Curious(Metered):
        def worst_case(self, question):
            assert "note" not in question.anchor
            return self.worst

    (answer,) = ask(
        open_session(Curious(Usage(90, 10)), max_tokens=100, redaction=Redaction([("hide", hide)])), QUESTIONS[:1]
    )
    assert answer.choice == "yes"


def test_the_transcript_holds_redacted_questions(open_session):
    session = open_session(Scripted(), redaction=Redaction([("hide", hide)]))
    ask(session, QUESTIONS[:1])
    assert [question.texts for question, _ in session.transcript] == [("*** 0", "*** 1")]


# Plugins' hooks.


class Remembering:
    def __init__(self, answer):
        self.answer = answer

    @hookimpl
    def recall_answer(self, question, oracle):
        return self.answer


def test_what_a_plugin_recalls_is_not_asked(open_session):
    oracle = Scripted()
    answers = ask(open_session(oracle, Remembering(Answer("no"))), QUESTIONS[:1])
    assert (answers, oracle.asked) == ([Answer("no")], [])


def test_a_plugin_is_asked_before_the_store(open_session):
    ask(open_session(Scripted()), QUESTIONS[:1])
    assert ask(open_session(Scripted(), Remembering(Answer("no"))), QUESTIONS[:1])[0].choice == "no"


def test_where_a_plugin_recalls_nothing_the_next_one_is_asked(open_session):
    session = open_session(Scripted(), Remembering(Answer("no")), Remembering(None))
    assert ask(session, QUESTIONS[:1])[0].choice == "no"


def test_what_a_plugin_recalls_counts_as_a_question(open_session):
    answers = ask(open_session(Scripted(), Remembering(Answer("no"))), QUESTIONS[:2], limit=1)
    assert errors(answers) == [None, "not asked: the cap of 1 questions is reached"]


def test_what_a_plugin_recalls_takes_nothing(open_session):
    session = open_session(Scripted(), Remembering(Answer("no", usage=SPENT)))
    ask(session, QUESTIONS[:1])
    assert session.usage == Usage()


def test_an_inadmissible_choice_that_a_plugin_recalls_is_not_passed_on(open_session):
    (answer,) = ask(open_session(Scripted(), Remembering(Answer("perhaps"))), QUESTIONS[:1])
    assert answer.choice in ("yes", None)


def test_a_plugin_that_fails_to_recall_is_logged_once_and_the_oracle_is_asked(open_session, caplog):
    class Forgetful:
        @hookimpl
        def recall_answer(self, question):
            raise LookupError("no cache")

    answers = ask(open_session(Scripted(), Forgetful()), QUESTIONS[:3])
    assert [answer.choice for answer in answers] == ["yes"] * 3
    assert caplog.messages == ["recall_answer failed with LookupError: no cache; the work goes on"]


class Observer:
    def __init__(self):
        self.seen = []

    @hookimpl
    def answer_received(self, question, answer, oracle):
        self.seen.append((question, answer, oracle))


class BrokenObserver:
    @hookimpl
    def answer_received(self, answer):
        raise OSError("disk full")


def test_an_observer_sees_every_new_answer(open_session):
    oracle, observer = Scripted(), Observer()
    answers = ask(open_session(oracle, observer), QUESTIONS[:3])
    assert observer.seen == [(QUESTIONS[number], answers[number], oracle) for number in range(3)]


def test_an_observer_sees_an_abstention(open_session):
    observer = Observer()
    ask(open_session(Scripted(lambda question: None), observer), QUESTIONS[:1])
    assert [answer for _, answer, _ in observer.seen] == [Answer(None, usage=SPENT)]


def test_an_observer_sees_no_recalled_known_failed_or_refused_answer(open_session):
    ask(open_session(Scripted()), QUESTIONS[:1])
    observer = Observer()
    oracle = Scripted(failing_at({2: OracleError("too long")}))
    session = open_session(oracle, observer, known={known_key(QUESTIONS[1]): Answer("no")})
    ask(session, QUESTIONS[:4], limit=2)
    assert observer.seen == []


def test_an_answer_is_stored_before_it_is_observed(open_session, path):
    class Looking:
        def __init__(self):
            self.found = []

        @hookimpl
        def answer_received(self, question):
            with AnswerStore(path) as other:
                self.found.append(other.get("scripted", question, with_indices=False))

    looking = Looking()
    answers = ask(open_session(Scripted(), looking), QUESTIONS[:2])
    assert looking.found == answers


def test_a_failing_observer_does_not_stop_the_work(open_session):
    answers = ask(open_session(Scripted(concurrency=4), BrokenObserver()), QUESTIONS[:8])
    assert [answer.choice for answer in answers] == ["yes"] * 8


def test_a_failing_observer_is_logged_once(open_session, caplog):
    ask(open_session(Scripted(concurrency=4), BrokenObserver()), QUESTIONS[:8])
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, "answer_received of plugin 'hook-0' failed with OSError: disk full; the work goes on")
    ]


def test_a_failing_observer_does_not_keep_others_from_observing(open_session):
    before, after = Observer(), Observer()
    ask(open_session(Scripted(), before, BrokenObserver(), after), QUESTIONS[:2])
    assert (len(before.seen), len(after.seen)) == (2, 2)


# Transcript and tally.


@pytest.fixture
def mixed(open_session):
    ask(open_session(Scripted()), QUESTIONS[3:4])
    oracle = Scripted(failing_at({0: "no", 1: None, 2: OracleError("too long")}))
    session = open_session(oracle, known={known_key(QUESTIONS[4]): Answer("no")})
    answers = ask(session, [QUESTIONS[number] for number in (0, 1, 2, 3, 4, 5)], limit=4)
    return session, answers


def test_the_transcript_has_all_that_was_asked_or_recalled_in_order(mixed):
    session, answers = mixed
    assert session.transcript == [(QUESTIONS[number], answers[number]) for number in range(4)]


def test_the_transcript_leaves_out_what_the_budget_refused(open_session):
    session = open_session(Metered(Usage(90, 10, 1)), max_tokens=100)
    answers = ask(session, QUESTIONS[:3])
    assert session.transcript == [(QUESTIONS[0], answers[0])]


def test_the_transcript_has_a_question_once(open_session):
    session = open_session(Scripted())
    answers = ask(session, [QUESTIONS[0], QUESTIONS[1], QUESTIONS[0]])
    assert session.transcript == [(QUESTIONS[0], answers[0]), (QUESTIONS[1], answers[1])]


def test_the_transcript_grows_round_by_round(open_session):
    session = open_session(Scripted(concurrency=4))
    answers = [*ask(session, QUESTIONS[:5]), *ask(session, QUESTIONS[5:9])]
    assert session.transcript == list(zip(QUESTIONS[:9], answers, strict=True))


def test_the_tally_says_where_the_answers_came_from(mixed):
    session, _ = mixed
    assert session.tally.to_dict() == {
        "asked": 2,
        "recalled": 1,
        "known": 1,
        "abstained": 2,
        "failed": 1,
        "refused": 1,
    }


def test_the_tally_counts_what_the_budget_refused(open_session):
    session = open_session(Metered(Usage(90, 10, 1)), max_tokens=100)
    ask(session, QUESTIONS[:3])
    assert (session.tally.asked, session.tally.refused) == (1, 2)


# Preparation.


def test_an_oracle_that_wants_texts_and_vectors_gets_them(open_session):
    class Preparing(Scripted):
        def prepare(self, texts, embeddings):
            self.prepared = texts, embeddings

    oracle, vectors = Preparing(), object()
    open_session(oracle).prepare(TEXTS, vectors)
    assert oracle.prepared == (TEXTS, vectors)


def test_an_oracle_without_preparation_is_not_prepared(open_session):
    session = open_session(Scripted())
    session.prepare(TEXTS, None)
    assert ask(session, QUESTIONS[:1])[0].choice == "yes"


# What is the same question.


def test_known_answers_are_found_by_indices_whatever_the_instruction():
    instructed = dataclasses.replace(QUESTIONS[0], instruction="by colour")
    assert known_key(instructed) == known_key(QUESTIONS[0])


@pytest.mark.parametrize(
    "other",
    [
        QUESTIONS[1],
        pair_question(TEXTS, 1, 0),
        dataclasses.replace(QUESTIONS[0], repeat=1),
        choice_question(TEXTS, 0, [[1], [2]], none=True),
    ],
)
def test_known_answers_of_other_questions_are_not_found(other):
    assert known_key(other) != known_key(QUESTIONS[0])


def test_choices_with_and_without_none_are_known_apart():
    keys = {known_key(choice_question(TEXTS, 0, [[1], [2]], none=none)) for none in (True, False)}
    assert len(keys) == 2
