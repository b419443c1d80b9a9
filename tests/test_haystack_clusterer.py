"""``ClusterLLMClusterer``: documents in, documents out."""

import asyncio
import copy
import json
from dataclasses import replace

import numpy as np
import pytest
from haystack import Document
from haystack.components.embedders import MockDocumentEmbedder
from haystack.components.generators.chat import MockChatGenerator

from clusterllm_plugins import ClusterLLM, ClusterLLMError
from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.questions import OracleError
from haystack_integrations.components.clusterers.clusterllm import ClusterLLMClusterer
from haystack_kit import LSA, Failing, Knowing, clusterer, documents, embedded, first_choice, ids, same_partition
from spacy_kit import install_plugin


@pytest.fixture
def knowing(texts, truth):
    return Knowing(dict(zip(texts, truth, strict=True)))


def test_groups_documents_by_their_embeddings():
    docs, truth = embedded()
    result = clusterer(n_clusters=4).run(docs)
    assert same_partition(ids(result), truth)
    assert result["failed_documents"] == []


def test_the_clusters_are_those_of_the_estimator(texts):
    result = clusterer(embedder=LSA).run(documents(texts))
    model = ClusterLLM(embedder=LSA, n_clusters=3, progress=False).fit(texts)
    assert ids(result) == model.labels_.tolist()
    assert [document.meta["cluster_score"] for document in result["documents"]] == model.cluster_scores_.tolist()
    assert [cluster["label"] for cluster in result["clusters"]] == model.cluster_labels_


def test_the_results_are_flat_plain_values(texts):
    result = clusterer(embedder=LSA).run(documents(texts))
    meta = result["documents"][0].meta
    assert {name: type(value) for name, value in meta.items()} == {
        "place": int,
        "cluster_id": int,
        "cluster_label": str,
        "cluster_score": float,
    }
    json.dumps([result["clusters"], result["stats"]])


def test_each_cluster_is_described(texts):
    docs = documents(texts)
    result = clusterer(embedder=LSA).run(docs)
    by_id = {document.id: document.meta["cluster_id"] for document in result["documents"]}
    for number, cluster in enumerate(result["clusters"]):
        assert cluster["id"] == number
        assert cluster["size"] == ids(result).count(number)
        assert cluster["keywords"]
        assert 1 <= len(cluster["exemplar_ids"]) <= 3
        assert {by_id[document] for document in cluster["exemplar_ids"]} == {number}
    assert len({cluster["label"] for cluster in result["clusters"]}) == 3


def test_exemplars_are_the_nearest_to_the_centroid():
    docs, _ = embedded(count=30, clusters=3)
    (cluster, *_) = clusterer().run(docs)["clusters"]
    members = [doc for doc, label in zip(docs, ids(clusterer().run(docs)), strict=True) if label == 0]
    unit = np.array([doc.embedding for doc in members])
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit.mean(axis=0)))
    assert cluster["exemplar_ids"] == [members[place].id for place in order[:3]]


def test_the_answers_of_a_chat_generator_are_used(texts, truth, knowing):
    result = clusterer(knowing, embedder=LSA).run(documents(texts))
    assert knowing.prompts
    assert result["stats"]["refinement"] == "linear map on frozen vectors"
    assert same_partition(ids(result), truth)


def test_stats_say_what_was_asked_and_what_it_took(texts, knowing):
    stats = clusterer(knowing, embedder=LSA, max_questions=20).run(documents(texts))["stats"]
    assert stats["questions_asked"] == stats["requests"] == len(knowing.prompts) == 20
    assert (stats["input_tokens"], stats["output_tokens"]) == (200, 20)
    assert (stats["documents"], stats["failed_documents"], stats["n_clusters"]) == (15, 0, 3)
    assert stats["oracle"].startswith("haystack:haystack_kit.Knowing")
    assert stats["cost"] is None
    assert stats["oracle_error"] is None


