"""Retrieval within a cluster: a query is routed to its group of documents before anything is searched.

One pipeline groups the documents of a store and saves what it found; a second one, which serves queries, asks no
language model. A query's cluster becomes a filter of the retriever, so that less is searched, and hits are of one kind.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from haystack import Document, Pipeline, component
from haystack.components.generators.chat import MockChatGenerator
from haystack.components.retrievers import InMemoryBM25Retriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from stand_in import reply

from haystack_integrations.components.clusterers.clusterllm import ClusterLLMAssigner, ClusterLLMClusterer

MESSAGES = Path(__file__).parents[1] / "messages.jsonl"
QUERIES = ["Which discount code works today?", "The courier never rang", "How do I return a table?"]


@component
class ClusterFilter:
    """Turns a document's cluster into a retriever's filter."""

    @component.output_types(filters=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Make the filter.

        Args:
            documents: The query, as a document with its cluster; none where the query has no cluster.
        """
        if not documents:  # a blank query: search everything rather than nothing
            return {"filters": {}}
        cluster = documents[0].meta["cluster_id"]
        return {"filters": {"field": "meta.cluster_id", "operator": "==", "value": cluster}}


def indexing(store: InMemoryDocumentStore, artifact: Path, n_clusters: int) -> Pipeline:
    """Return the pipeline that groups documents and writes them with their clusters."""
    pipe = Pipeline()
    clusterer = ClusterLLMClusterer(
        # A mock, so that this runs without a key; with one: OpenAIChatGenerator(model=..., max_retries=0).
        chat_generator=MockChatGenerator(response_fn=reply),
        embedder="lsa",  # words only, but nothing to download; "minilm" with clusterllm-plugins[offline]
        n_clusters=n_clusters,
        method="paper",  # the default, "auto", stops asking whoever knows as little as the mock
        instruction="in terms of what the customer wants",
        max_questions=200,
        artifact_path=str(artifact),  # what the serving side reads
        progress_bar=False,
    )
    pipe.add_component("clusterer", clusterer)
    # The documents are in the store already; cluster_id in their meta is what is new.
    pipe.add_component("writer", DocumentWriter(store, policy=DuplicatePolicy.OVERWRITE))
    pipe.connect("clusterer.documents", "writer.documents")
    return pipe


def serving(store: InMemoryDocumentStore, artifact: Path) -> Pipeline:
    """Return the pipeline that answers a query from its own cluster."""
    pipe = Pipeline()
    pipe.add_component("assigner", ClusterLLMAssigner(str(artifact), progress_bar=False))
    pipe.add_component("filter", ClusterFilter())
    pipe.add_component("retriever", InMemoryBM25Retriever(store, top_k=3))
    pipe.connect("assigner.documents", "filter.documents")
    pipe.connect("filter.filters", "retriever.filters")
    return pipe


def routed(pipe: Pipeline, query: str) -> dict[str, Any]:
    """Return what each component of the serving pipeline gave for a query."""
    # The query goes in twice: as a document that is put into a cluster, and as what to look for there.
    data = {"assigner": {"documents": [Document(content=query)]}, "retriever": {"query": query}}
    result: dict[str, Any] = pipe.run(data, include_outputs_from={"assigner", "filter"})
    return result


def main() -> None:
    """Group, then route each query and print its hits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("query", nargs="*", default=QUERIES, help="what to look for")
    parser.add_argument("--n-clusters", type=int, default=24, metavar="N")
    parser.add_argument("--artifact", type=Path, metavar="FOLDER", help="keep the fitted model there")
    options = parser.parse_args()

    store = InMemoryDocumentStore()
    lines = MESSAGES.read_text(encoding="utf-8").splitlines()
    store.write_documents([Document(content=json.loads(line)["text"]) for line in lines])

    with tempfile.TemporaryDirectory() as scratch:
        artifact = options.artifact or Path(scratch) / "fitted"
        pipe = indexing(store, artifact, options.n_clusters)
        result = pipe.run({"clusterer": {"documents": store.filter_documents()}}, include_outputs_from={"clusterer"})
        stats = result["clusterer"]["stats"]
        print(f"{stats['documents']} documents in {stats['n_clusters']} clusters.")
        print(f"{stats['questions_asked']} questions went to a mock that counts common words, not to a language model.")

        pipe = serving(store, artifact)
        for query in options.query:
            result = routed(pipe, query)
            searched = len(store.filter_documents(result["filter"]["filters"]))
            print(f"\n{query}")
            for document in result["assigner"]["documents"]:
                print(f"  cluster {document.meta['cluster_id']}, {document.meta['cluster_label']}")
            print(f"  searched: {searched} of {store.count_documents()} documents")
            for document in result["retriever"]["documents"]:
                print(f"  [{document.meta['cluster_id']}] {document.content}")


if __name__ == "__main__":
    main()
