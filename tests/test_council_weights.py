"""What votes earn by a simulated oracle, and weights that are estimated without labels."""

import json
import random

import pytest

from asking_kit import ask
from clusterllm_oracles.council import CouncilOracle
from clusterllm_oracles.voting import FEWEST_BALLOTS, log_odds, reliabilities, winner
from clusterllm_plugins import Plugins
from clusterllm_plugins.answer_log import AnswerLog
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.questions import choice_question, pair_question
from clusterllm_plugins.store import AnswerStore

LABELS = [number % 4 for number in range(80)]
TEXTS = [f"note {number} of {label}" for number, label in enumerate(LABELS)]


def choices(count, seed):
    """Return questions with four groups, one of which is right."""
    rng, made = random.Random(seed), []
    for _ in range(count):
        anchor = rng.randrange(len(TEXTS))
        groups = [
            [index for index, label in enumerate(LABELS) if label == each and index != anchor] for each in range(4)
        ]
        made.append(choice_question(TEXTS, anchor, [rng.sample(group, 2) for group in groups], none=False))
    return made


ASKED = choices(300, 1)
FIRST = choices(300, 2)  # that weights are estimated from


def simulated(*accuracies):
    return [
        {"name": "simulated", "labels": LABELS, "profile": "uniform", "accuracy": accuracy, "seed": seed}
        for seed, accuracy in enumerate(accuracies)
    ]


def accuracy(oracle):
    answers = oracle.answer(ASKED)
    right = [str(LABELS[question.anchor_index] + 1) for question in ASKED]
    return sum(answer.choice == truth for answer, truth in zip(answers, right, strict=True)) / len(ASKED)


@pytest.fixture
def logged(tmp_path, open_session):
    """Return a function that lets members vote with equal weights, and returns the log."""

    def logged(members, **settings):
        path = tmp_path / "votes.jsonl"
        with AnswerLog(path) as log, AnswerStore() as store:
            ask(open_session(CouncilOracle(members, **settings), log, store=store), FIRST)
        return path

    return logged


def test_three_are_right_more_often_than_one():
    members = simulated(0.8, 0.8, 0.8)
    alone = [accuracy(Plugins().oracle(member)) for member in members]
    assert accuracy(CouncilOracle(members)) > max(alone) + 0.03


def test_given_weights_are_right_more_often_than_equal_ones():
    members = simulated(0.95, 0.6, 0.6)
    weighted = accuracy(CouncilOracle(members, weights=[3, 1, 1]))
    assert weighted > accuracy(CouncilOracle(members)) + 0.08


def test_estimated_weights_are_right_more_often_than_equal_ones(logged):
    members = simulated(0.95, 0.6, 0.6)
    weighted = accuracy(CouncilOracle(members, weights="estimated", votes=logged(members)))
    assert weighted > accuracy(CouncilOracle(members)) + 0.08


def test_reliabilities_come_near_the_truth(logged):
    members = simulated(0.9, 0.75, 0.6)
    oracle = CouncilOracle(members, weights="estimated", votes=logged(members))
    assert oracle.reliability == pytest.approx([0.9, 0.75, 0.6], abs=0.08)


def test_answers_do_not_depend_on_order_or_threads(open_session, logged):
    members = simulated(0.9, 0.75, 0.6)
    path = logged(members)

    def answers(questions, threads):
        oracle = CouncilOracle(members, weights="estimated", votes=path)
        oracle.concurrency, oracle.batch_size = threads, 3
        with AnswerStore() as store:
            given = ask(open_session(oracle, store=store), questions)
        return {question: answer.choice for question, answer in zip(questions, given, strict=True)}

    assert answers(ASKED, 1) == answers(ASKED[::-1], 8)


def test_the_estimate_is_part_of_the_fingerprint(logged):
    members = simulated(0.9, 0.75, 0.6)
    oracle = CouncilOracle(members, weights="estimated", votes=logged(members))
    assert str(oracle.reliability) in oracle.fingerprint


def test_a_vote_counts_by_its_log_odds_among_the_choices():
    assert (log_odds(0.75, 2), log_odds(0.75, 4)) == (pytest.approx(1.0986, abs=1e-4), pytest.approx(2.1972, abs=1e-4))


def test_a_voter_at_chance_has_no_weight():
    assert (log_odds(0.25, 4), log_odds(0.1, 2)) == (0, 0)


def test_abstentions_say_nothing_of_reliability():
    ballots = [("1", "1", None)] * 60 + [("2", "2", "2")] * 60
    assert len(set(reliabilities(ballots, [2] * 120)[:2])) == 1


def test_few_ballots_with_two_choices_leave_the_weights_about_equal():
    rng = random.Random(0)
    ballots = [["1" if rng.random() < right else "2" for right in (0.9, 0.7, 0.6)] for _ in range(100)]
    weights = [log_odds(right, 2) for right in reliabilities(ballots, [2] * 100)]
    assert max(weights) < sum(weights) / 2  # no one outvotes the others


def test_nobody_is_taken_to_be_always_right():
    assert max(reliabilities([("1", "1", "1")] * 5000, [2] * 5000)) == 0.999


def test_a_lone_vote_wins_with_its_share():
    assert winner(["1", None], [1.0, 3.0]) == ("1", 0.25)


def test_too_few_ballots_are_an_error(tmp_path, logged):
    path = logged(simulated(0.9, 0.75, 0.6))
    lines = path.read_text(encoding="utf-8").splitlines()[: FEWEST_BALLOTS - 1]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError, match=f"has {FEWEST_BALLOTS - 1} ballots of these members in this order"):
        CouncilOracle(simulated(0.9, 0.75, 0.6), weights="estimated", votes=path)


def test_ballots_of_other_members_do_not_count(logged):
    members = simulated(0.9, 0.75, 0.6)
    with pytest.raises(DataError, match="has 0 ballots of these members in this order"):
        CouncilOracle(members[::-1], weights="estimated", votes=logged(members))


def test_two_members_cannot_be_weighed(tmp_path):
    with pytest.raises(ValueError, match="where two members differ nothing says who is right"):
        CouncilOracle(simulated(0.9, 0.6), weights="estimated", votes=tmp_path / "any.jsonl")


@pytest.mark.parametrize("line", ["{", "[]", '{"votes": 3, "choices": ["1"]}', '{"votes": {"1:a": "1"}}'])
def test_a_line_of_something_else_is_told_with_its_number(tmp_path, line):
    path = tmp_path / "votes.jsonl"
    path.write_text('{"votes": null, "choices": null}\n' + line, encoding="utf-8")
    with pytest.raises(DataError, match=r"votes\.jsonl, line 2: no line of a log of answers"):
        CouncilOracle(simulated(0.9, 0.75, 0.6), weights="estimated", votes=path)


def test_a_missing_log_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*votes\.jsonl \(No such file or directory\)"):
        CouncilOracle(simulated(0.9, 0.75, 0.6), weights="estimated", votes=tmp_path / "votes.jsonl")


def test_lines_without_votes_are_passed_over(tmp_path, logged):
    members = simulated(0.9, 0.75, 0.6)
    path = logged(members)
    before = CouncilOracle(members, weights="estimated", votes=path).reliability
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"source": "recalled", "choices": ["1", "2"]}) + "\n")
    assert CouncilOracle(members, weights="estimated", votes=path).reliability == before


def test_a_pair_is_voted_on_likewise(open_session):
    question = pair_question(TEXTS, 0, 4)
    assert ask(open_session(CouncilOracle(simulated(1.0, 1.0, 0.0))), [question])[0].choice == "yes"
