import dataclasses
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

import clusterllm_oracles
from clusterllm_oracles.simulated import SimulatedOracle
from clusterllm_plugins.errors import ClusterLLMError, DataError
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.questions import OracleError, choice_question, pair_question, triplet_question
from clusterllm_plugins.testing import check_oracle

ASKED = 1500
RANKS = (42, 22, 12, 12, 4, 7)


class World:
    """Many anchors of category "a" at one place, and candidates at given cosines from it."""

    def __init__(self, *candidates, **settings):
        cosines = np.array([1.0] * ASKED + [cosine for _, cosine in candidates])
        self.vectors = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).astype(np.float32)
        self.labels = ["a"] * ASKED + [label for label, _ in candidates]
        self.texts = [f"note {number}" for number in range(len(self.labels))]
        self.groups = [[ASKED + number] for number in range(len(candidates))]
        self.settings = settings

    def oracle(self, **settings):
        oracle = SimulatedOracle(self.labels, **self.settings, **settings)
        oracle.prepare(self.texts, self.vectors)
        return oracle

    def shares(self, ask):
        said = Counter(answer.choice for answer in self.oracle().answer([ask(anchor) for anchor in range(ASKED)]))
        return {choice: count / ASKED for choice, count in said.items()}

    def triplets(self):
        return self.shares(lambda anchor: choice_question(self.texts, anchor, self.groups, none=False))

    def choices(self, groups=None, *, none=True):
        return self.shares(lambda anchor: choice_question(self.texts, anchor, groups or self.groups, none=none))

    def pairs(self):
        return self.shares(lambda anchor: pair_question(self.texts, anchor, ASKED))


def near(share, asked=ASKED):
    return pytest.approx(share, abs=3 * np.sqrt(share * (1 - share) / asked))


def ranked(weights, candidates, asked=ASKED):
    shares = np.array(weights) / np.sum(weights)
    order = sorted(range(len(candidates)), key=lambda number: -candidates[number])
    return {str(number + 1): near(shares[rank], asked) for rank, number in enumerate(order)}


# The profile "measured": triplets.


@pytest.mark.parametrize(
    ("right", "wrong", "share"),
    [(0.3, 0.6, 0.60), (0.4, 0.5, 0.68), (0.5, 0.52, 0.84), (0.52, 0.5, 0.84), (0.5, 0.4, 0.91), (0.9, 0.1, 0.91)],
)
def test_a_decidable_triplet_is_answered_right_as_often_as_measured_at_its_margin(right, wrong, share):
    assert World(("a", right), ("b", wrong)).triplets() == {"1": near(share), "2": near(1 - share)}


def test_order_of_a_triplet_makes_no_difference():
    assert World(("b", 0.6), ("a", 0.3)).triplets() == {"1": near(0.40), "2": near(0.60)}


@pytest.mark.parametrize(("nearer", "cosines"), [("1", (0.6, 0.5)), ("2", (0.1, 0.8))])
def test_a_triplet_without_a_right_choice_is_answered_with_the_nearer_as_often_as_measured(nearer, cosines):
    shares = World(("b", cosines[0]), ("c", cosines[1])).triplets()
    assert shares[nearer] == near(0.64)


def test_a_triplet_with_two_right_choices_may_be_answered_with_either():
    assert World(("a", 0.6), ("a", 0.5)).triplets().keys() == {"1", "2"}


def test_margins_are_those_of_directions_whatever_their_lengths():
    world = World(("a", 0.3), ("b", 0.6))
    questions = [triplet_question(world.texts, anchor, ASKED, ASKED + 1) for anchor in range(200)]
    before = list(world.oracle().answer(questions))
    world.vectors *= 0.1
    assert list(world.oracle().answer(questions)) == before


# The profile "measured": choices.

FAR = [("b", 0.3), ("c", 0.2), ("d", 0.1)]


