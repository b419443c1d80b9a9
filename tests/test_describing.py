import sqlite3
import threading
from contextlib import closing

import pytest

from asking_kit import QUESTIONS, SPENT, Scripted, ask, in_turn
from clusterllm_plugins.asking import GIVE_UP_AFTER
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.describing import Description
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.hookspecs import hookimpl
from clusterllm_plugins.prompts import PromptedOracle, render_description
from clusterllm_plugins.questions import Answer, Completion, OracleError, Usage
from clusterllm_plugins.redaction import Redaction
from clusterllm_plugins.store import AnswerStore

TEA, RAIN, WOOL = ("green tea", "mint tea"), ("rain again", "more rain"), ("wool coat", "wool hat")
GROUPS = [TEA, RAIN, WOOL]


class Namer(Scripted):
    """Calls a group by its first text in capitals, unless ``says`` knows better."""

    def __init__(self, says=None, **attributes):
        super().__init__(**attributes)
        self.says = says or (lambda texts: texts[0].upper())
        self.groups = []

    def describe(self, texts):
        self.groups.append(texts)
        said = self.says(texts)
        if isinstance(said, BaseException):
            raise said
        return Completion(said, SPENT) if isinstance(said, str) else said


class Measured(Namer):
    """Takes a hundred tokens at most for a question or a name, and says so."""

    worst = Usage(90, 10, 1)

    def worst_case(self, question):
        return self.worst

    def worst_case_of(self, prompt):
        return self.worst


def describe(session, groups=GROUPS, limit=100):
    return session.describe(groups, QuestionCap(limit))


def busy():
    return OracleError("busy", retryable=True)


def failing_for(group, error):
    return lambda texts: error if texts == group else texts[0].upper()


# What the oracle is asked, and what it calls a group.


def test_each_group_is_called_what_the_oracle_calls_it(open_session):
    assert describe(open_session(Namer())) == ["GREEN TEA", "RAIN AGAIN", "WOOL COAT"]


def test_names_are_in_the_order_of_the_groups_whoever_is_first(open_session):
    last_is_done = threading.Event()

    def first_waits(texts):
        if texts == WOOL:
            last_is_done.set()
        else:
            last_is_done.wait(timeout=10)
        return texts[0].upper()

    assert describe(open_session(Namer(first_waits, concurrency=3))) == ["GREEN TEA", "RAIN AGAIN", "WOOL COAT"]


def test_a_name_is_read_out_of_the_reply(open_session):
    assert describe(open_session(Namer(lambda texts: 'Name: "Hot drinks".')), [TEA]) == ["Hot drinks"]


def test_an_oracle_that_cannot_describe_gives_no_names(open_session):
    assert describe(open_session(Scripted())) == [None, None, None]


def test_an_empty_group_is_not_asked_about(open_session):
    oracle = Namer()
    assert describe(open_session(oracle), [(), TEA]) == [None, "GREEN TEA"]
    assert oracle.groups == [TEA]


def test_no_groups_have_no_names(open_session):
    assert describe(open_session(Namer()), []) == []


def test_the_same_group_twice_is_asked_about_once(open_session):
    oracle = Namer()
    assert describe(open_session(oracle), [TEA, RAIN, list(TEA)]) == ["GREEN TEA", "RAIN AGAIN", "GREEN TEA"]
    assert oracle.groups == [TEA, RAIN]


def test_a_reply_that_holds_no_name_is_none(open_session):
    assert describe(open_session(Namer(lambda texts: "???"))) == [None, None, None]


def test_something_else_than_a_completion_is_none(open_session):
    assert describe(open_session(Namer(lambda texts: 7)), [TEA]) == [None]


def test_a_completion_without_a_text_is_none(open_session):
    assert describe(open_session(Namer(lambda texts: Completion(None))), [TEA]) == [None]


def test_a_prompted_oracle_is_asked_without_choices(open_session):
    class Prompted(PromptedOracle):
        fingerprint = "prompted"

        def complete(self, prompt, choices):
            return Completion("Hot drinks" if (prompt, choices) == (render_description(TEA), ()) else "")

    assert describe(open_session(Prompted()), [TEA]) == ["Hot drinks"]


