import io

import pytest

import clusterllm_oracles
from asking_kit import ask, stored
from clusterllm_oracles.human import HumanOracle
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.questions import Answer, OracleError, Usage, choice_question, pair_question, triplet_question
from clusterllm_plugins.testing import check_oracle

FREE = Usage(cost=0.0)
TEXTS = ["The kettle leaks", "Water drips from my kettle", "Die Lampe flackert", "灯太暗了", "A bench", "A chair"]
PAIRS = [pair_question(TEXTS, number, number + 1) for number in range(4)]
TRIPLET = triplet_question(TEXTS, 0, 1, 2, "in terms of the appliance")
WITH_NONE = choice_question(TEXTS, 0, [[1], [2, 3]], none=True)
WORDS = [f"word {number}" for number in range(13)]
TWELVE = choice_question(WORDS, 0, [[number] for number in range(1, 13)], none=True)


@pytest.fixture
def person():
    """Makes an oracle whose answers are the given lines; what it shows is in ``oracle.streams[1]``."""

    def make(*lines, **settings):
        oracle = HumanOracle(**settings)
        oracle.streams = io.StringIO("".join(f"{line}\n" for line in lines)), io.StringIO()
        return oracle

    return make


def choices(oracle, *questions):
    return [answer.choice for answer in oracle.answer(questions)]


def shown(oracle):
    return oracle.streams[1].getvalue()


def test_it_is_found_by_name():
    plugins = Plugins(discover=False)
    plugins.register(clusterllm_oracles, "builtin")
    oracle = plugins.oracle({"name": "human", "person": "ann"})
    assert isinstance(oracle, HumanOracle)
    assert oracle.fingerprint == "human:ann"


def test_two_people_have_answers_of_their_own(person, open_session):
    ask(open_session(person("y", person="ann")), PAIRS[:1])
    assert ask(open_session(person("n", person="ben")), PAIRS[:1])[0].choice == "no"


@pytest.mark.parametrize("name", ["", " ", 7, None])
def test_a_person_has_a_name(name):
    with pytest.raises(ClusterLLMError, match=r"^oracle 'human': person must be a name, not "):
        HumanOracle(name)


def test_it_keeps_the_contract(person):
    check_oracle(lambda: person(*["1", "y"] * 100))


def test_an_answer_takes_neither_tokens_nor_money(person):
    oracle = person("y")
    assert list(oracle.answer(PAIRS[:1])) == [Answer("yes", usage=FREE)]
    assert oracle.worst_case(PAIRS[0]) == FREE


def test_it_can_be_asked_under_caps_of_nothing(person, open_session):
    session = open_session(person("y"), max_tokens=0, max_cost=0.0)
    assert ask(session, PAIRS[:1])[0].choice == "yes"


@pytest.mark.parametrize(
    ("question", "line", "choice"),
    [
        (TRIPLET, "2", "2"),
        (TRIPLET, " 1 ", "1"),
        (TRIPLET, "２", "2"),
        (TRIPLET, "٢", "2"),
        (WITH_NONE, "n", "none"),
        (WITH_NONE, "None", "none"),
        (PAIRS[0], "Y", "yes"),
        (PAIRS[0], "no", "no"),
        (TWELVE, "12", "12"),
        (TWELVE, "n", "none"),
    ],
)
def test_what_is_read_as_an_answer(person, question, line, choice):
    assert choices(person(line), question) == [choice]


@pytest.mark.parametrize(
    ("question", "line"),
    [(TRIPLET, "3"), (TRIPLET, "n"), (TRIPLET, "y"), (PAIRS[0], "1"), (PAIRS[0], "²"), (TWELVE, "13"), (TRIPLET, "12")],
)
def test_anything_else_is_said_to_be_none_and_awaited_again(person, question, line):
    oracle = person(line, question.choices[0])
    assert choices(oracle, question) == [question.choices[0]]
    assert f"{line!r} is no answer here" in shown(oracle)


def test_enter_alone_is_no_answer(person):
    assert choices(person("", "y"), PAIRS[0]) == ["yes"]


def test_skip_abstains_with_a_reason(person):
    assert list(person("s").answer(PAIRS[:1])) == [Answer(None, usage=FREE, error="skipped")]


def test_a_skipped_question_is_not_asked_again(person, open_session):
    ask(open_session(person("s")), PAIRS[:1])
    assert ask(open_session(person()), PAIRS[:1])[0].error == "skipped"


def test_undo_asks_the_question_before_again(person):
    assert choices(person("y", "u", "n", "y"), *PAIRS[:2]) == ["no", "yes"]


def test_undo_shows_what_is_undone(person):
    oracle = person("y", "u", "n", "y")
    choices(oracle, *PAIRS[:2])
    assert shown(oracle).count("undone: yes") == 1


def test_a_skip_can_be_undone(person):
    assert choices(person("s", "u", "n", "y"), *PAIRS[:2]) == ["no", "yes"]


def test_undo_goes_one_step_back(person):
    oracle = person("y", "y", "u", "u", "n", "n")
    assert choices(oracle, *PAIRS[:3]) == ["yes", "no", "no"]
    assert shown(oracle).count("nothing to undo: earlier answers are stored") == 1


def test_undo_changes_what_is_stored(person, open_session, store):
    ask(open_session(person("y", "y", "u", "n", "y")), PAIRS[:3])
    assert stored(store) == {0: "yes", 1: "no", 2: "yes"}


