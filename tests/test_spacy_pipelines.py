"""The components among others: error handlers, two of a kind, sourcing, replacing, an existing pipeline."""

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc

from clusterllm_plugins.errors import UnfittedError
from spacy_kit import LSA, ByTruth, clusters, fit, fitted, install_plugin, pipeline, results


@pytest.fixture
def words(tmp_path, monkeypatch):
    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def failures():
    return []


@pytest.fixture
def handled(texts, words, failures):
    """A pipeline whose embedder fails on "boom", and whose error handler keeps what it is told."""
    nlp = fitted(texts, "words")
    nlp.set_error_handler(
        lambda name, component, docs, error: failures.append((name, [doc.text for doc in docs], str(error)))
    )
    return nlp


def test_one_bad_doc_does_not_lose_its_batch(handled, failures):
    docs = list(handled.pipe(["parcel late", "boom", "password reset", "", "boom boom", "invoice"]))
    assert [doc.text for doc in docs] == ["parcel late", "password reset", "", "invoice"]
    assert failures == [
        ("clusterllm_embedder", ["boom"], "boom"),
        ("clusterllm_embedder", ["boom boom"], "boom"),
    ]


def test_what_goes_on_has_all_results(handled):
    (doc,) = handled.pipe(["boom", "parcel late"])
    assert doc._.clusterllm_cluster == handled("parcel late")._.clusterllm_cluster


def test_without_a_handler_the_error_is_raised(texts, words):
    nlp = fitted(texts, "words")
    with pytest.raises(RuntimeError, match="boom"):
        list(nlp.pipe(["parcel late", "boom"]))


def test_a_single_doc_raises_too(handled, failures):
    handled("boom")
    assert failures[0] == ("clusterllm_embedder", ["boom"], "boom")


def test_a_doc_whose_vector_is_of_another_size_goes_to_the_handler(handled, failures, texts):
    handled.remove_pipe("clusterllm_embedder")
    docs = [handled.make_doc(text) for text in texts[:4]]
    for doc in docs:
        doc._.clusterllm_vector = np.ones(16, dtype=np.float32)
    docs[1]._.clusterllm_vector = np.ones(3, dtype=np.float32)
    assert [doc.text for doc in handled.pipe(docs)] == [texts[0], *texts[2:4]]
    ((name, failed, message),) = failures
    assert (name, failed) == ("clusterllm", [texts[1]])
    assert "vectors of size 3, it was fitted on size 16" in message


def test_not_fitted_is_raised_in_spite_of_a_handler(texts, failures):
    nlp = pipeline()
    nlp.set_error_handler(lambda *args: failures.append(args))
    with pytest.raises(UnfittedError, match="is not fitted"):
        list(nlp.pipe(texts))
    assert failures == []


def test_two_clusterers_in_one_pipeline(texts, truth):
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA})
    nlp.add_pipe("clusterllm", name="fine", config={"n_clusters": 5, "prefix": "fine", "progress": False})
    nlp.add_pipe("clusterllm", name="coarse", config={"n_clusters": 2, "prefix": "coarse", "progress": False})
    fit(nlp, texts, "fine", oracle=ByTruth(texts, truth))
    fit(nlp, texts, "coarse")
    docs = list(nlp.pipe(texts))
    assert len(set(clusters(docs, "fine"))) == 5
    assert len(set(clusters(docs, "coarse"))) == 2
    assert set(clusters(docs)) == {None}


def test_two_embedders_in_one_pipeline(texts):
    nlp = spacy.blank("en")
    for name, size in (("small", 4), ("large", 8)):
        settings = {"embedder": {"name": "lsa", "dimensions": size}, "prefix": name}
        nlp.add_pipe("clusterllm_embedder", name=f"embedder_{name}", config=settings)
        settings = {"vectors": f"doc._.{name}_vector", "prefix": name, "n_clusters": size, "progress": False}
        nlp.add_pipe("clusterllm", name=name, config=settings)
        fit(nlp, texts, name)
    docs = list(nlp.pipe(texts))
    assert docs[0]._.small_vector.shape == (4,)
    assert docs[0]._.large_vector.shape == (8,)
    assert len(set(clusters(docs, "large"))) == 8


