"""``clusterllm_granularity``: the number of clusters."""

import warnings

import pytest
import spacy

from clusterllm_plugins import Answer, ClusterLLM, ClusterLLMError, ClusterLLMWarning
from clusterllm_plugins.errors import UnfittedError
from clusterllm_plugins.questions import pair_question, triplet_question
from spacy_kit import LSA, ByTruth, clusters, corpus, fit, install_plugin, with_vectors


def pipeline(clusterer=None, **config):
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA})
    nlp.add_pipe("clusterllm_granularity", config={"n_clusters": [2, 6], "progress": False} | config)
    if clusterer is not None:
        nlp.add_pipe("clusterllm", config={"progress": False} | clusterer)
    return nlp


def test_sets_the_number_that_the_answers_choose(texts, truth):
    nlp = pipeline()
    fit(nlp, texts, "clusterllm_granularity", oracle=ByTruth(texts, truth))
    assert nlp.get_pipe("clusterllm_granularity").chosen == 3
    assert [doc._.clusterllm_n_clusters for doc in nlp.pipe(texts[:2])] == [3, 3]


def test_asks_pairs_only_and_keeps_the_cap(texts, truth):
    oracle = ByTruth(texts, truth)
    nlp = pipeline(max_granularity_questions=9)
    fit(nlp, texts, "clusterllm_granularity", oracle=oracle)
    assert {question.kind for question in oracle.asked} == {"pair"}
    assert len(oracle.asked) <= 9


def test_is_the_estimators_granularity(texts, truth):
    nlp = pipeline()
    fit(nlp, texts, "clusterllm_granularity", oracle=ByTruth(texts, truth))
    settings = {"embedder": LSA, "n_clusters": (2, 6), "max_questions": 0, "method": "paper", "progress": False}
    model = ClusterLLM(**settings, oracle=ByTruth(texts, truth)).fit(texts)
    assert nlp.get_pipe("clusterllm_granularity").report["n_clusters"] == model.report_["n_clusters"]


def test_works_without_an_oracle_and_says_so(texts):
    nlp = pipeline()
    fit(nlp, texts, "clusterllm_granularity")
    granularity = nlp.get_pipe("clusterllm_granularity")
    assert granularity.chosen in range(2, 7)
    assert "no oracle was asked" in granularity.report["n_clusters"]["how"]


def all_pairs(texts, truth):
    return [
        (pair_question(texts, left, right), Answer("yes" if truth[left] == truth[right] else "no"))
        for left in range(15)
        for right in range(left)
    ]


def test_answers_already_had_are_enough(texts, truth):
    nlp = pipeline()
    fit(nlp, texts, "clusterllm_granularity", answers=all_pairs(texts, truth))
    assert nlp.get_pipe("clusterllm_granularity").chosen == 3


def test_answers_about_perspective_are_not_its_own(texts):
    nlp = pipeline()
    fit(nlp, texts, "clusterllm_granularity", answers=[(triplet_question(texts, 0, 3, 7), Answer("1"))])
    assert nlp.get_pipe("clusterllm_granularity").report["triplets"] in ([], [0])


def test_keeps_what_was_asked(texts, truth):
    nlp, oracle = pipeline(), ByTruth(texts, truth)
    fit(nlp, texts, "clusterllm_granularity", oracle=oracle)
    assert [question for question, _ in nlp.get_pipe("clusterllm_granularity").answers] == oracle.asked


def test_a_corpus_of_one_doc_teaches_the_embedder_nothing():
    nlp = pipeline()
    with pytest.raises(ClusterLLMError, match="at least two texts"):
        fit(nlp, ["parcel late"], "clusterllm_granularity")
    assert not nlp.get_pipe("clusterllm_embedder").fitted


def test_reads_static_vectors(texts):
    nlp = spacy.blank("en")
    with_vectors(nlp)({word for text in texts for word in text.split()})
    nlp.add_pipe("clusterllm_granularity", config={"vectors": "doc.vector", "n_clusters": [2, 5], "progress": False})
    fit(nlp, texts, "clusterllm_granularity")
    assert nlp(texts[0])._.clusterllm_n_clusters in range(2, 6)


def test_a_clusterer_after_it_takes_its_number(texts, truth):
    nlp = pipeline({})
    fit(nlp, texts, "clusterllm_granularity", oracle=ByTruth(texts, truth))
    fit(nlp, texts)
    clusterer = nlp.get_pipe("clusterllm")
    assert len(clusterer.labels) == 3
    assert clusterer.report["n_clusters"]["how"] == "by component 'clusterllm_granularity'"


