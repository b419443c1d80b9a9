"""``ClusterLLM(method="auto")`` from end to end, on precomputed vectors and simulated oracles."""

import json

import numpy as np
import pytest

from clusterllm_plugins import ClusterLLM, ClusterLLMWarning
from clusterllm_plugins.metrics import accuracy
from clusterllm_plugins.vectors import kmeans, normalise
from guided_kit import (
    Counting,
    Naming,
    always,
    fit,
    guessing,
    make_blobs,
    make_oracle,
    skewed,
    texts_of,
    wrong,
)

quietly = pytest.mark.filterwarnings("ignore::clusterllm_plugins.ClusterLLMWarning")


def plain_labels(vectors, k):
    return kmeans(normalise(vectors), k, 0)[0]


@pytest.fixture(scope="module")
def fitted():
    """A model that learnt from a perfect oracle, its vectors and their categories."""
    vectors, truth = skewed()
    return fit(vectors, make_oracle(truth), 6), vectors, truth


# What asking brings.


@pytest.mark.parametrize("right", [1.0, 0.8])
def test_answers_beat_plain_clustering_where_categories_are_skewed(right):
    vectors, truth = skewed()
    model = fit(vectors, make_oracle(truth, right), 6)
    assert model.report_["guard"]["kept_refined"]
    assert accuracy(truth, model.labels_) > accuracy(truth, plain_labels(vectors, 6)) + 0.25


def test_reliability_is_reported_near_the_truth(fitted):
    model, _, _ = fitted
    assert model.report_["reliability"]["accuracy"] > 0.8
    assert model.report_["reliability"]["abstained"] == 0


# How many clusters.


@quietly
@pytest.mark.parametrize("k", [1, 2, 3, 5, 9, 14])
def test_exactly_k_clusters_come_out_and_none_is_empty(k):
    vectors, truth = make_blobs((60, 30, 15, 15, 10), spread=0.3)
    model = fit(vectors, make_oracle(truth), k, 60)
    assert model.n_clusters_ == len(model.cluster_centers_) == len(model.cluster_labels_) == k
    assert set(model.labels_.tolist()) == set(range(k))


@quietly
@pytest.mark.parametrize("k", [2, 5, 19, 20])
def test_few_texts_are_clustered(k):
    vectors, truth = make_blobs((10, 6, 4), spread=0.3)
    assert len(set(fit(vectors, make_oracle(truth), k).labels_.tolist())) == k


def test_duplicates_share_a_cluster_and_an_empty_text_has_none():
    vectors, truth = skewed()
    texts = texts_of(len(truth))
    texts[7], texts[100] = "", texts[50]
    vectors[100] = vectors[50]
    with pytest.warns(ClusterLLMWarning):
        model = fit(vectors, make_oracle(truth), 6, texts=texts)
    assert model.labels_[7] == -1
    assert model.labels_[100] == model.labels_[50]
    assert set(model.labels_.tolist()) == {-1, *range(6)}
    asked = {row for question in model.questions_ for row in (question.anchor_index, *sum(question.group_indices, ()))}
    assert not asked & {7, 100}


@quietly
def test_distinct_texts_of_equal_vectors_are_clustered():
    vectors, truth = make_blobs((40, 30, 30, 20), spread=0)
    assert accuracy(truth, fit(vectors, make_oracle(truth), (2, 8)).labels_) == 1


@quietly
def test_an_open_number_stays_in_its_range_within_its_interval():
    vectors, truth = make_blobs((120, 100, 100, 80))
    model = fit(vectors, make_oracle(truth), (2, 8), 200)
    low, high = model.report_["n_clusters_interval"]
    assert 2 <= low <= model.n_clusters_ <= high <= 8
    assert model.report_["n_clusters"]["value"] == model.n_clusters_ == len(set(model.labels_.tolist()))


@quietly
def test_a_perfect_oracle_passes_its_checks_where_the_number_is_open():
    vectors, truth = make_blobs((40, 30, 30, 20))
    assert fit(vectors, make_oracle(truth), (2, 8)).report_["guard"]["core_checks"]["p_value"] < 0.005


# The guard.


@pytest.mark.parametrize("name", ["guessing", "always 1", "always none", "wrong"])
def test_an_oracle_of_no_use_leaves_the_plain_clustering(name):
    vectors, truth = skewed()
    oracles = {"guessing": guessing(), "always 1": always("1"), "always none": always("none"), "wrong": wrong(truth)}
    with pytest.warns(ClusterLLMWarning, match="^the plain clustering was kept: "):
        model = fit(vectors, oracles[name], 6)
    assert np.array_equal(model.labels_, plain_labels(vectors, 6))
    assert not model.cluster_offsets_.any()
    assert not model.report_["guard"]["kept_refined"]
    expected = "none picked a group" if name == "always none" else "where a guess does"
    assert expected in model.report_["guard"]["why"]
    assert len(model.questions_) < 100  # what is of no use is not asked on