def test_a_disabled_clusterer_leaves_docs_alone(texts):
    nlp = fitted(texts)
    with nlp.select_pipes(disable=["clusterllm"]):
        doc = nlp(texts[0])
        assert doc._.clusterllm_cluster is None
        assert doc._.clusterllm_vector is not None
    assert nlp(texts[0])._.clusterllm_cluster is not None


def test_enabled_alone_it_reads_what_is_on_the_doc(texts):
    nlp = fitted(texts)
    with nlp.select_pipes(disable=["clusterllm"]):
        docs = list(nlp.pipe(texts))
    with nlp.select_pipes(enable=["clusterllm"]):
        found = results(nlp.pipe(docs))
    assert found == results(nlp.pipe(texts))


def test_replace_pipe_gives_a_fresh_one(texts):
    nlp = fitted(texts)
    nlp.replace_pipe("clusterllm", "clusterllm", config={"n_clusters": 2, "progress": False})
    assert nlp.pipe_names == ["clusterllm_embedder", "clusterllm"]
    assert not nlp.get_pipe("clusterllm").fitted
    fit(nlp, texts)
    assert set(clusters(nlp.pipe(texts))) == {0, 1}


def test_rename_pipe_keeps_it_working(texts):
    nlp = fitted(texts)
    nlp.rename_pipe("clusterllm", "topics")
    assert nlp(texts[0])._.clusterllm_cluster is not None


def test_sourced_components_work_elsewhere(texts, tmp_path):
    source = fitted(texts)
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.add_pipe("clusterllm_embedder", source=source)
    nlp.add_pipe("clusterllm", name="topics", source=source)
    assert clusters(nlp.pipe(texts)) == clusters(source.pipe(texts))
    nlp.to_disk(tmp_path)
    assert results(spacy.load(tmp_path).pipe(texts)) == results(source.pipe(texts))


def test_sourced_by_a_config(texts, tmp_path):
    fitted(texts).to_disk(tmp_path)
    config = {
        "nlp": {"lang": "en", "pipeline": ["clusterllm_embedder", "clusterllm"]},
        "components": {name: {"source": str(tmp_path)} for name in ("clusterllm_embedder", "clusterllm")},
    }
    nlp = spacy.util.load_model_from_config(config, auto_fill=True)
    assert results(nlp.pipe(texts)) == results(spacy.load(tmp_path).pipe(texts))


def test_sourced_without_its_embedder_it_refuses_others_vectors(texts):
    source = fitted(texts)
    nlp = spacy.blank("en")
    other = nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA})
    other.fit([nlp.make_doc(text) for text in texts[:10]])
    nlp.add_pipe("clusterllm", source=source)
    with pytest.raises(
        ValueError, match=r"clusterllm.*holds vectors of another embedder than it was fitted with"
    ) as caught:
        nlp(texts[0])
    assert str(caught.value) == (
        "component 'clusterllm': doc._.clusterllm_vector holds vectors of another embedder than it was fitted with, or "
        "of another state of it: use that one, or fit it again"
    )


def test_a_stored_doc_of_another_state_is_refused(texts, truth, words):
    nlp = fitted(texts, "words")
    with nlp.select_pipes(disable=["clusterllm"]):
        doc = nlp(texts[0])
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    with nlp.select_pipes(enable=["clusterllm"]), pytest.raises(ValueError, match="another state of it"):
        nlp(doc)


def test_stored_docs_of_two_states_are_no_corpus(texts):
    nlp = pipeline(embedder=None)
    docs = [nlp.make_doc(text) for text in texts]
    for place, doc in enumerate(docs):
        doc._.clusterllm_vector = np.ones(4, dtype=np.float32) * place
        doc._.clusterllm_space = "one" if place < 9 else "other"
    with pytest.raises(ValueError, match="holds vectors of several embedders, or states of one: embed all docs again"):
        nlp.get_pipe("clusterllm").fit(docs)


def test_as_tuples_keeps_the_context(texts):
    pairs = list(fitted(texts).pipe([(text, {"id": place}) for place, text in enumerate(texts)], as_tuples=True))
    assert [context["id"] for _, context in pairs] == list(range(15))
    assert all(doc._.clusterllm_label for doc, _ in pairs)


