"""Many texts, long texts, equal texts and broken vectors: an answer, or an error that says what to do."""

import json
import tracemalloc

import numpy as np
import pytest

from clusterllm_plugins import ClusterLLM, ClusterLLMError, select_n_clusters
from clusterllm_plugins.corpus import make_corpus
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.files import replacing
from clusterllm_plugins.guided import planning
from clusterllm_plugins.guided.planning import rows_to_ask
from clusterllm_plugins.metrics import accuracy
from clusterllm_plugins.questions import Answer, choice_question
from clusterllm_plugins.redaction import Redaction
from clusterllm_plugins.runs import predicted_lines
from guided_kit import Counting, fit, make_blobs, make_oracle, skewed, texts_of

quietly = pytest.mark.filterwarnings("ignore::clusterllm_plugins.ClusterLLMWarning")


def quiet(texts):
    return make_corpus(texts, Redaction(), warn=False)


def unasked(n_clusters=2, **settings):
    return ClusterLLM(n_clusters=n_clusters, progress=False, **settings)


# --- a sample is asked about, all texts are clustered ------------------------------------------------------------


@pytest.fixture
def small_sample(monkeypatch):
    monkeypatch.setattr(planning, "MOST_ROWS", 200)


@quietly
def test_what_a_sample_taught_clusters_all_texts(small_sample):
    vectors, truth = make_blobs((700, 70, 70, 70, 70, 70), spread=0.3, dim=12)
    model = fit(vectors, make_oracle(truth), 6)
    assert model.report_["guard"]["kept_refined"]
    assert accuracy(truth, model.labels_) > accuracy(truth, fit(vectors, None, 6).labels_) + 0.2


@quietly
def test_questions_are_about_the_sample_alone(small_sample):
    vectors, truth = make_blobs((700, 70, 70, 70, 70, 70), spread=0.3, dim=12)
    oracle = Counting(truth)
    fit(vectors, oracle, 6)
    shown = {i for question in oracle.asked for i in (question.anchor_index, *sum(question.group_indices, ()))}
    sample = rows_to_ask(quiet(texts_of(len(truth))), [], 6, 0)
    assert len(oracle.asked) > 20
    assert shown <= set(sample.distinct.tolist())


@quietly
@pytest.mark.parametrize("n_clusters", [6, (4, 8)])
def test_prediction_repeats_the_labels_where_a_sample_was_asked_about(small_sample, n_clusters):
    vectors, truth = make_blobs((700, 70, 70, 70, 70, 70), spread=0.3, dim=12)
    model = fit(vectors, make_oracle(truth), n_clusters, max_granularity_questions=40)
    assert np.array_equal(model.predict(texts_of(len(truth)), embeddings=vectors), model.labels_)


def test_few_texts_are_all_asked_about():
    corpus = quiet(texts_of(50))
    assert rows_to_ask(corpus, [], 3, 0) is corpus


def test_texts_that_answers_are_about_are_in_every_sample(small_sample):
    texts = texts_of(5000)
    known = [(choice_question(texts, 4999, [[4998], [4997]], none=True), Answer("1"))]
    assert {4997, 4998, 4999} <= set(rows_to_ask(quiet(texts), known, 3, 0).distinct.tolist())


def test_the_sample_holds_texts_for_each_of_many_clusters(small_sample):
    assert len(rows_to_ask(quiet(texts_of(5000)), [], 100, 0).distinct) == 100 * planning.ROWS_PER_CLUSTER


@quietly
def test_known_answers_alone_teach_all_texts(small_sample):
    vectors, truth = skewed()
    vectors, truth = np.tile(vectors, (4, 1)) + np.float32(1e-4), np.tile(truth, 4)
    asked = fit(vectors, make_oracle(truth), 6)
    known = list(zip(asked.questions_, asked.answers_, strict=True))
    model = fit(vectors, None, 6, answers=known)
    assert accuracy(truth, model.labels_) > accuracy(truth, fit(vectors, None, 6).labels_) + 0.1


