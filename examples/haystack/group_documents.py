"""The common case in one component: embed documents, choose how many groups there are, group them.

The same grouper twice, from YAML and in Python. Nobody is asked here, since both leave the chat generator out: words
alone decide. group.yaml shows how to put one in.
"""

from __future__ import annotations

import json
from pathlib import Path

from haystack import Document, Pipeline

from haystack_integrations.components.clusterers.clusterllm import ClusterLLMDocumentGrouper

HERE = Path(__file__).parent
COUNT = 300  # messages that are grouped: enough to see it, and done in seconds
SHOWN = 5  # groups that are printed, the largest ones


def from_yaml() -> Pipeline:
    """Return the pipeline of group.yaml."""
    with (HERE / "group.yaml").open(encoding="utf-8") as file:
        return Pipeline.load(file)


def in_python() -> Pipeline:
    """Return the same pipeline, made here."""
    pipe = Pipeline()
    grouper = ClusterLLMDocumentGrouper(
        embedder="lsa",
        n_clusters=[8, 24],
        instruction="in terms of what the customer wants",
        max_questions=300,
        progress_bar=False,
    )
    pipe.add_component("grouper", grouper)
    return pipe


def main() -> None:
    """Group in both ways, compare, and print the largest groups."""
    lines = (HERE.parent / "messages.jsonl").read_text(encoding="utf-8").splitlines()
    data = {"grouper": {"documents": [Document(content=json.loads(line)["text"]) for line in lines[:COUNT]]}}
    result, other = from_yaml().run(data)["grouper"], in_python().run(data)["grouper"]
    same = result["documents"] == other["documents"]
    print(f"{len(result['documents'])} documents in {len(result['clusters'])} groups; nobody was asked.")
    print(f"YAML and Python give {'the same groups' if same else 'different groups'}.")
    for cluster in sorted(result["clusters"], key=lambda cluster: -cluster["size"])[:SHOWN]:
        print(f"{cluster['size']:4d}  {cluster['label']}: {', '.join(cluster['keywords'][:6])}")


if __name__ == "__main__":
    main()
