import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterllm_plugins.naming import keywords, name_clusters, terms_of

quick = settings(derandomize=True, deadline=None, max_examples=60)
WORDS = ["lamp", "river", "stone", "我们喝茶", "??", "7", "", "lamp river stone moss"]
texts_and_labels = st.lists(st.tuples(st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join), st.integers(0, 4)))

KITCHEN = ["please boil the pasta", "please boil the potatoes", "please salt the pasta"]
GARDEN = ["please water the roses", "please water the tulips", "please prune the roses"]
LABELS = np.array([0, 0, 0, 1, 1, 1])


def named(texts, labels, n_clusters):
    return name_clusters(texts, np.array(labels, dtype=np.int64), n_clusters)


@quick
@given(texts_and_labels, st.integers(1, 3))
def test_names_are_never_empty(drawn, more):
    texts, labels = [text for text, _ in drawn], [label for _, label in drawn]
    names = named(texts, labels, max([0, *labels]) + more)
    assert all(name.strip() for name in names)


@quick
@given(texts_and_labels, st.integers(1, 3))
def test_each_cluster_has_a_name_of_its_own(drawn, more):
    texts, labels = [text for text, _ in drawn], [label for _, label in drawn]
    n_clusters = max([0, *labels]) + more
    assert len(set(named(texts, labels, n_clusters))) == n_clusters


def test_clusters_of_the_same_texts_have_different_names():
    assert len(set(named(["a warm coat"] * 4, [0, 1, 2, 3], 4))) == 4


def test_clusters_that_share_their_best_words_have_different_names():
    texts = ["alpha beta gamma delta", "alpha beta gamma epsilon", "zeta", "zeta"]
    assert len(set(named(texts, [0, 1, 2, 3], 4))) == 4


def test_a_name_says_what_its_cluster_is_about():
    kitchen, garden = named(KITCHEN + GARDEN, LABELS, 2)
    assert {"pasta", "boil"} <= set(kitchen.split(", "))
    assert {"roses", "water"} <= set(garden.split(", "))


def test_a_word_that_stands_everywhere_alike_is_no_keyword():
    found = keywords(KITCHEN + GARDEN, LABELS, 2)
    assert not {"please", "the"} & {term for terms in found for term in terms}


def test_the_word_of_most_texts_is_the_best():
    assert keywords(["mint tea", "mint soap", "mint", "wool"], np.array([0, 0, 0, 1]), 2)[0][0] == "mint"


def test_a_text_that_repeats_a_word_does_not_speak_for_its_cluster():
    texts = ["noise noise noise noise", "signal", "signal", "wool"]
    assert keywords(texts, np.array([0, 0, 0, 1]), 2)[0] == ["signal", "noise"]


def test_equally_good_words_come_in_alphabetical_order():
    assert keywords(["pear apple fig", "wool"], np.array([0, 1]), 2)[0] == ["apple", "fig", "pear"]


def test_no_more_keywords_come_than_were_wanted():
    assert len(keywords(["pear apple fig", "wool"], np.array([0, 1]), 2, n_terms=2)[0]) == 2


def test_chinese_clusters_are_named_by_their_own_characters():
    texts = ["我想喝绿茶", "绿茶很好喝", "明天会下雨", "今天下雨了"]
    tea, rain = named(texts, [0, 0, 1, 1], 2)
    assert "绿茶" in tea.split(", ")
    assert "下雨" in rain.split(", ")


def test_clusters_without_words_have_names():
    assert len(set(named(["123", "!?", "4 + 4", "..."], [0, 0, 1, 1], 2))) == 2


def test_a_single_cluster_is_named_by_its_words():
    (name,) = named(["green tea", "green soap"], [0, 0], 1)
    assert "green" in name.split(", ")


def test_a_cluster_without_texts_has_a_name():
    assert named(["green tea"], [0], 2)[1].strip()


def test_naming_twice_gives_the_same_names():
    assert named(KITCHEN + GARDEN, LABELS, 2) == named(KITCHEN + GARDEN, LABELS, 2)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Two RED foxes", ["two", "red", "foxes"]),
        ("x is 42, no snake_case", ["is", "no", "snake", "case"]),
        ("Größe naïve", ["größe", "naïve"]),
        ("喝绿茶", ["喝绿", "绿茶"]),
        ("ありがとう", ["あり", "りが", "がと", "とう"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("", []),
    ],
)
def test_terms_are_words_or_two_neighbouring_characters(text, terms):
    assert terms_of(text) == terms


def test_a_word_between_unspaced_characters_is_a_term():
    assert {"wifi", "密码"} <= set(terms_of("忘记wifi密码"))


def test_a_word_keeps_its_vowel_signs():
    assert terms_of("चाय गरम है") == ["चाय", "गरम", "है"]
