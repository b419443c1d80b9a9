import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.cluster.hierarchy import fcluster, linkage
from sklearn.metrics import adjusted_rand_score

from clusterllm_plugins import hierarchy
from clusterllm_plugins.hierarchy import build_hierarchy, cut, hierarchy_of, ward_tree

quick = settings(derandomize=True, deadline=None, max_examples=25)
seeds = st.integers(0, 999)
# Whole numbers from a small range: many equal distances and equal rows.
tied = arrays(np.float32, st.tuples(st.integers(1, 25), st.integers(1, 3)), elements=st.integers(-2, 2))


def random_vectors(n, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def tree_of(vectors):
    return hierarchy_of(ward_tree(vectors), np.arange(len(vectors)))


def assert_valid(tree):
    """Each node is merged once, after it was made, and at no lower height than what it is made of."""
    n = tree.n_leaves
    assert sorted(tree.children.ravel().tolist()) == list(range(2 * n - 2))
    assert (tree.children < n + np.arange(n - 1)[:, None]).all()
    assert (np.diff(tree.heights) >= 0).all()


@quick
@given(st.integers(2, 60), st.integers(1, 6), seeds)
def test_heights_equal_scipys(n, dim, seed):
    vectors = random_vectors(n, dim, seed)
    assert np.allclose(ward_tree(vectors).heights, linkage(vectors, "ward")[:, 2], rtol=1e-3, atol=1e-3)


@quick
@given(st.integers(2, 60), st.integers(2, 6), seeds)
def test_cuts_equal_scipys(n, dim, seed):
    vectors = random_vectors(n, dim, seed)
    tree, expected = ward_tree(vectors), linkage(vectors, "ward")
    for k in range(1, n + 1, 5):
        assert adjusted_rand_score(cut(tree, k), fcluster(expected, k, "maxclust")) == 1


def test_the_tree_does_not_depend_on_the_origin():
    vectors = random_vectors(60, 8)
    assert np.array_equal(cut(ward_tree(vectors + 1000), 20), cut(ward_tree(vectors), 20))


@quick
@given(st.integers(2, 20), seeds)
def test_a_weight_counts_like_so_many_equal_rows(n, seed):
    vectors, weights = random_vectors(n, 3, seed), np.random.default_rng(seed).integers(1, 5, size=n)
    weighted = ward_tree(vectors, weights.astype(np.float64))
    repeated = ward_tree(np.repeat(vectors, weights, axis=0))
    # Equal rows merge first; what is left are the merges of different ones.
    assert np.allclose(repeated.heights[len(repeated.heights) - n + 1 :], weighted.heights, rtol=1e-3, atol=1e-3)


@quick
@given(st.integers(2, 20), seeds)
def test_a_weighted_tree_is_cut_like_one_of_equal_rows(n, seed):
    vectors, weights = random_vectors(n, 3, seed), np.random.default_rng(seed).integers(1, 5, size=n)
    weighted = ward_tree(vectors, weights.astype(np.float64))
    repeated = ward_tree(np.repeat(vectors, weights, axis=0))
    for k in range(1, n + 1):
        assert adjusted_rand_score(np.repeat(cut(weighted, k), weights), cut(repeated, k)) == 1


@quick
@given(tied)
def test_ties_and_duplicates_give_a_valid_tree(vectors):
    assert_valid(ward_tree(vectors))


@quick
@given(tied)
def test_duplicates_merge_before_anything_else(vectors):
    n_distinct = len(np.unique(vectors, axis=0))
    labels = cut(ward_tree(vectors), n_distinct)
    assert len(np.unique(np.column_stack([vectors, labels]), axis=0)) == n_distinct


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4])
def test_equal_rows_give_a_valid_flat_tree(value):
    tree = ward_tree(np.full((300, 4), value, dtype=np.float32))
    assert_valid(tree)
    assert np.allclose(tree.heights, 0, atol=1e-3 * value)


def test_a_single_row_is_a_tree_without_merges():
    tree = ward_tree(np.ones((1, 3), dtype=np.float32))
    assert tree.n_leaves == 1
    assert cut(tree, 1).tolist() == [0]


def test_memory_is_linear_in_the_leaves():
    n = 4000
    vectors = random_vectors(n, 8)
    tracemalloc.start()
    try:
        ward_tree(vectors)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < n * n * 4 / 10


@quick
@given(tied)
def test_a_cut_has_exactly_so_many_labels(vectors):
    tree = ward_tree(vectors)
    for k in range(1, len(vectors) + 1):
        assert np.unique(cut(tree, k)).tolist() == list(range(k))


@quick
@given(tied)
def test_cuts_are_nested(vectors):
    tree = ward_tree(vectors)
    for k in range(2, len(vectors) + 1):
        # Each fine cluster lies in one coarse cluster: as many pairs of labels as fine labels.
        assert len(set(zip(cut(tree, k).tolist(), cut(tree, k - 1).tolist(), strict=True))) == k


