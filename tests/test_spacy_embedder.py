"""``clusterllm_embedder``: vectors on docs and spans."""

import itertools
import pickle

import numpy as np
import pytest
import spacy
from spacy.tokens import Span

from clusterllm_plugins import ClusterLLMError, ClusterLLMWarning, Plugins
from clusterllm_plugins.errors import UnfittedError
from clusterllm_plugins.spacy import ClusterLLMEmbedder
from spacy_kit import LSA, corpus, fit, install_plugin, pipeline


@pytest.fixture
def words(tmp_path, monkeypatch):
    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def alone(**config):
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config=config)
    return nlp


def lsa(texts, **config):
    nlp = alone(embedder=LSA, **config)
    fit(nlp, texts, "clusterllm_embedder")
    return nlp


def test_sets_float32_vectors(texts):
    nlp = lsa(texts)
    vector = nlp(texts[0])._.clusterllm_vector
    assert vector.dtype == np.float32
    assert vector.shape == (8,)


def test_sets_what_the_embedder_says(texts):
    embedder = Plugins().embedder(LSA)
    embedder.fit(texts)
    nlp = lsa(texts)
    for doc, vector in zip(nlp.pipe(texts), embedder.embed(texts), strict=True):
        np.testing.assert_allclose(doc._.clusterllm_vector, vector, atol=1e-6)


def test_an_empty_doc_gets_zeros(texts):
    docs = list(lsa(texts).pipe([texts[0], "", "  "]))
    assert docs[0]._.clusterllm_vector.any()
    assert [doc._.clusterllm_vector.tolist() for doc in docs[1:]] == [[0.0] * 8] * 2


def test_only_empty_docs_get_zeros_of_the_right_size(texts):
    assert lsa(texts)("")._.clusterllm_vector.shape == (8,)


def test_a_stream_is_embedded_in_batches(texts, words):
    nlp = alone(embedder="words")
    embedder = nlp.get_pipe("clusterllm_embedder").embedder
    sizes = []
    embed = embedder.embed
    type(embedder).embed = lambda self, texts: sizes.append(len(texts)) or embed(texts)
    list(nlp.pipe([f"text {number}" for number in range(10)], batch_size=4))
    assert sizes == [4, 4, 2]


def test_a_cache_spares_the_second_pipeline_all_embedding(texts, words, tmp_path, monkeypatch):
    config = {"embedder": "words", "cache": str(tmp_path / "vectors")}
    first = [doc._.clusterllm_vector for doc in alone(**config).pipe(texts)]
    nlp = alone(**config)
    monkeypatch.setattr(type(nlp.get_pipe("clusterllm_embedder").embedder), "embed", None)
    np.testing.assert_array_equal([doc._.clusterllm_vector for doc in nlp.pipe(texts)], first)


def test_a_cache_that_is_no_path_is_refused():
    with pytest.raises(ClusterLLMError, match="cache must be a path or None, not 3"):
        alone(embedder="lsa", cache=3)


def test_vectors_do_not_keep_their_batch_in_memory(texts):
    doc = next(lsa(texts).pipe(texts))
    assert doc._.clusterllm_vector.base is None


def test_doc_tensor_and_doc_vector_are_left_alone(texts):
    doc = lsa(texts)(texts[0])
    assert doc.tensor.size == 0
    assert doc.user_hooks == {}
    assert not doc.has_vector


def test_doc_vector_uses_it_on_request(texts):
    nlp = lsa(texts, set_doc_vector=True)
    one, other = nlp(texts[0]), nlp(texts[1])
    assert one.has_vector
    assert (one.vector == one._.clusterllm_vector).all()
    assert one.vector_norm == pytest.approx(1, abs=1e-5)
    assert one.similarity(other) == pytest.approx(float(one.vector @ other.vector), abs=1e-5)


