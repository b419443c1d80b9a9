"""Evidence and classifier of ``method="auto"``."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterllm_plugins.guided.classifier import (
    Frame,
    LinearClassifier,
    margins,
    nearest_centroid,
    softmax,
    train,
    without_empty,
)
from clusterllm_plugins.guided.evidence import (
    NO_GROUP,
    PAIR_RELIABILITY,
    Asked,
    Reliability,
    asked,
    log_likelihoods,
    right_gains,
    text_likelihoods,
    wrong_weights,
)
from clusterllm_plugins.vectors import nearest, normalise
from guided_kit import make_blobs, points_of

quickly = settings(deadline=None, derandomize=True, max_examples=40)
seeds = st.integers(0, 2**31)


# Evidence.


def question_of(n_groups, choice, reliability=None):
    """A question about row 0 whose groups are rows of clusters 0, 1, ..."""
    groups = tuple((row,) for row in range(n_groups))
    return Asked(0, groups, tuple(-0.1 * row for row in range(n_groups)), choice, reliability or Reliability())


shares = st.floats(0.05, 0.95)
reliabilities = st.builds(Reliability, shares, shares, shares)


def over_all_answers(n_groups, reliability):
    return [question_of(n_groups, choice, reliability) for choice in range(NO_GROUP, n_groups)]


@quickly
@given(n_groups=st.integers(2, 20), reliability=reliabilities)
def test_answers_about_a_text_of_a_cluster_not_shown_have_probabilities_that_sum_to_one(n_groups, reliability):
    labels = np.arange(n_groups + 1)
    likelihoods = text_likelihoods(over_all_answers(n_groups, reliability), labels, n_groups + 1)
    assert np.exp(likelihoods[:, n_groups]).sum() == pytest.approx(1)


@quickly
@given(n_groups=st.integers(2, 20), reliability=reliabilities)
def test_answers_about_a_text_of_a_cluster_shown_have_probabilities_that_sum_to_one(n_groups, reliability):
    likelihoods = text_likelihoods(over_all_answers(n_groups, reliability), np.arange(n_groups), n_groups)
    assert np.exp(likelihoods).sum(axis=0) == pytest.approx(np.ones(n_groups))


@quickly
@given(n_groups=st.integers(1, 20), reliability=reliabilities)
def test_probabilities_of_all_answers_sum_to_one_where_no_group_is_right(n_groups, reliability):
    total = sum(np.exp(log_likelihoods(q, np.zeros((1, n_groups))))[0] for q in over_all_answers(n_groups, reliability))
    assert total == pytest.approx(1)


@quickly
@given(n_groups=st.integers(3, 20), reliability=reliabilities, data=st.data())
def test_probabilities_of_all_answers_sum_to_one_where_some_groups_are_right(n_groups, reliability, data):
    right = data.draw(st.lists(st.integers(0, n_groups - 1), min_size=1, max_size=2, unique=True))
    state = np.isin(np.arange(n_groups), right)[None, :].astype(float)
    total = sum(np.exp(log_likelihoods(q, state))[0] for q in over_all_answers(n_groups, reliability))
    assert total == pytest.approx(1)


@quickly
@given(n_groups=st.integers(2, 20), reliability=reliabilities, certain=st.booleans(), seed=seeds)
def test_a_probability_of_an_answer_lies_between_those_of_certain_states(n_groups, reliability, certain, seed):
    rng = np.random.default_rng(seed)
    place, choice = rng.integers(n_groups), int(rng.integers(NO_GROUP, n_groups))
    states = np.repeat(rng.integers(0, 2, size=(1, n_groups)).astype(float), 3, axis=0)
    states[:, place] = 0, 1, rng.random()
    apart, together, unsure = log_likelihoods(question_of(n_groups, choice, reliability), states)
    assert min(apart, together) - 1e-9 <= unsure <= max(apart, together) + 1e-9


def test_an_answer_says_less_against_a_group_where_the_chosen_one_is_likely_right_too():
    question = question_of(4, 0)
    doubtful, likely = (right_gains(question, np.arange(4), np.array([p, 0, 0, 0]))[1] for p in (0.01, 0.99))
    assert doubtful < likely < 0


def test_an_answer_is_for_the_group_chosen_and_all_that_shows_the_same():
    gains = right_gains(question_of(4, 0), np.array([7, 8, 7, 9]), np.full(4, 0.1))
    assert gains[0] > 0
    assert gains[0] == gains[2]
    assert (gains[[1, 3]] < 0).all()


@pytest.mark.parametrize("choice", [0, 1, 3])
def test_the_chosen_cluster_has_the_largest_likelihood(choice):
    likelihoods = text_likelihoods([question_of(4, choice)], np.arange(6), 6)
    assert likelihoods[0].argmax() == choice
    assert (np.delete(likelihoods[0], choice) < likelihoods[0, choice]).all()


def test_none_favours_clusters_that_were_not_shown():
    likelihoods = text_likelihoods([question_of(4, NO_GROUP)], np.arange(6), 6)[0]
    assert likelihoods[4:].min() > likelihoods[:4].max()


def test_yes_to_a_pair_favours_one_category_and_no_two():
    yes, no = (question_of(1, choice, PAIR_RELIABILITY) for choice in (0, NO_GROUP))
    assert right_gains(yes, np.zeros(1, int), np.full(1, 0.5))[0] > 0
    assert right_gains(no, np.zeros(1, int), np.full(1, 0.5))[0] < 0


def test_groups_are_put_in_the_order_of_their_nearness_and_the_choice_follows():
    points = np.array([[0.0], [3.0], [1.0], [2.0]], np.float32)
    taken = asked(points, 0, [[1], [2], [3]], 0)
    assert taken.groups == ((2,), (3,), (1,))
    assert taken.choice == 2
    assert list(taken.nearness) == sorted(taken.nearness, reverse=True)


def test_a_group_is_of_the_cluster_that_most_of_its_exemplars_are_in():
    question = replace(question_of(2, 0), groups=((0, 1, 2), (3, 4)))
    assert question.clusters(np.array([7, 7, 1, 2, 2])).tolist() == [7, 2]


@given(n_groups=st.integers(1, 60))
def test_nearer_wrong_groups_are_at_least_as_likely(n_groups):
    weights = wrong_weights(n_groups)
    assert weights.sum() == pytest.approx(1)
    assert (np.diff(weights) <= 0).all()


# Classifier.


@quickly
@given(seed=seeds, size=st.floats(0.01, 100), n_clusters=st.integers(1, 12))
def test_as_centres_the_nearest_one_is_the_best_scored(seed, size, n_clusters):
    rng = np.random.default_rng(seed)
    weights = (size * rng.normal(size=(n_clusters, 6))).astype(np.float32)
    classifier = LinearClassifier(weights, (size * rng.normal(size=n_clusters)).astype(np.float32))
    unit = normalise(rng.normal(size=(50, 6)))
    scores = classifier.scores(unit)
    centres, offsets = classifier.as_centres()
    chosen = scores[np.arange(50), nearest(unit, centres, offsets)]
    assert (scores.max(axis=1) - chosen <= 1e-4 * size).all()  # but for ties within rounding
    assert (offsets >= 0).all()
    assert np.linalg.norm(centres, axis=1).max() == pytest.approx(1, rel=1e-3)


@quickly
@given(seed=seeds, cone=st.floats(0, 3))
def test_of_unit_vectors_gives_equal_scores(seed, cone):
    rng = np.random.default_rng(seed)
    unit = normalise(rng.normal(size=(40, 6)) + cone)
    frame = Frame.of(unit)
    classifier = LinearClassifier(rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=4).astype(np.float32))
    of_points = classifier.scores(frame.points(unit))
    assert np.allclose(classifier.of_unit_vectors(frame).scores(unit), of_points, atol=1e-3)


@quickly
@given(seed=seeds, offset=st.floats(-3, 3), scale=st.floats(0.1, 10))
def test_a_frame_is_indifferent_to_a_common_offset_and_scale(seed, offset, scale):
    vectors = np.random.default_rng(seed).normal(size=(30, 5)).astype(np.float32)
    moved = (offset + scale * vectors).astype(np.float32)
    points = Frame.of(vectors).points(vectors)
    assert np.allclose(Frame.of(moved).points(moved), points, atol=1e-3)
    assert (points**2).sum(axis=1).mean() == pytest.approx(1, rel=1e-4)


def test_equal_vectors_have_a_frame():
    unit = np.ones((5, 1), np.float32)
    assert np.array_equal(Frame.of(unit).points(unit), np.zeros((5, 1)))


def test_training_ignores_rows_of_weight_zero():
    vectors, labels = make_blobs((20, 20, 20))
    points, weights = points_of(vectors), np.ones(60)
    weights[50:] = 0
    falsified = np.where(weights > 0, labels, 0)
    one, other = (train(points, targets, weights, 3) for targets in (labels, falsified))
    assert np.array_equal(one.weights, other.weights)
    assert np.array_equal(one.biases, other.biases)


@pytest.mark.parametrize("classes", [(1,), (0, 2), (0, 1, 2)])
def test_training_on_some_classes_never_chooses_the_others(classes):
    vectors, labels = make_blobs((20, 20, 20))
    points = points_of(vectors)
    classifier = train(points, labels, np.isin(labels, classes).astype(float), 3)
    chosen = classifier.scores(points).argmax(axis=1)
    assert set(chosen.tolist()) == set(classes)
    seen = np.isin(labels, classes)
    assert np.array_equal(chosen[seen], labels[seen])


@quickly
@given(seed=seeds, n_clusters=st.integers(2, 6))
def test_nearest_centroid_chooses_the_nearest_centroid(seed, n_clusters):
    rng = np.random.default_rng(seed)
    points = points_of(rng.normal(size=(30, 4)).astype(np.float32))
    labels = np.concatenate([np.arange(n_clusters), rng.integers(n_clusters, size=30 - n_clusters)])
    centroids = np.stack([points[labels == cluster].mean(axis=0) for cluster in range(n_clusters)])
    distances = ((points[:, None, :] - centroids) ** 2).sum(axis=2)
    chosen = nearest_centroid(points, labels, n_clusters).scores(points).argmax(axis=1)
    assert np.allclose(distances[np.arange(30), chosen], distances.min(axis=1), atol=1e-4)


def test_nearest_centroid_never_chooses_an_empty_cluster():
    vectors, labels = make_blobs((20, 20))
    points = points_of(vectors)
    chosen = nearest_centroid(points, 2 * labels, 4).scores(points).argmax(axis=1)
    assert set(chosen.tolist()) == {0, 2}


@quickly
@given(seed=seeds, size=st.integers(12, 60), n_clusters=st.integers(2, 12))
def test_without_empty_every_cluster_has_a_row_and_the_others_stay(seed, size, n_clusters):
    rng = np.random.default_rng(seed)
    unit = normalise(rng.normal(size=(size, 5)).astype(np.float32))
    centres = normalise(rng.normal(size=(n_clusters, 5)).astype(np.float32))
    offsets = rng.uniform(0, 9, size=n_clusters).astype(np.float32)
    before = nearest(unit, centres, offsets)
    labels, moved, lowered = without_empty(unit, centres, offsets)
    assert set(labels.tolist()) == set(range(n_clusters))
    assert np.array_equal(labels, nearest(unit, moved, lowered))
    assert (labels != before).sum() == n_clusters - len(set(before.tolist()))


def test_without_empty_leaves_clusters_with_rows_as_they_are():
    unit = normalise(np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32))
    offsets = np.zeros(3, np.float32)
    _, centres, lowered = without_empty(unit, unit[:3], offsets)
    assert np.array_equal(centres, unit[:3])
    assert np.array_equal(lowered, offsets)


@quickly
@given(seed=seeds, size=st.floats(0, 1e4))
def test_softmax_gives_probabilities_and_margins_lie_between_0_and_1(seed, size):
    probabilities = softmax(size * np.random.default_rng(seed).normal(size=(10, 4)))
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(10))
    assert ((margins(probabilities) >= 0) & (margins(probabilities) <= 1)).all()