@pytest.mark.parametrize(("right", "share"), [(0.1, 0.71), (0.25, 0.79), (0.35, 0.88), (0.5, 0.94)])
def test_a_right_group_is_chosen_as_often_as_measured_at_its_margin(right, share):
    assert World(*FAR, ("a", right)).choices()["4"] == near(share)


def test_the_margin_of_a_group_is_that_of_its_mean_cosine():
    world = World(("a", 0.1), ("a", 0.3), ("a", 0.5), ("b", 0.15), ("b", 0.25), ("b", 0.2))
    first, second = (range(start, start + 3) for start in (ASKED, ASKED + 3))
    assert world.choices([first, second])["1"] == near(0.88)


def test_a_group_is_right_by_the_majority_of_its_exemplars():
    world = World(("a", 0.4), ("b", 0.4), ("a", 0.4), ("b", 0.2), ("a", 0.2), ("b", 0.2))
    first, second = (range(start, start + 3) for start in (ASKED, ASKED + 3))
    assert world.choices([first, second])["1"] == near(0.94)


def test_of_several_right_groups_the_nearest_counts():
    shares = World(("a", 0.1), ("b", 0.2), ("a", 0.5)).choices()
    assert (shares["3"], "1" in shares) == (near(0.94), False)


def test_where_a_right_group_is_missed_none_is_as_frequent_as_measured():
    shares = World(*FAR, ("a", 0.1)).choices()
    assert shares["none"] / (1 - shares["4"]) == near(0.36, 0.29 * ASKED)


def test_where_a_right_group_is_missed_wrong_ones_come_by_their_rank():
    shares = World(("a", 0.1), ("b", 0.2), ("c", 0.4), ("d", 0.3)).choices()
    wrong = 1 - shares["1"] - shares["none"]
    assert [shares[choice] / wrong for choice in "342"] == [near(weight / 76, wrong * ASKED) for weight in (42, 22, 12)]


def test_where_no_group_is_right_none_is_as_frequent_as_measured():
    assert World(*FAR).choices()["none"] == near(0.54)


def test_where_no_group_is_right_the_wrong_ones_come_by_their_rank_not_by_their_place():
    cosines = [0.2, 0.6, 0.4, 0.1, 0.5, 0.3]
    shares = World(*(("b", cosine) for cosine in cosines)).choices()
    rest = 1 - shares.pop("none")
    assert {choice: share / rest for choice, share in shares.items()} == ranked(RANKS, cosines, rest * ASKED)