def test_stats_carry_the_warnings_of_the_fit(texts):
    stats = clusterer(embedder=LSA).run(documents([*texts, texts[0]]))["stats"]
    assert stats["warnings"] == ["1 text repeated an earlier one"]


def test_the_instruction_reaches_the_generator(texts, knowing):
    clusterer(knowing, embedder=LSA, max_questions=1, instruction="by what is wanted").run(documents(texts))
    assert "by what is wanted" in knowing.prompts[0]


def test_a_registered_oracle_is_asked_instead(texts, truth, tmp_path):
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps({"label": label}) + "\n" for label in truth))
    oracle = {"name": "simulated", "labels": str(labels), "profile": "uniform", "accuracy": 1.0}
    stats = clusterer(oracle=oracle, embedder=LSA, max_questions=9).run(documents(texts))["stats"]
    assert stats["questions_asked"] == 9
    assert stats["oracle"].startswith("simulated")


def test_a_document_embedder_embeds(texts):
    result = clusterer(document_embedder=MockDocumentEmbedder(dimension=5)).run(documents(texts))
    assert {len(document.embedding) for document in result["documents"]} == {5}
    assert set(ids(result)) == {0, 1, 2}


def test_the_fitted_model_is_saved_where_that_is_asked_for(texts, tmp_path):
    folder = str(tmp_path / "fitted")
    result = clusterer(embedder=LSA, artifact_path=folder).run(documents(texts))
    assert result["artifact_path"] == folder
    assert ClusterLLM.load(folder).labels_.tolist() == ids(result)


def test_a_model_of_embeddings_is_saved_without_an_embedder(tmp_path):
    docs, _ = embedded()
    clusterer(artifact_path=str(tmp_path / "fitted")).run(docs)
    assert ClusterLLM.load(tmp_path / "fitted").space_.embedder is None


def test_an_embedder_that_can_be_trained_is_tuned(texts, knowing, tmp_path, monkeypatch):
    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    stats = clusterer(knowing, embedder="words").run(documents(texts))["stats"]
    assert stats["refinement"] == "fine-tuned embedder"


def test_the_number_can_be_given_at_run_time(texts):
    result = clusterer(embedder=LSA).run(documents(texts), n_clusters=5)
    assert len(result["clusters"]) == 5


def test_a_number_at_run_time_without_a_meaning_is_an_error(texts):
    with pytest.raises(ClusterLLMError, match="n_clusters must be at least 1, and low at most high, not 0"):
        clusterer(embedder=LSA).run(documents(texts), n_clusters=0)


def test_the_number_can_be_left_to_the_answers(texts, knowing):
    result = clusterer(knowing, embedder=LSA, n_clusters=[2, 6]).run(documents(texts))
    assert len(result["clusters"]) == 3


@pytest.mark.parametrize("method", ["paper", "auto"])
@pytest.mark.parametrize("limit", [0, 5, 30])
def test_all_questions_together_keep_to_the_limit(texts, knowing, limit, method):
    clusterer(knowing, embedder=LSA, method=method, n_clusters=[2, 6], max_llm_calls=limit).run(documents(texts))
    assert len(knowing.prompts) <= limit


def test_the_limit_holds_for_all_iterations_together(texts, knowing):
    clusterer(knowing, embedder=LSA, iterations=2, max_llm_calls=10).run(documents(texts))
    assert len(knowing.prompts) == 10


def knowing_what_is_embedded(**parameters):
    """Return documents with embeddings, the category of each, and a chat generator that knows these."""
    docs, truth = embedded(**parameters)
    return docs, truth, Knowing({doc.content: f"kind {kind}" for doc, kind in zip(docs, truth, strict=True)})


def test_the_default_method_has_one_iteration_to_which_the_whole_limit_belongs():
    docs, _, generator = knowing_what_is_embedded(count=120, clusters=6, noise=3)
    clusterer(generator, method="auto", n_clusters=6, iterations=2, max_llm_calls=40).run(docs)
    assert len(generator.prompts) == 40


