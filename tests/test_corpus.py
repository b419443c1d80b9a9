import warnings
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clusterllm_plugins import ClusterLLM, Completion, PromptedOracle
from clusterllm_plugins.corpus import check_texts, make_corpus
from clusterllm_plugins.errors import ClusterLLMWarning, DataError
from clusterllm_plugins.redaction import Redaction

quick = settings(derandomize=True, deadline=None, max_examples=40)
several = st.lists(st.sampled_from(["", " ", "\n\t", "oak", "elm", "ash", " oak"]), min_size=2).filter(
    lambda texts: sum(bool(text.strip()) for text in texts) >= 2
)


def quiet(texts, redaction=None):
    return make_corpus(texts, redaction or Redaction(), warn=False)


@quick
@given(several)
def test_kept_texts_are_those_that_are_not_empty(texts):
    assert quiet(texts).kept.tolist() == [place for place, text in enumerate(texts) if text.strip()]


@quick
@given(several)
def test_distinct_texts_are_the_first_of_their_kind(texts):
    corpus = quiet(texts)
    assert corpus.distinct.tolist() == sorted({texts.index(text) for text in texts if text.strip()})


@quick
@given(several)
def test_each_kept_text_has_the_place_of_its_equal(texts):
    corpus = quiet(texts)
    assert all(texts[corpus.distinct[corpus.place[place]]] == texts[place] for place in corpus.kept)


@quick
@given(several)
def test_an_empty_text_has_no_place(texts):
    assert np.array_equal(quiet(texts).place == -1, [not text.strip() for text in texts])


@quick
@given(several)
def test_weights_say_how_often_each_distinct_text_occurs(texts):
    corpus = quiet(texts)
    assert corpus.weights.tolist() == [texts.count(texts[place]) for place in corpus.distinct]


def test_texts_are_redacted():
    redaction = Redaction([("names", lambda text: text.replace("Ada", "[name]"))])
    assert quiet(["Ada came", "all left"], redaction).texts == ["[name] came", "all left"]


def test_texts_that_redaction_makes_equal_are_duplicates():
    redaction = Redaction([("names", lambda text: text.replace("Ada", "X").replace("Bob", "X"))])
    assert quiet(["Ada came", "Bob came", "all left"], redaction).place.tolist() == [0, 0, 1]


def test_a_text_that_redaction_empties_is_empty():
    redaction = Redaction([("secrets", lambda text: text.replace("secret", ""))])
    assert quiet(["secret", "oak", "elm"], redaction).kept.tolist() == [1, 2]


def test_empty_texts_are_warned_of():
    with pytest.warns(ClusterLLMWarning, match=r"^2 empty texts got the label -1$"):
        make_corpus(["", "oak", " ", "elm"], Redaction())


def test_duplicates_are_warned_of():
    with pytest.warns(ClusterLLMWarning, match=r"^1 text repeated an earlier one$"):
        make_corpus(["oak", "oak", "elm"], Redaction())


def test_notes_say_what_was_warned_of():
    with pytest.warns(ClusterLLMWarning) as caught:
        corpus = make_corpus(["", "oak", "oak"], Redaction())
    assert corpus.notes == [str(warning.message) for warning in caught]


def test_notes_are_taken_without_a_warning_where_none_is_wanted():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(quiet(["", "oak", "oak"]).notes) == 2


def test_usual_texts_are_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_corpus(["oak", "elm"], Redaction()).notes == []


@pytest.mark.parametrize(("texts", "n"), [([], 0), (["", " "], 0), (["oak", ""], 1)])
def test_fewer_than_two_texts_are_refused(texts, n):
    with pytest.raises(DataError, match=f"at least two texts that are not empty, got {n}"):
        quiet(texts)


@pytest.mark.parametrize("single", ["oak", b"oak"])
def test_a_single_text_is_refused(single):
    with pytest.raises(DataError, match="not a single one"):
        check_texts(single)


@pytest.mark.parametrize(("thing", "name"), [(None, "NoneType"), (3, "int"), (b"elm", "bytes")])
def test_what_is_no_text_is_refused_with_its_position(thing, name):
    with pytest.raises(DataError, match=f"text 1 is {name}, not a str"):
        check_texts(["oak", thing])


@pytest.mark.parametrize("kind", [tuple, iter, np.array])
def test_any_sequence_of_texts_becomes_a_list(kind):
    assert check_texts(kind(["oak", "elm"])) == ["oak", "elm"]


def long_texts():
    return ["x" * 2000, "y" * 2001, "oak", "z" * 50_000]


def test_texts_of_which_questions_show_the_beginning_only_are_warned_of():
    with pytest.warns(ClusterLLMWarning) as caught:
        corpus = make_corpus(long_texts(), Redaction(), is_asked_about=True)
    note = "2 texts of more than 2000 characters: only the first 2000 are shown to a language model"
    assert [str(warning.message) for warning in caught] == corpus.notes == [note]


def test_long_texts_are_not_warned_of_where_nobody_is_asked():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make_corpus(long_texts(), Redaction()).notes == []


def test_long_texts_stay_whole_for_the_embedder():
    assert [len(text) for text in quiet(long_texts()).texts] == [2000, 2001, 3, 50_000]


def test_a_fit_warns_once_of_long_texts_and_cuts_them_in_questions_only():
    class Asked(PromptedOracle):
        fingerprint = "asked"
        prompts: ClassVar[list[str]] = []

        def complete(self, prompt, choices):
            self.prompts.append(prompt)
            return Completion(choices[0])

    seen = []

    class Embedder:
        fingerprint = "lengths"

        def embed(self, texts):
            seen.extend(map(len, texts))
            return np.array([[len(text) % 7, len(text) % 5, 1] for text in texts], dtype=np.float32)

    texts = ["a" * length for length in (3, 40, 55, 71, 2001, 50_000)]
    model = ClusterLLM(Embedder(), Asked(), n_clusters=2, method="paper", max_questions=4, progress=False)
    with pytest.warns(ClusterLLMWarning, match=r"^2 texts of more than 2000 characters: ") as caught:
        model.fit(texts)
    assert len([warning for warning in caught if "2000" in str(warning.message)]) == 1
    assert max(map(len, Asked.prompts)) < 3 * 2000 + 500
    assert max(seen) == 50_000


@quick
@given(several, st.integers(0, 99))
def test_a_part_is_the_corpus_with_all_other_texts_empty(texts, seed):
    corpus = quiet(texts)
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.choice(len(corpus.distinct), rng.integers(1, len(corpus.distinct) + 1), replace=False))
    chosen = {texts[position] for position in corpus.distinct[rows]}
    part = corpus.part(rows)
    assert part.kept.tolist() == [position for position, text in enumerate(texts) if text in chosen]
    assert part.distinct.tolist() == corpus.distinct[rows].tolist()
    assert [texts[part.distinct[part.place[position]]] for position in part.kept] == [texts[p] for p in part.kept]
    assert (part.place >= 0).sum() == len(part.kept)
    assert part.weights.tolist() == [texts.count(texts[position]) for position in part.distinct]
