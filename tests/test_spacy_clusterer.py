"""``clusterllm``: clusters on docs and spans."""

import inspect

import numpy as np
import pytest
import spacy
from spacy.tokens import Doc, DocBin, Span

from clusterllm_plugins import Answer, ClusterLLM, Question
from clusterllm_plugins.questions import triplet_question
from spacy_kit import (
    LSA,
    ByTruth,
    clusters,
    fit,
    fitted,
    install_plugin,
    pipeline,
    results,
    same_partition,
    with_vectors,
)


@pytest.fixture
def words(tmp_path, monkeypatch):
    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_sets_cluster_label_and_score(texts):
    nlp = fitted(texts)
    doc = nlp(texts[0])
    assert doc._.clusterllm_cluster in range(3)
    assert doc._.clusterllm_label == nlp.get_pipe("clusterllm").labels[doc._.clusterllm_cluster]
    assert 0 < doc._.clusterllm_score <= 1


def test_the_results_are_plain_numbers_and_texts(texts):
    doc = fitted(texts)(texts[0])
    assert type(doc._.clusterllm_cluster) is int
    assert type(doc._.clusterllm_label) is str
    assert type(doc._.clusterllm_score) is float


def test_the_clusters_are_those_of_the_estimator(texts):
    nlp = fitted(texts)
    model = ClusterLLM(embedder=LSA, n_clusters=3, progress=False).fit(texts)
    docs = list(nlp.pipe(texts))
    assert clusters(docs) == model.labels_.tolist()
    assert [doc._.clusterllm_label for doc in docs] == [model.cluster_labels_[label] for label in model.labels_]
    np.testing.assert_allclose([doc._.clusterllm_score for doc in docs], model.cluster_scores_, atol=1e-6)


def test_the_answers_of_an_oracle_are_used(texts, truth):
    nlp = pipeline()
    oracle = ByTruth(texts, truth)
    fit(nlp, texts, oracle=oracle)
    clusterer = nlp.get_pipe("clusterllm")
    assert oracle.asked
    assert clusterer.report["refinement"] == "linear map on frozen vectors"
    assert [question for question, _ in clusterer.answers] == oracle.asked
    assert same_partition(clusters(nlp.pipe(texts)), truth)


def test_its_caps_hold(texts, truth):
    oracle = ByTruth(texts, truth)
    fit(pipeline(max_questions=7), texts, oracle=oracle)
    assert len(oracle.asked) == 7


def test_the_instruction_reaches_the_oracle(texts, truth):
    oracle = ByTruth(texts, truth)
    fit(pipeline(instruction="in terms of what is wanted"), texts, oracle=oracle)
    assert {question.instruction for question in oracle.asked} == {"in terms of what is wanted"}


def test_answers_already_had_refine_without_an_oracle(texts):
    nlp = pipeline()
    known = [(triplet_question(texts, 0, 3, 7), Answer("1")), (triplet_question(texts, 12, 3, 14), Answer("2"))]
    fit(nlp, texts, answers=known)
    assert nlp.get_pipe("clusterllm").report["triplets"] == [2]


def test_an_empty_doc_has_no_cluster(texts):
    doc = fitted(texts)("   ")
    assert (doc._.clusterllm_cluster, doc._.clusterllm_label, doc._.clusterllm_score) == (-1, "", 0.0)


def test_a_doc_of_which_redaction_leaves_nothing_has_no_cluster(texts, words):
    nlp = pipeline("words", redact=["hide"])
    nlp.replace_pipe("clusterllm_embedder", "clusterllm_embedder", config={"embedder": "words", "redact": ["hide"]})
    fit(nlp, texts)
    assert clusters(nlp.pipe(["secret", "secret parcel"]))[0] == -1
    assert clusters(nlp.pipe(["secret", "secret parcel"]))[1] >= 0


def test_empty_texts_in_the_corpus_are_warned_of(texts):
    nlp = pipeline()
    with pytest.warns(UserWarning, match="2 empty texts got the label -1"):
        fit(nlp, ["", *texts, " "])
    assert clusters(nlp.pipe(["", texts[0]]))[0] == -1


def test_cats_are_left_alone_unless_asked_for(texts):
    assert fitted(texts)(texts[0]).cats == {}


