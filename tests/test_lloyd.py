"""k-means of many rows: a start on a sample, then passes over all rows in blocks."""

import tracemalloc

import numpy as np
import pytest
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from clusterllm_plugins import vectors as module
from clusterllm_plugins.lloyd import kmeans_of_many
from clusterllm_plugins.vectors import kmeans, nearest


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On data this small, threads only wait for each other."""
    with threadpool_limits(1):
        yield


def blobs(n, k, dim=8, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, dim))
    labels = rng.integers(k, size=n)
    return (centres[labels] + spread * rng.normal(size=(n, dim))).astype(np.float32), labels


def inertia(vectors, centroids):
    return float(((vectors - centroids[nearest(vectors, centroids)]) ** 2).sum())


def test_the_passes_end_where_scikit_learns_do():
    rows, _ = blobs(3000, 10, spread=0.8)
    found = kmeans_of_many(rows, 10, 0, 300)
    further = KMeans(10, init=found, n_init=1).fit(rows)
    assert inertia(rows, found) == pytest.approx(further.inertia_, rel=5e-3)


def test_a_sample_starts_as_well_as_all_rows():
    rows, _ = blobs(5000, 20)
    assert (
        inertia(rows, kmeans_of_many(rows, 20, 0, 1000))
        < 1.005 * KMeans(20, n_init=10, random_state=0).fit(rows).inertia_
    )


def test_one_seed_gives_the_same_centroids():
    rows, _ = blobs(2000, 10, spread=1)
    assert np.array_equal(kmeans_of_many(rows, 10, 3, 200), kmeans_of_many(rows, 10, 3, 200))


def test_rows_that_no_sample_would_hold_get_their_clusters():
    rows = np.ones((30_000, 3), dtype=np.float32)
    rows[-4:] = 10 * np.arange(12).reshape(4, 3)
    labels, centroids = kmeans(rows, 5, seed=0)
    assert len(centroids) == len(set(labels[-5:].tolist())) == 5


def test_many_equal_rows_are_one_cluster():
    labels, centroids = kmeans(np.ones((25_000, 3), dtype=np.float32), 4, seed=0)
    assert (len(centroids), set(labels.tolist())) == (1, {0})


def test_many_rows_have_the_label_of_their_nearest_centroid():
    rows, _ = blobs(2500, 6)
    labels, centroids = kmeans(rows, 6, 0, limit=500)
    assert np.array_equal(labels, ((rows[:, None] - centroids) ** 2).sum(axis=2).argmin(axis=1))


def test_no_more_rows_than_the_limit_are_clustered_as_before():
    rows, _ = blobs(400, 5, spread=1)
    model = KMeans(5, n_init=10, random_state=0).fit(rows)
    assert np.array_equal(kmeans(rows, 5, 0, limit=400)[1], model.cluster_centers_.astype(np.float32))


def test_memory_mapped_rows_are_not_read_into_memory(tmp_path):
    rows, _ = blobs(60_000, 6, dim=64)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    kmeans(rows[:300], 6, 0, limit=100)  # what is imported first is no memory of the rows
    tracemalloc.start()
    try:
        kmeans(mapped, 6, 0, limit=2000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < rows.nbytes


def test_above_the_limit_the_starts_are_made_on_a_sample(monkeypatch):
    sizes = []
    made = module.kmeans_of_few

    def watched(rows, *arguments):
        sizes.append(len(rows))
        return made(rows, *arguments)

    monkeypatch.setattr("clusterllm_plugins.lloyd.kmeans_of_few", watched)
    kmeans(blobs(2000, 4)[0], 4, 0, limit=150)
    assert sizes == [150]
