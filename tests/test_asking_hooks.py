import logging

import pytest

from asking_kit import QUESTIONS, SPENT, TEXTS, Metered, Scripted, ask, errors, failing_at
from clusterllm_plugins.asking import known_key
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.hookspecs import hookimpl
from clusterllm_plugins.questions import Answer, OracleError, Usage
from clusterllm_plugins.redaction import Redaction
from clusterllm_plugins.store import AnswerStore

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