@quietly
def test_the_number_alone_comes_with_a_label_for_each_text(small_sample):
    vectors, truth = make_blobs((150, 150, 150), spread=0.02)
    found = select_n_clusters(texts_of(len(truth)), vectors, make_oracle(truth), n_clusters=(3, 3), max_questions=60)
    assert found.labels.min() == 0
    assert accuracy(truth, found.labels) > 0.9


# --- memory ------------------------------------------------------------------------------------------------------


@quietly
@pytest.mark.slow
@pytest.mark.parametrize(("method", "copies"), [("auto", 2), ("paper", 3)])
def test_a_fit_holds_few_copies_of_the_vectors(tmp_path, monkeypatch, method, copies):
    monkeypatch.setattr(planning, "MOST_ROWS", 500)
    monkeypatch.setattr("clusterllm_plugins.vectors.BLOCK", 1000)
    vectors, truth = make_blobs((40_000, 40_000), dim=128)
    np.save(tmp_path / "vectors.npy", vectors)
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    model = unasked(method=method, oracle=make_oracle(truth), max_questions=16)
    texts = texts_of(len(truth))
    tracemalloc.start()
    try:
        model.fit(texts, embeddings=mapped)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Those scaled to length 1 and a sample, and the paper's refined ones.
    assert peak < copies * vectors.nbytes


def test_prediction_holds_a_block_of_vectors(tmp_path):
    vectors, _ = make_blobs((100_000, 100_000), dim=32)
    model = unasked().fit(texts_of(200), embeddings=np.concatenate([vectors[:100], vectors[-100:]]))
    texts = texts_of(len(vectors))
    tracemalloc.start()
    try:
        labels = model.predict(texts, embeddings=vectors)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(set(labels[:100_000].tolist())) == 1
    assert peak < vectors.nbytes


def test_prediction_in_blocks_leaves_empty_texts_out(monkeypatch):
    monkeypatch.setattr("clusterllm_plugins.vectors.BLOCK", 3)
    vectors, _ = make_blobs((10, 10))
    model = unasked().fit(texts_of(20), embeddings=vectors)
    expected = model.labels_.copy()
    expected[[1, 3, 4, 5, 19]] = -1
    texts = ["" if label < 0 else "text" for label in expected.tolist()]
    labels, scores = model.predict_with_scores(texts, embeddings=vectors)
    assert np.array_equal(labels, expected)
    assert np.array_equal(scores > 0, expected >= 0)


# --- odd inputs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_named(value):
    vectors, _ = make_blobs((40_000, 10))
    vectors[35_001, 2] = value
    with pytest.raises(DataError, match=r"^embeddings must be finite, row 35001 is not$"):
        unasked().fit(texts_of(len(vectors)), embeddings=vectors)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((19, 4), r"must have shape \(20, dim\) for 20 texts, got \(19, 4\)$"),
        ((20,), r"must have shape \(20, dim\) for 20 texts, got \(20,\)$"),
        ((20, 0), r"must have shape \(20, dim\) for 20 texts, got \(20, 0\)$"),
    ],
)
def test_vectors_that_do_not_fit_the_texts_are_refused(shape, message):
    with pytest.raises(DataError, match=message):
        unasked().fit(texts_of(20), embeddings=np.ones(shape, np.float32))


def test_vectors_of_another_size_are_not_predicted():
    vectors, _ = make_blobs((10, 10))
    model = unasked().fit(texts_of(20), embeddings=vectors)
    with pytest.raises(DataError, match=r"^the embedder gave vectors of size 5, the model was fitted on 8$"):
        model.predict(["new"], embeddings=np.ones((1, 5), np.float32))


def test_a_vector_that_is_not_finite_is_not_predicted():
    vectors, _ = make_blobs((10, 10))
    model = unasked().fit(texts_of(20), embeddings=vectors)
    with pytest.raises(DataError, match=r"^embeddings must be finite, row 1 is not$"):
        model.predict(["new", "newer"], embeddings=np.array([[1] * 8, [np.nan] * 8], np.float32))


