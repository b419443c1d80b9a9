"""Replies that nobody thought of: none makes the reader fail, and none is read as what it cannot mean.

What a reply can mean is judged here by its words alone, without the grammar.
"""

import random
import re
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterllm_plugins.replies import MAX_NAME_CHARACTERS, parse, parse_name
from reply_kit import PAIR, SIX, TWO, UNSAID, said

SETS = [TWO, SIX, PAIR]
QUICK, MANY = 2_000, 100_000
NASTY = (
    " \t\n\r\0.,:;!?()[]{}<>\"'`*_#-+/|\\$%^&=~…–—“”„«»’、。：！１２②²½٣０0123456789abnoyes"
    "\u00a0\u00ad\u0301\u0338\u200b\u200d\u200e\u2028\u2029\u202e\u2066\u2069\u3000\ud800\udfff\ufdfa\ufe0f\uff10🙂"
)
WORDS = {
    "yes": [
        "yes",
        "yeah",
        "yep",
        "yup",
        "y",
        "true",
        "ja",
        "oui",
        "sí",
        "si",
        "sim",
        "да",
        "是",
        "是的",
        "はい",
        "same",
        "one",
    ],
    "no": ["no", "nope", "n", "false", "nein", "non", "não", "нет", "不是", "否", "いいえ", "not", "different"],
    "none": [
        "none",
        "neither",
        "no",
        "nothing",
        "not",
        "keine",
        "keiner",
        "keines",
        "aucun",
        "aucune",
        "ninguno",
        "ninguna",
        "nessuno",
        "nessuna",
    ],
    **{
        str(n): [str(n), *words.split()]
        for n, words in enumerate(
            [
                "one first",
                "two second",
                "three third",
                "four fourth",
                "five fifth",
                "six sixth",
            ],
            start=1,
        )
    },
}


def can_mean(reply, choice):
    """Return whether a word of the reply could mean the choice, as far as a person sees its words."""
    plain = unicodedata.normalize("NFKC", reply.replace("*", "").replace("`", ""))
    seen = "".join(
        str(unicodedata.decimal(char, char)) for char in plain if unicodedata.category(char) not in ("Cf", "Mn", "Me")
    )
    words = re.findall(r"\d+|[^\W\d_]+", seen.casefold().replace("n't", " not").replace("n’t", " not"))
    return any(word in WORDS[choice] for word in words) or ("是" in seen and choice in PAIR)


def mutated(reply, others, dice):
    """Return a reply with a few accidents."""
    for _ in range(dice.randint(1, 4)):
        place = dice.randint(0, len(reply))
        match dice.randint(0, 10):
            case 0:
                reply = reply[:place] + reply[place + 1 :]
            case 1 | 2:
                reply = reply[:place] + dice.choice(NASTY) + reply[place:]
            case 3:
                reply = dice.choice([str.upper, str.lower, str.title, str.swapcase])(reply)
            case 4:
                words = reply.split(" ")
                del words[dice.randrange(len(words))]
                reply = " ".join(words)
            case 5:
                words = reply.split(" ")
                words.insert(dice.randint(0, len(words)), dice.choice(words))
                reply = " ".join(words)
            case 6:
                left, right = dice.choice(["**", "``", '""', "()", "[]", "“”", "**", "  ", "$$"])
                reply = left + reply + right
            case 7:
                reply = (reply + dice.choice(["", " ", "\n", ", "])) * dice.randint(2, 3)
            case 8:
                reply = reply + dice.choice([" ", "\n", "\n\n", " or ", ", ", " but ", ". "]) + dice.choice(others)
            case 9:
                reply = reply[:place]
            case 10:
                reply = re.sub(r"\d", lambda found: str(dice.randint(0, 9)), reply)
    return reply


def replies(count, seed):
    """Yield choices and a mutated reply to a question with them."""
    dice = random.Random(seed)
    known = [(choices, [*(reply for reply, _ in said(choices)), *UNSAID]) for choices in SETS]
    for _ in range(count):
        choices, forms = dice.choice(known)
        yield choices, mutated(dice.choice(forms), forms, dice)


def check(choices, reply):
    read = parse(reply, choices)
    assert read is None or (read in choices and can_mean(reply, read)), (reply, read)
    return read


@pytest.mark.parametrize("count", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)])
def test_mutated_replies_are_read_as_what_they_can_mean(count):
    read = [check(choices, reply) for choices, reply in replies(count, seed=count)]
    assert len(read) == count
    assert 0.2 < sum(choice is not None for choice in read) / count < 0.8  # the mutations are neither idle nor ruinous


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=())), st.sampled_from(SETS))
def test_any_text_is_read_as_what_it_can_mean(reply, choices):
    check(choices, reply)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.lists(
        st.sampled_from(
            [
                "1",
                "2",
                "7",
                ".",
                ",",
                "or",
                "and",
                "not",
                "yes",
                "no",
                "none",
                "the",
                "first",
                "is",
                "answer",
                ":",
                "\n",
                "(",
                ")",
                "-",
                '"',
                "so",
                "because",
                "?",
            ]
        )
    )
)
def test_any_order_of_words_is_read_as_what_it_can_mean(words):
    for choices in SETS:
        check(choices, " ".join(words))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(min_value=7), st.sampled_from(["{}", "Answer: {}", "Group {}.", "({})", "The answer is {}."]))
def test_a_number_beyond_the_groups_is_not_read(number, form):
    assert [parse(form.format(number), choices) for choices in SETS] == [None] * 3


