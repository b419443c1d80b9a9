"""What a fitted model gives to components: refined vectors, clusters of vectors; and how a running fit is stopped."""

import threading

import numpy as np
import pytest

from clusterllm_plugins import Answer, ClusterLLM, ClusterLLMError, OracleError
from clusterllm_plugins.questions import triplet_question
from clusterllm_plugins.vectors import nearest, normalise

LSA = {"name": "lsa", "dimensions": 8}


def fitted(texts, **arguments):
    known = [(triplet_question(texts, 0, 5, 10), Answer("1")), (triplet_question(texts, 5, 0, 10), Answer("2"))]
    return ClusterLLM(embedder=LSA, n_clusters=3, method="paper", progress=False).fit(texts, answers=known, **arguments)


def test_embed_gives_the_refined_vectors(texts):
    model = fitted(texts)
    assert model.space_.adapter is not None
    np.testing.assert_allclose(model.embed(texts), model.embeddings_, atol=1e-6)


def test_embed_gives_zeros_for_an_empty_text(texts):
    vectors = fitted(texts).embed([texts[0], "  "])
    assert vectors[0].any()
    assert not vectors[1].any()


def test_predict_takes_embeddings_in_place_of_an_embedder(texts, blobs):
    vectors, _ = blobs
    names = [f"text {place}" for place in range(len(vectors))]
    model = ClusterLLM(n_clusters=4, progress=False).fit(names, embeddings=vectors)
    assert (model.predict(names[:7], embeddings=vectors[:7]) == model.labels_[:7]).all()
    labels, scores = model.predict_with_scores(names, embeddings=vectors)
    assert (labels == model.labels_).all()
    np.testing.assert_allclose(scores, model.cluster_scores_, atol=1e-6)


def test_embeddings_go_through_the_linear_map(texts):
    model = fitted(texts)
    plain = model.space_.embedder.embed(texts)
    mapped = normalise((plain @ model.space_.adapter).astype(np.float32))
    assert (model.predict(texts, embeddings=plain) == nearest(mapped, model.cluster_centers_)).all()


def test_an_empty_text_has_no_cluster_whatever_its_embedding(texts):
    model = fitted(texts)
    assert model.predict(["", texts[0]], embeddings=model.space_.embedder.embed(texts[:2])).tolist()[0] == -1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 5), "the embedder gave vectors of size 5, the model was fitted on 8"),
        ((3, 8), r"embeddings must have shape \(2, dim\) for 2 texts, got \(3, 8\)"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(texts, shape, message):
    with pytest.raises(ClusterLLMError, match=message):
        fitted(texts).predict(texts[:2], embeddings=np.ones(shape))


class Slow:
    """Answers once it is let go."""

    fingerprint = "slow"

    def __init__(self):
        self.begun, self.go = threading.Event(), threading.Event()
        self.asked = 0

    def answer(self, questions):
        for question in questions:
            self.asked += 1
            self.begun.set()
            self.go.wait(10)
            yield Answer(question.choices[0])


def test_a_fit_is_stopped_from_another_thread_and_its_answers_are_kept(texts, tmp_path):
    oracle = Slow()
    store = tmp_path / "answers.sqlite"
    model = ClusterLLM(embedder=LSA, oracle=oracle, n_clusters=3, store=store, method="paper", progress=False)
    errors = []

    def fit():
        try:
            model.fit(texts)
        except OracleError as error:
            errors.append(str(error))

    thread = threading.Thread(target=fit)
    thread.start()
    oracle.begun.wait(10)
    model.stop()
    oracle.go.set()
    thread.join(10)
    assert errors == ["stopped"]
    assert oracle.asked == 1
    again = ClusterLLM(
        embedder=LSA, oracle=oracle, n_clusters=3, store=store, max_questions=5, method="paper", progress=False
    ).fit(texts)
    assert again.report_["questions"]["recalled"] == 1


def test_stopping_what_does_not_run_does_nothing(texts):
    model = ClusterLLM(embedder=LSA, n_clusters=3, method="paper", progress=False)
    model.stop()
    model.fit(texts)
    model.stop()
    assert len(model.fit(texts).labels_) == 15