def test_with_the_default_method_the_stats_say_why_the_answers_were_used():
    docs, truth, generator = knowing_what_is_embedded(count=80)
    result = ClusterLLMClusterer(generator, n_clusters=4, max_questions=60, progress_bar=False).run(docs)
    guard = result["stats"]["guard"]
    assert result["stats"]["method"] == "auto"
    assert guard["kept_refined"] is True
    assert guard["core_checks"]["own"] == guard["core_checks"]["picked"] > 0
    json.dumps(guard)
    assert same_partition(ids(result), truth)


def test_with_the_default_method_an_oracle_of_no_use_leaves_the_plain_clusters_and_says_so():
    docs, _, _ = knowing_what_is_embedded(count=80, noise=2)
    generator = Knowing(replies="1")
    with pytest.warns(ClusterLLMWarning, match="the plain clustering was kept: the oracle picked"):
        result = ClusterLLMClusterer(generator, n_clusters=4, progress_bar=False).run(docs)
    assert generator.prompts
    assert result["stats"]["guard"]["kept_refined"] is False
    assert result["stats"]["warnings"] == [f"the plain clustering was kept: {result['stats']['guard']['why']}"]
    assert ids(result) == ids(clusterer(n_clusters=4).run(docs))


def test_meta_fields_are_clustered_along(texts):
    docs = [Document(content="the same", meta={"subject": text}) for text in texts]
    docs = [replace(document, id=str(place)) for place, document in enumerate(docs)]
    result = clusterer(embedder=LSA, meta_fields_to_embed=["subject"]).run(docs)
    expected = ClusterLLM(embedder=LSA, n_clusters=3, progress=False).fit([f"{text}\nthe same" for text in texts])
    assert ids(result) == expected.labels_.tolist()


def test_another_prefix_makes_other_keys(texts):
    docs = documents([*texts, ""])
    result = clusterer(embedder=LSA, meta_prefix="topic").run(docs)
    assert set(result["documents"][0].meta) == {"place", "topic_id", "topic_label", "topic_score"}
    assert set(result["failed_documents"][0].meta) == {"place", "topic_error"}


def test_the_callers_documents_stay_as_they_are(texts, knowing):
    docs = documents([*texts, ""])
    before = copy.deepcopy(docs)
    clusterer(knowing, document_embedder=MockDocumentEmbedder(dimension=4)).run(docs)
    assert docs == before


def test_a_document_keeps_its_id_and_its_embedding():
    docs, _ = embedded()
    result = clusterer().run(docs)
    assert [document.id for document in result["documents"]] == [document.id for document in docs]
    assert [document.embedding for document in result["documents"]] == [document.embedding for document in docs]


def test_documents_with_equal_ids_are_told_apart_by_their_place():
    docs, truth = embedded()
    docs = [replace(document, id="same", meta={"place": place}) for place, document in enumerate(docs)]
    result = clusterer(n_clusters=4).run(docs)
    assert [document.meta["place"] for document in result["documents"]] == list(range(40))
    assert same_partition(ids(result), truth)


def test_no_documents_no_outputs():
    result = clusterer(embedder=LSA).run([])
    assert result == {
        "documents": [],
        "clusters": [],
        "failed_documents": [],
        "stats": result["stats"],
        "artifact_path": "",
    }


@pytest.mark.parametrize(
    "wrong", ["text", [Document(content="a"), "b"], None, {"content": "a"}, (Document(content="a"),)]
)
def test_something_else_than_documents_is_a_type_error(wrong):
    with pytest.raises(TypeError, match="ClusterLLMClusterer takes a list of Documents, not "):
        clusterer(embedder=LSA).run(wrong)


def failures(result):
    return {document.content: document.meta["cluster_error"] for document in result["failed_documents"]}