def test_similarity_forgets_the_norm_that_a_doc_had_before(texts):
    nlp = lsa(texts, set_doc_vector=True)
    doc = nlp.make_doc(texts[0])
    assert doc.vector_norm == 0
    nlp.get_pipe("clusterllm_embedder")(doc)
    assert doc.vector_norm == pytest.approx(1, abs=1e-5)


def test_a_pickled_doc_does_not_take_the_embedder_along(texts):
    doc = lsa(texts, set_doc_vector=True)(texts[0])
    data = pickle.dumps(doc)
    assert b"ClusterLLMEmbedder" not in data
    assert (pickle.loads(data).vector == doc.vector).all()


def test_spans_of_a_group_get_vectors(texts):
    nlp = lsa(texts)
    nlp.replace_pipe("clusterllm_embedder", "clusterllm_embedder", config={"embedder": LSA, "span_key": "parts"})
    docs = [nlp.make_doc(f"{one} . {other}") for one, other in itertools.pairwise(texts)]
    for doc in docs:
        dot = next(token.i for token in doc if token.text == ".")
        doc.spans["parts"] = [Span(doc, 0, dot), Span(doc, dot + 1, len(doc))]
    embedder = nlp.get_pipe("clusterllm_embedder")
    embedder.fit(docs)
    doc = embedder(docs[0])
    first, second = doc.spans["parts"]
    assert doc._.clusterllm_vector is None
    np.testing.assert_allclose(first._.clusterllm_vector, embedder.embed([texts[0]])[0], atol=1e-6)
    np.testing.assert_allclose(second._.clusterllm_vector, embedder.embed([texts[1]])[0], atol=1e-6)


def test_a_doc_without_spans_stays_as_it_is(texts):
    nlp = alone(embedder="lsa", span_key="ents")
    ruler = nlp.add_pipe("entity_ruler", first=True)
    ruler.add_patterns([{"label": "THING", "pattern": text} for text in texts])
    fit(nlp, texts, "clusterllm_embedder")
    doc = nlp("nothing of that kind")
    assert doc.user_data == {}


def test_a_redactor_comes_before_the_embedder(texts, words):
    nlp = alone(embedder="words", redact=["shout"])
    plain = Plugins().embedder("words")
    assert (nlp("parcel late")._.clusterllm_vector == plain.embed(["PARCEL LATE"])[0]).all()


def test_equal_settings_make_equal_spaces_and_others_do_not(texts, words):
    spaces = [
        alone(embedder=embedder).get_pipe("clusterllm_embedder").space
        for embedder in ("words", "words", {"name": "words", "size": 8}, "lsa")
    ]
    assert spaces[0] == spaces[1]
    assert len(set(spaces)) == 3


def test_each_corpus_makes_a_space_of_its_own(texts):
    nlp = lsa(texts)
    embedder = nlp.get_pipe("clusterllm_embedder")
    before = embedder.space
    embedder.fit([nlp.make_doc(text) for text in texts[:8]])
    assert embedder.space != before
    embedder.fit([nlp.make_doc(text) for text in texts])
    assert embedder.space == before


def test_learns_from_a_corpus_in_initialize(texts):
    nlp = alone(embedder=LSA)
    nlp.get_pipe("clusterllm_embedder").initialize(list, nlp=nlp, corpus=corpus(texts))
    assert nlp(texts[0])._.clusterllm_vector.any()


def test_learns_from_the_pipelines_own_examples(texts):
    nlp = alone(embedder=LSA)
    nlp.initialize(lambda: [spacy.training.Example.from_dict(nlp.make_doc(text), {}) for text in texts])
    assert nlp(texts[0])._.clusterllm_vector.any()


def test_without_examples_it_warns_and_stays_unfitted(texts):
    nlp = alone(embedder=LSA)
    with pytest.warns(ClusterLLMWarning, match="component 'clusterllm_embedder' has no corpus and learns nothing"):
        nlp.initialize()
    assert not nlp.get_pipe("clusterllm_embedder").fitted


