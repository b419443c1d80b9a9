"""The demo: customers' messages, clustered before and after a language model's recorded answers.

No network is used. The messages were written for this project; the answers were recorded from a large language
model that saw the questions only.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np

from clusterllm_plugins import ClusterLLM, load_answers
from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.metrics import accuracy, nmi
from clusterllm_plugins.protocols import Labels

HERE = Path(__file__).parent
SEEDS = range(5)
SHOWN = 8  # clusters that are printed, the largest ones
WIDTH = 96


def read(name: str, field: str) -> list[str]:
    """Return one field of a JSONL file beside this one."""
    lines = (HERE / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)[field] for line in lines]


def typical(model: ClusterLLM, texts: list[str], cluster: int, count: int = 3) -> list[str]:
    """Return the texts nearest to a cluster's centroid."""
    members = np.flatnonzero(model.labels_ == cluster)
    vectors = model.embeddings_[members]
    closeness = vectors @ model.cluster_centers_[cluster] / np.linalg.norm(vectors, axis=1)
    return [texts[member] for member in members[np.argsort(-closeness, kind="stable")[:count]]]


def moved(before: Labels, after: Labels) -> int:
    """Return how many texts left their cluster, when clusters are matched as well as they can be."""
    return round(len(before) * (1 - accuracy(before, after)))


def reclustered(texts: list[str], model: ClusterLLM) -> list[Labels]:
    """Return the labels of five clusterings of a model's vectors."""
    return [
        ClusterLLM(n_clusters=model.n_clusters_, random_state=seed).fit_predict(texts, embeddings=model.embeddings_)
        for seed in SEEDS
    ]


def main() -> None:
    """Cluster, print, compare."""
    warnings.simplefilter("ignore", ClusterLLMWarning)
    texts = read("messages.jsonl", "text")
    truth = read("messages_labels.jsonl", "label")
    known = load_answers(HERE / "messages_answers.jsonl", texts)
    decided = sum(answer.choice is not None for _, answer in known)
    print(
        f"{len(texts)} messages to a shop in four languages. Recorded: a large language model's replies to\n"
        f'{len(known)} questions "does A go with B or with C?"; it saw the questions only, chose in {decided}\n'
        f"and said that neither fits in {len(known) - decided}. Learning from them (a minute or two) ...",
        flush=True,
    )
    settings = {"embedder": "minilm", "n_clusters": len(set(truth))}
    before = ClusterLLM(**settings).fit(texts)
    model = ClusterLLM(**settings, method="paper").fit(texts, answers=known)

    sizes = np.bincount(model.labels_, minlength=model.n_clusters_)
    print(f"\nThe {SHOWN} largest of {model.n_clusters_} clusters, with the answers (seed 0):")
    for cluster in np.argsort(-sizes, kind="stable")[:SHOWN]:
        print(f"\n{sizes[cluster]:4d}  {model.cluster_labels_[cluster]}")
        for text in typical(model, texts, int(cluster)):
            print(f"      - {text if len(text) <= WIDTH else text[: WIDTH - 1] + '…'}")
    rest = np.sort(sizes)[::-1][SHOWN:]
    print(f"\n      and {len(rest)} more, of {rest.max()} to {rest.min()} messages")

    plain = reclustered(texts, before)
    refined = reclustered(texts, model)
    changes = [moved(one, other) for one, other in zip(plain, refined, strict=True)]
    print(f"\nWhat the answers changed: {np.mean(changes):.0f} of {len(texts)} messages are in another cluster.")
    print("Against the labels (which the method never saw), mean of five seeds of the clustering:")
    for name, runs in (("before", plain), ("after", refined)):
        acc = [100 * accuracy(truth, labels) for labels in runs]
        mutual = [100 * nmi(truth, labels) for labels in runs]
        print(
            f"  {name:>6}  ACC {np.mean(acc):.1f} ({min(acc):.1f} to {max(acc):.1f})   "
            f"NMI {np.mean(mutual):.1f} ({min(mutual):.1f} to {max(mutual):.1f})"
        )
    print(
        "\nYour own language model instead of recorded answers:\n"
        "  clusterllm cluster examples/messages.jsonl -o out --oracle openai --n-clusters 32 "
        '--instruction "in terms of what the customer wants"\n'
        "  (needs OPENAI_API_KEY; for a local server add --set oracle.base_url=http://localhost:11434/v1 "
        "--set oracle.api_key_env=null --set oracle.model=...)"
    )


if __name__ == "__main__":
    main()
