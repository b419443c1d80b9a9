import dataclasses
import hashlib
import json

import pytest

import clusterllm_oracles
from clusterllm_oracles.replay import ReplayOracle
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.questions import Answer, OracleError, Usage, choice_question, pair_question, triplet_question
from clusterllm_plugins.recording import answer_lines
from clusterllm_plugins.testing import TEXTS as SAMPLES
from clusterllm_plugins.testing import check_oracle
from clusterllm_plugins.testing import questions as sample_questions

TEXTS = [
    "The kettle leaks",
    "Water drips from my kettle",
    "Die Lampe flackert",
    "灯太暗了",
    "A bench",
    "The kettle leaks",
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.jsonl"


@pytest.fixture
def replay(path):
    def make(*pairs):
        path.write_text("".join(line + "\n" for line in answer_lines(pairs)), encoding="utf-8")
        oracle = ReplayOracle(path)
        oracle.prepare(TEXTS, None)
        return oracle

    return make


def choices(oracle, *questions):
    return [answer.choice for answer in oracle.answer(questions)]


def test_it_is_found_by_name(path):
    path.write_text("")
    plugins = Plugins(discover=False)
    plugins.register(clusterllm_oracles, "builtin")
    assert isinstance(plugins.oracle({"name": "replay", "path": str(path)}), ReplayOracle)


def test_recorded_answers_are_given_in_the_order_of_the_questions(replay):
    pairs = [(pair_question(TEXTS, number, 4), Answer("yes" if number % 2 else "no")) for number in range(4)]
    oracle = replay(*pairs)
    assert choices(oracle, *(question for question, _ in reversed(pairs))) == ["yes", "no", "yes", "no"]


def test_a_minimal_recording_is_enough(path):
    path.write_text('{"indices": [0, [1], [2]], "choice": "1"}\n')
    oracle = ReplayOracle(str(path))
    oracle.prepare(TEXTS, None)
    assert choices(oracle, triplet_question(TEXTS, 0, 1, 2)) == ["1"]


def test_a_question_that_was_not_recorded_abstains(replay):
    oracle = replay((pair_question(TEXTS, 0, 1), Answer("yes")))
    assert list(oracle.answer([pair_question(TEXTS, 0, 2)])) == [Answer(None, error="not recorded")]


def test_a_recorded_abstention_abstains(replay):
    oracle = replay((pair_question(TEXTS, 0, 1), Answer(None)))
    assert list(oracle.answer([pair_question(TEXTS, 0, 1)])) == [Answer(None)]


def test_a_pair_is_found_the_other_way_round(replay):
    oracle = replay((pair_question(TEXTS, 0, 1), Answer("yes")))
    assert choices(oracle, pair_question(TEXTS, 1, 0)) == ["yes"]


def test_a_triplet_shown_in_the_other_order_has_the_same_candidate_chosen(replay):
    oracle = replay((triplet_question(TEXTS, 0, 1, 2), Answer("1")))
    assert choices(oracle, triplet_question(TEXTS, 0, 2, 1)) == ["2"]


def test_a_choice_shown_in_another_order_has_the_same_group_chosen(replay):
    oracle = replay((choice_question(TEXTS, 0, [[1], [2, 3], [4]], none=True), Answer("2")))
    assert choices(oracle, choice_question(TEXTS, 0, [[4], [1], [2, 3]], none=True)) == ["3"]


def test_none_is_none_in_any_order(replay):
    oracle = replay((choice_question(TEXTS, 0, [[1], [2, 3], [4]], none=True), Answer("none")))
    assert choices(oracle, choice_question(TEXTS, 0, [[4], [1], [2, 3]], none=True)) == ["none"]


@pytest.mark.parametrize(
    "other",
    [
        triplet_question(TEXTS, 1, 0, 2),
        choice_question(TEXTS, 0, [[1], [2]], none=True),
        choice_question(TEXTS, 0, [[1], [2], [3]], none=False),
        choice_question(TEXTS, 0, [[1, 3], [2]], none=False),
        triplet_question(TEXTS, 5, 1, 2),
        dataclasses.replace(triplet_question(TEXTS, 0, 1, 2), repeat=1),
    ],
    ids=["anchor", "none", "more groups", "more exemplars", "position", "repeat"],
)
def test_another_question_is_not_recorded(replay, other):
    oracle = replay((triplet_question(TEXTS, 0, 1, 2), Answer("1")))
    assert list(oracle.answer([other])) == [Answer(None, error="not recorded")]


def test_a_repeat_of_a_pair_is_another_question(replay):
    question = pair_question(TEXTS, 0, 1)
    again = dataclasses.replace(question, repeat=1)
    assert choices(replay((question, Answer("yes")), (again, Answer("no"))), question, again) == ["yes", "no"]


def test_the_instruction_does_not_matter(replay):
    oracle = replay((pair_question(TEXTS, 0, 1), Answer("yes")))
    assert choices(oracle, pair_question(TEXTS, 0, 1, instruction="by appliance")) == ["yes"]


def test_confidence_is_replayed(replay):
    oracle = replay((pair_question(TEXTS, 0, 1), Answer("yes", 0.75)))
    assert [answer.confidence for answer in oracle.answer([pair_question(TEXTS, 0, 1)])] == [0.75]


def test_nothing_is_used_again(replay):
    oracle = replay((pair_question(TEXTS, 0, 1), Answer("yes", usage=Usage(90, 10, 1, 0.5))))
    assert [answer.usage for answer in oracle.answer([pair_question(TEXTS, 0, 1)])] == [Usage()]


def test_of_two_recordings_of_a_question_the_last_counts(replay):
    question = pair_question(TEXTS, 0, 1)
    assert choices(replay((question, Answer("yes")), (question, Answer("no"))), question) == ["no"]


def test_it_must_be_prepared(path):
    path.write_text("")
    with pytest.raises(OracleError) as caught:
        list(ReplayOracle(path).answer([pair_question(TEXTS, 0, 1)]))
    assert str(caught.value) == "oracle 'replay' must be prepared with the texts before it is asked"
    assert caught.value.fatal


def test_a_missing_file_is_an_error_at_once(tmp_path):
    path = tmp_path / "nowhere.jsonl"
    with pytest.raises(DataError) as caught:
        ReplayOracle(path)
    assert str(caught.value) == f"oracle 'replay': cannot read {path} (No such file or directory)"


def test_a_recording_about_other_texts_is_refused(replay, path):
    replay((pair_question(TEXTS, 0, 1), Answer("yes")))
    with pytest.raises(DataError, match="line 1: the texts are not those that the question was about"):
        ReplayOracle(path).prepare(TEXTS[::-1], None)


def test_a_recording_made_with_redaction_is_replayed_with_the_same_redaction(path):
    originals, redacted = ["Ann called", "A bench"], ["someone called", "A bench"]
    question = pair_question(redacted, 0, 1)
    path.write_text("".join(answer_lines([(question, Answer("no"))], originals)))
    oracle = ReplayOracle(path)
    oracle.prepare(redacted, None)
    assert choices(oracle, question) == ["no"]


def test_fingerprint_is_a_digest_of_the_file(path):
    path.write_bytes(b'{"indices": [0, 1], "choice": "yes"}\n')
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert ReplayOracle(path).fingerprint == f"replay:{digest[:16]}"


def test_its_answers_depend_on_indices():
    assert ReplayOracle.uses_indices


def test_it_keeps_the_contract(path):
    pairs = [(question, Answer(question.choices[-1])) for question in sample_questions()]
    path.write_text("".join(line + "\n" for line in answer_lines(pairs, SAMPLES)), encoding="utf-8")
    check_oracle(lambda: ReplayOracle(path))


def test_unknown_keys_of_a_recording_are_ignored(path):
    path.write_text(json.dumps({"indices": [0, 1], "choice": "no", "merge": 12}) + "\n")
    oracle = ReplayOracle(path)
    oracle.prepare(TEXTS, None)
    assert choices(oracle, pair_question(TEXTS, 0, 1)) == ["no"]