def test_documents_without_content_fail(texts):
    docs = [*documents(texts), Document(content=""), Document(content="  \n"), Document(content=None, meta={"a": 1})]
    result = clusterer(embedder=LSA).run(docs)
    assert failures(result) == dict.fromkeys(("", "  \n", None), "has no content")
    assert result["failed_documents"][2].meta["a"] == 1
    assert len(result["documents"]) == 15
    assert result["stats"]["failed_documents"] == 3


def test_documents_without_a_usable_embedding_fail():
    docs, _ = embedded()
    docs[3] = replace(docs[3], embedding=None)
    docs[5] = replace(docs[5], embedding=[1.0, 2.0])
    docs[7] = replace(docs[7], embedding=[float("nan")] * 6)
    docs[8] = replace(docs[8], embedding=[1e300] * 6)
    docs[9] = replace(docs[9], embedding=[])
    docs[10] = replace(docs[10], embedding=[[1.0]] * 6)
    docs[11] = replace(docs[11], embedding=["a"] * 6)
    result = clusterer().run(docs)
    assert failures(result) == {
        "text 3": "has no embedding",
        "text 5": "has an embedding of size 2, the others of 6",
        "text 7": "has an embedding that is not finite",
        "text 8": "has an embedding that is not finite",
        "text 9": "has no embedding",
        "text 10": "has an embedding that is no list of numbers",
        "text 11": "has an embedding that is no list of numbers",
    }
    assert len(result["documents"]) == 33


@pytest.mark.parametrize("kind", [tuple, np.array, lambda embedding: np.array(embedding, dtype=np.float32)])
def test_embeddings_of_another_kind_are_read(kind):
    docs, truth = embedded()
    result = clusterer(n_clusters=4).run([replace(doc, embedding=kind(doc.embedding)) for doc in docs])
    assert same_partition(ids(result), truth)


def test_a_document_that_redaction_leaves_nothing_of_fails(texts, tmp_path, monkeypatch):
    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    result = clusterer(embedder=LSA, redact=["hide"]).run(documents([*texts, "secret"]))
    assert failures(result) == {"secret": "has nothing left after redaction"}
    assert (result["stats"]["documents"], result["stats"]["failed_documents"]) == (15, 1)


def test_a_single_document_and_others_that_fail_are_told_apart():
    result = clusterer(embedder=LSA).run([Document(content=""), Document(content="alone")])
    assert failures(result) == {
        "": "has no content",
        "alone": "is the only one: there is nothing to group it with",
    }


class Odd:
    """A document embedder that makes of embedded documents what it likes."""

    def __init__(self, change):
        self.change = change

    def run(self, documents):
        found = MockDocumentEmbedder(dimension=4).run(documents)["documents"]
        return {"documents": self.change(found)}


def test_an_embedder_that_loses_documents_is_an_error(texts):
    message = "ClusterLLMClusterer: the document embedder gave 14 documents for 15"
    with pytest.raises(ClusterLLMError, match=message):
        clusterer(document_embedder=Odd(lambda found: found[1:])).run(documents(texts))


def test_an_embedder_changes_nothing_but_the_embedding(texts):
    noting = Odd(lambda found: [replace(document, meta={"noted": True}) for document in found])
    result = clusterer(document_embedder=noting).run(documents(texts))
    assert set(result["documents"][0].meta) == {"place", "cluster_id", "cluster_label", "cluster_score"}


def test_without_any_embedding_all_fail(texts):
    result = clusterer().run(documents(texts))
    assert set(failures(result).values()) == {"has no embedding"}
    assert result["documents"] == []


@pytest.mark.parametrize("run", [lambda it, docs: it.run(docs), lambda it, docs: asyncio.run(it.run_async(docs))])
def test_a_single_document_fails(run):
    result = run(clusterer(embedder=LSA), [Document(content="alone")])
    assert failures(result) == {"alone": "is the only one: there is nothing to group it with"}


@pytest.mark.parametrize("prefix", ["cluster", "topic"])
def test_a_failure_that_was_mended_is_forgotten(texts, prefix):
    docs = [Document(content=text, meta={f"{prefix}_error": "has no content"}) for text in texts]
    result = clusterer(embedder=LSA, meta_prefix=prefix).run(docs)
    assert f"{prefix}_error" not in result["documents"][0].meta