# Redaction.


def hide(text):
    return text.replace("tea", "***")


def test_the_oracle_gets_redacted_texts(open_session):
    oracle = Namer()
    describe(open_session(oracle, redaction=Redaction([("hide", hide)])), [TEA])
    assert oracle.groups == [("green ***", "mint ***")]


def test_no_trace_of_what_was_redacted_is_on_disk(open_session, path, store):
    describe(open_session(Namer(), redaction=Redaction([("hide", hide)])), [TEA])
    store.close()
    assert all(b"tea" not in file.read_bytes().lower() for file in path.parent.iterdir())


def test_nothing_is_asked_where_a_redactor_fails_on_any_text(open_session):
    oracle = Namer()
    with pytest.raises(ClusterLLMError, match="nothing was sent"):
        describe(open_session(oracle, redaction=Redaction([("strict", lambda text: text.index("tea") and text)])))
    assert oracle.groups == []


# Caps.


def test_a_group_over_the_cap_has_no_name(open_session):
    oracle = Namer()
    assert describe(open_session(oracle), limit=2) == ["GREEN TEA", "RAIN AGAIN", None]
    assert oracle.groups == [TEA, RAIN]


def test_a_group_counts_once_against_the_cap(open_session):
    session, cap = open_session(Namer()), QuestionCap(1)
    session.describe([TEA], cap)
    assert session.describe([TEA, RAIN], cap) == ["GREEN TEA", None]


def test_names_and_questions_may_share_a_cap(open_session):
    session, cap = open_session(Namer()), QuestionCap(2)
    session.ask(QUESTIONS[:1], cap)
    assert session.describe(GROUPS, cap) == ["GREEN TEA", None, None]


def test_a_name_whose_worst_case_does_not_fit_is_not_asked_for(open_session):
    oracle = Measured()
    assert describe(open_session(oracle, max_tokens=115)) == ["GREEN TEA", "RAIN AGAIN", None]  # 11 tokens a name
    assert oracle.groups == [TEA, RAIN]


def test_names_and_questions_share_the_cap_on_tokens(open_session):
    session = open_session(Measured(), max_tokens=110)
    ask(session, QUESTIONS[:1])
    assert describe(session) == [None, None, None]


def test_a_retry_needs_a_budget_of_its_own(open_session):
    oracle = Measured(lambda texts: busy())
    assert describe(open_session(oracle, max_tokens=250), [TEA]) == [None]
    assert len(oracle.groups) == 2


def test_the_cap_on_money_holds(open_session):
    oracle = Measured(lambda texts: Completion("tea", Usage(10, 1, 1, 0.5)), worst=Usage(90, 10, 1, 2.0))
    describe(open_session(oracle, max_cost=2.5))
    assert len(oracle.groups) == 2


def test_the_worst_case_is_that_of_the_prompt(open_session):
    class Curious(Measured):
        def worst_case_of(self, prompt):
            return self.worst if prompt == render_description(TEA) else Usage(1000)

    assert describe(open_session(Curious(), max_tokens=100), [TEA]) == ["GREEN TEA"]


def test_without_a_worst_case_of_names_none_is_asked_for_under_a_cap(open_session):
    class Reticent(Namer):
        def worst_case(self, question):
            return Usage(1, 1, 1)

    oracle = Reticent()
    assert describe(open_session(oracle, max_tokens=10_000)) == [None, None, None]
    assert oracle.groups == []


def test_without_prices_none_is_asked_for_under_a_cap_on_money(open_session):
    oracle = Measured()
    assert describe(open_session(oracle, max_cost=10.0)) == [None, None, None]
    assert oracle.groups == []


def test_without_prices_names_are_asked_for_under_a_cap_on_tokens(open_session):
    assert describe(open_session(Measured(), max_tokens=1000), [TEA]) == ["GREEN TEA"]


def price_of_tokens(usage):
    return pytest.approx((usage.input_tokens * 2 + usage.output_tokens * 50) / 1e6)


