from math import comb

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from clusterllm_plugins import sampling
from clusterllm_plugins.sampling import entropy, entropy_triplets, first_clustering, random_triplets

quick = settings(derandomize=True, deadline=None, max_examples=20)


def random_vectors(n, dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def keys(triplets):
    """A triplet is the same whichever candidate comes first."""
    return {(anchor, *sorted((one, other))) for anchor, one, other in triplets.tolist()}


def expected_sampling(vectors, n_clusters):
    """The paper's section 3.1 by the book: labels, the two nearest clusters, and the entropies."""
    scaled = (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)
    labels = fcluster(linkage(scaled, "ward"), n_clusters, "maxclust") - 1
    centroids = np.array([scaled[labels == cluster].mean(axis=0) for cluster in range(n_clusters)])
    squared = ((scaled[:, None] - centroids) ** 2).sum(axis=2)
    kept = squared.argsort(axis=1)[:, :2]
    kernel = 1 / (1 + np.take_along_axis(squared, kept, axis=1))
    shares = kernel / kernel.sum(axis=1, keepdims=True)
    return labels, kept, -(shares * np.log(shares)).sum(axis=1)


@pytest.fixture(scope="module")
def vectors():
    return random_vectors(200)


@pytest.fixture(scope="module")
def triplets(vectors):
    return entropy_triplets(vectors, 300, seed=5)


def test_as_many_triplets_come_as_were_wanted(triplets):
    assert triplets.shape == (300, 3)


def test_triplets_are_distinct(triplets):
    assert len(keys(triplets)) == 300


def test_triplets_are_of_three_different_texts(triplets):
    assert all(len(set(triplet)) == 3 for triplet in triplets.tolist())


def test_anchors_are_the_fifth_of_the_highest_entropy(vectors, triplets):
    _, _, entropies = expected_sampling(vectors, 10)
    assert set(triplets[:, 0].tolist()) == set(np.argsort(-entropies)[:40].tolist())


def test_anchors_take_turns(triplets):
    assert len(set(triplets[:40, 0].tolist())) >= 35  # a draw that is no triplet costs its anchor a turn


def test_where_fewer_are_wanted_than_there_are_anchors_chance_decides(vectors):
    _, _, entropies = expected_sampling(vectors, 10)
    anchors = entropy_triplets(vectors, 10, seed=0)[:, 0]
    assert not set(anchors.tolist()) <= set(np.argsort(-entropies)[:20].tolist())


def test_candidates_are_members_of_the_two_nearest_clusters(vectors, triplets):
    labels, kept, _ = expected_sampling(vectors, 10)
    drawn = np.sort(labels[triplets[:, 1:]], axis=1)
    assert np.array_equal(drawn, np.sort(kept[triplets[:, 0]], axis=1))


def test_either_candidate_may_come_first(vectors, triplets):
    labels, kept, _ = expected_sampling(vectors, 10)
    nearer_first = labels[triplets[:, 1]] == kept[triplets[:, 0], 0]
    assert 0.35 < nearer_first.mean() < 0.65


def test_one_seed_gives_the_same_triplets(vectors, triplets):
    assert np.array_equal(entropy_triplets(vectors, 300, seed=5), triplets)


def test_another_seed_gives_other_triplets(vectors, triplets):
    assert not np.array_equal(entropy_triplets(vectors, 300, seed=6), triplets)


def test_sampling_leaves_the_global_random_state_alone(vectors):
    before = np.random.get_state()[1].copy()
    entropy_triplets(vectors, 20, seed=0)
    assert np.array_equal(np.random.get_state()[1], before)


@quick
@given(st.integers(2, 10), st.integers(0, 99))
def test_sampling_ends_when_a_few_texts_have_no_more_triplets(n, seed):
    triplets = entropy_triplets(random_vectors(n, seed=seed), 5000, seed)
    assert len(keys(triplets)) == len(triplets) <= n * comb(n - 1, 2)
    assert all(len(set(triplet)) == 3 for triplet in triplets.tolist())


@pytest.mark.parametrize("n", [2, 3, 10, 60])
def test_sampling_ends_when_all_vectors_are_equal(n):
    triplets = entropy_triplets(np.ones((n, 3), dtype=np.float32), 5000, seed=0)
    assert len(keys(triplets)) == len(triplets)


def test_no_triplets_are_drawn_where_none_are_wanted(vectors):
    assert entropy_triplets(vectors, 0, seed=0).shape == (0, 3)


def test_hardly_any_triplet_is_missed_where_all_are_wanted():
    vectors = random_vectors(60)
    labels, kept, entropies = expected_sampling(vectors, 3)
    sizes = np.bincount(labels)
    # Every pair of members of an anchor's two clusters, but for the anchor itself.
    possible = sum(
        (sizes[one] - (labels[anchor] == one)) * (sizes[other] - (labels[anchor] == other))
        for anchor in np.argsort(-entropies)[:12]
        for one, other in [kept[anchor]]
    )
    assert 0.95 * possible < len(entropy_triplets(vectors, 100_000, seed=0)) <= possible


@pytest.mark.parametrize(("n", "n_clusters"), [(2, 2), (39, 2), (60, 3), (500, 25), (2500, 100)])
def test_the_first_clustering_has_twenty_texts_a_cluster_and_at_most_a_hundred_clusters(n, n_clusters):
    assert len(set(first_clustering(random_vectors(n), seed=0))) == n_clusters


def test_the_first_clustering_of_a_single_text_has_one_cluster():
    assert first_clustering(random_vectors(1), seed=0).tolist() == [0]


def test_the_first_clustering_of_many_texts_leaves_no_label_out(monkeypatch):
    monkeypatch.setattr(sampling, "DIRECT_LIMIT", 50)
    labels = first_clustering(random_vectors(100), seed=0)
    assert np.unique(labels).tolist() == list(range(labels.max() + 1))


def test_many_texts_are_sampled_alike(monkeypatch, vectors):
    monkeypatch.setattr(sampling, "DIRECT_LIMIT", 50)
    triplets = entropy_triplets(vectors, 100, seed=0)
    assert len(keys(triplets)) == 100


@quick
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_entropy_equals_scipys(n, k, seed):
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(k), size=n)
    assert np.allclose(entropy(probabilities), scipy.stats.entropy(probabilities, axis=1))


def test_a_certain_assignment_has_no_entropy():
    assert entropy(np.array([[1.0, 0.0, 0.0]])).tolist() == [0]


@quick
@given(st.integers(0, 8), st.integers(0, 40), st.integers(0, 99))
def test_random_triplets_are_distinct_and_of_three_different_texts(n_texts, n_triplets, seed):
    triplets = random_triplets(n_texts, n_triplets, seed)
    assert len(keys(triplets)) == len(triplets) <= n_triplets
    assert all(len(set(triplet)) == 3 for triplet in triplets.tolist())


def test_random_triplets_run_out():
    assert len(random_triplets(4, 1000, seed=0)) == 4 * comb(3, 2)


def test_random_triplets_are_decided_by_their_seed():
    assert np.array_equal(random_triplets(50, 30, seed=1), random_triplets(50, 30, seed=1))
