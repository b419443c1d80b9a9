import dataclasses
import json
import re

import pytest

import clusterllm_plugins
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.questions import Answer, Usage, choice_question, pair_question, triplet_question
from clusterllm_plugins.recording import answer_lines, load_answers, text_hash

TEXTS = ["The kettle leaks", "Water drips from my kettle", "Die Lampe flackert", "灯太暗了", "A bench"]


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "answers.jsonl"

    def write(*lines):
        written = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path.write_text("".join(line + "\n" for line in written), encoding="utf-8")
        return path

    return write


def complaint(path, texts=TEXTS):
    with pytest.raises(DataError) as caught:
        load_answers(path, texts)
    return str(caught.value)


def test_package_offers_load_answers():
    assert clusterllm_plugins.load_answers is load_answers


def test_two_single_exemplars_mean_a_triplet_without_none(record):
    path = record({"indices": [0, [1], [2]], "choice": "1"})
    assert load_answers(path, TEXTS) == [(triplet_question(TEXTS, 0, 1, 2), Answer("1"))]


def test_any_other_choice_has_none(record):
    path = record({"indices": [0, [1], [2], [3]], "choice": "none"})
    question = choice_question(TEXTS, 0, [[1], [2], [3]], none=True)
    assert load_answers(path, TEXTS) == [(question, Answer("none"))]


def test_two_groups_of_several_exemplars_have_none(record):
    path = record({"indices": [0, [1, 3], [2]], "choice": "2"})
    assert load_answers(path, TEXTS) == [(choice_question(TEXTS, 0, [[1, 3], [2]], none=True), Answer("2"))]


def test_two_numbers_mean_a_pair(record):
    path = record({"indices": [3, 0], "choice": "no"})
    assert load_answers(path, TEXTS) == [(pair_question(TEXTS, 3, 0), Answer("no"))]


def test_named_choices_win(record):
    path = record({"indices": [0, [1], [2]], "choice": "none", "choices": ["1", "2", "none"]})
    assert load_answers(path, TEXTS) == [(choice_question(TEXTS, 0, [[1], [2]], none=True), Answer("none"))]


def test_null_means_abstained(record):
    assert load_answers(record({"indices": [0, 1], "choice": None}), TEXTS)[0][1] == Answer(None)


def test_unknown_keys_are_ignored(record):
    path = record({"indices": [0, 1], "choice": "yes", "merge": 116, "reply": "Yes."})
    assert load_answers(path, TEXTS) == [(pair_question(TEXTS, 0, 1), Answer("yes"))]


def test_unknown_keys_of_a_usage_are_ignored(record):
    path = record({"indices": [0, 1], "choice": "yes", "usage": {"input_tokens": 9, "total_tokens": 12}})
    assert load_answers(path, TEXTS)[0][1].usage == Usage(input_tokens=9)


def test_blank_lines_are_skipped(record):
    assert len(load_answers(record({"indices": [0, 1], "choice": "yes"}, "", "  "), TEXTS)) == 1


def test_order_of_the_lines_is_kept(record):
    path = record(*({"indices": [left, 4], "choice": "no"} for left in (3, 0, 2)))
    assert [question.anchor_index for question, _ in load_answers(path, TEXTS)] == [3, 0, 2]


def test_other_fields_of_question_and_answer_are_read(record):
    line = {
        "indices": [0, 1],
        "choice": "yes",
        "instruction": "by appliance",
        "demonstrations": [["a", "b", "no"]],
        "repeat": 2,
        "confidence": 0.5,
        "usage": {"input_tokens": 9, "output_tokens": 1, "requests": 1, "cost": 0.25},
        "error": "slow",
    }
    question = pair_question(TEXTS, 0, 1, instruction="by appliance", demonstrations=[("a", "b", "no")])
    expected = (dataclasses.replace(question, repeat=2), Answer("yes", 0.5, Usage(9, 1, 1, 0.25), "slow"))
    assert load_answers(record(line), TEXTS) == [expected]


@pytest.mark.parametrize("indices", [[0, 5], [0, -1], [0, [1], [5]], [5, [1], [2]], [0, True], [0, "1"], [0, 1.0]])
def test_index_out_of_range_is_refused(record, indices):
    path = record({"indices": [0, 1], "choice": "yes"}, {"indices": indices, "choice": None})
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}, line 2: index .+ is out of range for 5 texts$"):
        load_answers(path, TEXTS)


