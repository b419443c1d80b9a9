from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterllm_plugins.questions import Answer, choice_question, pair_question, triplet_question
from clusterllm_plugins.refinement import AdapterTraining, train_adapter, triplet_loss, triplets_of
from clusterllm_plugins.vectors import normalise

quick = settings(derandomize=True, deadline=None, max_examples=15)
seeds = st.integers(0, 999)
TEXTS = [f"note number {number}" for number in range(9)]


def test_the_papers_triplet_implies_itself():
    question = triplet_question(TEXTS, 0, 1, 2)
    assert triplets_of([question], [Answer("1")]).tolist() == [[0, 1, 2]]


def test_the_second_choice_of_a_triplet_swaps_the_candidates():
    question = triplet_question(TEXTS, 0, 1, 2)
    assert triplets_of([question], [Answer("2")]).tolist() == [[0, 2, 1]]


def test_a_chosen_group_is_set_against_each_other_group_exemplar_by_exemplar():
    question = choice_question(TEXTS, 0, [[1, 2], [3, 4], [5, 6]], none=True)
    expected = [[0, 3, 1], [0, 4, 2], [0, 3, 5], [0, 4, 6]]
    assert triplets_of([question], [Answer("2")]).tolist() == expected


def test_groups_of_different_sizes_are_matched_as_far_as_both_go():
    question = choice_question(TEXTS, 0, [[1, 2, 3], [4]], none=False)
    assert triplets_of([question], [Answer("1")]).tolist() == [[0, 1, 4]]


def test_none_of_them_implies_no_triplet():
    question = choice_question(TEXTS, 0, [[1, 2], [3, 4]], none=True)
    assert triplets_of([question], [Answer("none")]).shape == (0, 3)


def test_an_abstention_implies_no_triplet():
    assert triplets_of([triplet_question(TEXTS, 0, 1, 2)], [Answer(None, error="timeout")]).shape == (0, 3)


def test_a_pair_implies_no_triplet():
    assert triplets_of([pair_question(TEXTS, 0, 1)], [Answer("yes")]).shape == (0, 3)


def test_a_triplet_of_fewer_than_three_texts_is_left_out():
    question = choice_question(TEXTS, 0, [[0, 1], [2, 3]], none=False)
    assert triplets_of([question], [Answer("1")]).tolist() == [[0, 1, 3]]


def test_triplets_come_in_the_order_of_the_questions():
    questions = [triplet_question(TEXTS, 3, 4, 5), triplet_question(TEXTS, 0, 1, 2)]
    assert triplets_of(questions, [Answer("1"), Answer("1")]).tolist() == [[3, 4, 5], [0, 1, 2]]


def test_answers_must_be_as_many_as_questions():
    with pytest.raises(ValueError, match="zip"):
        triplets_of([triplet_question(TEXTS, 0, 1, 2)], [])