@pytest.mark.parametrize("n_clusters", [0, 4])
def test_a_cut_outside_the_tree_is_refused(n_clusters):
    with pytest.raises(ValueError, match=f"cannot cut 3 leaves into {n_clusters} clusters"):
        cut(ward_tree(random_vectors(3, 2)), n_clusters)


def test_building_twice_gives_the_same_tree():
    vectors = random_vectors(50, 4)
    assert np.array_equal(ward_tree(vectors).children, ward_tree(vectors).children)


@quick
@given(tied)
def test_members_of_a_merge_are_those_of_its_children(vectors):
    texts = tree_of(vectors)
    for step, (left, right) in enumerate(texts.tree.children):
        both = [*texts.members(left), *texts.members(right)]
        assert sorted(both) == sorted(texts.members(texts.tree.n_leaves + step))


@quick
@given(tied)
def test_the_members_of_the_clusters_of_a_cut_are_all_texts_once(vectors):
    texts = tree_of(vectors)
    n = texts.tree.n_leaves
    for k in range(1, n + 1):
        made = 2 * n - k  # nodes that exist when k clusters are left
        merged = set(texts.tree.children[: n - k].ravel().tolist())
        clusters = [texts.members(node) for node in range(made) if node not in merged]
        assert len(clusters) == k
        assert sorted(np.concatenate(clusters).tolist()) == list(range(len(vectors)))


@quick
@given(tied)
def test_sides_are_the_two_clusters_that_the_next_merge_joins(vectors):
    texts = tree_of(vectors)
    for k in range(2, len(vectors) + 1):
        before, after = texts.labels(k), texts.labels(k - 1)
        left, right = (set(side.tolist()) for side in texts.sides(k))
        one, other = min(left), min(right)
        assert left == set(np.flatnonzero(before == before[one]))
        assert right == set(np.flatnonzero(before == before[other]))
        assert left | right == set(np.flatnonzero(after == after[one]))


def assert_last_together_agrees(texts, n_texts):
    together = np.zeros((n_texts, n_texts), dtype=int)
    for k in range(1, texts.tree.n_leaves + 1):
        labels = texts.labels(k)
        together[labels[:, None] == labels] = k
    found = [[texts.last_together(left, right) for right in range(n_texts)] for left in range(n_texts)]
    assert found == together.tolist()


@quick
@given(tied)
def test_last_together_agrees_with_cutting_everywhere(vectors):
    assert_last_together_agrees(tree_of(vectors), len(vectors))


@pytest.fixture
def coarse(monkeypatch):
    """A hierarchy of 90 texts that goes over small clusters."""
    monkeypatch.setattr(hierarchy, "DIRECT_LIMIT", 20)
    return build_hierarchy(random_vectors(90, 4), 15, seed=0)


def test_many_texts_go_over_small_clusters(coarse):
    assert 2 <= coarse.tree.n_leaves <= 15
    assert_valid(coarse.tree)


def test_the_leaves_of_many_texts_hold_each_text_once(coarse):
    leaves = [coarse.members(leaf).tolist() for leaf in range(coarse.tree.n_leaves)]
    assert all(leaves)
    assert sorted(text for leaf in leaves for text in leaf) == list(range(90))


def test_a_leaf_of_many_texts_has_the_texts_that_say_so(coarse):
    for leaf in range(coarse.tree.n_leaves):
        assert coarse.members(leaf).tolist() == np.flatnonzero(coarse.leaf == leaf).tolist()


def test_cuts_of_many_texts_have_exactly_so_many_labels(coarse):
    assert [len(set(coarse.labels(k))) for k in range(1, coarse.tree.n_leaves + 1)] == list(
        range(1, coarse.tree.n_leaves + 1)
    )


def test_last_together_agrees_with_cutting_for_many_texts(coarse):
    assert_last_together_agrees(coarse, 90)


def test_many_texts_with_one_seed_give_one_hierarchy(coarse):
    again = build_hierarchy(random_vectors(90, 4), 15, seed=0)
    assert np.array_equal(again.leaf, coarse.leaf)
    assert np.array_equal(again.tree.children, coarse.tree.children)


def test_small_clusters_weigh_by_the_texts_they_stand_for(monkeypatch):
    monkeypatch.setattr(hierarchy, "DIRECT_LIMIT", 2)
    vectors = np.array([[0], [1], [10]], dtype=np.float32)
    texts = build_hierarchy(vectors, 3, seed=0, weights=np.array([1.0, 3.0, 1.0]))
    expected = ward_tree(vectors, np.array([1.0, 3.0, 1.0]))
    assert np.allclose(texts.tree.heights, expected.heights, atol=1e-5)


def test_few_texts_are_the_leaves_themselves():
    assert build_hierarchy(random_vectors(9, 2), 3, seed=0).leaf.tolist() == list(range(9))
