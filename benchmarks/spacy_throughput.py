"""Does ``nlp.pipe`` of a fitted pipeline keep up with embedding alone, and do two workers give the same?

    python3 dev.py bench spacy_throughput

The texts are made up here, out of parts: short, and no two alike, since equal ones would be embedded once.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import spacy
import torch
from common import table, write_section
from spacy.tokens import Doc

from clusterllm_plugins import Plugins
from clusterllm_plugins.embedding import embed_texts

BATCH = 1000  # that of nlp.pipe by default
N_CLUSTERS = 20
THINGS = ("parcel", "lamp", "refund", "invoice", "voucher", "armchair", "password", "courier", "mirror", "label")
EVENTS = ("has not arrived", "came broken", "is wrong", "was sent twice", "does not work", "is missing a part")
WISHES = ("please help", "what can I do", "I want my money back", "who do I ask", "send another one", "cancel it")


def made_up(n_texts: int) -> list[str]:
    """Return distinct short texts."""
    parts = itertools.product(range(n_texts), THINGS, EVENTS, WISHES)
    return [
        f"The {thing} of order {number} {event}, {wish}"
        for number, thing, event, wish in itertools.islice(parts, n_texts)
    ]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return how many seconds something took, and what it gave."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def pipeline(embedder: str, texts: Sequence[str]) -> spacy.Language:
    """Return a fitted pipeline."""
    nlp = spacy.blank("en")
    nlp.add_pipe("clusterllm_embedder", config={"embedder": embedder})
    clusterer = nlp.add_pipe("clusterllm", config={"n_clusters": N_CLUSTERS, "progress": False})
    clusterer.fit([nlp.make_doc(text) for text in texts])  # type: ignore[attr-defined]  # a component of ours
    return nlp


def alone(nlp: spacy.Language, texts: Sequence[str]) -> None:
    """Embed the same batches without spaCy."""
    embedder = nlp.get_pipe("clusterllm_embedder").embedder  # type: ignore[attr-defined]
    for start in range(0, len(texts), BATCH):
        embed_texts(embedder, texts[start : start + BATCH])


def difference(one: list[Doc], other: list[Doc]) -> tuple[int, float]:
    """Return how many clusters differ, and the largest difference of a vector's entry."""
    moved = sum(a._.clusterllm_cluster != b._.clusterllm_cluster for a, b in zip(one, other, strict=True))
    gap = max(np.abs(a._.clusterllm_vector - b._.clusterllm_vector).max() for a, b in zip(one, other, strict=True))
    return moved, float(gap)


def main() -> None:
    """Time in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--docs", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--embedders", nargs="+", default=["minilm", "lsa"])
    arguments = parser.parse_args()
    texts = made_up(arguments.docs)
    rows = []
    for name in arguments.embedders:
        nlp = pipeline(name, texts[:2000])
        list(nlp.pipe(texts[:BATCH]))  # the first batch loads the model
        seconds: dict[str, list[float]] = {"alone": [], "pipe": []}
        docs: list[Doc] = []
        for _ in range(arguments.repeats):
            seconds["alone"].append(timed(lambda nlp=nlp: alone(nlp, texts))[0])
            took, docs = timed(lambda nlp=nlp: list(nlp.pipe(texts)))
            seconds["pipe"].append(took)
        workers, parallel = timed(lambda nlp=nlp: list(nlp.pipe(texts, n_process=2)))
        moved, gap = difference(docs, parallel)
        ratios = np.array(seconds["alone"]) / np.array(seconds["pipe"])
        rates = [f"{len(texts) / np.median(seconds[way]):.0f}" for way in ("alone", "pipe")]
        ratio = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        rows.append([name, *rates, ratio, f"{len(texts) / workers:.0f}", str(moved), f"{gap:.1e}"])
        print(rows[-1], flush=True)
    header = ["embedder", "embedding alone, docs a second", "nlp.pipe", "ratio (lowest to highest)"]
    precision = getattr(Plugins().embedder("minilm"), "precision", "")
    text = (
        "## spaCy: throughput of a fitted pipeline\n\n"
        f"`python3 dev.py bench spacy_throughput --docs {len(texts)} --repeats {arguments.repeats}` ({len(texts)} "
        f"made-up docs of about twelve words, batches of {BATCH}, medians of {arguments.repeats} runs in turn; "
        f"{platform.machine()}, {torch.get_num_threads()} threads, minilm in {precision}). With two workers, one run: "
        "each has one thread, and loads the model itself.\n\n"
    )
    columns = [
        *header,
        "nlp.pipe, n_process=2",
        "clusters that differ with it",
        "largest difference of a vector's entry",
    ]
    write_section("spacy_throughput", text + table(columns, rows))


if __name__ == "__main__":
    main()