def test_openai_with_prices_states_one_for_a_name():
    pytest.importorskip("openai")
    from clusterllm_oracles.openai import OpenAIOracle

    worst = OpenAIOracle(input_price=2.0, output_price=50.0).worst_case_of(render_description(TEA))
    assert worst.cost == price_of_tokens(worst)


def test_haystack_with_prices_states_one_for_a_name():
    pytest.importorskip("haystack")
    from clusterllm_oracles.haystack import HaystackOracle

    class Silent:
        def run(self, messages):
            return {"replies": []}

    worst = HaystackOracle(Silent(), input_price=2.0, output_price=50.0).worst_case_of(render_description(TEA))
    assert worst.cost == price_of_tokens(worst)


# The store.


def test_a_name_is_recalled_by_the_next_session(open_session):
    describe(open_session(Namer()))
    again = Namer()
    assert describe(open_session(again)) == ["GREEN TEA", "RAIN AGAIN", "WOOL COAT"]
    assert again.groups == []


def test_a_recalled_name_counts_against_the_cap(open_session):
    describe(open_session(Namer()))
    assert describe(open_session(Namer()), limit=1) == ["GREEN TEA", None, None]


def test_a_recalled_name_takes_no_budget(open_session):
    describe(open_session(Measured()))
    assert describe(open_session(Measured(), max_tokens=0)) == ["GREEN TEA", "RAIN AGAIN", "WOOL COAT"]


def test_another_oracle_is_asked_again(open_session):
    describe(open_session(Namer()))
    other = Namer(fingerprint="another")
    describe(open_session(other))
    assert other.groups == GROUPS


def test_each_name_is_committed_before_the_next_is_asked_for(open_session, path):
    committed = []

    def look(texts):
        with closing(sqlite3.connect(path)) as other:
            committed.append(other.execute("SELECT count(*) FROM descriptions").fetchone()[0])
        return "a name"

    describe(open_session(Namer(look, batch_size=8)))
    assert committed == [0, 1, 2]


def test_a_reply_that_holds_no_name_is_not_asked_for_again(open_session):
    describe(open_session(Namer(lambda texts: "???")), [TEA])
    again = Namer()
    assert describe(open_session(again), [TEA]) == [None]
    assert again.groups == []


def test_a_name_is_no_answer_to_a_question(open_session, store):
    describe(open_session(Namer()))
    assert list(store) == []