def test_failures_raise_on_request(texts):
    docs = [*documents(texts), Document(content="", id="empty")]
    with pytest.raises(ValueError, match="ClusterLLMClusterer: document empty has no content"):
        clusterer(embedder=LSA, raise_on_failure=True).run(docs)


def test_a_generator_that_fails_now_and_then_is_counted(texts):
    generator = Failing(every=10)
    result = clusterer(generator, embedder=LSA, max_questions=40, max_workers=1).run(documents(texts))
    assert (result["stats"]["questions_asked"], result["stats"]["questions_failed"]) == (36, 4)
    assert len(result["documents"]) == 15
    assert result["failed_documents"] == []


@pytest.mark.parametrize("kind", ["none", "empty"])
def test_a_generator_without_replies_abstains(texts, kind):
    stats = clusterer(Failing(kind=kind), embedder=LSA, max_questions=12).run(documents(texts))["stats"]
    assert (stats["questions_asked"], stats["questions_abstained"]) == (12, 12)
    assert stats["refinement"] == "none"


def test_stats_have_the_same_keys_whatever_happens(texts):
    asked = clusterer(Knowing(replies="1"), embedder=LSA, max_questions=3).run(documents(texts))["stats"]
    runs = [clusterer(embedder=LSA), clusterer(Failing(), embedder=LSA)]
    others = [component.run(documents(texts))["stats"] for component in runs]
    assert {tuple(stats) for stats in [*others, clusterer().run([])["stats"]]} == {tuple(asked)}
    assert clusterer().run([])["stats"]["questions_asked"] == 0


def test_what_was_answered_before_a_failure_for_good_is_used_and_counted(texts, truth):
    generator = Knowing(dict(zip(texts, truth, strict=True)))
    answer = generator.answer

    def broken(messages):
        if len(generator.prompts) > 12:
            raise PermissionError("no more")
        return answer(messages)

    generator.answer = broken
    stats = clusterer(generator, embedder=LSA, max_workers=1).run(documents(texts))["stats"]
    assert stats["oracle_error"].startswith("20 calls in a row failed")
    assert (stats["questions_asked"], stats["input_tokens"], stats["requests"]) == (12, 120, 12)
    assert stats["refinement"] == "linear map on frozen vectors"


def test_a_generator_that_always_fails_is_left_out_and_named(texts):
    result = clusterer(Failing(), embedder=LSA).run(documents(texts))
    plain = clusterer(embedder=LSA).run(documents(texts))
    assert ids(result) == ids(plain)
    assert result["stats"]["oracle_error"].startswith("20 calls in a row failed")


def test_a_call_that_may_succeed_later_is_tried_again_before_it_raises(texts):
    generator = Failing(every=2, error="TimeoutError")
    component = clusterer(generator, embedder=LSA, max_questions=6, max_workers=1, raise_on_failure=True)
    assert component.run(documents(texts))["stats"]["questions_asked"] == 6


def test_a_generator_that_fails_raises_on_request(texts):
    with pytest.raises(OracleError, match="it broke"):
        clusterer(Failing(every=10), embedder=LSA, raise_on_failure=True).run(documents(texts))


def test_failed_calls_are_tried_again_as_often_as_said(texts):
    generator = Failing(error="TimeoutError")
    clusterer(generator, embedder=LSA, max_questions=3, max_retries=0).run(documents(texts))
    assert generator.calls == 3


def test_a_store_that_cannot_be_written_is_named(texts, tmp_path):
    with pytest.raises(ClusterLLMError, match="cannot"):
        clusterer(Knowing(replies="1"), embedder=LSA, store=str(tmp_path)).run(documents(texts))


