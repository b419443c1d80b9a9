import dataclasses
import json

import pytest

from clusterllm_plugins.questions import (
    Answer,
    Completion,
    OracleError,
    Question,
    Usage,
    choice_question,
    pair_question,
    triplet_question,
)

TEXTS = ["The kettle leaks", "Water drips from my kettle", "Die Lampe flackert", "The lamp is too dim", "Ein Stuhl"]


def choice(indices, choices, texts=None):
    return Question("choice", indices, indices if texts is None else texts, choices)


def test_triplet_is_a_choice_between_two_single_exemplars():
    question = triplet_question(TEXTS, 0, 1, 2, "in terms of the appliance")
    assert question == Question(
        kind="choice",
        indices=(0, (1,), (2,)),
        texts=(TEXTS[0], (TEXTS[1],), (TEXTS[2],)),
        choices=("1", "2"),
        instruction="in terms of the appliance",
    )


def test_choice_has_none_last_where_it_is_admissible():
    question = choice_question(TEXTS, 0, [[1], [2, 3], [4]], none=True)
    assert question.choices == ("1", "2", "3", "none")


def test_choice_without_none():
    assert choice_question(TEXTS, 0, [[1, 2], [3]], none=False).choices == ("1", "2")


def test_choice_mirrors_its_indices_in_its_texts():
    question = choice_question(TEXTS, 0, [[1], [2, 3]], none=True)
    assert question.indices == (0, (1,), (2, 3))
    assert question.texts == (TEXTS[0], (TEXTS[1],), (TEXTS[2], TEXTS[3]))


def test_pair_is_answered_yes_or_no():
    question = pair_question(TEXTS, 3, 2, demonstrations=[("a", "b", "no")])
    assert question == Question("pair", (3, 2), (TEXTS[3], TEXTS[2]), ("yes", "no"), demonstrations=(("a", "b", "no"),))


def test_anchor_and_groups_of_a_choice():
    question = choice_question(TEXTS, 4, [[1], [2, 3]], none=True)
    assert (question.anchor, question.groups) == (TEXTS[4], ((TEXTS[1],), (TEXTS[2], TEXTS[3])))
    assert (question.anchor_index, question.group_indices) == (4, ((1,), (2, 3)))


def test_anchor_and_group_of_a_pair():
    question = pair_question(TEXTS, 4, 1)
    assert (question.anchor, question.groups) == (TEXTS[4], ((TEXTS[1],),))
    assert (question.anchor_index, question.group_indices) == (4, ((1,),))


def test_lists_become_tuples():
    question = Question("choice", [0, [1], [2]], ["a", ["b"], ["c"]], ["1", "2"], demonstrations=[["a", "b", "yes"]])
    assert question == Question(
        "choice", (0, (1,), (2,)), ("a", ("b",), ("c",)), ("1", "2"), demonstrations=(("a", "b", "yes"),)
    )


def test_equal_questions_hash_equally():
    assert len({triplet_question(TEXTS, 0, 1, 2), triplet_question(TEXTS, 0, 1, 2)}) == 1


def test_question_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        triplet_question(TEXTS, 0, 1, 2).repeat = 1


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match=r"^a question's kind is 'choice' or 'pair', not 'triplet'$"):
        Question("triplet", (0, 1), ("a", "b"), ("yes", "no"))


def test_texts_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"^indices \(0, \(1,\), \(2,\)\) and texts do not have the same shape$"):
        choice((0, (1,), (2,)), ("1", "2"), texts=("a", ("b", "c"), ("d",)))


@pytest.mark.parametrize("indices", [(0,), (0, 1, 2), (0, (1,)), ((0,), 1)])
def test_pair_of_another_shape_is_refused(indices):
    with pytest.raises(ValueError, match=r"^a pair's indices are \(left, right\), not "):
        Question("pair", indices, indices, ("yes", "no"))


@pytest.mark.parametrize("choices", [("no", "yes"), ("yes", "no", "none"), ("1", "2"), ()])
def test_pair_with_other_choices_is_refused(choices):
    with pytest.raises(ValueError, match=r"^a pair's choices are \('yes', 'no'\), not "):
        Question("pair", (0, 1), ("a", "b"), choices)


@pytest.mark.parametrize(
    "indices",
    [(), (0,), (0, (1,)), (0, 1, 2), (0, (1,), ()), ((0,), (1,), (2,)), (0, (1,), 2), (0, (1,), ((2,),))],
)
def test_choice_of_another_shape_is_refused(indices):
    with pytest.raises(
        ValueError, match=r"^a choice's indices are \(anchor, \(a1, \.\.\), \(b1, \.\.\), \.\.\.\), not "
    ):
        choice(indices, ("1", "2"))