def test_without_questions_the_plain_clustering_is_kept():
    vectors, truth = skewed()
    with pytest.warns(ClusterLLMWarning, match="there was nothing to ask about"):
        model = fit(vectors, make_oracle(truth), 6, 0)
    assert np.array_equal(model.labels_, plain_labels(vectors, 6))
    assert model.questions_ == []


# Caps and repetition.


@quietly
@pytest.mark.parametrize("cap", [1, 17, 60, 150])
def test_the_cap_on_questions_holds_and_all_are_distinct(cap):
    vectors, truth = skewed()
    oracle = Counting(truth)
    model = fit(vectors, oracle, 6, cap)
    keys = [question.canonical(with_indices=True) for question in oracle.asked]
    assert len(keys) <= cap
    assert len(set(keys)) == len(keys) == len(model.questions_)


@quietly
def test_open_numbers_have_their_own_cap():
    vectors, truth = make_blobs((120, 100, 100, 80))
    oracle = Counting(truth)
    model = fit(vectors, oracle, (2, 8), 60, max_granularity_questions=10)
    assert model.report_["stages"].get("number of clusters", 0) <= 10
    assert len(oracle.asked) <= 70


def test_the_stages_sum_to_what_was_asked(fitted):
    model, _, _ = fitted
    assert sum(model.report_["stages"].values()) == len(model.questions_) <= 100


def test_two_runs_are_equal_also_at_another_concurrency():
    vectors, truth = skewed()
    runs = [fit(vectors, Counting(truth, 0.8, concurrency), 6) for concurrency in (1, 1, 8)]
    for other in runs[1:]:
        assert np.array_equal(runs[0].labels_, other.labels_)
        assert np.array_equal(runs[0].cluster_centers_, other.cluster_centers_)
        assert runs[0].questions_ == other.questions_
        assert runs[0].report_ == other.report_


def test_a_second_run_on_one_store_asks_nothing_new(tmp_path):
    vectors, truth = skewed()
    first, second = Counting(truth), Counting(truth)
    one, other = (fit(vectors, oracle, 6, store=tmp_path / "answers.sqlite") for oracle in (first, second))
    assert first.asked
    assert second.asked == []
    assert np.array_equal(one.labels_, other.labels_)


# Prediction.


def test_predicting_the_same_texts_gives_their_labels(fitted):
    model, vectors, truth = fitted
    assert np.array_equal(model.predict(texts_of(len(truth)), embeddings=vectors), model.labels_)


def test_saving_and_loading_keeps_predictions_to_the_last_bit(fitted, tmp_path):
    model, vectors, truth = fitted
    model.save(tmp_path / "model")
    loaded = ClusterLLM.load(tmp_path / "model")
    assert model.cluster_offsets_.any()
    assert np.array_equal(loaded.cluster_offsets_, model.cluster_offsets_)
    for one, other in zip(
        *(m.predict_with_scores(texts_of(len(truth)), embeddings=vectors) for m in (model, loaded)), strict=True
    ):
        assert np.array_equal(one, other)


# Known answers.


def test_known_answers_are_used_where_nobody_is_asked(fitted):
    model, vectors, truth = fitted
    known = list(zip(model.questions_, model.answers_, strict=True))
    again = fit(vectors, None, 6, answers=known)
    assert again.questions_ == []
    assert again.report_["guard"]["kept_refined"]
    assert "nobody could be asked" in again.report_["guard"]["why"]
    assert accuracy(truth, again.labels_) > accuracy(truth, plain_labels(vectors, 6)) + 0.15


def test_without_oracle_and_answers_the_plain_clustering_comes_out():
    vectors, _ = skewed()
    assert np.array_equal(fit(vectors, None, 6).labels_, plain_labels(vectors, 6))


# Names and the report.


def test_an_oracle_that_writes_names_names_the_clusters_within_the_cap():
    vectors, truth = skewed()
    oracle = Naming(truth.tolist())
    model = fit(vectors, oracle, 6)
    assert oracle.prompts["name"] == 6
    assert sum(oracle.prompts.values()) <= 100
    assert len(set(model.cluster_labels_)) == 6
    assert all(name.startswith("Subject ") for name in model.cluster_labels_)


def test_names_are_not_asked_for_where_they_would_take_too_many_questions():
    vectors, truth = skewed()
    oracle = Naming(truth.tolist())
    fit(vectors, oracle, 6, 23)
    assert oracle.prompts["name"] == 0
    assert oracle.prompts["question"] <= 23


@quietly
@pytest.mark.parametrize("n_clusters", [1, 6, (2, 8)])
def test_the_report_is_json(n_clusters):
    vectors, truth = skewed()
    report = fit(vectors, make_oracle(truth), n_clusters).report_
    assert json.loads(json.dumps(report))["guard"].keys() == {"kept_refined", "why", "core_checks", "duel"}