def test_a_line_that_is_not_json_is_named(record):
    path = record({"indices": [0, 1], "choice": "yes"}, "{indices: 3}")
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}, line 2: not JSON \("):
        load_answers(path, TEXTS)


def test_line_numbers_count_blank_lines(record):
    path = record("", {"indices": [0, 1]})
    assert complaint(path) == f"{path}, line 2: a recorded answer has 'indices' and 'choice'"


@pytest.mark.parametrize("line", [[0, 1], 3, {"choice": "yes"}, {"indices": [0, 1]}])
def test_a_line_without_indices_and_choice_is_refused(record, line):
    path = record(line)
    assert complaint(path) == f"{path}, line 1: a recorded answer has 'indices' and 'choice'"


@pytest.mark.parametrize("indices", [3, [], [0], [0, 1, 2], [0, [1]], [[0], [1]], [0, [1], 2], [0, [1], [[2]]]])
def test_indices_of_no_question_are_refused(record, indices):
    path = record({"indices": indices, "choice": None})
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}, line 1: not a question \("):
        load_answers(path, TEXTS)


@pytest.mark.parametrize("choices", [["1", "3"], 2, ["yes", "no"]])
def test_choices_of_no_question_are_refused(record, choices):
    path = record({"indices": [0, [1], [2]], "choice": None, "choices": choices})
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}, line 1: not a question \("):
        load_answers(path, TEXTS)


def test_an_inadmissible_choice_is_refused(record):
    path = record({"indices": [0, [1], [2]], "choice": "none"})
    assert complaint(path) == f"{path}, line 1: 'none' is not one of the choices 1, 2"


def test_a_usage_that_is_none_is_refused_with_its_line(record):
    path = record({"indices": [0, 1], "choice": "yes", "usage": 12})
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}, line 1: "):
        load_answers(path, TEXTS)


def test_a_missing_file_is_an_error(tmp_path):
    path = tmp_path / "nowhere.jsonl"
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: cannot read recorded answers \("):
        load_answers(path, TEXTS)


def test_a_file_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"indices": [0, 1], "choice": "\xff"}')
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: cannot read recorded answers \("):
        load_answers(path, TEXTS)


def test_an_empty_file_holds_no_answers(record):
    assert load_answers(record(), TEXTS) == []


PAIRS = [
    (triplet_question(TEXTS, 0, 1, 2, "by appliance"), Answer("1", 0.5, Usage(9, 1, 1, 0.25))),
    (choice_question(TEXTS, 0, [[1], [2, 3]], none=True), Answer("none")),
    (choice_question(TEXTS, 0, [[1, 4], [2, 3]], none=False), Answer("2")),
    (pair_question(TEXTS, 3, 2, demonstrations=[("a", "b", "no")]), Answer(None, error="unreadable reply: ''")),
    (dataclasses.replace(pair_question(TEXTS, 3, 2), repeat=1), Answer("yes")),
]


def test_what_is_written_is_read_back(record):
    assert load_answers(record(*answer_lines(PAIRS)), TEXTS) == PAIRS


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\r", "\n"])
def test_a_text_with_a_line_separator_is_read_back(record, separator):
    texts = ["The kettle" + separator + "leaks", "A bench"]
    pairs = [(pair_question(texts, 0, 1), Answer("no"))]
    assert load_answers(record(*answer_lines(pairs)), texts) == pairs


def test_each_line_has_a_hash_of_each_text():
    (line,) = answer_lines(PAIRS[1:2])
    first, second, third, fourth = (text_hash(TEXTS[index]) for index in (0, 1, 2, 3))
    assert json.loads(line)["hashes"] == [first, [second], [third, fourth]]


def test_hash_is_the_beginning_of_sha256():
    assert text_hash("abc") == "ba7816bf8f01cfea"


def test_answers_about_other_texts_are_refused(record):
    path = record(*answer_lines(PAIRS))
    changed = [*TEXTS[:2], "Die Lampe brummt", *TEXTS[3:]]
    message = f"{path}, line 1: the texts are not those that the question was about; give the same file"
    assert complaint(path, changed) == message


def test_a_change_in_a_text_that_no_question_is_about_does_not_matter(record):
    path = record(*answer_lines(PAIRS[:1]))
    assert load_answers(path, [*TEXTS[:3], "another", "text"]) == PAIRS[:1]


def test_hashes_are_of_the_texts_before_redaction(record):
    redacted = ["someone called", "A bench"]
    pairs = [(pair_question(redacted, 0, 1), Answer("no"))]
    path = record(*answer_lines(pairs, ["Ann called", "A bench"]))
    (known,) = load_answers(path, ["Ann called", "A bench"])
    assert known == (pair_question(["Ann called", "A bench"], 0, 1), Answer("no"))