def test_a_second_run_asks_nothing(texts, tmp_path):
    store = str(tmp_path / "answers.sqlite")
    generator = MockChatGenerator(response_fn=first_choice)
    first = clusterer(generator, embedder=LSA, store=store, max_questions=30).run(documents(texts))
    again = clusterer(generator, embedder=LSA, store=store, max_questions=30).run(documents(texts))
    assert (first["stats"]["questions_asked"], again["stats"]["questions_asked"]) == (30, 0)
    assert again["stats"]["questions_recalled"] == 30
    assert ids(first) == ids(again)


def test_more_clusters_than_documents_is_an_error(texts):
    with pytest.raises(ClusterLLMError, match="cannot make 16 clusters out of 15 distinct texts"):
        clusterer(embedder=LSA, n_clusters=16).run(documents(texts))


@pytest.mark.parametrize("run", [lambda it, docs: it.run(docs), lambda it, docs: asyncio.run(it.run_async(docs))])
def test_a_redactor_comes_before_generator_and_embedder(texts, tmp_path, monkeypatch, run):
    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    seen = []

    def embedding(text):
        seen.append(text)
        return [float(len(text)), 1.0]

    generator = Knowing(replies="1")
    component = clusterer(
        generator,
        document_embedder=MockDocumentEmbedder(embedding_fn=embedding, meta_fields_to_embed=["secret"]),
        redact=["shout"],
        max_questions=5,
        n_clusters=2,
    )
    docs = [Document(content=text, meta={"secret": "hidden"}) for text in texts]
    result = run(component, docs)
    assert seen == [text.upper() for text in texts]
    assert all(text not in prompt for prompt in generator.prompts for text in texts)
    assert all(word.islower() for cluster in result["clusters"] for word in cluster["keywords"])
    assert [document.content for document in result["documents"]] == texts


def test_what_is_redacted_stands_in_no_description(texts, tmp_path, monkeypatch):
    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    result = clusterer(embedder=LSA, redact=["hide"]).run(documents([f"secret {text}" for text in texts]))
    assert "secret" not in str(result["clusters"])


def test_meta_fields_are_redacted_too(texts, tmp_path, monkeypatch):
    install_plugin(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    seen = []
    clusterer(
        document_embedder=MockDocumentEmbedder(embedding_fn=lambda text: seen.append(text) or [float(len(text)), 1.0]),
        redact=["shout"],
        meta_fields_to_embed=["subject", "number", "nothing"],
        embedding_separator=" | ",
        n_clusters=2,
    ).run([Document(content=text, meta={"subject": "order", "number": 0, "nothing": None}) for text in texts])
    assert seen == [f"ORDER | 0 | {text.upper()}" for text in texts]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"chat_generator": MockChatGenerator("1"), "oracle": "openai"}, "takes chat_generator or oracle, not both"),
        (
            {"document_embedder": MockDocumentEmbedder(), "embedder": "lsa"},
            "takes document_embedder or embedder, not both",
        ),
        ({"max_workers": 0}, "ClusterLLMClusterer: max_workers must be at least 1, not 0"),
        ({"chat_generator": "gpt-4o"}, "ClusterLLMClusterer: chat_generator must be a component, not str"),
        ({"document_embedder": {"type": 1}}, "ClusterLLMClusterer: document_embedder must be a component, not dict"),
        ({"max_retries": -1}, "ClusterLLMClusterer: max_retries must be at least 0, not -1"),
        ({"max_llm_calls": -1}, "ClusterLLMClusterer: max_llm_calls must be at least 0, not -1"),
        ({"method": "papers"}, "method must be one of auto, paper, not 'papers'"),
        ({"n_clusters": [5, 2]}, r"n_clusters must be at least 1, and low at most high, not \[5, 2\]"),
        ({"instruction": 3}, "instruction must be a text or None, not 3"),
        ({"random_state": -1}, "random_state must be at least 0, not -1"),
        ({"demonstrations": [["a", "b"]]}, "a demonstration is"),
    ],
)
def test_a_parameter_without_a_meaning(parameters, message):
    with pytest.raises(ValueError, match=message):
        clusterer(**parameters)