def test_a_text_of_a_megabyte_is_clustered():
    texts = ["lost parcel", "late parcel", "parcel came late", "word " * 210_000, "a password", "my password"]
    model = unasked(embedder="lsa").fit(texts)
    assert model.labels_.min() >= 0
    assert model.predict(texts[3:4])[0] == model.labels_[3]


@quietly
def test_many_equal_texts_are_clustered_beside_others():
    texts = ["the same"] * 200_000 + ["another", "a third"]
    vectors = np.zeros((len(texts), 4), np.float32)
    vectors[:, 0], vectors[-2:] = 1, np.eye(4)[1:3]
    model = unasked(3).fit(texts, embeddings=vectors)
    assert np.bincount(model.labels_).tolist().count(1) == 2
    assert len(set(model.labels_[:-2].tolist())) == 1


@quietly
def test_nothing_but_equal_texts_is_one_cluster():
    model = unasked("auto").fit(["the same"] * 200_000, embeddings=np.ones((200_000, 4), np.float32))
    assert (model.n_clusters_, set(model.labels_.tolist())) == (1, {0})


@quietly
def test_more_clusters_than_distinct_texts_are_refused():
    with pytest.raises(ClusterLLMError, match=r"^cannot make 3 clusters out of 2 distinct texts$"):
        unasked(3).fit(["one", "two"] * 100_000, embeddings=np.ones((200_000, 4), np.float32))


# --- predicting a file -------------------------------------------------------------------------------------------


class Letters:
    """Counts letters, and remembers how many texts it got at once."""

    fingerprint = "letters"

    def __init__(self):
        self.sizes = []

    def embed(self, texts):
        self.sizes.append(len(texts))
        return np.array([[text.count("a"), text.count("b"), 1] for text in texts], np.float32)


@pytest.fixture
def lettered():
    texts = ["a" * number for number in range(1, 9)] + ["b" * number for number in range(1, 9)]
    return unasked(embedder=Letters()).fit(texts)


def test_a_file_is_predicted_as_its_texts_are(lettered, tmp_path, monkeypatch):
    monkeypatch.setattr("clusterllm_plugins.files.PIECE", 3)
    texts = ["aaa", "b", "ab", "", "bbbb", "a", "aab"]
    (tmp_path / "new.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    records = [json.loads(line) for line in predicted_lines(lettered, tmp_path / "new.txt")]
    labels, scores = lettered.predict_with_scores(texts)
    assert [record["text"] for record in records] == texts
    assert [record["cluster_id"] for record in records] == labels.tolist()
    assert [record["cluster_score"] for record in records] == np.round(scores, 6).tolist()


def test_lines_come_before_the_file_is_read_to_its_end(lettered, tmp_path, monkeypatch):
    monkeypatch.setattr("clusterllm_plugins.files.PIECE", 2)
    (tmp_path / "new.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "a"}\nbroken\n', encoding="utf-8")
    lines = predicted_lines(lettered, tmp_path / "new.jsonl")
    assert [json.loads(next(lines))["text"] for _ in range(2)] == ["a", "b"]
    with pytest.raises(DataError, match="line 4: not JSON"):
        next(lines)


def test_a_broken_line_leaves_an_earlier_result_as_it_is(lettered, tmp_path, monkeypatch):
    monkeypatch.setattr("clusterllm_plugins.files.PIECE", 2)
    (tmp_path / "new.jsonl").write_text('{"text": "a"}\n{"text": "b"}\nbroken\n', encoding="utf-8")
    (tmp_path / "out.jsonl").write_text("earlier", encoding="utf-8")
    with pytest.raises(DataError), replacing(tmp_path / "out.jsonl") as file:
        file.writelines(predicted_lines(lettered, tmp_path / "new.jsonl"))
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.jsonl", "out.jsonl"]
