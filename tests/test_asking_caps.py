import dataclasses
import threading
import time

import pytest

from asking_kit import QUESTIONS, SPENT, Metered, Scripted, ask, errors, failing_at
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.hookspecs import hookimpl
from clusterllm_plugins.questions import Answer, OracleError, Usage

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
        self.lost = set()
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
            if question.anchor_index % 5 == 4 and question not in self.lost:
                self.lost.add(question)
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


def test_what_has_no_room_waits_for_what_is_in_flight(open_session):
    spent = Answer("yes", usage=Usage(10, 0, 1))

    def reply(question):
        time.sleep(0.02)
        return spent

    oracle = Metered(Usage(100, 0, 1), reply, concurrency=16)
    ask(open_session(oracle, max_tokens=500), QUESTIONS)
    # The last question that is admitted finds 100 tokens free: (500 - 100) / 10 before it, and itself.
    assert len(oracle.asked) == 41


def test_nothing_is_waited_for_where_nothing_is_in_flight(open_session):
    oracle = Metered(Usage(100, 0, 1), lambda question: OracleError("too long"), concurrency=4)
    answers = ask(open_session(oracle, max_tokens=250), QUESTIONS[:6])
    assert errors(answers).count("not asked: the cap of 250 tokens is reached") == 4


def test_waiting_for_room_ends_with_an_error_elsewhere(open_session):
    def reply(question):
        if question == QUESTIONS[0]:
            time.sleep(0.1)
            return OracleError("wrong key", fatal=True)
        return "yes"

    oracle = Metered(Usage(100, 0, 1), reply, concurrency=2)
    with pytest.raises(OracleError, match=r"^wrong key$"):
        ask(open_session(oracle, max_tokens=100), QUESTIONS[:2])
    assert len(oracle.asked) == 1


def test_of_a_batch_as_many_are_asked_as_the_caps_allow(open_session):
    oracle = Metered(Usage(90, 10, 1), batch_size=50)
    answers = ask(open_session(oracle, max_tokens=350), QUESTIONS[:5])
    assert oracle.asked == QUESTIONS[:3]
    assert errors(answers) == [None] * 3 + ["not asked: the cap of 350 tokens is reached"] * 2