def test_the_last_rank_goes_on_for_more_groups():
    cosines = [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    assert World(*(("b", cosine) for cosine in cosines)).choices(none=False) == ranked([*RANKS, 7, 7], cosines)


def test_none_is_never_said_where_it_is_not_admissible():
    assert "none" not in World(*FAR).choices(none=False)


@pytest.mark.parametrize("none", [True, False])
def test_two_groups_are_no_triplet_with_none_or_more_exemplars(none):
    world = World(("a", 0.3), ("b", 0.6), ("b", 0.6))
    groups = world.groups[:2] if none else [[ASKED], [ASKED + 1, ASKED + 2]]
    assert world.choices(groups, none=none)["1"] == near(0.71)


def test_three_single_exemplars_are_no_triplet():
    assert World(("a", 0.3), ("b", 0.6), ("c", 0.1)).choices(none=False)["1"] == near(0.71)


# The profile "measured": pairs.


@pytest.mark.parametrize("cosine", [0.1, 0.9])
def test_a_pair_of_one_category_is_affirmed_as_often_as_measured(cosine):
    assert World(("a", cosine)).pairs()["yes"] == near(0.96)


@pytest.mark.parametrize(("cosine", "share"), [(0.1, 0.05), (0.4, 0.09), (0.8, 0.15)])
def test_a_pair_of_two_categories_is_affirmed_as_often_as_measured_at_its_cosine(cosine, share):
    assert World(("b", cosine)).pairs()["yes"] == near(share)


# The profile "uniform".


@pytest.mark.parametrize("accuracy", [0.6, 0.9])
def test_uniform_is_right_as_often_as_set(accuracy):
    world = World(("b", 0.9), ("a", 0.1), ("c", 0.5), profile="uniform", accuracy=accuracy)
    assert world.choices()["2"] == near(accuracy)


def test_uniform_errs_evenly():
    shares = World(("b", 0.9), ("a", 0.1), ("c", 0.5), profile="uniform", accuracy=0.4).choices()
    assert shares == {"2": near(0.4), "1": near(0.2), "3": near(0.2), "none": near(0.2)}


@pytest.mark.parametrize(("label", "right"), [("a", "yes"), ("b", "no")])
def test_uniform_pairs_are_right_as_often_as_set(label, right):
    assert World((label, 0.5), profile="uniform", accuracy=0.7).pairs()[right] == near(0.7)


def test_uniform_takes_any_choice_where_none_is_right():
    assert World(("b", 0.9), ("c", 0.1), profile="uniform").triplets() == {"1": near(0.5), "2": near(0.5)}


def test_uniform_says_none_where_that_is_right():
    assert World(("b", 0.9), ("c", 0.1), profile="uniform", accuracy=1).choices() == {"none": 1}


def test_uniform_takes_any_of_several_right_choices():
    world = World(("a", 0.9), ("b", 0.5), ("a", 0.1), profile="uniform", accuracy=1)
    assert world.choices() == {"1": near(0.5), "3": near(0.5)}


def test_uniform_is_never_wrong_where_both_candidates_are_right():
    assert World(("a", 0.9), ("a", 0.1), profile="uniform", accuracy=0).triplets() == {"1": near(0.5), "2": near(0.5)}


def test_uniform_without_accuracy_is_never_right():
    assert "1" not in World(("a", 0.9), ("b", 0.5), profile="uniform", accuracy=0).choices()


def test_uniform_needs_no_preparation():
    oracle = SimulatedOracle(["a", "a", "b"], profile="uniform", accuracy=1)
    texts = ["mug", "cup", "bench"]
    answers = oracle.answer([pair_question(texts, 0, 1), pair_question(texts, 1, 2)])
    assert [answer.choice for answer in answers] == ["yes", "no"]


# Determinism.


@pytest.fixture
def world():
    return World(("b", 0.5), ("c", 0.4), ("d", 0.3))


def questions(world, count=100):
    return [choice_question(world.texts, anchor, world.groups, none=True) for anchor in range(count)]


def test_another_oracle_of_the_same_seed_answers_the_same(world):
    assert list(world.oracle(seed=3).answer(questions(world))) == list(world.oracle(seed=3).answer(questions(world)))


def test_another_seed_answers_differently(world):
    assert list(world.oracle(seed=3).answer(questions(world))) != list(world.oracle(seed=4).answer(questions(world)))


def test_answers_do_not_depend_on_what_was_asked_before(world):
    oracle = world.oracle()
    forwards = list(oracle.answer(questions(world)))
    backwards = [next(iter(oracle.answer([question]))) for question in reversed(questions(world))]
    assert backwards[::-1] == forwards


def test_answers_differ_between_equal_questions_about_other_texts(world):
    said = [answer.choice for answer in world.oracle().answer(questions(world))]
    assert any(one != other for one, other in pairwise(said))


@pytest.mark.parametrize("profile", ["measured", "uniform"])
def test_a_repeat_gets_the_first_answer(world, profile):
    oracle = world.oracle(profile=profile)
    first = list(oracle.answer(questions(world)))
    again = [dataclasses.replace(question, repeat=2) for question in questions(world)]
    assert list(oracle.answer(again)) == first


def test_wording_makes_no_difference(world):
    oracle = world.oracle()
    reworded = [dataclasses.replace(question, instruction="by colour") for question in questions(world)]
    assert list(oracle.answer(reworded)) == list(oracle.answer(questions(world)))


# Labels, settings and errors.


def test_it_is_found_by_name():
    plugins = Plugins(discover=False)
    plugins.register(clusterllm_oracles, "builtin")
    assert isinstance(plugins.oracle({"name": "simulated", "labels": ["a", "b"]}), SimulatedOracle)


def test_it_says_that_it_is_simulated():
    assert SimulatedOracle(["a", "b"]).fingerprint.startswith("simulated:")


def test_its_answers_depend_on_indices():
    assert SimulatedOracle.uses_indices


@pytest.mark.parametrize(
    "content",
    [
        '["a", "a", "b"]',
        '\n [\n"a",\n"a",\n"b"]\n',
        '{"text": "mug", "label": "a"}\n{"text": "cup", "label": "a"}\n\n{"label": "b"}\n',
        '{"text": "a mug\u2028and a \x85 cup", "label": "a"}\n{"label": "a"}\n{"label": "b"}\n',
    ],
    ids=["json", "json over lines", "jsonl", "jsonl with line separators"],
)
def test_labels_may_come_from_a_file(tmp_path, content):
    path = tmp_path / "labels"
    path.write_text(content, encoding="utf-8")
    from_file = SimulatedOracle(str(path))
    assert from_file.fingerprint == SimulatedOracle(["a", "a", "b"]).fingerprint


@pytest.mark.parametrize("content", ["", "mug\n", '{"text": "mug"}\n', "[1, 2", "3\n", '"a"\n'])
def test_a_file_without_labels_is_an_error(tmp_path, content):
    path = tmp_path / "labels"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        SimulatedOracle(path)
    start = f"oracle 'simulated': {path} is neither a JSON list of labels nor JSONL with a field 'label' ("
    assert str(caught.value).startswith(start)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="No such file or directory"):
        SimulatedOracle(tmp_path / "nowhere.json")


