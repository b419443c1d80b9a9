"""The embedder ``spacy``: the vectors of pipelines that are made here."""

import numpy as np
import pytest
import spacy
from spacy.language import Language

from clusterllm_embedders.spacy_pipeline import SpacyEmbedder
from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.embedding import embed_texts
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning
from clusterllm_plugins.plugins import Plugins

WORDS = ["kettle", "drips", "lamp", "flickers", "parcel", "late"]
TEXTS = ["the kettle drips", "kettle", "a lamp flickers", "lamp", "parcel late", "my parcel is late"]


def with_words(seed=0, words=WORDS):
    nlp = spacy.blank("en")
    rng = np.random.default_rng(seed)
    for word in words:
        nlp.vocab.set_vector(word, rng.normal(size=4).astype(np.float32))
    return nlp


def with_tensors(seed=0):
    """Return a pipeline without word vectors whose tok2vec has random weights."""
    nlp = spacy.blank("en")
    nlp.add_pipe("tok2vec")
    nlp.add_pipe("sentencizer")
    spacy.util.fix_random_seed(seed)
    nlp.initialize()
    return nlp


@Language.component("acorn_failing")
def failing(doc):
    raise ValueError("the hose\nburst")


def test_the_vectors_are_those_of_spacy():
    nlp = with_words()
    found = SpacyEmbedder(nlp, normalize=False, batch_size=2).embed(TEXTS)
    assert np.allclose(found, [doc.vector for doc in nlp.pipe(TEXTS)])


def test_vectors_of_a_tok2vec_are_those_of_spacy():
    nlp = with_tensors()
    found = SpacyEmbedder(nlp, normalize=False).embed(TEXTS)
    assert np.allclose(found, [nlp(text).vector for text in TEXTS], atol=1e-5)
    assert found.any(axis=1).all()


def test_vectors_have_length_one():
    assert np.allclose(np.linalg.norm(SpacyEmbedder(with_words()).embed(TEXTS), axis=1), 1)


def test_a_folder_is_loaded_when_it_is_first_used(tmp_path):
    with_words().to_disk(tmp_path / "tea")
    embedder = SpacyEmbedder(str(tmp_path / "tea"))
    assert embedder._nlp is None
    assert np.array_equal(embedder.embed(TEXTS), SpacyEmbedder(with_words()).embed(TEXTS))


def test_with_word_vectors_no_pipe_runs():
    nlp = with_words()
    nlp.add_pipe("acorn_failing")
    assert SpacyEmbedder(nlp).embed(TEXTS).shape == (6, 4)


def test_word_vectors_come_before_tensors():
    nlp = with_tensors()
    nlp.vocab.set_vector("kettle", np.ones(4, dtype=np.float32))
    assert SpacyEmbedder(nlp).pipes == []


def test_without_word_vectors_only_what_sets_tensors_runs():
    assert SpacyEmbedder(with_tensors()).pipes == ["tok2vec"]


def test_pipes_that_set_vectors_of_their_own_can_be_named():
    nlp = spacy.blank("en")

    @Language.component("acorn_lengths")
    def lengths(doc):
        doc.user_hooks["vector"] = lambda doc: np.array([len(doc), 1.0], dtype=np.float32)
        return doc

    nlp.add_pipe("acorn_lengths")
    assert SpacyEmbedder(nlp, pipes=["acorn_lengths"], normalize=False).embed(TEXTS)[:, 0].tolist() == [
        3,
        1,
        3,
        1,
        2,
        4,
    ]


def test_texts_without_a_known_word_are_told_once_with_their_number(recwarn):
    texts = [*TEXTS, "walnut", "hazel walnut", *TEXTS, ""]
    vectors = SpacyEmbedder(with_words(), batch_size=2).embed(texts)
    assert [str(one.message) for one in recwarn if one.category is ClusterLLMWarning] == [
        "embedder 'spacy': 2 of 15 texts have no word that it knows: their vectors are zeros"
    ]
    assert (~vectors.any(axis=1)).sum() == 3