@pytest.mark.parametrize("choices", [("1",), ("2", "1"), ("none", "1", "2"), ("1", "2", "3"), ("yes", "no"), ()])
def test_choice_with_other_choices_is_refused(choices):
    with pytest.raises(
        ValueError, match=r"^the choices of 2 groups are \('1', '2'\), with 'none' last or without it, "
    ):
        choice((0, (1,), (2,)), choices)


@pytest.mark.parametrize(
    "question",
    [
        choice_question(TEXTS, 2, [[1, 0], [3]], none=True, instruction="by appliance"),
        dataclasses.replace(pair_question(TEXTS, 0, 2, demonstrations=[("a", "b", "no")]), repeat=2),
    ],
)
def test_question_survives_json(question):
    assert Question.from_dict(json.loads(json.dumps(question.to_dict()))) == question


def test_unknown_keys_of_a_question_are_ignored():
    question = pair_question(TEXTS, 0, 1)
    assert Question.from_dict({**question.to_dict(), "merge": 17}) == question


def test_canonical_form_with_indices_tells_positions_apart():
    repeated = [*TEXTS, TEXTS[1]]
    one, other = triplet_question(repeated, 0, 1, 2), triplet_question(repeated, 0, 5, 2)
    assert one.canonical(with_indices=True) != other.canonical(with_indices=True)


def test_canonical_form_without_indices_looks_at_the_texts_only():
    repeated = [*TEXTS, TEXTS[1]]
    one, other = triplet_question(repeated, 0, 1, 2), triplet_question(repeated, 0, 5, 2)
    assert one.canonical(with_indices=False) == other.canonical(with_indices=False)


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": "by colour"},
        {"demonstrations": (("a", "b", "yes"),)},
        {"repeat": 1},
        {"choices": ("1", "2", "none")},
        {"texts": (TEXTS[0], (TEXTS[1],), (TEXTS[3],))},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("with_indices", [True, False])
def test_canonical_form_changes_with_every_other_field(change, with_indices):
    question = triplet_question(TEXTS, 0, 1, 2)
    changed = dataclasses.replace(question, **change)
    assert changed.canonical(with_indices=with_indices) != question.canonical(with_indices=with_indices)


def test_canonical_form_is_json_that_gives_the_question_back():
    question = choice_question(TEXTS, 0, [[1], [2, 3]], none=True)
    assert Question.from_dict(json.loads(question.canonical(with_indices=True))) == question


def test_canonical_form_of_a_question_that_went_through_json_is_the_same():
    question = pair_question(TEXTS, 0, 2, demonstrations=[("a", "b", "no")])
    again = Question.from_dict(json.loads(json.dumps(question.to_dict())))
    assert again.canonical(with_indices=True) == question.canonical(with_indices=True)


def test_usages_add_up():
    assert Usage(10, 2, 1, 0.25) + Usage(30, 4, 2, 0.5) == Usage(40, 6, 3, 0.75)


def test_cost_of_a_sum_is_unknown_where_a_request_of_unknown_cost_is_part_of_it():
    assert (Usage(10, 2, 1, 0.25) + Usage(30, 4, 1)).cost is None


def test_cost_of_a_sum_is_unknown_where_tokens_of_unknown_cost_are_part_of_it():
    assert (Usage(10, 2, 1, 0.25) + Usage(30, 4)).cost is None


def test_nothing_used_leaves_a_cost_known():
    assert Usage() + Usage(10, 2, 1, 0.25) == Usage(10, 2, 1, 0.25)


def test_cost_of_nothing_is_unknown():
    assert (Usage() + Usage()).cost is None


def test_tokens_are_those_in_and_out():
    assert Usage(10, 2).tokens == 12


def test_answer_survives_json():
    answer = Answer("2", 0.75, Usage(10, 2, 1, 0.25), "second thoughts")
    assert Answer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer


def test_answer_needs_nothing_but_a_choice():
    assert Answer.from_dict({"choice": None}) == Answer(None, None, Usage(), None)


def test_completion_took_nothing_unless_it_says_so():
    assert Completion("yes") == Completion("yes", Usage(0, 0, 0, None), None)


def test_oracle_error_is_final_for_its_question_only_unless_it_says_so():
    error = OracleError("no reply")
    assert (str(error), error.retryable, error.retry_after, error.fatal) == ("no reply", False, None, False)


def test_oracle_error_tells_what_may_be_done():
    error = OracleError("slow down", retryable=True, retry_after=2.5, fatal=True)
    assert (error.retryable, error.retry_after, error.fatal) == (True, 2.5, True)
