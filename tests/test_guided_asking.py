"""Who is asked what, and the tests of an oracle, of ``method="auto"``."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterllm_plugins import Answer, ClusterLLMWarning
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.corpus import make_corpus
from clusterllm_plugins.guided.checks import core_checks, duel, estimate_reliability, order_bias
from clusterllm_plugins.guided.evidence import (
    NO_GROUP,
    PAIR_RELIABILITY,
    TRIPLET_RELIABILITY,
    Asked,
    Reliability,
    wrong_weights,
)
from clusterllm_plugins.guided.planning import SHAPES, Asker, is_triplet, known_by_rows, shape_for
from clusterllm_plugins.guided.reassign import Held
from clusterllm_plugins.questions import choice_question, pair_question, triplet_question
from clusterllm_plugins.redaction import Redaction
from guided_kit import Told, always, guessing, make_blobs, make_oracle, points_of, texts_of, wrong

SIZES = (30, 30, 30, 30)


@pytest.fixture
def four():
    vectors, truth = make_blobs(SIZES)
    return points_of(vectors), truth


@pytest.fixture
def make_asker(open_session):
    def make(points, oracle, limit=1000, seed=0):
        corpus = make_corpus(texts_of(len(points)), Redaction())
        return Asker(corpus, points, open_session(oracle), QuestionCap(limit), None, seed)

    return make


def queries_of(truth, anchors):
    """Where does each anchor belong, among exemplars of every category?"""
    return [
        (int(anchor), [[row for row in np.flatnonzero(truth == k).tolist() if row != anchor][:2] for k in range(4)])
        for anchor in anchors
    ]


# Shapes.


def test_without_a_cap_the_largest_shape_is_taken():
    assert shape_for(texts_of(10), 1000, None) == SHAPES[0]


def test_a_tight_cap_takes_the_smallest_shape():
    assert shape_for(texts_of(10), 1000, 1) == SHAPES[-1]


@given(tokens=st.integers(0, 10**7), more=st.integers(0, 10**7), length=st.integers(1, 500))
def test_more_tokens_never_give_a_smaller_shape(tokens, more, length):
    texts = ["x" * length]
    assert SHAPES.index(shape_for(texts, 500, tokens + more)) <= SHAPES.index(shape_for(texts, 500, tokens))


# The asker.


def test_answers_are_mapped_back_to_the_right_group_whatever_the_order(four, make_asker):
    points, truth = four
    queries = queries_of(truth, range(0, 120, 3))
    asker = make_asker(points, make_oracle(truth))
    for (anchor, groups), answer in zip(queries, asker(queries), strict=True):
        assert answer.anchor == anchor
        assert list(answer.groups[answer.choice]) == groups[truth[anchor]]


def test_groups_are_shown_in_every_order(four, make_asker):
    points, truth = four
    asker = make_asker(points, make_oracle(truth))
    asker(queries_of(truth, range(0, 120, 3)))
    assert {place for _, place in asker.places} == {0, 1, 2, 3}
    assert {shown for shown, _ in asker.places} == {4}


def shown_orders(make_asker, points, truth, seed):
    told = []
    oracle = always("1")
    oracle.fingerprint = f"seed {seed}"
    oracle._reply = lambda question: told.append(question.indices) or "1"
    make_asker(points, oracle, seed=seed)(queries_of(truth, range(0, 120, 10)))
    return sorted(told)


def test_the_order_is_a_function_of_the_seed(four, open_session, make_asker):
    points, truth = four
    first = shown_orders(make_asker, points, truth, 0)
    assert first != shown_orders(make_asker, points, truth, 1)
    asker = make_asker(points, always("1"), seed=0)
    asker(queries_of(truth, range(0, 120, 10)))
    assert sorted(question.indices for question, _ in asker.session.transcript) == first


def test_none_is_mapped_to_no_group(four, make_asker):
    points, truth = four
    (answer,) = make_asker(points, always("none"))(queries_of(truth, [5]))
    assert answer.choice == NO_GROUP


def test_the_cap_is_respected_and_nothing_is_left_after_it(four, make_asker):
    points, truth = four
    asker = make_asker(points, make_oracle(truth), limit=3)
    answers = asker(queries_of(truth, range(5)))
    assert [answer is not None for answer in answers] == [True, True, True, False, False]
    assert asker.left == 0
    assert asker.count == 3


def test_abstentions_are_counted(four, make_asker):
    points, truth = four
    asker = make_asker(points, always(None))
    assert asker(queries_of(truth, range(4))) == [None] * 4
    assert (asker.abstained, asker.count) == (4, 4)


def test_without_a_session_nothing_is_answered(four):
    points, truth = four
    asker = Asker(make_corpus(texts_of(120), Redaction()), points, None, QuestionCap(0), None, 0)
    assert asker(queries_of(truth, range(4))) == [None] * 4


# Known answers.


@pytest.fixture
def gappy():
    """Texts of which the first is empty and the third equals the second, and points of the two rows and one more."""
    with pytest.warns(ClusterLLMWarning):
        return make_corpus(["", "a", "a", "b", "c"], Redaction())


def known_of(corpus, question, choice):
    points = np.arange(len(corpus.distinct), dtype=np.float32)[:, None]
    return known_by_rows([(question, Answer(choice))], corpus, points)


def test_a_known_choice_is_read_by_rows(gappy):
    (taken,) = known_of(gappy, choice_question(gappy.texts, 2, [[4], [3]], none=True), "1")
    assert (taken.anchor, taken.groups[taken.choice], taken.reliability) == (0, (2,), Reliability())


@pytest.mark.parametrize(("said", "choice"), [("yes", 0), ("no", NO_GROUP)])
def test_a_known_pair_is_a_choice_of_one_group_or_none(gappy, said, choice):
    (taken,) = known_of(gappy, pair_question(gappy.texts, 1, 4), said)
    assert (taken.groups, taken.choice, taken.reliability) == (((2,),), choice, PAIR_RELIABILITY)


def test_a_known_triplet_has_its_own_reliability(gappy):
    question = triplet_question(gappy.texts, 1, 3, 4)
    (taken,) = known_of(gappy, question, "2")
    assert is_triplet(question)
    assert (taken.groups[taken.choice], taken.reliability) == ((2,), TRIPLET_RELIABILITY)


def test_known_answers_about_empty_texts_and_abstentions_are_left_out(gappy):
    assert known_of(gappy, choice_question(gappy.texts, 0, [[4], [3]], none=True), "1") == []
    assert known_of(gappy, choice_question(gappy.texts, 1, [[0], [3]], none=True), "1") == []
    assert known_of(gappy, pair_question(gappy.texts, 1, 4), None) == []


def test_an_empty_exemplar_among_others_is_passed_over(gappy):
    (taken,) = known_of(gappy, choice_question(gappy.texts, 1, [[0, 4], [3]], none=True), "1")
    assert taken.groups[taken.choice] == (2,)


# Core checks and order bias.


@pytest.mark.parametrize("accuracy", [1.0, 0.8])
def test_an_oracle_of_use_passes_the_core_checks(four, make_asker, accuracy):
    points, truth = four
    assert core_checks(make_asker(points, make_oracle(truth, accuracy)), points, truth, 4, 2, 0).passed


def test_a_perfect_oracle_picks_each_typical_texts_own_cluster(four, make_asker):
    points, truth = four
    checks = core_checks(make_asker(points, make_oracle(truth)), points, truth, 4, 2, 0)
    assert checks.own == checks.picked == checks.asked > 0


def test_oracles_of_no_use_fail_the_core_checks(four, make_asker):
    points, truth = four
    for oracle in (guessing(), always("1"), always("none"), always(None), wrong(truth)):
        assert not core_checks(make_asker(points, oracle), points, truth, 4, 2, 0).passed, oracle.fingerprint


def test_core_checks_keep_to_their_share_of_the_cap(four, make_asker):
    points, truth = four
    asker = make_asker(points, guessing(), limit=640)
    core_checks(asker, points, truth, 4, 2, 0)
    assert asker.count <= 80


def test_a_liking_for_the_first_place_is_seen(four, make_asker):
    points, truth = four
    asker = make_asker(points, always("1"))
    asker(queries_of(truth, range(0, 120, 3)))
    bias = order_bias(asker.places)
    assert bias["first_chosen"] == 1
    assert bias["expected"] == 0.25
    assert bias["p_value"] < 0.001


def test_a_perfect_oracle_has_no_liking_for_a_place(four, make_asker):
    points, truth = four
    asker = make_asker(points, make_oracle(truth))
    asker(queries_of(truth, range(0, 120, 3)))
    assert order_bias(asker.places)["p_value"] > 0.05


def test_without_answers_there_is_no_order_bias():
    assert order_bias([]) == {"first_chosen": None, "expected": None, "p_value": None}


# The duel.


@pytest.fixture
def worse(four):
    """The categories with every third text put into the next one."""
    _, truth = four
    return np.where(np.arange(120) % 3 == 2, (truth + 1) % 4, truth)


def test_the_duel_favours_the_better_clustering(four, worse):
    points, truth = four
    good = duel(Told(points, truth), points, worse, truth, set(), 2, 0)
    assert good.refined > good.plain
    assert not good.favours_plain
    bad = duel(Told(points, truth), points, truth, worse, set(), 2, 0)
    assert bad.plain > bad.refined
    assert bad.favours_plain


def test_equal_clusterings_have_nothing_to_compare(four):
    points, truth = four
    ask = Told(points, truth)
    assert duel(ask, points, truth, truth, set(), 2, 0).p_value == 1
    assert ask.count == 0


def test_the_duel_asks_about_no_text_that_was_asked_about(four, worse):
    points, truth = four
    ask = Told(points, truth)
    duel(ask, points, worse, truth, set(np.flatnonzero(worse != truth).tolist()), 2, 0)
    assert ask.count == 0


def test_the_duel_keeps_to_the_cap(four, worse):
    points, truth = four
    ask = Told(points, truth, limit=3)
    duel(ask, points, truth, worse, set(), 2, 0)
    assert ask.count == 3


# Reliability from held answers.


def held_answers(accuracy, none_right, count=150, n_groups=6):
    """Answers by the model that is estimated; of a tenth of the texts no group is right."""
    rng = np.random.default_rng(0)
    weights = wrong_weights(n_groups)
    held = []
    for _ in range(count):
        shares = np.sort(rng.dirichlet([0.3] * n_groups))[::-1]
        right = rng.choice(n_groups, p=shares) if rng.random() < 0.9 else None
        if right is not None and rng.random() < accuracy:
            choice = int(right)
        elif rng.random() < (none_right if right is None else Reliability().none_missed):
            choice = NO_GROUP
        else:
            choice = int(rng.choice(n_groups, p=weights))
        groups = tuple((row,) for row in range(n_groups))
        held.append(Held(Asked(0, groups, (0.0,) * n_groups, choice), shares.copy()))
    return held


def test_a_better_oracle_is_estimated_to_be_better():
    low, high = (estimate_reliability(held_answers(accuracy, 0.6)).accuracy for accuracy in (0.6, 0.95))
    assert low < high


def test_without_held_answers_reliability_is_the_usual_one():
    assert estimate_reliability([]) == Reliability()