def test_a_clusterer_after_it_fits_it_too(texts, truth):
    nlp = pipeline({})
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    assert nlp.get_pipe("clusterllm_granularity").chosen == 3
    assert set(clusters(nlp.pipe(texts))) == {0, 1, 2}


def test_a_clusterer_after_it_hands_on_answers_already_had(texts, truth):
    nlp = pipeline({})
    fit(nlp, texts, answers=all_pairs(texts, truth))
    assert nlp.get_pipe("clusterllm_granularity").chosen == 3


@pytest.mark.parametrize("empty", [[], ["", " "]])
def test_a_clusterer_of_fewer_texts_makes_fewer_clusters(empty, texts, truth):
    nlp = pipeline({})
    fit(nlp, texts, "clusterllm_granularity", oracle=ByTruth(texts, truth))
    fit(nlp, [texts[0], texts[9], *empty])
    assert len(nlp.get_pipe("clusterllm").labels) == 2


def test_a_clusterer_after_it_takes_its_corpus_too(texts):
    spacy.registry.readers("test_granularity_texts", func=lambda: corpus(texts))
    nlp = pipeline({})
    nlp.config["initialize"]["components"]["clusterllm"] = {"corpus": {"@readers": "test_granularity_texts"}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nlp.initialize()
    assert nlp.get_pipe("clusterllm_granularity").fitted


def test_alone_without_a_corpus_it_warns():
    with pytest.warns(ClusterLLMWarning, match="component 'clusterllm_granularity' has no corpus"):
        pipeline().initialize()


def test_a_clusterer_with_a_number_of_its_own_leaves_it_alone(texts):
    nlp = pipeline({"n_clusters": 4})
    fit(nlp, texts)
    assert len(nlp.get_pipe("clusterllm").labels) == 4
    assert not nlp.get_pipe("clusterllm_granularity").fitted


def test_a_clusterer_of_other_vectors_finds_a_number_by_itself(texts):
    nlp = pipeline({"n_clusters": "auto", "vectors": "doc.vector"})
    with_vectors(nlp)({word for text in texts for word in text.split()})
    fit(nlp, texts)
    assert not nlp.get_pipe("clusterllm_granularity").fitted


def test_one_after_the_clusterer_is_not_asked(texts):
    nlp = pipeline()
    nlp.add_pipe("clusterllm", before="clusterllm_granularity", config={"progress": False})
    fit(nlp, texts)
    assert not nlp.get_pipe("clusterllm_granularity").fitted


def test_one_of_spans_is_not_asked_by_a_clusterer_of_docs(texts):
    nlp = pipeline({}, span_key="sents")
    fit(nlp, texts)
    assert not nlp.get_pipe("clusterllm_granularity").fitted


def test_a_clusterer_that_redacts_otherwise_is_refused(texts, tmp_path, monkeypatch):
    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA, "redact": ["shout"]})
    nlp.add_pipe("clusterllm_granularity")
    nlp.add_pipe("clusterllm", config={"redact": ["shout"]})
    with pytest.raises(ClusterLLMError) as caught:
        fit(nlp, texts)
    assert str(caught.value) == (
        "component 'clusterllm': redact is ['shout'], that of 'clusterllm_granularity' []: make them equal"
    )


def test_not_fitted_says_what_to_do(texts):
    nlp = pipeline()
    fit(nlp, texts, "clusterllm_embedder")
    with pytest.raises(UnfittedError) as caught:
        nlp(texts[0])
    assert str(caught.value) == (
        "component 'clusterllm_granularity' is not fitted: initialize a 'clusterllm' after it, call "
        "nlp.get_pipe('clusterllm_granularity').fit(docs), or nlp.initialize() with a corpus in "
        "[initialize.components.clusterllm_granularity.corpus]"
    )


def test_a_fixed_number_is_nothing_to_choose():
    with pytest.raises(ClusterLLMError, match=r"n_clusters must be \(low, high\) or 'auto', not 5"):
        pipeline(n_clusters=5)


def test_with_the_pipelines_examples_it_leaves_asking_to_the_clusterer(texts, truth):
    nlp = pipeline({})
    oracle = ByTruth(texts, truth)
    spacy.registry.misc("test_granularity_oracle", func=lambda: oracle)
    nlp.config["initialize"]["components"]["clusterllm"] = {"oracle": {"@misc": "test_granularity_oracle"}}
    nlp.initialize(lambda: [spacy.training.Example.from_dict(nlp.make_doc(text), {}) for text in texts])
    assert nlp.get_pipe("clusterllm_granularity").chosen == 3
    assert "pair" in {question.kind for question in oracle.asked}
