import dataclasses
import threading
import time

import pytest

from asking_kit import QUESTIONS, SPENT, TEXTS, Metered, Scripted, ask, errors, failing_at, in_turn
from clusterllm_plugins.asking import known_key
from clusterllm_plugins.questions import Answer, OracleError, Usage, choice_question, pair_question

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