def test_a_store_from_before_there_were_names_gets_a_table(path):
    AnswerStore(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE descriptions")
    with AnswerStore(path) as store:
        store.put("someone", Description(TEA), Answer("tea"), with_indices=False)
        assert store.get("someone", Description(TEA), with_indices=False) == Answer("tea")


# Failures.


def test_what_fails_in_a_retryable_way_is_asked_again(open_session):
    oracle = Namer(in_turn(busy(), busy(), "Hot drinks"))
    assert describe(open_session(oracle), [TEA]) == ["Hot drinks"]


def test_a_group_that_fails_has_no_name(open_session):
    oracle = Namer(failing_for(RAIN, OracleError("too long")))
    assert describe(open_session(oracle)) == ["GREEN TEA", None, "WOOL COAT"]


def test_a_group_that_fails_takes_no_other_with_it(open_session):
    oracle = Namer(failing_for(RAIN, OracleError("too long")), batch_size=8)
    assert describe(open_session(oracle)) == ["GREEN TEA", None, "WOOL COAT"]


def test_a_group_that_failed_is_asked_about_by_the_next_session(open_session):
    describe(open_session(Namer(failing_for(RAIN, OracleError("too long")))))
    again = Namer()
    assert describe(open_session(again)) == ["GREEN TEA", "RAIN AGAIN", "WOOL COAT"]
    assert again.groups == [RAIN]


def test_a_fatal_error_is_raised(open_session):
    with pytest.raises(OracleError, match=r"^the key is wrong$"):
        describe(open_session(Namer(failing_for(RAIN, OracleError("the key is wrong", fatal=True)))))


def test_an_unexpected_exception_is_raised_and_names_the_oracle(open_session):
    with pytest.raises(OracleError, match=r"^oracle 'scripted' failed with ZeroDivisionError: by zero$"):
        describe(open_session(Namer(lambda texts: ZeroDivisionError("by zero"))))


def test_names_that_were_had_before_a_fatal_error_are_stored(open_session):
    with pytest.raises(OracleError):
        describe(open_session(Namer(failing_for(WOOL, OracleError("wrong key", fatal=True)))))
    again = Namer()
    describe(open_session(again))
    assert again.groups == [WOOL]


def test_many_failures_in_a_row_end_the_naming_and_not_the_run(open_session):
    groups = [(f"note {number}",) for number in range(GIVE_UP_AFTER + 5)]
    oracle = Namer(lambda texts: OracleError("lost"))
    assert describe(open_session(oracle), groups) == [None] * len(groups)
    assert len(oracle.groups) == GIVE_UP_AFTER


def test_a_failure_ends_the_run_where_the_oracle_wants_it(open_session):
    with pytest.raises(OracleError, match=r"^too long$"):
        describe(open_session(Namer(failing_for(RAIN, OracleError("too long")), raise_on_failure=True)))


# What is counted, and who is told.


def test_usage_is_that_of_names_too(open_session):
    session = open_session(Namer())
    ask(session, QUESTIONS[:2])
    describe(session)
    assert session.usage == SPENT + SPENT + SPENT + SPENT + SPENT


def test_a_plugin_prices_a_name(open_session):
    class PerToken:
        @hookimpl
        def price_usage(self, usage):
            return usage.tokens * 0.5

    session = open_session(Namer(), PerToken())
    describe(session, [TEA])
    assert session.usage.cost == 5.5


def test_names_are_no_part_of_the_transcript(open_session):
    session = open_session(Namer())
    describe(session)
    assert session.transcript == []


def test_names_are_counted_apart_from_questions(open_session):
    session = open_session(Namer(failing_for(RAIN, OracleError("too long"))))
    describe(session)
    assert (session.naming.asked, session.naming.failed, session.tally.asked, session.tally.failed) == (2, 1, 0, 0)


def test_plugins_are_asked_and_told_about_questions_only(open_session):
    class Curious:
        def __init__(self):
            self.seen = []

        @hookimpl
        def recall_answer(self, question):
            self.seen.append(question)

        @hookimpl
        def answer_received(self, question):
            self.seen.append(question)

    curious = Curious()
    describe(open_session(Namer(), curious))
    assert curious.seen == []


def test_names_keep_to_the_rate_limit_of_the_oracle(open_session):
    waits = []
    session = open_session(Namer(requests_per_minute=60), clock=lambda: 0.0, sleep=waits.append)
    describe(session)
    assert waits == [1.0, 2.0]


# The perspective.


class Perspective(Namer):
    def describe(self, texts, instruction=None):
        return Completion(f"{texts[0]} {instruction}", SPENT)


def test_the_perspective_reaches_an_oracle_that_takes_it(open_session):
    named = open_session(Perspective()).describe([TEA], QuestionCap(1), instruction="by taste")
    assert named == ["green tea by taste"]


def test_an_oracle_that_takes_texts_only_names_without_the_perspective(open_session, store):
    assert open_session(Namer()).describe([TEA], QuestionCap(1), instruction="by taste") == ["GREEN TEA"]
    assert [described.instruction for _, described, _ in store.names()] == [None]


def test_another_perspective_is_asked_anew_and_none_finds_what_was_stored(open_session, store):
    store.put("scripted", Description(TEA), Answer("Old name"), with_indices=False)
    assert open_session(Perspective()).describe([TEA], QuestionCap(1)) == ["Old name"]
    assert open_session(Perspective()).describe([TEA], QuestionCap(1), instruction="x") == ["green tea x"]


def test_the_key_of_a_name_without_a_perspective_is_as_it_ever_was():
    assert Description(("tea",)).canonical() == '{"kind":"description","texts":["tea"]}'


def test_the_prompt_says_the_perspective():
    first = "Give a group of texts a short name that says what they have in common"
    assert render_description(TEA, "by taste").startswith(f"{first} by taste.\n")
    assert render_description(TEA).startswith(f"{first}.\n")


def test_names_are_counted_beside_the_questions(open_session):
    session = open_session(Namer())
    describe(session)
    assert session.counts["names"] == 3