def test_a_stream_is_not_read_ahead_of_its_batch(texts):
    taken = []

    def stream():
        for text in texts:
            taken.append(text)
            yield text

    docs = fitted(texts).pipe(stream(), batch_size=4)
    next(docs)
    assert len(taken) == 4


def test_docs_can_go_through_twice(texts):
    nlp = fitted(texts)
    docs = list(nlp.pipe(texts))
    before = results(docs)
    assert results(nlp.pipe(docs)) == before


def annotations(doc):
    """Return all that other components have put on a doc."""
    return (
        [(token.text, token.whitespace_, token.ent_type_, token.is_sent_start, token.tag_) for token in doc],
        [(entity.text, entity.label_) for entity in doc.ents],
        [sentence.text for sentence in doc.sents],
        {key: [span.text for span in group] for key, group in doc.spans.items()},
        doc.cats,
        doc.tensor.tolist(),
        doc.user_hooks,
    )


def test_an_existing_pipeline_stays_what_it_was(messages, message_labels):
    texts = messages[:200]
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    ruler = nlp.add_pipe("entity_ruler")
    nlp.add_pipe("tok2vec")
    nlp.initialize()
    ruler.add_patterns([{"label": "THING", "pattern": [{"LOWER": word}]} for word in ("lamp", "sofa", "desk", "order")])
    before = [annotations(doc) for doc in nlp.pipe(texts)]
    config_before = {name: nlp.get_pipe_config(name) for name in nlp.pipe_names}
    assert any(entities for _, entities, *_ in before)

    nlp.add_pipe("clusterllm_embedder", config={"embedder": "lsa"})
    nlp.add_pipe("clusterllm", config={"n_clusters": 12, "progress": False})
    fit(nlp, texts)
    docs = list(nlp.pipe(texts))
    assert [annotations(doc) for doc in docs] == before
    assert {name: nlp.get_pipe_config(name) for name in config_before} == config_before
    assert {key[1] for doc in docs for key in doc.user_data} == {
        f"clusterllm_{name}" for name in ("vector", "space", "cluster", "label", "score")
    }
    assert set(clusters(docs)) == set(range(12))


def test_docs_of_other_makers_can_be_read(texts):
    nlp = pipeline(embedder=None)
    docs = [nlp.make_doc(text) for text in texts]
    rng = np.random.default_rng(0)
    for doc in docs:
        doc._.clusterllm_vector = rng.normal(size=5).astype(np.float32)
    nlp.get_pipe("clusterllm").fit(docs)
    assert set(clusters(nlp.pipe(docs))) == {0, 1, 2}


def lengths(doc):
    return np.array([len(doc), len(doc.text)], dtype=np.float32)


def test_an_empty_doc_needs_no_vector(texts):
    nlp = pipeline(embedder=None)
    docs = [nlp.make_doc(text) for text in [*texts, ""]]
    for place, doc in enumerate(docs[:-1]):
        doc._.clusterllm_vector = np.array([1, place], dtype=np.float32)
    nlp.get_pipe("clusterllm").fit(docs)
    assert clusters(nlp.pipe(docs))[-1] == -1


def test_fitted_on_vectors_without_a_space_it_takes_any(texts):
    nlp = pipeline(embedder=None)
    docs = [nlp.make_doc(text) for text in texts]
    for place, doc in enumerate(docs):
        doc._.clusterllm_vector = np.array([1, place], dtype=np.float32)
    nlp.get_pipe("clusterllm").fit(docs)
    docs[0]._.clusterllm_space = "one"
    assert nlp(docs[0])._.clusterllm_cluster in range(3)


def test_vectors_of_a_stranger_need_no_space(texts):
    nlp = pipeline(embedder=None)
    if not Doc.has_extension("stranger_vector"):
        Doc.set_extension("stranger_vector", getter=lengths)
    nlp.replace_pipe("clusterllm", "clusterllm", config={"vectors": "doc._.stranger_vector", "n_clusters": 2})
    fit(nlp, texts)
    assert set(clusters(nlp.pipe(texts))) == {0, 1}
