"""``merge_clusters`` and ``select_n_clusters``: the parts of ``method="auto"`` that stand alone."""

import numpy as np
import pytest

from clusterllm_plugins import Answer, ClusterLLMError, ClusterLLMWarning, merge_clusters, select_n_clusters
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.questions import choice_question, pair_question
from guided_kit import Counting, make_blobs, make_oracle, texts_of

TEXTS = texts_of(100)


@pytest.fixture
def halved():
    """Vectors of three categories, of which the first is in two clusters: 0 and 1; and the categories."""
    vectors, truth = make_blobs((40, 30, 30))
    labels = truth + 1
    labels[:20] = 0
    return vectors, truth, labels


def answers_of(truth, labels, each=4):
    """For some texts of each cluster: with which of the others does it belong?"""
    clusters = np.unique(labels[labels >= 0])
    groups = {int(k): np.flatnonzero(labels == k)[-2:].tolist() for k in clusters}
    oracle = make_oracle(truth)
    questions = [
        choice_question(TEXTS, int(anchor), [group for other, group in groups.items() if other != own], none=True)
        for own in groups
        for anchor in np.flatnonzero(labels == own)[:each]
    ]
    return list(zip(questions, oracle.answer(questions), strict=True))


def test_clusters_that_answers_link_are_merged_and_the_rest_is_kept(halved):
    vectors, truth, labels = halved
    assert np.array_equal(merge_clusters(labels, vectors, answers_of(truth, labels)), truth)


def test_without_answers_nothing_is_merged(halved):
    vectors, _, labels = halved
    assert np.array_equal(merge_clusters(labels, vectors, []), labels)


def test_pairs_link_clusters_too(halved):
    vectors, truth, labels = halved
    pairs = [(pair_question(TEXTS, row, row + 20), Answer("yes")) for row in range(4)]
    assert np.array_equal(merge_clusters(labels, vectors, pairs), truth)


def test_texts_without_a_cluster_stay_so_and_gaps_in_numbers_close(halved):
    vectors, truth, labels = halved
    given = np.where(np.arange(100) == 50, -1, 10 * labels)
    merged = merge_clusters(given, vectors, answers_of(truth, given))
    assert merged.dtype == np.int64
    assert np.array_equal(merged, np.where(np.arange(100) == 50, -1, truth))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_bounds_on_the_number_of_clusters_hold(halved, k):
    vectors, truth, labels = halved
    merged = merge_clusters(labels.tolist(), vectors, answers_of(truth, labels), n_clusters=(k, k))
    assert set(merged.tolist()) == set(range(k))


def test_abstentions_say_nothing(halved):
    vectors, truth, labels = halved
    silent = [(question, Answer(None)) for question, _ in answers_of(truth, labels)]
    assert np.array_equal(merge_clusters(labels, vectors, silent), labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0.0, 1.0]}, "whole numbers"),
        ({"labels": [[0, 1]]}, "whole numbers"),
        ({"embeddings": np.ones((3, 2), np.float32)}, "shape"),
        ({"embeddings": np.full((2, 2), np.nan, np.float32)}, "finite"),
        ({"n_clusters": (0, 2)}, "1 <= low <= high"),
        ({"n_clusters": (3, 2)}, "1 <= low <= high"),
        ({"answers": [(pair_question(TEXTS, 0, 2), Answer("yes"))]}, "answer 0 is about text 2"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, message):
    given = {"labels": [0, 1], "embeddings": np.eye(2, dtype=np.float32), "answers": []} | change
    with pytest.raises(DataError, match=message):
        merge_clusters(**given)


@pytest.mark.parametrize("change", [{"n_clusters": 2}, {"n_clusters": (1, 2, 3)}, {"answers": ["yes"]}])
def test_what_is_of_another_kind_is_refused(change):
    given = {"labels": [0, 1], "embeddings": np.eye(2, dtype=np.float32), "answers": []} | change
    with pytest.raises(ClusterLLMError):
        merge_clusters(**given)


@pytest.mark.filterwarnings("error")
def test_where_no_text_has_a_cluster_nothing_is_merged():
    assert merge_clusters([-1, -1], np.eye(2, dtype=np.float32), []).tolist() == [-1, -1]


# The number of clusters.


@pytest.fixture(scope="module")
def large():
    return make_blobs((150, 150, 150, 150, 150))


def test_the_labels_that_go_with_the_number_are_given(large):
    vectors, truth = large
    with pytest.warns(ClusterLLMWarning):
        found = select_n_clusters(["", *texts_of(len(truth))[1:]], vectors, make_oracle(truth))
    assert found.labels[0] == -1
    assert set(found.labels[1:].tolist()) == set(range(found.n_clusters))


@pytest.mark.parametrize("cap", [0, 9, 40])
def test_the_cap_on_questions_holds(large, cap):
    vectors, truth = large
    oracle = Counting(truth)
    select_n_clusters(texts_of(len(truth)), vectors, oracle, max_questions=cap)
    assert len(oracle.asked) <= cap


@pytest.mark.slow
def test_the_number_stays_in_the_range_given(large):
    vectors, truth = large
    for low, high in ((2, 3), (8, 12)):
        found = select_n_clusters(texts_of(len(truth)), vectors, make_oracle(truth), n_clusters=(low, high))
        assert low <= found.interval[0] <= found.n_clusters <= found.interval[1] <= high
