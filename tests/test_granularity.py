import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import fbeta_score
from threadpoolctl import threadpool_limits

from clusterllm_plugins import granularity
from clusterllm_plugins.granularity import answered_pairs, choose_by_pairs, choose_unasked, f_beta, sample_pairs
from clusterllm_plugins.hierarchy import hierarchy_of, ward_tree
from clusterllm_plugins.questions import Answer, pair_question, triplet_question

quick = settings(derandomize=True, deadline=None, max_examples=20)
seeds = st.integers(0, 999)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On data this small, threads only wait for each other."""
    with threadpool_limits(1):
        yield


def blobs(n_clusters, size=8, dim=6, seed=0):
    """Well separated groups: vectors and what they are."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(n_clusters), size)
    centres = 20 * rng.permutation(np.vstack([np.eye(dim), -np.eye(dim)]))[:n_clusters]
    return (centres[truth] + rng.normal(size=(len(truth), dim))).astype(np.float32), truth


def texts_of(vectors):
    return hierarchy_of(ward_tree(vectors), np.arange(len(vectors)))


def random_texts(n, seed=0):
    return texts_of(np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32))


@quick
@given(st.integers(1, 25), st.integers(0, 80), seeds)
def test_pairs_are_distinct_and_within_the_limit(n, limit, seed):
    pairs = sample_pairs(random_texts(n, seed), 2, 199, limit, seed)
    assert len({tuple(sorted(pair)) for pair in pairs.tolist()}) == len(pairs) <= limit


@quick
@given(st.integers(2, 25), st.integers(1, 3), seeds)
def test_each_merge_gives_pairs_across_its_sides(n, each, seed):
    texts = random_texts(n, seed)
    pairs = sample_pairs(texts, 2, n, each * (n - 1), seed)
    start = 0
    for k in range(2, n + 1):
        left, right = (set(side.tolist()) for side in texts.sides(k))
        wanted = min(each, len(left) * len(right))
        assert all(a in left and b in right for a, b in pairs[start : start + wanted].tolist())
        start += wanted
    assert start == len(pairs)


def test_fewer_questions_than_merges_are_spread_evenly():
    texts = random_texts(21)
    pairs = sample_pairs(texts, 2, 21, 5, seed=0)
    # A pair across the merge from k to k - 1 clusters is last together at k - 1.
    assert [texts.last_together(*pair) + 1 for pair in pairs.tolist()] == [2, 7, 12, 16, 21]


def test_pairs_stay_within_the_range_of_clusters():
    texts = random_texts(30)
    pairs = sample_pairs(texts, 5, 9, 100, seed=0)
    assert {texts.last_together(*pair) + 1 for pair in pairs.tolist()} == {5, 6, 7, 8, 9}


def test_pairs_are_decided_by_their_seed():
    texts = random_texts(30)
    assert np.array_equal(sample_pairs(texts, 2, 29, 60, seed=3), sample_pairs(texts, 2, 29, 60, seed=3))


def test_another_seed_draws_other_pairs():
    texts = random_texts(30)
    assert not np.array_equal(sample_pairs(texts, 2, 29, 60, seed=3), sample_pairs(texts, 2, 29, 60, seed=4))


@pytest.mark.parametrize(("n", "expected"), [(1, 0), (2, 1), (3, 3)])
def test_a_few_texts_give_all_their_pairs(n, expected):
    assert len(sample_pairs(random_texts(n), 2, 199, 594, seed=0)) == expected


@quick
@given(st.integers(1, 12), st.integers(1, 5), st.floats(0.2, 3), seeds)
def test_f_beta_equals_scikit_learns(n_pairs, n_cuts, beta, seed):
    rng = np.random.default_rng(seed)
    together, yes = rng.random((n_cuts, n_pairs)) < 0.5, rng.random(n_pairs) < 0.5
    expected = [fbeta_score(yes, row, beta=beta, zero_division=0) for row in together]
    assert np.allclose(f_beta(together, yes, beta), expected)


def test_f_beta_has_the_papers_beta_by_default():
    # Precision 1/4 and recall 1: F = (1 + beta²) / (beta² + 4).
    together, yes = np.array([[True] * 4]), np.array([True, False, False, False])
    assert f_beta(together, yes) == pytest.approx((1 + 0.92**2) / (0.92**2 + 4))


