"""Questions about whole clusters, of ``method="auto"``."""

import numpy as np
import pytest

from clusterllm_plugins.guided.evidence import Reliability
from clusterllm_plugins.guided.pieces import Pieces, core_rows, merging_curve
from guided_kit import Told, make_blobs, points_of


@pytest.fixture
def three():
    """Points of three categories, the first of 40 rows, and the halves of that one as pieces 0 and 1."""
    vectors, truth = make_blobs((40, 30, 30))
    pieces = truth + 1
    pieces[:20] = 0
    return points_of(vectors), truth, pieces


def make_pieces(points, labels, **settings):
    return Pieces(
        points, labels.copy(), np.ones(len(labels)), **({"candidates": 4, "exemplars": 2, "seed": 0} | settings)
    )


def test_halves_of_one_category_are_merged_and_categories_are_kept_apart(three):
    points, truth, labels = three
    pieces = make_pieces(points, labels)
    pieces.ask(Told(points, truth), 30, 0.5)
    assert pieces.merged(4).tolist() == [0, 0, 1, 2]


def test_pieces_that_answers_keep_apart_are_not_merged(three):
    points, _, labels = three
    pieces = make_pieces(points, labels)
    pieces.ask(Told(points, labels), 30, 0.5)
    assert pieces.merged(4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_merging_to_k_gives_exactly_k(three, k):
    points, truth, labels = three
    pieces = make_pieces(points, labels)
    pieces.ask(Told(points, truth), 10, 0.5)
    assert len(set(pieces.merged(k, k).tolist())) == k


def test_settling_makes_one_piece_of_what_is_one_category(three):
    points, truth, labels = three
    pieces = make_pieces(points, labels)
    pieces.ask(Told(points, truth), 30, 0.5)
    assert pieces.settle()
    assert np.array_equal(pieces.labels, truth)
    assert not pieces.settle()


def test_splitting_cuts_as_many_pieces_as_it_says():
    vectors, truth = make_blobs((40, 30, 30, 5))
    pieces = make_pieces(points_of(vectors), truth)
    assert pieces.split(2) == 2
    assert pieces.n_pieces == 6
    assert pieces.split(9) == 5  # not what is too small
    assert pieces.n_pieces == 11
    assert (pieces.sizes > 0).all()


def test_the_smallest_piece_that_can_be_cut_is_cut():
    vectors, truth = make_blobs((40, 12, 30, 5))
    pieces = make_pieces(points_of(vectors), truth)
    assert pieces.split_smallest(1) == 1
    assert set(pieces.labels[truth == 1].tolist()) == {1, 4}
    assert np.array_equal(pieces.labels[truth != 1], truth[truth != 1])


def test_equal_vectors_are_not_cut_into_empty_pieces():
    pieces = make_pieces(np.zeros((20, 3), np.float32), np.repeat([0, 1], 10))
    pieces.split(2)
    assert (pieces.sizes > 0).all()


def test_a_piece_is_cut_along_the_texts_that_belong_nowhere():
    vectors, truth = make_blobs((30, 30, 30))
    points = points_of(vectors)
    mixed = np.where(truth == 2, 1, truth)
    ask = Told(points, truth)
    groups = [np.flatnonzero(truth == piece)[:2].tolist() for piece in (0, 1)]
    doubted = ask([(int(row), groups) for row in np.flatnonzero(truth > 0)[5::6]])
    pieces = make_pieces(points, mixed)
    assert pieces.split(1, doubted) == 1
    assert np.array_equal(pieces.labels, truth)


def test_less_hangs_on_questions_after_answers(three):
    points, truth, labels = three
    pieces = make_pieces(points, labels)
    before = pieces.expected_effect().sum()
    pieces.ask(Told(points, truth), 12, 0.0)
    assert pieces.expected_effect().sum() < before


@pytest.mark.parametrize("limit", [0, 1, 5, 7])
def test_asking_keeps_to_its_limit(three, limit):
    points, truth, labels = three
    ask = Told(points, truth)
    assert make_pieces(points, labels).ask(ask, limit, 0.0) == ask.count == limit


def test_asking_keeps_to_the_cap(three):
    points, truth, labels = three
    assert make_pieces(points, labels).ask(Told(points, truth, limit=6), 100, 0.0) == 6


def test_no_text_is_asked_about_twice(three):
    points, truth, labels = three
    pieces = make_pieces(points, labels)
    pieces.ask(Told(points, truth), 100, 0.0)
    anchors = [question.anchor for question in pieces.answered]
    assert len(set(anchors)) == len(anchors)


def test_accuracy_is_learnt_from_how_answers_fit_together():
    vectors, truth = make_blobs([30] * 6)
    points, labels = points_of(vectors), 2 * truth + np.arange(180) % 2  # a right group is always shown
    learnt = []
    for accuracy in (1.0, 0.4):
        pieces = make_pieces(points, labels)
        pieces.ask(Told(points, truth, accuracy=accuracy), 60, 0.0)
        (reliability,) = {question.reliability for question in pieces.answered}
        learnt.append(reliability.accuracy)
    assert learnt[0] > 0.95
    assert learnt[1] < 0.75


def test_saying_none_is_learnt_where_no_right_group_is_shown():
    vectors, truth = make_blobs([30] * 6)
    points = points_of(vectors)
    pieces = make_pieces(points, truth)
    pieces.ask(Told(points, truth), 36, 0.0)
    assert pieces.learn_reliability().none_right > 0.75 > Reliability().none_right


def test_core_rows_are_the_rows_of_each_cluster_the_most_typical_first(three):
    points, truth, _ = three
    cores = core_rows(points, truth, 4)
    for cluster, rows in enumerate(cores):
        assert sorted(rows.tolist()) == np.flatnonzero(truth == cluster).tolist()
        if len(rows):
            distances = ((points[rows] - points[rows].mean(axis=0)) ** 2).sum(axis=1)
            assert (np.diff(distances) >= -1e-5).all()


def test_the_merging_curve_runs_down_to_one_group(three):
    points, _, labels = three
    assert [groups for groups, _ in merging_curve(make_pieces(points, labels))] == [3, 2, 1]