def test_an_unknown_profile_is_an_error():
    with pytest.raises(ClusterLLMError) as caught:
        SimulatedOracle(["a"], profile="perfect")
    assert str(caught.value) == "oracle 'simulated': profile is one of measured, uniform, not 'perfect'"


@pytest.mark.parametrize("accuracy", [-0.1, 1.1])
def test_an_impossible_accuracy_is_an_error(accuracy):
    with pytest.raises(ClusterLLMError) as caught:
        SimulatedOracle(["a"], profile="uniform", accuracy=accuracy)
    assert str(caught.value) == f"oracle 'simulated': accuracy must be in [0, 1], not {accuracy}"


def test_labels_of_other_texts_are_an_error():
    with pytest.raises(OracleError) as caught:
        SimulatedOracle(["a", "b"]).prepare(["mug", "cup", "bench"], np.eye(3, dtype=np.float32))
    assert str(caught.value) == "oracle 'simulated' has 2 labels for 3 texts"
    assert caught.value.fatal


def test_measured_must_be_prepared():
    with pytest.raises(OracleError) as caught:
        list(SimulatedOracle(["a", "b"]).answer([pair_question(["mug", "cup"], 0, 1)]))
    assert str(caught.value) == "oracle 'simulated': the profile 'measured' needs prepare(texts, embeddings)"
    assert caught.value.fatal


@pytest.mark.parametrize("change", [{"seed": 1}, {"profile": "uniform"}, {"labels": ["a", "c"]}])
def test_fingerprint_names_what_could_change_an_answer(change):
    assert SimulatedOracle(**{"labels": ["a", "b"], **change}).fingerprint != SimulatedOracle(["a", "b"]).fingerprint


def test_fingerprint_names_the_accuracy_of_uniform():
    one, other = (SimulatedOracle(["a"], profile="uniform", accuracy=accuracy) for accuracy in (0.7, 0.8))
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize("profile", ["measured", "uniform"])
def test_it_keeps_the_contract(profile):
    check_oracle(lambda: SimulatedOracle(["parcel", "login", "odd"] * 4, profile))