def batch(seed, size=3, dim=4):
    """A map and three batches of vectors, float64."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(dim, dim)), *(rng.normal(size=(size, dim)) for _ in range(3))


@quick
@given(seeds, st.integers(1, 5), st.sampled_from([0.05, 0.2, 1.0]))
def test_the_gradient_equals_finite_differences(seed, size, temperature):
    matrix, *vectors = batch(seed, size)
    _, gradient = triplet_loss(matrix, *vectors, temperature)
    step, numeric = 1e-6, np.empty_like(matrix)
    for place in np.ndindex(matrix.shape):
        nudge = np.zeros_like(matrix)
        nudge[place] = step
        above, below = (triplet_loss(matrix + sign * nudge, *vectors, temperature)[0] for sign in (1, -1))
        numeric[place] = (above - below) / (2 * step)
    assert np.allclose(gradient, numeric, rtol=1e-4, atol=1e-6)


@quick
@given(seeds, st.integers(1, 5))
def test_the_loss_equals_its_definition(seed, size):
    matrix, *vectors = batch(seed, size)
    a, p, n = (v @ matrix / np.linalg.norm(v @ matrix, axis=1, keepdims=True) for v in vectors)
    expected = 0.0
    for i in range(size):
        right = np.exp(a[i] @ p[i] / 0.1)
        expected -= np.log(right / (right + np.exp(n @ a[i] / 0.1).sum()))
        expected -= np.log(right / np.exp(a @ p[i] / 0.1).sum())
    assert triplet_loss(matrix, *vectors, 0.1)[0] == pytest.approx(expected / size)


@quick
@given(seeds)
def test_the_loss_does_not_depend_on_the_lengths_of_vectors(seed):
    matrix, *vectors = batch(seed)
    longer = [3 * vectors[0], 0.5 * vectors[1], 7 * vectors[2]]
    assert triplet_loss(matrix, *longer, 0.1)[0] == pytest.approx(triplet_loss(matrix, *vectors, 0.1)[0])


def test_a_zero_vector_leaves_the_loss_and_the_gradient_finite():
    matrix, anchors, chosen, rejected = batch(0)
    loss, gradient = triplet_loss(matrix, 0 * anchors, chosen, rejected, 0.05)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


FAST = AdapterTraining(learning_rate=1e-2, epochs=20)


@pytest.fixture(scope="module")
def toy():
    """Texts that differ by their last two dimensions, which the answers are about, among six that do not matter."""
    rng = np.random.default_rng(0)
    kind = np.arange(40) % 2
    vectors = np.hstack([rng.normal(size=(40, 6)), 0.5 * np.eye(2)[kind]]).astype(np.float32)
    triplets = []
    for anchor in range(40):
        same = rng.choice(np.flatnonzero((kind == kind[anchor]) & (np.arange(40) != anchor)))
        triplets.append((anchor, same, rng.choice(np.flatnonzero(kind != kind[anchor]))))
    return vectors, np.array(triplets, dtype=np.int64)


def loss_of(vectors, triplets, matrix):
    unit = normalise(vectors)
    return triplet_loss(matrix, *(unit[triplets[:, column]] for column in range(3)), FAST.temperature)[0]


def test_training_starts_at_the_identity(toy):
    vectors, triplets = toy
    matrix = train_adapter(vectors, triplets, seed=0, training=replace(FAST, epochs=0))
    assert np.array_equal(matrix, np.eye(8, dtype=np.float32))


def test_without_triplets_the_map_stays_the_identity(toy):
    vectors, triplets = toy
    assert np.array_equal(train_adapter(vectors, triplets[:0], seed=0, training=FAST), np.eye(8, dtype=np.float32))


def test_training_lowers_the_loss(toy):
    vectors, triplets = toy
    matrix = train_adapter(vectors, triplets, seed=0, training=FAST)
    assert loss_of(vectors, triplets, matrix) < 0.7 * loss_of(vectors, triplets, np.eye(8, dtype=np.float32))


def test_training_as_it_is_by_default_lowers_the_loss(toy):
    vectors, triplets = toy
    matrix = train_adapter(vectors, triplets, seed=0)
    assert loss_of(vectors, triplets, matrix) < loss_of(vectors, triplets, np.eye(8, dtype=np.float32))


def test_training_brings_more_anchors_nearer_to_the_chosen_than_to_the_rejected(toy):
    vectors, triplets = toy

    def share(mapped):
        anchors, chosen, rejected = (normalise(mapped)[triplets[:, column]] for column in range(3))
        return ((anchors * (chosen - rejected)).sum(axis=1) > 0).mean()

    assert share(vectors @ train_adapter(vectors, triplets, seed=0, training=FAST)) > share(vectors) + 0.1


def test_what_is_learnt_holds_for_texts_that_were_in_no_triplet(toy):
    vectors, triplets = toy
    seen = triplets[(triplets < 20).all(axis=1)]
    unseen = triplets[(triplets >= 20).all(axis=1)]
    matrix = train_adapter(vectors, seen, seed=0, training=FAST)
    assert loss_of(vectors, unseen, matrix) < loss_of(vectors, unseen, np.eye(8, dtype=np.float32))


def test_training_is_decided_by_its_seed(toy):
    vectors, triplets = toy
    maps = [train_adapter(vectors, triplets, seed=4, training=FAST) for _ in range(2)]
    assert np.array_equal(*maps)


def test_another_seed_takes_the_triplets_in_another_order(toy):
    vectors, triplets = toy
    maps = [train_adapter(vectors, triplets, seed=seed, training=FAST) for seed in (4, 5)]
    assert not np.array_equal(*maps)


def test_training_leaves_the_vectors_as_they_are(toy):
    vectors, triplets = toy
    before = vectors.copy()
    train_adapter(vectors, triplets, seed=0, training=FAST)
    assert np.array_equal(vectors, before)


def test_a_stronger_pull_keeps_the_map_nearer_to_the_identity(toy):
    vectors, triplets = toy
    far, near = (
        np.linalg.norm(train_adapter(vectors, triplets, seed=0, training=replace(FAST, pull=pull)) - np.eye(8))
        for pull in (0.0, 10.0)
    )
    assert near < 0.5 * far


def test_the_map_is_float32(toy):
    vectors, triplets = toy
    assert train_adapter(vectors, triplets, seed=0, training=replace(FAST, epochs=1)).dtype == np.float32