def test_cats_hold_every_label_once_chosen(texts):
    nlp = fitted(texts, write_cats=True)
    doc = nlp(texts[0])
    assert set(doc.cats) == set(nlp.get_pipe("clusterllm").labels)
    assert [label for label, value in doc.cats.items() if value == 1.0] == [doc._.clusterllm_label]
    assert set(doc.cats.values()) == {0.0, 1.0}


def test_cats_of_others_stay(texts):
    nlp = fitted(texts, write_cats=True)
    doc = nlp.make_doc(texts[0])
    doc.cats = {"urgent": 0.7}
    assert nlp(doc).cats["urgent"] == 0.7


def test_an_empty_doc_has_no_category(texts):
    assert set(fitted(texts, write_cats=True)("").cats.values()) == {0.0}


def test_user_data_holds_a_plain_dict_on_request(texts):
    doc = fitted(texts, write_user_data=True)(texts[0])
    assert doc.user_data["clusterllm"] == {
        "cluster": doc._.clusterllm_cluster,
        "label": doc._.clusterllm_label,
        "score": doc._.clusterllm_score,
    }
    assert "clusterllm" not in fitted(texts)(texts[0]).user_data


def test_the_results_survive_bytes_and_docbin(texts):
    nlp = fitted(texts, write_user_data=True)
    doc = nlp(texts[0])
    stored = DocBin(docs=[doc], store_user_data=True).to_bytes()
    copies = [
        Doc(nlp.vocab).from_bytes(doc.to_bytes()),
        next(DocBin().from_bytes(stored).get_docs(nlp.vocab)),
    ]
    for copy in copies:
        for name in ("cluster", "label", "score", "space"):
            assert copy._.get(f"clusterllm_{name}") == doc._.get(f"clusterllm_{name}")
        assert (copy._.clusterllm_vector == doc._.clusterllm_vector).all()
        assert copy._.clusterllm_vector.dtype == np.float32
        assert copy.user_data["clusterllm"] == doc.user_data["clusterllm"]


def test_clusters_on_static_vectors(truth):
    texts = [f"{letter}{rest} {letter}" for letter in "apz" for rest in ("one", "two", "three", "four", "five")]
    nlp = pipeline(embedder=None, vectors="doc.vector")
    with_vectors(nlp)({token for text in texts for token in text.split()})
    fit(nlp, texts)
    assert same_partition(clusters(nlp.pipe(texts)), truth)


def test_clusters_on_the_tensor_of_tok2vec(texts):
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec")
    nlp.initialize()
    nlp.add_pipe("clusterllm", config={"n_clusters": 3, "vectors": "doc.tensor", "progress": False})
    fit(nlp, texts)
    docs = list(nlp.pipe(texts))
    means = np.array([doc.tensor.mean(axis=0) for doc in docs])
    assert clusters(docs) == ClusterLLM(n_clusters=3, progress=False).fit(texts, embeddings=means).labels_.tolist()


def test_clusters_on_an_attribute_of_somebody_else(texts):
    @spacy.Language.component("test_lengths")
    def lengths(doc):
        doc._.lengths = np.array([len(doc), len(doc.text)], dtype=np.float32)
        return doc

    if not Doc.has_extension("lengths"):
        Doc.set_extension("lengths", default=None)
    nlp = spacy.blank("en")
    nlp.add_pipe("test_lengths")
    nlp.add_pipe("clusterllm", config={"n_clusters": 2, "vectors": "doc._.lengths", "progress": False})
    fit(nlp, texts)
    assert set(clusters(nlp.pipe(texts))) == {0, 1}


def sentences(texts):
    return [f"{one.capitalize()}. {other.capitalize()}." for one, other in zip(texts[::2], texts[1::2], strict=False)]


def spans(nlp, span_key, texts, **settings):
    nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA, "span_key": span_key})
    nlp.add_pipe("clusterllm", config={"n_clusters": 3, "span_key": span_key, "progress": False} | settings)
    fit(nlp, texts)
    return nlp


