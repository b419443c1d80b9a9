"""The embedder ``haystack`` around components of Haystack."""

import numpy as np
import pytest

pytest.importorskip("haystack")

from dataclasses import replace

from haystack import component
from haystack.components.embedders import MockDocumentEmbedder, MockTextEmbedder
from haystack.dataclasses import Document
from haystack.utils import Secret

from clusterllm_embedders.haystack import HaystackEmbedder
from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.embedding import embed_texts
from clusterllm_plugins.errors import ClusterLLMError, PluginError
from clusterllm_plugins.plugins import Plugins

TEXTS = [f"The kettle number {number} drips" for number in range(30)]


@component
class Recording:
    """Embeds a text as its number, and remembers what it was given."""

    def __init__(self, model: str = "acorn", api_key: Secret | None = None, fails_at: int | None = None):
        self.model = model
        self.api_key = api_key
        self.fails_at = fails_at
        self.given = []
        self.warmed = 0

    def warm_up(self):
        self.warmed += 1

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]):
        self.given.append(documents)
        if self.fails_at == len(self.given):
            raise RuntimeError("the hose\nburst, sk-walnut-1234567890abcdef")
        return {"documents": [replace(doc, embedding=[len(doc.content), 1.0]) for doc in documents[::-1]]}


@component
class Losing:
    """Embeds every other document only."""

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]):
        return {"documents": [replace(doc, embedding=[1.0]) if n % 2 else doc for n, doc in enumerate(documents)]}


@component
class Silent:
    """Embeds a text as something that is no vector."""

    def __init__(self, said):
        self.said = said

    @component.output_types(embedding=list[float])
    def run(self, text: str):
        return {"embedding": self.said}


def test_the_vectors_are_those_of_the_component():
    documents = [Document(content=text) for text in TEXTS]
    wanted = [doc.embedding for doc in MockDocumentEmbedder(dimension=6).run(documents)["documents"]]
    found = HaystackEmbedder(MockDocumentEmbedder(dimension=6), normalize=False).embed(TEXTS)
    assert np.allclose(found, wanted)


def test_a_text_embedder_embeds_one_after_the_other():
    wanted = [MockTextEmbedder(dimension=6).run(text)["embedding"] for text in TEXTS]
    assert np.allclose(HaystackEmbedder(MockTextEmbedder(dimension=6), normalize=False).embed(TEXTS), wanted)


def test_vectors_find_their_texts_in_whatever_order_they_come():
    texts = ["a", "bb", "ccc"]
    assert HaystackEmbedder(Recording(), normalize=False).embed(texts)[:, 0].tolist() == [1, 2, 3]


def test_equal_texts_have_ids_of_their_own():
    recording = Recording()
    assert len(HaystackEmbedder(recording).embed(["same", "same"])) == 2
    assert len({doc.id for doc in recording.given[0]}) == 2


def test_documents_go_in_batches_after_one_warming():
    recording = Recording()
    HaystackEmbedder(recording, batch_size=8).embed(TEXTS)
    assert [len(documents) for documents in recording.given] == [8, 8, 8, 6]
    assert recording.warmed == 1


def test_a_blank_text_is_not_given():
    recording = Recording()
    vectors = HaystackEmbedder(recording).embed([" ", "tea"])
    assert [doc.content for doc in recording.given[0]] == ["tea"]
    assert vectors.any(axis=1).tolist() == [False, True]


def test_what_came_before_a_failure_is_kept(tmp_path):
    with pytest.raises(ClusterLLMError, match="20 of 30 texts are embedded and kept in the cache") as raised:
        embed_texts(HaystackEmbedder(Recording(fails_at=3), batch_size=10), TEXTS, cache=tmp_path)
    assert "the hose burst" in str(raised.value)
    assert "walnut" not in str(raised.value)
    again = Recording()
    again.fails_at = None
    resumed = HaystackEmbedder(again, batch_size=10)
    resumed.fingerprint = HaystackEmbedder(Recording(fails_at=3)).fingerprint
    embed_texts(resumed, TEXTS, cache=tmp_path)
    assert sum(map(len, again.given)) == 10


def test_documents_that_come_back_without_an_embedding_are_an_error(tmp_path):
    with pytest.raises(ClusterLLMError, match="gave no embedding for 15 of 30 texts; 15 of 30 texts are embedded"):
        embed_texts(HaystackEmbedder(Losing()), TEXTS, cache=tmp_path)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("text", "not lists of numbers"),
        ([], "not lists of numbers"),
        (None, "gave no embedding for 1 of 1 texts"),
        ([float("inf")], "not finite"),
        ([[1.0]], "not lists of numbers"),
    ],
)
def test_what_is_no_vector_is_one_line(said, message):
    with pytest.raises(ClusterLLMError, match=message):
        HaystackEmbedder(Silent(said)).embed(["tea"])


def test_a_serialized_component_is_made():
    serialized = MockDocumentEmbedder(dimension=6).to_dict()
    made = Plugins().embedder({"name": "haystack", "embedder": serialized})
    assert np.array_equal(made.embed(TEXTS), HaystackEmbedder(MockDocumentEmbedder(dimension=6)).embed(TEXTS))


def test_a_serialized_component_that_holds_a_key_is_refused():
    serialized = {"type": "x.Y", "init_parameters": {"api_key": "sk-walnut-1234567890abcdef"}}
    with pytest.raises(PluginError, match="looks like a key") as raised:
        HaystackEmbedder(serialized)
    assert "walnut" not in str(raised.value)


@pytest.mark.parametrize("wrong", [object(), "acorn", {"type": "no.such.Class", "init_parameters": {}}])
def test_what_is_no_embedder_is_one_line(wrong):
    with pytest.raises(ClusterLLMError, match=r"^embedder 'haystack': embedder [^\n]*$"):
        HaystackEmbedder(wrong)


def test_the_fingerprint_knows_the_model_and_no_key(monkeypatch):
    monkeypatch.setenv("ACORN_KEY", "walnut-secret")
    key = Secret.from_env_var("ACORN_KEY")
    plain, keyed = HaystackEmbedder(Recording()), HaystackEmbedder(Recording(api_key=key))
    assert plain.fingerprint == keyed.fingerprint
    assert HaystackEmbedder(Recording("hazel")).fingerprint != plain.fingerprint
    assert "walnut" not in keyed.fingerprint


def test_a_fitted_model_is_saved_and_loaded(tmp_path):
    spec = {"name": "haystack", "embedder": MockDocumentEmbedder(dimension=6).to_dict()}
    model = ClusterLLM(embedder=spec, n_clusters=3, progress=False).fit(TEXTS)
    model.save(tmp_path)
    assert np.array_equal(ClusterLLM.load(tmp_path).predict(TEXTS), model.labels_)


def test_a_model_fitted_with_a_component_needs_it_again(tmp_path):
    spec = {"name": "haystack", "embedder": MockDocumentEmbedder(dimension=6)}
    model = ClusterLLM(embedder=spec, n_clusters=3, progress=False).fit(TEXTS)
    model.save(tmp_path)
    assert np.array_equal(ClusterLLM.load(tmp_path, embedder=spec).predict(TEXTS), model.labels_)
    with pytest.raises(ClusterLLMError, match="embedder"):
        ClusterLLM.load(tmp_path).predict(TEXTS)