def test_a_fit_is_told_once_of_all_texts(recwarn):
    texts = [f"walnut {number}" for number in range(2000)]
    embed_texts(SpacyEmbedder(with_words()), [*TEXTS, *texts])
    told = [str(one.message) for one in recwarn if "no word that it knows" in str(one.message)]
    assert told == ["embedder 'spacy': 2000 of 2006 texts have no word that it knows: their vectors are zeros"]


def test_a_text_beyond_max_length_is_cut_with_a_warning():
    nlp = with_words()
    nlp.max_length = 6
    with pytest.warns(ClusterLLMWarning, match="1 of 1 texts are longer than 6 characters, cut"):
        vectors = SpacyEmbedder(nlp).embed(["kettle lamp"])
    assert np.array_equal(vectors, SpacyEmbedder(with_words()).embed(["kettle"]))


def test_an_empty_text_has_zeros_also_where_vectors_are_tensors():
    vectors = SpacyEmbedder(with_tensors()).embed(["", "tea"])
    assert vectors.any(axis=1).tolist() == [False, True]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpacyEmbedder(spacy.blank("en")), "the pipeline has no vectors"),
        (lambda: SpacyEmbedder("en_no_such_walnut"), "cannot be loaded .*nothing is downloaded"),
        (lambda: SpacyEmbedder(with_words(), pipes=["walnut"]), "has no pipe 'walnut'"),
        (lambda: SpacyEmbedder(3), "model must be a name, a folder or a Language, not int"),
        (lambda: SpacyEmbedder(broken(), pipes=["acorn_failing"]), "ValueError: the hose burst"),
    ],
)
def test_trouble_is_one_line(make, message):
    with pytest.raises(ClusterLLMError, match=message) as raised:
        make().embed(TEXTS)
    assert "\n" not in str(raised.value)


def broken():
    nlp = with_words()
    nlp.add_pipe("acorn_failing")
    return nlp


def test_the_fingerprint_is_of_what_makes_the_vectors(tmp_path):
    fingerprint = SpacyEmbedder(with_words()).fingerprint
    with_words().to_disk(tmp_path / "tea")
    assert SpacyEmbedder(tmp_path / "tea").fingerprint == fingerprint
    assert SpacyEmbedder(with_words(seed=1)).fingerprint != fingerprint
    assert SpacyEmbedder(with_words(words=WORDS[::-1])).fingerprint != fingerprint
    assert SpacyEmbedder(with_tensors()).fingerprint != SpacyEmbedder(with_tensors(seed=1)).fingerprint


def test_a_pipe_that_does_not_run_is_not_in_the_fingerprint():
    nlp = with_words()
    before = SpacyEmbedder(nlp).fingerprint
    nlp.add_pipe("sentencizer")
    assert SpacyEmbedder(nlp).fingerprint == before


def test_the_callers_pipeline_stays_as_it_is():
    nlp = with_words()
    nlp.add_pipe("sentencizer")
    SpacyEmbedder(nlp).embed(TEXTS)
    assert nlp("One. Two.").has_annotation("SENT_START")


def test_it_is_a_registered_embedder(tmp_path):
    with_words().to_disk(tmp_path / "tea")
    spec = {"name": "spacy", "model": str(tmp_path / "tea")}
    model = ClusterLLM(embedder=spec, n_clusters=3, progress=False).fit(TEXTS)
    model.save(tmp_path / "model")
    assert np.array_equal(ClusterLLM.load(tmp_path / "model").predict(TEXTS), model.labels_)
    assert Plugins().embedder(spec).fingerprint == model.report_["embedder"]


def test_the_component_takes_it(tmp_path):
    with_words().to_disk(tmp_path / "tea")
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": {"name": "spacy", "model": str(tmp_path / "tea")}})
    assert nlp("the kettle drips")._.clusterllm_vector.shape == (4,)