def asked(texts, truth, low, high, limit, seed=0):
    """Pairs with perfect answers."""
    pairs = sample_pairs(texts, low, high, limit, seed)
    return [(left, right, bool(truth[left] == truth[right])) for left, right in pairs.tolist()]


@quick
@given(st.integers(2, 9), seeds)
def test_perfect_answers_find_the_true_number_of_clusters(n_clusters, seed):
    vectors, truth = blobs(n_clusters, seed=seed)
    texts = texts_of(vectors)
    chosen = choose_by_pairs(texts, asked(texts, truth, 2, 15, 14, seed), 2, 15)
    assert chosen is not None
    assert chosen.n_clusters == n_clusters


def test_the_middle_of_equally_good_numbers_is_chosen():
    vectors, truth = blobs(3)
    texts = texts_of(vectors)
    outer = [(left, right, same) for left, right, same in asked(texts, truth, 2, 15, 14)]
    # Without the answers about the merges at 4 to 6 clusters, 3 to 6 clusters agree equally well.
    left_out = [pair for pair in outer if texts.last_together(*pair[:2]) + 1 not in (4, 5, 6)]
    chosen = choose_by_pairs(texts, left_out, 2, 15)
    assert chosen is not None
    assert [number for number, score in chosen.curve if score == 1] == [3, 4, 5, 6]
    assert chosen.n_clusters in (4, 5)


def test_nothing_is_chosen_when_no_pair_belongs_together():
    texts = random_texts(10)
    assert choose_by_pairs(texts, [(0, 1, False), (2, 3, False)], 2, 9) is None


def test_nothing_is_chosen_without_answers():
    assert choose_by_pairs(random_texts(10), [], 2, 9) is None


def test_a_number_within_the_range_is_chosen():
    texts = random_texts(20)
    chosen = choose_by_pairs(texts, [(left, left + 1, True) for left in range(19)], 4, 7)
    assert chosen is not None
    assert [number for number, _ in chosen.curve] == [4, 5, 6, 7]
    assert chosen.n_clusters == 4


def test_the_range_ends_at_the_number_of_texts():
    chosen = choose_by_pairs(random_texts(5), [(0, 1, True)], 2, 199)
    assert chosen is not None
    assert [number for number, _ in chosen.curve] == [2, 3, 4, 5]


TEXTS = ["the kettle whistles", "the pot boils", "a swan swims"]


def test_answers_to_pairs_are_read():
    questions = [pair_question(TEXTS, 0, 1), pair_question(TEXTS, 2, 1)]
    assert list(answered_pairs(questions, [Answer("yes"), Answer("no")])) == [(0, 1, True), (2, 1, False)]


def test_abstentions_about_pairs_say_nothing():
    assert list(answered_pairs([pair_question(TEXTS, 0, 1)], [Answer(None)])) == []


def test_answers_to_choices_are_no_pairs():
    assert list(answered_pairs([triplet_question(TEXTS, 0, 1, 2)], [Answer("1")])) == []


def test_unasked_separated_blobs_are_counted():
    vectors, _ = blobs(4)
    assert choose_unasked(vectors, 2, 10, seed=0).n_clusters == 4


def test_unasked_the_number_stays_within_the_range():
    vectors, _ = blobs(4)
    chosen = choose_unasked(vectors, 5, 7, seed=0)
    assert [number for number, _ in chosen.curve] == [5, 6, 7]


def test_unasked_blobs_are_counted_on_a_sample(monkeypatch):
    monkeypatch.setattr(granularity, "UNASKED_SAMPLE", 40)
    vectors, _ = blobs(3, size=40)
    assert choose_unasked(vectors, 2, 6, seed=0).n_clusters == 3


def test_unasked_one_seed_gives_one_curve():
    vectors = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    assert choose_unasked(vectors, 2, 6, seed=1) == choose_unasked(vectors, 2, 6, seed=1)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_unasked_a_few_texts_give_no_more_clusters_than_texts(n):
    vectors = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    assert 1 <= choose_unasked(vectors, 2, 199, seed=0).n_clusters <= n
