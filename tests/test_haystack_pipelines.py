"""The components in pipelines: sockets, YAML, snapshots, stores, tracing."""

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import pytest
from haystack import Pipeline, component, tracing
from haystack.components.embedders import MockDocumentEmbedder
from haystack.components.generators.chat import MockChatGenerator, OpenAIChatGenerator
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.core.errors import BreakpointException, SerializationError
from haystack.core.pipeline.breakpoint import load_pipeline_snapshot
from haystack.dataclasses.breakpoints import Breakpoint
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.utils import ComponentDevice, Secret
from haystack_integrations.document_stores.qdrant import QdrantDocumentStore

from clusterllm_plugins import ClusterLLMError
from haystack_integrations.components.clusterers.clusterllm import (
    ClusterLLMAssigner,
    ClusterLLMClusterer,
    ClusterLLMDocumentGrouper,
    ClusterLLMGranularitySelector,
)
from haystack_integrations.components.embedders.clusterllm import ClusterLLMDocumentEmbedder, ClusterLLMTextEmbedder
from haystack_kit import LSA, Knowing, clusterer, documents, embedded, ids


def whole(**parameters):
    """Return a pipeline of an embedder, a selector, a clusterer and a writer."""
    generator = MockChatGenerator("1")
    pipe = Pipeline()
    pipe.add_component("embedder", ClusterLLMDocumentEmbedder(embedder=LSA, progress_bar=False))
    pipe.add_component(
        "selector", ClusterLLMGranularitySelector(MockChatGenerator("yes"), n_clusters=[2, 5], progress_bar=False)
    )
    pipe.add_component("clusterer", clusterer(generator, n_clusters="auto", max_questions=10, **parameters))
    pipe.add_component("writer", DocumentWriter(InMemoryDocumentStore()))
    pipe.connect("embedder.documents", "selector.documents")
    pipe.connect("embedder.documents", "clusterer.documents")
    pipe.connect("selector.n_clusters", "clusterer.n_clusters")
    pipe.connect("clusterer.documents", "writer.documents")
    return pipe


COMPONENTS = [
    ClusterLLMClusterer(MockChatGenerator("1"), document_embedder=MockDocumentEmbedder(dimension=4), n_clusters=[2, 9]),
    ClusterLLMClusterer(oracle={"name": "openai", "model": "m"}, embedder=LSA, demonstrations=[["a", "b", "no"]]),
    ClusterLLMClusterer(),
    ClusterLLMGranularitySelector(MockChatGenerator("1"), embedder="lsa", instruction="by intent"),
    ClusterLLMAssigner("some/folder", document_embedder=MockDocumentEmbedder(dimension=4), meta_prefix="topic"),
    ClusterLLMDocumentEmbedder(embedder=LSA, prefix="query: ", meta_fields_to_embed=["title"]),
    ClusterLLMDocumentEmbedder("some/model", device=ComponentDevice.from_str("cpu"), precision="fp32"),
    ClusterLLMTextEmbedder(artifact_path="some/folder", suffix="."),
    ClusterLLMDocumentGrouper(MockChatGenerator("1"), embedder=LSA, n_clusters=[2, 5]),
    ClusterLLMDocumentGrouper(document_embedder=MockDocumentEmbedder(dimension=4)),
]


@pytest.mark.parametrize("made", COMPONENTS, ids=lambda made: type(made).__name__)
def test_a_component_survives_yaml(made):
    pipe = Pipeline()
    pipe.add_component("it", made)
    copy = Pipeline.loads(pipe.dumps())
    assert copy == pipe
    assert type(copy.get_component("it")) is type(made)


def test_a_pipeline_of_all_survives_yaml():
    # Loaded, since YAML sorts the components and equal pipelines have them in one order.
    made = whole()
    pipe = Pipeline.loads(made.dumps())
    assert Pipeline.loads(pipe.dumps()) == pipe
    assert pipe.to_dict()["components"] == made.to_dict()["components"]


