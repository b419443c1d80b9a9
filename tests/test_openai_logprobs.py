"""The confidence of the oracle ``openai``: from the probabilities of what could stand where the choice stands."""

import pytest

from clusterllm_oracles.logprobs import confidence_of, listed_for
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_plugins.prompts import parse
from clusterllm_plugins.questions import choice_question, pair_question, triplet_question
from openai_kit import completion, listed

TEXTS = ["The kettle leaks", "Water drips from my kettle", "The lamp flickers", "My parcel is late"]
TRIPLET = triplet_question(TEXTS, 0, 1, 2)
PAIR = pair_question(TEXTS, 0, 1)
OPEN = choice_question(TEXTS, 0, [[1], [2], [3]], none=True)


@pytest.fixture
def ask(provider):
    def ask_one(text, tokens, question=TRIPLET, **settings):
        provider.replies = [(200, completion(text, tokens=tokens), {})]
        oracle = OpenAIOracle("acorn", provider.url, None, **settings)
        (answer,) = oracle.answer([question])
        return answer.choice, answer.confidence

    return ask_one


def test_the_confidence_is_the_share_among_the_choices(ask):
    choice, confidence = ask("1", [("1", {"1": 0.6, "2": 0.2, "The": 0.1})])
    assert (choice, confidence) == ("1", pytest.approx(0.75))


def test_white_space_quotation_marks_and_case_do_not_matter(ask):
    tokens = [(" Yes", {" Yes": 0.5, "yes": 0.1, '"no': 0.1, "No": 0.1, "\n": 0.1, "**": 0.1})]
    choice, confidence = ask(" Yes", tokens, PAIR)
    assert (choice, confidence) == ("yes", pytest.approx(0.75))


def test_a_choice_is_found_behind_other_words(ask):
    tokens = [("Choice", {"Choice": 0.9, "1": 0.1}), (" ", {" ": 1.0}), ("2", {"2": 0.8, "1": 0.2})]
    assert ask("Choice 2", tokens) == ("2", pytest.approx(0.8))


def test_a_choice_of_several_tokens_is_followed(ask):
    tokens = [
        ("no", {"no": 0.5, "1": 0.2, "2": 0.1, "3": 0.1}),
        ("ne", {"ne": 0.8, "pe": 0.2}),
    ]
    assert ask("none", tokens, OPEN) == ("none", pytest.approx(0.4 / 0.8))


def test_the_beginning_of_a_choice_counts_to_it(ask):
    tokens = [("1", {"1": 0.5, "2": 0.1, "3": 0.1, "no": 0.2, "n": 0.1})]
    assert ask("1", tokens, OPEN) == ("1", pytest.approx(0.5))


def test_a_choice_that_is_not_listed_counts_at_most_as_the_least_likely_token(ask):
    tokens = [("1", {"1": 0.8, "The": 0.05, "I": 0.01})]
    assert ask("1", tokens) == ("1", pytest.approx(0.8 / 0.81))


def test_a_choice_that_is_not_listed_counts_at_most_as_what_is_left(ask):
    assert ask("1", [("1", {"1": 0.9, "The": 0.099})]) == ("1", pytest.approx(0.9 / 0.901))


@pytest.mark.parametrize("question", [TRIPLET, OPEN])
def test_where_only_the_reply_is_listed_all_others_share_the_rest(ask, question):
    assert ask("1", [("1", {"1": 0.6})], question) == ("1", pytest.approx(0.6))


def test_the_mark_behind_a_choice_in_its_token_does_not_matter(ask):
    assert ask("2.", [("2.", {"2.": 0.6, "1.": 0.2, "12": 0.2})]) == ("2", pytest.approx(0.75))


CHOICES = [str(number) for number in range(1, 12)]


@pytest.mark.parametrize(
    ("reply", "tokens", "share"),
    [
        # One token each: what the choice begins with is another choice.
        ("1", [("1", {"1": 0.6, "10": 0.3, "2": 0.1})], 0.6),
        # A token for each digit: the next one says where it ends.
        ("1", [("1", {"1": 0.6, "2": 0.4}), ("", {"": 0.5, "0": 0.25, "1": 0.25})], 0.3),
        ("10", [("1", {"1": 0.6, "2": 0.4}), ("0", {"0": 0.5, "\n": 0.25, "1": 0.25})], 0.3),
    ],
)
def test_a_choice_that_begins_another_is_told_apart(reply, tokens, share):
    confidence = confidence_of([listed(*token) for token in tokens], reply, reply, CHOICES)
    assert confidence == pytest.approx(share)