def test_sentences_get_clusters(texts):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp = spans(nlp, "sents", sentences(texts))
    for doc in nlp.pipe(sentences(texts)):
        assert len(list(doc.sents)) == 2
        assert all(sentence._.clusterllm_cluster in range(3) for sentence in doc.sents)
        assert all(sentence._.clusterllm_label for sentence in doc.sents)
        assert doc._.clusterllm_cluster is None


def test_a_group_named_sents_comes_before_the_sentences(texts):
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp = spans(nlp, "sents", sentences(texts))
    doc = nlp.make_doc(sentences(texts)[0])
    doc.spans["sents"] = [doc[:1]]
    doc = nlp(doc)
    assert doc[:1]._.clusterllm_cluster is not None
    assert [sentence._.clusterllm_cluster for sentence in doc.sents] == [None, None]


def test_entities_get_clusters(texts):
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "THING", "pattern": text} for text in texts])
    long = [f"They wrote: {text} again and again" for text in texts]
    nlp = spans(nlp, "ents", long, write_user_data=True)
    doc = nlp(long[0])
    (entity,) = doc.ents
    assert entity._.clusterllm_cluster in range(3)
    assert doc.user_data["clusterllm"] == [
        {
            "cluster": entity._.clusterllm_cluster,
            "label": entity._.clusterllm_label,
            "score": entity._.clusterllm_score,
            "start_char": entity.start_char,
            "end_char": entity.end_char,
        }
    ]