YAML = """
components:
  embedder:
    type: haystack.components.embedders.mock_document_embedder.MockDocumentEmbedder
    init_parameters: {dimension: 6}
  clusterer:
    type: haystack_integrations.components.clusterers.clusterllm.clusterer.ClusterLLMClusterer
    init_parameters:
      chat_generator:
        type: haystack.components.generators.chat.mock.MockChatGenerator
        init_parameters:
          responses: [{role: assistant, name: null, meta: {}, content: [{text: "1"}]}]
      n_clusters: 2
      max_questions: 5
      progress_bar: false
connections:
  - sender: embedder.documents
    receiver: clusterer.documents
"""


def test_yaml_alone_runs_where_nothing_of_ours_was_imported(tmp_path):
    (tmp_path / "pipe.yaml").write_text(YAML)
    code = f"""
from pathlib import Path
from haystack import Document, Pipeline
pipe = Pipeline.loads(Path({str(tmp_path / "pipe.yaml")!r}).read_text())
result = pipe.run({{"embedder": {{"documents": [Document(content=f"text {{n}}") for n in range(12)]}}}})
print(sorted({{doc.meta["cluster_id"] for doc in result["clusterer"]["documents"]}}))
print(Pipeline.loads(pipe.dumps()).dumps() == pipe.dumps())
"""
    environment = os.environ | {"HAYSTACK_TELEMETRY_ENABLED": "False"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.split("\n")[:2] == ["[0, 1]", "True"], done.stderr


def test_parameters_are_basic_types_only():
    json.dumps(whole().to_dict())


def test_a_key_by_environment_variable_survives_and_a_token_is_refused():
    by_name = OpenAIChatGenerator(api_key=Secret.from_env_var("SOME_KEY"))
    pipe = Pipeline()
    pipe.add_component("it", ClusterLLMClusterer(by_name))
    assert "SOME_KEY" in pipe.dumps()
    pipe = Pipeline()
    pipe.add_component("it", ClusterLLMClusterer(OpenAIChatGenerator(api_key=Secret.from_token("sk-secret"))))
    with pytest.raises((SerializationError, ValueError)) as caught:
        pipe.dumps()
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("kind", [ClusterLLMClusterer, ClusterLLMGranularitySelector, ClusterLLMDocumentEmbedder])
def test_a_key_among_the_settings_is_refused(kind):
    with pytest.raises(ClusterLLMError, match=f"{kind.__name__}: the setting 'token' looks like a key") as caught:
        kind(embedder={"name": "lsa", "token": "sk-1234567890abcdef"})
    assert "1234567890" not in str(caught.value)


def test_a_device_is_resolved_when_it_is_warmed_up_only():
    assert ClusterLLMDocumentEmbedder("some/model").to_dict()["init_parameters"]["device"] is None


def test_a_pipeline_runs(texts):
    pipe = whole()
    result = pipe.run({"embedder": {"documents": documents(texts)}}, include_outputs_from={"selector", "clusterer"})
    assert result["writer"]["documents_written"] == 15
    assert len(result["clusterer"]["clusters"]) == result["selector"]["n_clusters"]


def test_a_pipeline_runs_on_an_event_loop(texts):
    pipe = whole()
    data = {"embedder": {"documents": documents(texts)}}
    wanted = {"clusterer"}
    found = asyncio.run(pipe.run_async(data, include_outputs_from=wanted))
    assert ids(found["clusterer"]) == ids(whole().run(data, include_outputs_from=wanted)["clusterer"])


@pytest.fixture
def snapshots(tmp_path, monkeypatch):
    monkeypatch.setenv("HAYSTACK_PIPELINE_SNAPSHOT_SAVE_ENABLED", "true")
    return tmp_path


def test_a_pipeline_resumes_from_a_snapshot(texts, snapshots):
    data = {"embedder": {"documents": documents(texts)}}
    with pytest.raises(BreakpointException) as caught:
        whole().run(data, break_point=Breakpoint("writer", 0, str(snapshots)))
    (file,) = snapshots.glob("*.json")
    snapshot = load_pipeline_snapshot(file)
    assert caught.value.component == "writer"
    result = whole().run(data={}, pipeline_snapshot=snapshot)
    assert result["writer"]["documents_written"] == 15


def test_a_breakpoint_at_the_clusterer_resumes_to_the_same_groups(texts, snapshots):
    data = {"embedder": {"documents": documents(texts)}}
    wanted = {"clusterer"}
    with pytest.raises(BreakpointException):
        whole().run(data, include_outputs_from=wanted, break_point=Breakpoint("clusterer", 0, str(snapshots)))
    (file,) = snapshots.glob("*.json")
    resumed = whole().run(data={}, pipeline_snapshot=load_pipeline_snapshot(file), include_outputs_from=wanted)
    straight = whole().run(data, include_outputs_from=wanted)
    assert ids(resumed["clusterer"]) == ids(straight["clusterer"])


@component
class TakesAll:
    """Takes what the clusterer gives, by the plain types."""

    @component.output_types(count=int)
    def run(self, clusters: list[dict[str, Any]], stats: dict[str, Any], artifact_path: str) -> dict[str, int]:
        return {"count": len(clusters)}


def test_every_socket_connects_to_its_plain_type():
    pipe = Pipeline()
    store = InMemoryDocumentStore()
    pipe.add_component("documents", ClusterLLMDocumentEmbedder(embedder=LSA))
    pipe.add_component("theirs", MockDocumentEmbedder(dimension=4))
    pipe.add_component("selector", ClusterLLMGranularitySelector())
    pipe.add_component("clusterer", ClusterLLMClusterer())
    pipe.add_component("assigner", ClusterLLMAssigner("folder"))
    pipe.add_component("joiner", DocumentJoiner())
    pipe.add_component("writer", DocumentWriter(store))
    pipe.add_component("text", ClusterLLMTextEmbedder())
    pipe.add_component("retriever", InMemoryEmbeddingRetriever(store))
    pipe.add_component("failed", DocumentWriter(store))
    pipe.add_component("all", TakesAll())
    pipe.connect("documents.documents", "theirs.documents")
    pipe.connect("theirs.documents", "selector.documents")
    pipe.connect("theirs.documents", "clusterer.documents")
    pipe.connect("selector.n_clusters", "clusterer.n_clusters")
    pipe.connect("clusterer.documents", "joiner.documents")
    pipe.connect("clusterer.failed_documents", "assigner.documents")
    pipe.connect("assigner.documents", "joiner.documents")
    pipe.connect("assigner.failed_documents", "failed.documents")
    pipe.connect("joiner.documents", "writer.documents")
    pipe.connect("text.embedding", "retriever.query_embedding")
    pipe.connect("clusterer.clusters", "all.clusters")
    pipe.connect("clusterer.stats", "all.stats")
    pipe.connect("clusterer.artifact_path", "all.artifact_path")


def clustered():
    docs, _ = embedded()
    return clusterer(n_clusters=4).run(docs)["documents"]


def in_memory(tmp_path):
    return InMemoryDocumentStore()


def qdrant(tmp_path):
    return QdrantDocumentStore(path=str(tmp_path), index="docs", embedding_dim=6, progress_bar=False)


@pytest.mark.parametrize("make", [in_memory, qdrant])
def test_results_can_be_stored_and_filtered(make, tmp_path):
    store = make(tmp_path)
    docs = clustered()
    store.write_documents(docs)
    found = store.filter_documents({"field": "meta.cluster_id", "operator": "==", "value": 2})
    assert {document.id for document in found} == {document.id for document in docs if document.meta["cluster_id"] == 2}
    label = docs[0].meta["cluster_label"]
    sure = {
        "operator": "AND",
        "conditions": [
            {"field": "meta.cluster_label", "operator": "in", "value": [label]},
            {"field": "meta.cluster_score", "operator": ">", "value": 0.1},
        ],
    }
    assert {document.meta["cluster_label"] for document in store.filter_documents(sure)} == {label}


class Spans:
    """A tracer that keeps its spans."""

    def __init__(self):
        self.found = []

    def trace(self, operation_name, tags=None, parent_span=None):
        from contextlib import contextmanager

        class Kept(tracing.Span):
            def __init__(self):
                self.name, self.tags = operation_name, dict(tags or {})

            def set_tag(self, key, value):
                self.tags[key] = value

        @contextmanager
        def span():
            self.found.append(Kept())
            yield self.found[-1]

        return span()

    def current_span(self):
        return None


def test_a_fit_is_traced_with_what_it_took(texts, truth):
    spans = Spans()
    tracing.enable_tracing(spans)
    try:
        generator = Knowing(dict(zip(texts, truth, strict=True)))
        clusterer(generator, embedder=LSA, max_questions=8).run(documents(texts))
    finally:
        tracing.disable_tracing()
    (span,) = [span for span in spans.found if span.name == "clusterllm.fit"]
    assert span.tags["clusterllm.texts"] == 15
    assert span.tags["clusterllm.questions_asked"] == 8
    assert (span.tags["clusterllm.input_tokens"], span.tags["clusterllm.output_tokens"]) == (80, 8)
    assert "clusterllm.cost" in span.tags
    assert not [value for value in span.tags.values() if value in texts]


def test_warming_up_is_idempotent_and_reaches_what_is_nested(texts):
    generator = Knowing(replies="1")
    component = clusterer(generator, embedder=LSA)
    component.warm_up()
    component.warm_up()
    assert generator.warm_ups == 2  # theirs to be idempotent too


def test_a_document_embedder_is_warmed_up_before_it_runs(texts):
    class Warm:
        warm = False

        def warm_up(self):
            self.warm = True

        def run(self, documents):
            assert self.warm
            return MockDocumentEmbedder(dimension=4).run(documents)

    assert clusterer(document_embedder=Warm()).run(documents(texts))["documents"]


def test_construction_makes_no_client(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ClusterLLMClusterer(OpenAIChatGenerator())


def test_importing_the_components_imports_nothing_heavy():
    heavy = ["torch", "sklearn", "scipy", "spacy", "sentence_transformers"]
    code = f"""
import sys, haystack
before = set(sys.modules)
import haystack_integrations.components.clusterers.clusterllm
import haystack_integrations.components.embedders.clusterllm
print([name for name in {heavy} if name in sys.modules and name not in before])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_outputs_of_nothing_are_made_anew():
    selector = ClusterLLMGranularitySelector()
    selector.run([])["scores"].append("mine")
    assert selector.run([]) == {"n_clusters": 0, "scores": []}


def test_what_is_nested_is_closed():
    class Closing:
        def __init__(self):
            self.closed = []

        def run(self, messages):
            return {}

        def close(self):
            self.closed.append("close")

        async def close_async(self):
            self.closed.append("close_async")

    generator = Closing()
    component = ClusterLLMClusterer(generator)
    component.close()
    asyncio.run(component.close_async())
    assert generator.closed == ["close", "close_async"]


def test_parameters_are_attributes_and_copies():
    embedder = {"name": "lsa", "dimensions": 8}
    component = ClusterLLMClusterer(embedder=embedder, n_clusters=(2, 9))
    embedder["dimensions"] = 3
    assert component.embedder == {"name": "lsa", "dimensions": 8}
    assert component.n_clusters == [2, 9]
    component.to_dict()["init_parameters"]["embedder"]["dimensions"] = 3
    component.max_questions = 7
    component.meta_prefix = "topic"
    assert "topic_error" in component.run(documents([""]))["failed_documents"][0].meta
    assert component.to_dict()["init_parameters"]["embedder"] == {"name": "lsa", "dimensions": 8}
    assert component.to_dict()["init_parameters"]["max_questions"] == 7


def test_documents_in_another_order_are_refused(texts):
    class Reversing:
        def run(self, documents):
            return {"documents": documents[::-1]}

    with pytest.raises(ValueError, match="the document embedder gave the documents in another order"):
        clusterer(document_embedder=Reversing()).run(documents(texts))
