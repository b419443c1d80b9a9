from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterllm_plugins import embedding
from clusterllm_plugins.embedding import check_embeddings, distinct_longest_first, embed_texts, fit_if_needed
from clusterllm_plugins.errors import ClusterLLMError, DataError

quick = settings(derandomize=True, deadline=None, max_examples=30)
words = st.lists(st.sampled_from(["a", "bb", "ab", "abba", "babab", ""]), min_size=1, max_size=15)


class Letters:
    """Counts a and b, and remembers what it was given."""

    fingerprint = "letters"

    def __init__(self):
        self.calls = []

    def embed(self, texts):
        self.calls.append(list(texts))
        return np.array([[text.count("a"), text.count("b")] for text in texts], dtype=np.float32)


class Fixed:
    """Returns what it was made with."""

    fingerprint = "fixed"

    def __init__(self, output):
        self.output = output

    def embed(self, texts):
        return self.output


@quick
@given(words)
def test_each_text_has_its_own_vector(texts):
    assert np.array_equal(embed_texts(Letters(), texts), Letters().embed(texts))


@quick
@given(words)
def test_each_distinct_text_is_embedded_once(texts):
    embedder = Letters()
    embed_texts(embedder, texts)
    assert sorted(text for call in embedder.calls for text in call) == sorted(set(texts))


@quick
@given(words)
def test_the_longest_texts_come_first(texts):
    embedder = Letters()
    embed_texts(embedder, texts)
    lengths = [len(text) for call in embedder.calls for text in call]
    assert lengths == sorted(lengths, reverse=True)


@quick
@given(words)
def test_distinct_texts_and_places_give_the_texts_back(texts):
    distinct, places = distinct_longest_first(texts)
    assert [distinct[place] for place in places] == texts


@quick
@given(words)
def test_distinct_texts_do_not_depend_on_the_order_given(texts):
    assert distinct_longest_first(texts)[0] == distinct_longest_first(texts[::-1])[0]


def test_texts_go_in_blocks(monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 2)
    embedder = Letters()
    vectors = embed_texts(embedder, ["a", "bb", "abba", "ab", "babab"])
    assert [len(call) for call in embedder.calls] == [2, 2, 1]
    assert vectors.tolist() == [[1, 0], [0, 2], [2, 2], [1, 1], [2, 3]]


@pytest.mark.parametrize("output", [[[1, 2], [3, 4]], np.array([[1, 2], [3, 4]], dtype=np.float64)])
def test_vectors_are_float32_whatever_the_embedder_gives(output):
    assert embed_texts(Fixed(output), ["a", "bb"]).dtype == np.float32


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.ones((1, 2)), r"must have shape \(2, dim\) for 2 texts, got \(1, 2\)"),
        (np.ones(2), r"must have shape \(2, dim\) for 2 texts, got \(2,\)"),
        (np.ones((2, 0)), r"must have shape \(2, dim\) for 2 texts, got \(2, 0\)"),
        ([["x", "y"], ["z", "w"]], "must be an array of numbers"),
        ([[1, 2], [3]], "must be an array of numbers"),
        ([[1, 2], [np.nan, 1]], "must be finite, row 1 is not"),
        ([[1, np.inf], [1, 1]], "must be finite, row 0 is not"),
        (None, "embedder Fixed"),
    ],
)
def test_what_is_no_vector_per_text_is_refused_in_the_embedders_name(output, message):
    with pytest.raises(DataError, match=message) as caught:
        embed_texts(Fixed(output), ["a", "bb"])
    assert str(caught.value).startswith("embedder Fixed: ")


def test_vectors_of_different_sizes_are_refused(monkeypatch):
    monkeypatch.setattr(embedding, "BLOCK", 1)

    class Growing(Letters):
        def embed(self, texts):
            return np.ones((1, len(texts[0])))

    with pytest.raises(DataError, match="embedder Growing gave vectors of different sizes"):
        embed_texts(Growing(), ["a", "bb"])


def test_precomputed_vectors_of_another_number_are_refused():
    with pytest.raises(DataError, match=r"^embeddings must have shape \(3, dim\) for 3 texts, got \(2, 4\)$"):
        check_embeddings(np.ones((2, 4)), 3)


def test_precomputed_vectors_become_float32():
    vectors = check_embeddings([[1, 2], [3, 4]], 2)
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[1, 2], [3, 4]]


class Learner(Letters):
    """Learns from a corpus."""

    fitted = False

    def fit(self, texts):
        self.learnt = list(texts)
        self.fitted = True


def test_an_embedder_that_learns_from_the_corpus_is_fitted():
    embedder = Learner()
    fit_if_needed(embedder, ["a", "bb"])
    assert embedder.learnt == ["a", "bb"]


def test_a_fitted_embedder_is_not_fitted_again():
    embedder = Learner()
    fit_if_needed(embedder, ["a"])
    fit_if_needed(embedder, ["bb"])
    assert embedder.learnt == ["a"]


def test_an_embedder_that_does_not_learn_is_left_alone():
    embedder = Letters()
    fit_if_needed(embedder, ["a"])
    assert embedder.calls == []


# Vectors that come in parts.


class Parts(Letters):
    """Gives vectors in parts of two, the last first, and fails after as many parts."""

    def __init__(self, fails_after=None, gives=lambda positions: positions):
        super().__init__()
        self.fails_after = fails_after
        self.gives = gives

    def embed_each(self, texts, keep):
        parts = [range(start, min(start + 2, len(texts))) for start in range(0, len(texts), 2)]
        for number, part in enumerate(reversed(parts)):
            if number == self.fails_after:
                raise ClusterLLMError("the hose burst")
            given = self.gives(list(part))
            keep(given, super().embed([texts[position] for position in given]))

    def embed(self, texts):
        raise AssertionError("embed_each is called in its place")


@quick
@given(words)
def test_parts_find_their_texts(texts):
    assert np.array_equal(embed_texts(Parts(), texts), Letters().embed(texts))


def test_parts_are_kept_before_the_rest_fails(tmp_path):
    texts = ["a", "ab", "aab", "aabb", "aaabb"]
    with pytest.raises(ClusterLLMError, match=r"^the hose burst; 3 of 5 texts are embedded and kept in the cache, "):
        embed_texts(Parts(fails_after=2), texts, cache=tmp_path)
    resumed = Parts()
    assert np.array_equal(embed_texts(resumed, texts, cache=tmp_path), Letters().embed(texts))
    assert sum(map(len, resumed.calls)) == 2


def test_without_a_cache_an_error_says_that_none_is_kept():
    with pytest.raises(ClusterLLMError, match=r"^the hose burst; without a cache none is kept$"):
        embed_texts(Parts(fails_after=1), ["a", "ab", "aab"])


def test_an_error_before_the_first_part_stands_alone():
    with pytest.raises(ClusterLLMError, match=r"^the hose burst$"):
        embed_texts(Parts(fails_after=0), ["a", "ab", "aab"])


def test_a_part_that_is_left_out_is_an_error():
    with pytest.raises(DataError, match="embedder Parts gave no vector for 2 texts"):
        embed_texts(Parts(gives=lambda positions: positions[:1]), ["a", "ab", "aab", "aabb"])


def test_parts_may_come_from_threads(tmp_path):
    texts = [letter * count for letter in "ab" for count in range(1, 40)]

    class Threads(Parts):
        def embed_each(self, texts, keep):
            with ThreadPoolExecutor(8) as threads:
                list(threads.map(lambda n: keep([n], Letters().embed([texts[n]])), range(len(texts))))

    assert np.array_equal(embed_texts(Threads(), texts, cache=tmp_path), Letters().embed(texts))
