import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from threadpoolctl import threadpool_limits

from clusterllm_plugins.vectors import (
    assigned,
    blocks,
    centroids_of,
    kept_clusters,
    kmeans,
    nearest,
    nearest_assignment,
    nearest_with_scores,
    normalise,
    scores_of,
    soft_assignment,
    squared_distances,
    standardise,
)

quick = settings(derandomize=True, deadline=None, max_examples=30)
# Eighths are exact in float32, and small ones meet each other often: ties and duplicates come by themselves.
eighths = st.integers(-40, 40).map(lambda number: number / 8)
matrices = arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=eighths)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On data this small, threads only wait for each other."""
    with threadpool_limits(1):
        yield


def random_vectors(n, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def brute_distances(vectors, centroids):
    return ((vectors[:, None, :].astype(np.float64) - centroids[None, :, :]) ** 2).sum(axis=2)


@quick
@given(matrices)
def test_normalised_rows_have_length_one_unless_zero(vectors):
    lengths = np.linalg.norm(normalise(vectors), axis=1)
    assert np.allclose(lengths, vectors.any(axis=1), atol=1e-6)


@quick
@given(matrices)
def test_normalising_keeps_the_direction(vectors):
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    assert np.allclose(normalise(vectors) * lengths, vectors, atol=1e-5)


@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e30, 1e37])
def test_rows_whose_squares_float32_does_not_hold_are_normalised(size):
    vectors = random_vectors(5, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.allclose(normalise(vectors * np.float32(size)), normalise(vectors), atol=1e-6)


def test_some_rows_are_normalised_as_all_are(monkeypatch):
    monkeypatch.setattr("clusterllm_plugins.vectors.BLOCK", 3)
    vectors, rows = random_vectors(10, 4), np.array([7, 0, 9, 2, 2])
    assert np.array_equal(normalise(vectors, rows), normalise(vectors)[rows])


@pytest.mark.parametrize("work", [normalise, standardise, lambda v: centroids_of(v, np.arange(50) % 4, 4)])
def test_work_in_blocks_gives_what_one_block_gives(monkeypatch, work):
    vectors = random_vectors(50, 4)
    expected = work(vectors)
    monkeypatch.setattr("clusterllm_plugins.vectors.BLOCK", 7)
    assert np.allclose(work(vectors), expected, atol=1e-6)


def test_blocks_cover_all_rows_once():
    assert [(part.start, part.stop) for part in blocks(7, 3)] == [(0, 3), (3, 6), (6, 7)]


def test_normalised_vectors_are_float32():
    assert normalise(np.ones((2, 3))).dtype == np.float32


@quick
@given(matrices)
def test_standardised_columns_have_mean_zero(vectors):
    assert np.allclose(standardise(vectors).mean(axis=0), 0, atol=1e-5)


@quick
@given(matrices)
def test_standardised_columns_have_variance_one_unless_constant(vectors):
    varies = (vectors != vectors[0]).any(axis=0)
    assert np.allclose(standardise(vectors).var(axis=0), varies, atol=1e-4)


@pytest.mark.parametrize("value", [0.1, 1000.1])
def test_a_constant_column_becomes_zero(value):
    assert np.allclose(standardise(np.full((1000, 1), value, dtype=np.float32)), 0, atol=1e-5)


@quick
@given(matrices, st.integers(1, 4), st.integers(0, 99))
def test_centroids_are_the_means_of_their_members(vectors, n_clusters, seed):
    labels = np.random.default_rng(seed).integers(n_clusters, size=len(vectors))
    centroids = centroids_of(vectors, labels, n_clusters)
    for cluster in np.unique(labels):
        assert np.allclose(centroids[cluster], vectors[labels == cluster].mean(axis=0), atol=1e-5)


def test_a_cluster_without_members_has_a_finite_centroid():
    centroids = centroids_of(np.ones((2, 3), dtype=np.float32), np.zeros(2, dtype=np.int64), 2)
    assert np.isfinite(centroids).all()


@quick
@given(matrices, st.integers(1, 6), st.integers(0, 99))
def test_squared_distances_equal_the_definition(vectors, n_centroids, seed):
    centroids = random_vectors(n_centroids, vectors.shape[1], seed)
    assert np.allclose(squared_distances(vectors, centroids), brute_distances(vectors, centroids), atol=1e-3)


@quick
@given(matrices)
def test_squared_distances_are_never_negative(vectors):
    assert (squared_distances(vectors * 1.1, vectors * 1.1) >= 0).all()


@quick
@given(matrices, st.integers(1, 6), st.integers(0, 99))
def test_the_nearest_centroid_is_at_the_smallest_distance(vectors, n_centroids, seed):
    centroids = random_vectors(n_centroids, vectors.shape[1], seed)
    distances = brute_distances(vectors, centroids)
    found = distances[np.arange(len(vectors)), nearest(vectors, centroids)]
    assert np.allclose(found, distances.min(axis=1), atol=1e-4)


def test_the_nearest_centroid_does_not_depend_on_the_block():
    vectors, centroids = random_vectors(50, 4), random_vectors(7, 4, seed=1)
    assert np.array_equal(nearest(vectors, centroids, block=7), nearest(vectors, centroids))


def test_no_rows_have_no_nearest_centroid():
    labels = nearest(np.empty((0, 3), dtype=np.float32), np.ones((2, 3), dtype=np.float32))
    assert (labels.shape, labels.dtype) == ((0,), np.int64)


def test_kmeans_finds_separated_blobs():
    truth = np.repeat(np.arange(4), 10)
    labels, _ = kmeans(10 * np.eye(4, dtype=np.float32)[truth] + random_vectors(40, 4), 4, seed=0)
    assert len(set(zip(truth.tolist(), labels.tolist(), strict=True))) == 4


def test_kmeans_gives_each_row_its_nearest_centroid():
    vectors = random_vectors(60, 3)
    labels, centroids = kmeans(vectors, 5, seed=0)
    assert np.array_equal(labels, brute_distances(vectors, centroids).argmin(axis=1))


def test_kmeans_is_decided_by_its_seed():
    vectors = random_vectors(60, 3)
    (labels, centroids), (again, same) = kmeans(vectors, 5, seed=3), kmeans(vectors, 5, seed=3)
    assert np.array_equal(labels, again)
    assert np.array_equal(centroids, same)


def test_kmeans_makes_no_more_clusters_than_there_are_distinct_rows():
    labels, centroids = kmeans(np.repeat(np.eye(3, dtype=np.float32), 4, axis=0), 5, seed=0)
    assert len(centroids) == len(set(labels.tolist())) == 3


@quick
@given(matrices, st.integers(0, 99))
def test_kmeans_leaves_no_label_out(vectors, seed):
    n_clusters = 1 + seed % len(vectors)
    labels, centroids = kmeans(vectors, n_clusters, seed)
    assert sorted(set(labels.tolist())) == list(range(len(centroids)))


def test_kmeans_does_not_warn_of_duplicates():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kmeans(np.ones((6, 2), dtype=np.float32), 3, seed=0)


distances = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=eighths.map(abs))


@quick
@given(distances)
def test_soft_assignments_sum_to_one(distances):
    assert np.allclose(soft_assignment(distances).sum(axis=1), 1)


@quick
@given(distances)
def test_soft_assignment_follows_students_t(distances):
    density = (1 + distances.astype(np.float64)) ** -1  # one degree of freedom: exponent -(1 + 1) / 2
    ratios = soft_assignment(distances) / soft_assignment(distances)[:, :1]
    assert np.allclose(ratios, density / density[:, :1])


@pytest.mark.parametrize(("n_clusters", "kept"), [(1, 1), (2, 2), (100, 2), (150, 3), (200, 4)])
def test_two_percent_of_the_clusters_are_kept_but_two_at_least(n_clusters, kept):
    assert kept_clusters(n_clusters) == kept


@quick
@given(st.integers(2, 160), st.integers(0, 99))
def test_kept_clusters_are_the_nearest_ones_in_order(n_clusters, seed):
    vectors, centroids = random_vectors(4, 3, seed), random_vectors(n_clusters, 3, seed + 100)
    kept, _ = nearest_assignment(vectors, centroids)
    assert np.array_equal(kept, brute_distances(vectors, centroids).argsort(axis=1)[:, : kept.shape[1]])


@quick
@given(st.integers(2, 160), st.integers(0, 99))
def test_probabilities_of_kept_clusters_are_renormalised(n_clusters, seed):
    vectors, centroids = random_vectors(4, 3, seed), random_vectors(n_clusters, 3, seed + 100)
    kept, probabilities = nearest_assignment(vectors, centroids)
    among_all = np.take_along_axis(1 / (1 + brute_distances(vectors, centroids)), kept, axis=1)
    assert np.allclose(probabilities, among_all / among_all.sum(axis=1, keepdims=True), atol=1e-4)


def test_a_score_is_the_probability_of_the_own_cluster():
    vectors, centroids = np.array([[1.0, 0.0]], dtype=np.float32), np.array([[0, 0], [3, 0]], dtype=np.float32)
    # 1 / (1 + 1) against 1 / (1 + 4)
    assert scores_of(vectors, centroids, np.array([0])) == pytest.approx(0.5 / 0.7)


def test_a_cluster_that_is_not_among_the_nearest_scores_zero():
    vectors, centroids = np.zeros((1, 1), dtype=np.float32), np.array([[0], [1], [9]], dtype=np.float32)
    assert scores_of(vectors, centroids, np.array([2])) == 0


def test_scores_do_not_depend_on_the_block():
    vectors, centroids = random_vectors(50, 4), random_vectors(7, 4, seed=1)
    labels = nearest(vectors, centroids)
    assert np.allclose(scores_of(vectors, centroids, labels, block=7), scores_of(vectors, centroids, labels))


@quick
@given(st.integers(1, 160), st.integers(0, 99))
def test_one_pass_gives_the_nearest_and_their_scores(n_clusters, seed):
    vectors, centroids = random_vectors(9, 3, seed), random_vectors(n_clusters, 3, seed + 100)
    offsets = np.abs(random_vectors(1, n_clusters, seed)[0])
    labels, scores = nearest_with_scores(vectors, centroids, offsets)
    assert np.array_equal(labels, nearest(vectors, centroids, offsets))
    assert np.array_equal(scores, scores_of(vectors, centroids, labels, offsets))
    kept, probabilities = nearest_assignment(vectors, centroids, offsets)
    assert np.array_equal(kept[:, 0], labels)
    assert np.allclose(scores, probabilities[:, 0])


def test_assigned_rows_are_scaled_first():
    vectors, centroids = 5 * random_vectors(20, 3), random_vectors(4, 3, seed=1)
    rows = np.array([3, 1, 19])
    labels, scores = assigned(vectors, rows, centroids)
    assert np.array_equal(labels, nearest(normalise(vectors)[rows], centroids))
    assert np.allclose(scores, scores_of(normalise(vectors)[rows], centroids, labels))


def test_a_single_cluster_scores_one():
    assert scores_of(random_vectors(3, 2), random_vectors(1, 2), np.zeros(3, dtype=np.int64)) == pytest.approx(1)