def test_what_was_thought_aloud_is_passed_over(ask):
    tokens = [("<think>", {"<think>": 1.0}), ("2", {"2": 0.9, "1": 0.1}), ("</think>", {"</think>": 1.0})]
    tokens.append(("2", {"2": 0.7, "1": 0.3}))
    assert ask("<think>2</think>2", tokens) == ("2", pytest.approx(0.7))
    assert ask("2", tokens) == ("2", pytest.approx(0.7))  # of a server that takes the thoughts out


def test_the_choice_in_the_last_line_is_the_one_that_counts(ask):
    tokens = [
        ("1 or ", {"1 or ": 1.0}),
        ("2", {"2": 0.5, "3": 0.5}),
        ("?\n", {"?\n": 1.0}),
        ("2", {"2": 0.9, "1": 0.1}),
    ]
    assert ask("1 or 2?\n2", tokens) == ("2", pytest.approx(0.9))


def test_in_a_json_object_the_value_counts(ask):
    tokens = [('{"', {'{"': 1.0}), ("choice", {"choice": 1.0}), ('":"', {'":"': 1.0})]
    tokens += [("1", {"1": 0.9, "2": 0.1}), ('"}', {'"}': 1.0})]
    assert ask('{"choice":"1"}', tokens, constrain="schema") == ("1", pytest.approx(0.9))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("1", None),
        ("the second one", [("the second one", {"the second one": 1.0})]),  # no token says "2"
        ("1", [("2", {"2": 1.0})]),  # other tokens than the text
        ("Answer: 1", [("Answer: 1", {"Answer: 1": 0.9, "Answer: 2": 0.1})]),  # a part of a longer token
        ("1", [("1", {"1": 0.0, "2": 0.0})]),
        ("1", [("1", {"1": 1.0, "2": 1.0})]),  # these are no probabilities
    ],
)
def test_where_the_tokens_do_not_say_it_there_is_no_confidence(ask, text, tokens):
    choice, confidence = ask(text, tokens)
    assert (choice is not None, confidence) == (True, None)


@pytest.mark.parametrize(
    "content",
    [
        "1",
        {"token": "1"},
        [None],
        [{}],
        [{"token": "1", "logprob": None}],
        [{"token": "1", "logprob": "0"}],
        [{"token": 1, "logprob": 0.0}],
        [{"token": "1", "logprob": float("nan")}],
        [{"token": "1", "logprob": 1000.0}],
        [{"token": "1", "logprob": -0.1, "top_logprobs": [{"token": "2"}]}],
    ],
)
def test_malformed_tokens_are_no_error(content):
    assert confidence_of(content, "1", "1", ["1", "2"]) is None


def test_what_is_rounded_above_zero_is_certain():
    assert confidence_of([{"token": "1", "logprob": 1e-6}], "1", "1", ["1", "2"]) == 1.0


def test_the_confidence_never_changes_the_choice(ask):
    choice, confidence = ask("1", [("1", {"1": 0.1, "2": 0.9})])
    assert (choice, confidence) == ("1", pytest.approx(0.1))


def test_an_unreadable_reply_has_no_confidence(ask):
    assert ask("I would rather not", [("I would rather not", {"I would rather not": 1.0})]) == (None, None)


@pytest.mark.parametrize(("n_choices", "listed_tokens"), [(2, 5), (3, 5), (6, 8), (40, 20)])
def test_no_more_tokens_are_asked_for_than_are_of_use(n_choices, listed_tokens):
    assert listed_for([str(number) for number in range(n_choices)]) == listed_tokens


def test_names_are_asked_for_without(provider):
    provider.always = 200, completion("Leaking kettles"), {}
    OpenAIOracle("acorn", provider.url, None).describe(TEXTS[:2])
    assert "logprobs" not in provider.requests[0]
    assert "top_logprobs" not in provider.requests[0]


def test_they_can_be_turned_off_and_change_no_fingerprint(provider):
    oracle = OpenAIOracle("acorn", provider.url, None, logprobs=False)
    list(oracle.answer([TRIPLET]))
    assert "logprobs" not in provider.requests[0]
    assert oracle.fingerprint == OpenAIOracle("acorn", provider.url, None).fingerprint


def test_every_reading_that_parse_knows_has_a_place():
    for reply in ("1", "Choice 1", "(1)", "1.", "Answer: 1", "1 fits, as both are about rain"):
        tokens = [listed(char, {char: 0.9, "2": 0.05}) for char in reply]
        assert confidence_of(tokens, reply, "1", ["1", "2"], lambda text: parse(text, ["1", "2"])) is not None, reply