def test_an_answer_is_handed_on_when_the_next_is_given(person):
    oracle = person("y", "n", "y")
    answers = oracle.answer(PAIRS[:3])
    next(answers)
    assert shown(oracle).count("answer: ") == 2


@pytest.mark.parametrize(
    ("last", "how"), [(["q"], "you quit"), ([], "the input ended")], ids=["quit", "end of the input"]
)
def test_quitting_stops_the_run_and_keeps_all_answers(person, open_session, store, last, how):
    with pytest.raises(OracleError) as caught:
        ask(open_session(person("y", "n", *last)), PAIRS)
    assert str(caught.value) == (
        f"oracle 'human': {how} after 2 answers; run the same again, with the same store, to go on from there"
    )
    assert stored(store) == {0: "yes", 1: "no"}


def test_after_quitting_only_what_is_missing_is_asked(person, open_session):
    with pytest.raises(OracleError):
        ask(open_session(person("y", "n", "q")), PAIRS)
    assert [answer.choice for answer in ask(open_session(person("s", "y")), PAIRS)] == ["yes", "no", None, "yes"]


def test_an_answer_that_was_undone_before_quitting_is_not_kept(person, open_session, store):
    with pytest.raises(OracleError):
        ask(open_session(person("y", "n", "u", "q")), PAIRS)
    assert stored(store) == {0: "yes"}


def test_an_answer_is_kept_when_showing_the_next_question_fails(person, open_session, store):
    oracle = person("y")
    write = oracle.streams[1].write

    def broken(text):
        if "[1 answered]" in text:
            raise OSError("the terminal is gone")
        return write(text)

    oracle.streams[1].write = broken
    with pytest.raises(OracleError, match="the terminal is gone"):
        ask(open_session(oracle), PAIRS)
    assert stored(store) == {0: "yes"}


def test_progress_is_counted_over_batches(person, open_session):
    oracle = person("y", "u", "n", "s", "y")
    oracle.batch_size = 1
    session = open_session(oracle)
    cap = QuestionCap(9)
    session.ask(PAIRS[:2], cap)
    session.ask(PAIRS[2:3], cap)
    assert [f"[{number} answered]" in shown(oracle) for number in range(4)] == [True, True, True, False]


# What is shown.


def test_a_choice_as_it_is_shown(person):
    oracle = person("1")
    choices(oracle, choice_question(TEXTS, 0, [[1, 4], [2]], none=True, instruction="in terms of the appliance"))
    assert shown(oracle) == (
        "\n"
        "[0 answered] Which group of texts does the last one belong with in terms of the\n"
        "appliance?\n"
        "\n"
        "  1. - Water drips from my kettle\n"
        "     - A bench\n"
        "  2. Die Lampe flackert\n"
        "\n"
        "     The kettle leaks\n"
        "\n"
        "  1-2, n none of them, s skip, q quit\n"
        "  answer: 1\n"
    )


def test_a_pair_as_it_is_shown(person):
    oracle = person("y")
    choices(oracle, pair_question(TEXTS, 0, 1, demonstrations=[("a lamp", "a bulb", "yes")]))
    assert shown(oracle) == (
        "\n"
        "[0 answered] Do these two texts belong to the same category?\n"
        "  for example, yes:\n"
        "    - a lamp\n"
        "    - a bulb\n"
        "\n"
        "     Water drips from my kettle\n"
        "\n"
        "     The kettle leaks\n"
        "\n"
        "  y yes, n no, s skip, q quit\n"
        "  answer: yes\n"
    )


def test_more_than_nine_choices_take_a_number(person):
    oracle = person("11")
    choices(oracle, TWELVE)
    assert " 12. word 12\n\n     word 0\n\n  1-12 and Enter, n none of them, s skip, q quit\n  answer: 11\n" in shown(
        oracle
    )


def test_a_long_text_is_cut_and_shown_in_full_on_demand(person):
    text = "a" * 300 + "b"
    oracle = person("m", "y")
    choices(oracle, pair_question([text, "short"], 0, 1))
    cut, full = shown(oracle).split("[0 answered]")[1:]
    assert (cut.count("a" * 60), cut.count("…"), "m in full" in cut) == (4, 1, True)
    assert (full.replace("\n     ", "").count(text), "…" in full, "m in full" in full) == (1, False, False)


def test_a_text_of_the_longest_length_is_not_cut(person):
    oracle = person("y")
    choices(oracle, pair_question(["a" * 300, "short"], 0, 1))
    assert ("…" in shown(oracle), "m in full" in shown(oracle)) == (False, False)


def test_a_text_of_several_in_a_group_is_cut_shorter(person):
    texts = ["anchor", "a" * 101, "b" * 100, "c" * 300]
    oracle = person("1")
    choices(oracle, choice_question(texts, 0, [[1, 2], [3]], none=False))
    shown_texts = shown(oracle).replace("\n", "").replace(" ", "")
    assert ("a" * 99 + "…" in shown_texts, "b" * 100 in shown_texts, "c" * 300 in shown_texts) == (True, True, True)


def test_control_characters_are_shown_escaped_wherever_they_come_from(person):
    evil = "\x1b[2J\x07\x9b\u202e\r\n\ud800"
    question = pair_question([evil, "b"], 0, 1, instruction=f"by {evil}", demonstrations=[(evil, "x", "no")])
    oracle = person("\x1b]0;x\x07", "y")
    choices(oracle, question)
    assert shown(oracle).replace("\n", "").isprintable()
    assert shown(oracle).count(r"\x1b[2J\x07\x9b\u202e\r\n\ud800") == 3