@pytest.mark.filterwarnings("error")
def test_an_embedder_that_needs_no_corpus_is_not_warned_of(words):
    nlp = alone(embedder="words")
    nlp.initialize()
    assert nlp("parcel")._.clusterllm_vector.any()


def test_what_it_has_learnt_survives_an_initialize_without_examples(texts):
    nlp = lsa(texts)
    space = nlp.get_pipe("clusterllm_embedder").space
    with pytest.warns(ClusterLLMWarning):
        nlp.initialize()
    assert nlp.get_pipe("clusterllm_embedder").space == space


def test_an_object_can_be_the_embedder(texts):
    class Lengths:
        fingerprint = "lengths"

        def embed(self, texts):
            return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)

    embedder = ClusterLLMEmbedder(None, embedder=Lengths())
    assert embedder(spacy.blank("en").make_doc("four"))._.clusterllm_vector.tolist() == [4.0, 1.0]


def test_an_object_that_learns_is_refused_before_it_does(texts):
    embedder = ClusterLLMEmbedder(spacy.blank("en"), embedder=Plugins().embedder(LSA))
    with pytest.raises(ClusterLLMError) as caught:
        embedder.fit([spacy.blank("en").make_doc(text) for text in texts], nlp=spacy.blank("en"))
    assert str(caught.value) == (
        "component 'clusterllm_embedder': embedder LSAEmbedder learns from the corpus and could not be saved, since it "
        "was given as an object: register it and give its name"
    )
    assert not embedder.fitted


def test_not_fitted_says_what_to_do():
    with pytest.raises(UnfittedError) as caught:
        alone(embedder="lsa")("parcel")
    assert str(caught.value) == (
        "component 'clusterllm_embedder' is not fitted: embedder 'lsa' learns from a corpus; initialize a 'clusterllm' "
        "after it, or call nlp.get_pipe('clusterllm_embedder').fit(docs)"
    )


def test_a_hook_on_the_doc_does_not_go_with_spans():
    with pytest.raises(ClusterLLMError, match="set_doc_vector works on docs, not with span_key"):
        alone(span_key="sents", set_doc_vector=True)


def test_a_redactor_comes_before_what_is_learnt_from_the_corpus(texts, words):
    terms = lsa([f"{text} secret" for text in texts], redact=["hide"]).get_pipe("clusterllm_embedder").to_bytes()
    assert b"parcel" in terms
    assert b"secret" not in terms


def test_another_redaction_makes_another_space(words):
    spaces = {alone(embedder="words", redact=redact).get_pipe("clusterllm_embedder").space for redact in ([], ["hide"])}
    assert len(spaces) == 2


def test_a_second_corpus_is_learnt_anew(texts):
    nlp = lsa(texts[:10])
    fit(nlp, texts, "clusterllm_embedder")
    expected = lsa(texts).get_pipe("clusterllm_embedder").embed(texts)
    np.testing.assert_array_equal(nlp.get_pipe("clusterllm_embedder").embed(texts), expected)


def test_an_embedder_never_gets_an_empty_text(words):
    component = alone(embedder="words", redact=["hide"]).get_pipe("clusterllm_embedder")
    seen, embed = [], component.embedder.embed
    type(component.embedder).embed = lambda self, texts: seen.extend(texts) or embed(texts)
    component.embed(["parcel", "", " ", "secret"])
    assert seen == ["parcel"]


@pytest.mark.parametrize("redact", [None, "shout", {"shout": 1}])
def test_redactors_must_be_a_list(redact):
    with pytest.raises(ClusterLLMError) as caught:
        alone(redact=redact)
    assert str(caught.value) == (f"component 'clusterllm_embedder': redact must be a list of redactors, not {redact!r}")


def test_the_embedder_of_a_clusterer_learns_with_it(texts):
    nlp = pipeline()
    assert not nlp.get_pipe("clusterllm_embedder").fitted
    fit(nlp, texts)
    assert nlp.get_pipe("clusterllm_embedder").fitted