@pytest.mark.parametrize("choices", SETS)
@pytest.mark.parametrize(
    "joint", [" or ", " and ", "/", ", ", " ", "\n", " vs ", " | ", " & ", ", or ", "; ", " - ", "? "]
)
def test_two_choices_are_not_read(choices, joint):
    pairs = [(one, other) for one in choices for other in choices if one != other]
    forms = ["{}", "({})", "Answer: {}", "The answer is {}", "Maybe {}.", "**{}**"]
    said_both = [form.format(one + joint + other) for one, other in pairs for form in forms]
    assert [reply for reply in said_both if parse(reply, choices)] == []


WRAPS = [
    "  {}  ",
    "\n\n{}\n",
    "**{}**",
    "```\n{}\n```",
    "> {}",
    "\ufeff{}",
    "{}\u200b",
    "<p>{}</p>",
    "{}<|im_end|>",
    "- {}",
]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("choices", SETS)
def test_what_stands_around_a_reply_changes_nothing(choices, wrap):
    assert [(reply, parse(wrap.format(reply), choices)) for reply, _ in said(choices)] == list(said(choices))


@pytest.mark.parametrize("change", [str.upper, str.lower, str.title])
@pytest.mark.parametrize("choices", SETS)
def test_upper_and_lower_case_change_nothing(choices, change):
    assert [(reply, parse(change(reply), choices)) for reply, _ in said(choices)] == list(said(choices))


@pytest.mark.parametrize("marks", ['""', "“”", "«»", "„“", "''", "()", "[]", "``"])
@pytest.mark.parametrize("choices", SETS)
def test_quotation_marks_and_brackets_around_a_choice_change_nothing(choices, marks):
    assert [parse(marks[0] + choice + marks[1], choices) for choice in choices] == list(choices)


@pytest.mark.parametrize("mark", ["think", "thinking", "reasoning"])
@pytest.mark.parametrize("choices", SETS)
def test_what_is_thought_aloud_changes_nothing(choices, mark):
    thoughts = [reply for reply, _ in said(choices) if "<think>" not in reply] + UNSAID
    dice = random.Random(5)
    for reply, choice in said(choices):
        for thought in dice.sample(thoughts, 5):
            assert parse(f"<{mark}>{thought}</{mark}>\n{reply}", choices) == choice


@pytest.mark.parametrize(
    "doubt", ["Wait, I am not sure.", "Sorry, I cannot say.", "Or rather not?", "It is hard to tell."]
)
@pytest.mark.parametrize("choices", SETS)
def test_a_choice_that_is_taken_back_is_not_read(choices, doubt):
    assert [reply for reply, _ in said(choices) if parse(f"{reply}\n{doubt}", choices)] == []


@pytest.mark.parametrize(
    "denial", ["not {}", "Not {}.", "It is not {}.", "The answer is not {}", "Anything but {}", "{}?"]
)
@pytest.mark.parametrize("choices", SETS)
def test_a_denied_choice_is_not_read(choices, denial):
    assert [parse(denial.format(choice), choices) for choice in choices] == [None] * len(choices)


@pytest.mark.parametrize("choices", SETS)
def test_a_quoted_reply_is_no_claim(choices):
    quotes = [
        f'The query says "{reply}, as was asked for".'
        for reply, _ in said(choices)
        if '"' not in reply and "\n" not in reply
    ]
    assert [quote for quote in quotes if parse(quote, choices)] == []


UNITS = ["<think>", "</think>", "1", "1 or ", "so ", "yes, ", '"', '{"a":"', "answer: ", "(", "(1) ", "\\boxed{"]
UNITS += [
    "the query ",
    "1. ",
    "none of the ",
    "reply with yes or no only (",
    "\u0301",
    "\ufdfa",
    "name: ",
    "1. - ",
    "sure ",
]


@pytest.mark.parametrize("unit", UNITS)
def test_a_reply_of_a_million_characters_takes_no_time(unit):
    reply = unit * (1_000_000 // len(unit))
    start = time.process_time()
    for choices in (TWO, PAIR):
        parse(reply, choices)
    parse_name(reply)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(("first", "last", "choice"), [("", "Answer: 2", "2"), ("", "2", "2"), ("2. ", "", None)])
def test_of_a_very_long_reply_the_end_is_read(first, last, choice):
    assert parse(f"{first}{'Text 1 is about mugs. ' * 1000}\n\n{last}", TWO) == choice


def is_fit_to_show(name):
    return (
        0 < len(name) <= MAX_NAME_CHARACTERS
        and name == " ".join(name.split())
        and not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp") for char in name)
    )


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=())))
def test_any_text_gives_a_name_that_is_fit_to_show_or_none(reply):
    name = parse_name(reply)
    assert name is None or is_fit_to_show(name)


NAMES = [
    "Lost cards",
    "Name: Lost cards",
    "**Verlorene Karten**",
    "“Cartes perdues”",
    "名称：丢失的卡",
    "1. Lost\n2. Late",
    "Here is a name for the group:\n\n**Lost cards**",
    "I'm sorry, I cannot help",
    "",
    "<think>Cards?</think>\nCards",
]


@pytest.mark.parametrize("count", [QUICK, pytest.param(MANY, marks=pytest.mark.slow)])
def test_mutated_names_are_fit_to_show(count):
    dice = random.Random(count)
    names = [parse_name(mutated(dice.choice(NAMES), NAMES, dice)) for _ in range(count)]
    assert [name for name in names if name is not None and not is_fit_to_show(name)] == []
    assert 0.5 < sum(name is not None for name in names) / count < 0.99
