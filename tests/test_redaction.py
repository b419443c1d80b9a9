import re

import pytest

from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.questions import choice_question, pair_question
from clusterllm_plugins.redaction import Redaction

TEXTS = ["Ann ordered mug 17", "Bob ordered mug 18", "A bench", "Ann sat on bench 3"]


def digits(text):
    return re.sub(r"\d+", "#", text)


def names(text):
    return re.sub(r"Ann|Bob", "someone", text)


def failing(text):
    raise RuntimeError(f"cannot handle {text}")


def test_without_redactors_a_text_stays_as_it_is():
    assert Redaction().text(TEXTS[0]) == TEXTS[0]


def test_without_redactors_a_question_stays_as_it_is():
    question = pair_question(TEXTS, 0, 1)
    assert Redaction().question(question) == question


def test_every_redactor_is_applied():
    assert Redaction([("digits", digits), ("names", names)]).text(TEXTS[0]) == "someone ordered mug #"


def test_redactors_are_applied_in_their_order():
    redaction = Redaction([("a", lambda text: text + " a"), ("b", lambda text: text + " b")])
    assert redaction.text("mug") == "mug a b"


def test_the_same_text_is_redacted_the_same_way_again():
    redaction = Redaction([("digits", digits)])
    assert [redaction.text(TEXTS[0]) for _ in range(2)] == ["Ann ordered mug #"] * 2


def test_every_text_of_a_choice_is_redacted():
    redacted = Redaction([("digits", digits)]).question(choice_question(TEXTS, 0, [[1, 3], [2]], none=True))
    assert redacted.texts == ("Ann ordered mug #", ("Bob ordered mug #", "Ann sat on bench #"), ("A bench",))


def test_demonstrations_are_redacted_and_keep_their_verdict():
    question = pair_question(TEXTS, 0, 1, demonstrations=[("mug 1", "bench 2", "no")])
    assert Redaction([("digits", digits)]).question(question).demonstrations == (("mug #", "bench #", "no"),)


def test_everything_else_of_a_question_stays():
    question = choice_question(TEXTS, 0, [[1, 3], [2]], none=True, instruction="by the 2 kinds of things")
    redacted = Redaction([("digits", digits)]).question(question)
    assert (redacted.kind, redacted.indices, redacted.choices, redacted.instruction) == (
        question.kind,
        question.indices,
        question.choices,
        question.instruction,
    )


def test_a_failing_redactor_is_named_without_the_text():
    with pytest.raises(ClusterLLMError) as caught:
        Redaction([("digits", digits), ("strict", failing)]).text(TEXTS[0])
    assert str(caught.value) == "redactor 'strict' failed with RuntimeError: nothing was sent"


def test_the_error_of_a_failing_redactor_is_not_shown_since_it_may_quote_the_text():
    with pytest.raises(ClusterLLMError) as caught:
        Redaction([("strict", failing)]).text(TEXTS[0])
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_a_redactor_that_returns_no_text_is_an_error():
    with pytest.raises(ClusterLLMError) as caught:
        Redaction([("forgetful", lambda text: None)]).text(TEXTS[0])
    assert str(caught.value) == "redactor 'forgetful' returned NoneType instead of a text: nothing was sent"


def test_no_later_redactor_sees_a_text_after_a_failure():
    seen = []
    redaction = Redaction([("strict", failing), ("spy", lambda text: seen.append(text) or text)])
    with pytest.raises(ClusterLLMError):
        redaction.text(TEXTS[0])
    assert seen == []


def test_a_failure_in_an_exemplar_fails_the_question():
    redaction = Redaction([("no benches", lambda text: failing(text) if "bench" in text else text)])
    with pytest.raises(ClusterLLMError, match=r"^redactor 'no benches' failed"):
        redaction.question(choice_question(TEXTS, 0, [[1], [1, 3]], none=True))


def test_a_failure_in_a_demonstration_fails_the_question():
    redaction = Redaction([("no benches", lambda text: failing(text) if "bench" in text else text)])
    with pytest.raises(ClusterLLMError, match=r"^redactor 'no benches' failed"):
        redaction.question(pair_question(TEXTS, 0, 1, demonstrations=[("mug", "bench", "no")]))


def test_a_text_that_equals_what_became_of_another_is_redacted_too():
    pseudonyms = {"Ann": "Bob", "Bob": "Cleo"}
    redaction = Redaction([("pseudonyms", lambda text: pseudonyms.get(text, text))])
    assert [redaction.text("Ann"), redaction.text("Bob")] == ["Bob", "Cleo"]