def test_spans_of_a_group_get_clusters(texts):
    @spacy.Language.component("test_halves")
    def halves(doc):
        doc.spans["halves"] = [Span(doc, 0, len(doc) // 2), Span(doc, len(doc) // 2, len(doc))]
        return doc

    nlp = spacy.blank("en")
    nlp.add_pipe("test_halves")
    doc = spans(nlp, "halves", texts)(texts[0])
    assert [span._.clusterllm_cluster is not None for span in doc.spans["halves"]] == [True, True]


def test_spans_on_static_vectors(texts):
    nlp = spacy.blank("en")
    with_vectors(nlp)({word for text in texts for word in text.split()})
    nlp.add_pipe("sentencizer")
    nlp.add_pipe(
        "clusterllm", config={"n_clusters": 2, "vectors": "doc.vector", "span_key": "sents", "progress": False}
    )
    fit(nlp, sentences(texts))
    doc = nlp("Parcel late. Password reset.")
    assert [sentence._.clusterllm_cluster is not None for sentence in doc.sents] == [True, True]


def test_spans_on_the_tensor(texts):
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec")
    nlp.initialize()
    nlp.add_pipe("sentencizer")
    nlp.add_pipe(
        "clusterllm", config={"n_clusters": 2, "vectors": "doc.tensor", "span_key": "sents", "progress": False}
    )
    fit(nlp, sentences(texts))
    assert all(sentence._.clusterllm_cluster in (0, 1) for sentence in nlp(sentences(texts)[0]).sents)


def test_answers_fine_tune_the_embedder_component(texts, truth, words):
    nlp = pipeline("words")
    embedder = nlp.get_pipe("clusterllm_embedder")
    plain, space = embedder.embedder, embedder.space
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    assert nlp.get_pipe("clusterllm").report["refinement"] == "fine-tuned embedder"
    assert (embedder.embedder.scale != plain.scale).any()
    assert embedder.space != space
    assert (nlp(texts[0])._.clusterllm_vector == embedder.embedder.embed(texts[:1])[0]).all()


def test_a_fit_that_tunes_keeps_vectors_in_the_embedders_cache(texts, truth, words, tmp_path):
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": "words", "cache": str(tmp_path / "vectors")})
    nlp.add_pipe("clusterllm", config={"n_clusters": 3, "method": "paper", "progress": False})
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    assert nlp.get_pipe("clusterllm").report["refinement"] == "fine-tuned embedder"
    assert list((tmp_path / "vectors").glob("*.f32"))


def test_a_second_fit_starts_from_the_plain_embedder(texts, truth, words):
    nlp = pipeline("words")
    embedder = nlp.get_pipe("clusterllm_embedder")
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    scale, space = embedder.embedder.scale, embedder.space
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    assert (embedder.embedder.scale == scale).all()
    assert embedder.space == space


def test_a_second_fit_without_answers_takes_the_tuning_back(texts, truth, words):
    nlp = pipeline("words")
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    fit(nlp, texts)
    assert (nlp.get_pipe("clusterllm_embedder").embedder.scale == 1).all()
    assert set(clusters(nlp.pipe(texts))) <= {0, 1, 2}


def test_each_tuning_makes_a_space_of_its_own(texts, truth, words):
    nlp = pipeline("words")
    found = set()
    for known in (truth, [*truth[2:], *truth[:2]]):
        fit(nlp, texts, oracle=ByTruth(texts, known))
        found.add(nlp.get_pipe("clusterllm_embedder").space)
    assert len(found) == 2


def test_a_clusterer_of_other_vectors_does_not_hinder_tuning(texts, truth, words):
    nlp = pipeline("words")
    nlp.add_pipe("clusterllm", name="other", config={"prefix": "other", "vectors": "doc.tensor"})
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    assert nlp.get_pipe("clusterllm").report["refinement"] == "fine-tuned embedder"


def test_a_map_can_be_asked_for_instead(texts, truth, words):
    nlp = pipeline("words", refine="map")
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    assert nlp.get_pipe("clusterllm").report["refinement"] == "linear map on frozen vectors"
    assert (nlp.get_pipe("clusterllm_embedder").embedder.scale == 1).all()


def test_an_embedder_that_two_clusterers_read_is_not_tuned(texts, truth, words):
    nlp = pipeline("words")
    nlp.add_pipe("clusterllm", name="other", config={"n_clusters": 2, "prefix": "other", "progress": False})
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    fit(nlp, texts, "other", oracle=ByTruth(texts, truth))
    assert nlp.get_pipe("clusterllm").report["refinement"] == "linear map on frozen vectors"
    assert set(clusters(nlp.pipe(texts), "other")) == {0, 1}


def test_a_map_on_a_tuned_embedder_leaves_it_tuned(texts, truth, words):
    nlp = pipeline("words")
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    before = results(nlp.pipe(texts))
    nlp.add_pipe("clusterllm", name="other", config={"prefix": "other", "n_clusters": 2, "progress": False})
    fit(nlp, texts, "other", oracle=ByTruth(texts, truth))
    assert results(nlp.pipe(texts)) == before


def test_the_same_fit_gives_the_same_clusters(texts, truth):
    one, other = pipeline(), pipeline()
    for nlp in (one, other):
        fit(nlp, texts, oracle=ByTruth(texts, truth))
    assert (one.get_pipe("clusterllm").centroids == other.get_pipe("clusterllm").centroids).all()


def test_a_failed_fit_leaves_all_as_it_was(texts):
    class Broken:
        fingerprint = "broken"

        def answer(self, questions):
            raise RuntimeError("no")

    nlp = fitted(texts)
    before = nlp.get_pipe("clusterllm").centroids
    with pytest.raises(Exception, match="failed with RuntimeError"):
        fit(nlp, texts, oracle=Broken())
    assert nlp.get_pipe("clusterllm").centroids is before
    nlp(texts[0])


def test_a_redactor_comes_before_the_oracle(texts, truth, words):
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": LSA, "redact": ["shout"]})
    nlp.add_pipe("clusterllm", config={"n_clusters": 3, "redact": ["shout"], "progress": False})
    oracle = ByTruth([text.upper() for text in texts], truth)
    fit(nlp, texts, oracle=oracle)
    assert all(question.anchor.isupper() for question in oracle.asked)


def test_the_settings_are_the_estimators(texts):
    mine = inspect.signature(spacy.blank("en").add_pipe("clusterllm").__class__).parameters
    theirs = inspect.signature(ClusterLLM).parameters
    others = {"cache", "embedder", "oracle"}  # those of the embedder component, and of initialize
    assert set(theirs) - others <= set(mine)
    for name in set(theirs) - others:
        default, expected = mine[name].default, theirs[name].default
        assert default == expected


def test_questions_carry_the_texts_of_the_docs(texts, truth):
    nlp = pipeline()
    fit(nlp, texts, oracle=ByTruth(texts, truth))
    question, _ = nlp.get_pipe("clusterllm").answers[0]
    assert isinstance(question, Question)
    assert question.anchor == texts[question.anchor_index]
