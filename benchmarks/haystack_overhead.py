"""What the Haystack components add: to the asking itself, and to Haystack's own copying of documents.

    python3 dev.py bench haystack_overhead

The chat generator is a stand-in that waits and answers; documents and embeddings are made up.
"""

from __future__ import annotations

import os

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

import argparse
import asyncio
import platform
import tempfile
import time
from typing import Any

import numpy as np
from common import table, write_section
from haystack import Document, Pipeline, component
from haystack.dataclasses import ChatMessage
from numpy.typing import NDArray

from haystack_integrations.components.clusterers.clusterllm import (
    ClusterLLMAssigner,
    ClusterLLMClusterer,
    ClusterLLMGranularitySelector,
)
from haystack_integrations.components.clusterers.clusterllm.fitting import Fit

QUESTIONS = 512
LATENCY = 0.2  # seconds
WORKERS = 16
IDEAL = QUESTIONS / WORKERS * LATENCY
DOCUMENTS = 5000
DIMENSIONS = 768
CLUSTERS = 20


@component
class Waiting:
    """A chat generator that takes its time, and notes when it was asked."""

    def __init__(self) -> None:
        self.first = self.last = 0.0

    def _reply(self) -> dict[str, Any]:
        self.last = time.perf_counter()
        return {
            "replies": [ChatMessage.from_assistant("1", meta={"usage": {"prompt_tokens": 9, "completion_tokens": 1}})]
        }

    def _begin(self) -> None:
        self.first = self.first or time.perf_counter()

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage]) -> dict[str, Any]:
        """Wait and answer."""
        self._begin()
        time.sleep(LATENCY)
        return self._reply()

    @component.output_types(replies=list[ChatMessage])
    async def run_async(self, messages: list[ChatMessage]) -> dict[str, Any]:
        """Wait and answer without blocking."""
        self._begin()
        await asyncio.sleep(LATENCY)
        return self._reply()


@component
class Identity:
    """Gives documents back as they are."""

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return the documents."""
        return {"documents": documents}


def documents(count: int, dimensions: int) -> list[Document]:
    """Return made-up documents in well separated clusters."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, dimensions))
    vectors = centres[np.arange(count) % CLUSTERS] + rng.normal(scale=0.5, size=(count, dimensions))
    return [Document(content=f"text number {place}", embedding=row) for place, row in enumerate(vectors.tolist())]


async def asked_on_a_loop() -> tuple[float, float]:
    """Return how long the asking took, and the longest time that another coroutine could not run."""
    longest = 0.0
    asking = Waiting()

    async def tick() -> None:
        nonlocal longest
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.005)
            # Only while questions are out: before and after it is clustering that runs, on a thread.
            if asking.first and time.perf_counter() - asking.first < IDEAL:
                longest = max(longest, time.perf_counter() - start)

    ticking = asyncio.create_task(tick())
    clusterer = ClusterLLMClusterer(
        asking, n_clusters=CLUSTERS, max_questions=QUESTIONS, max_workers=WORKERS, progress_bar=False
    )
    await clusterer.run_async(documents(1000, 32))
    ticking.cancel()
    return asking.last - asking.first, longest


def asked_on_threads() -> float:
    """Return how long the asking took."""
    asking = Waiting()
    ClusterLLMClusterer(
        asking, n_clusters=CLUSTERS, max_questions=QUESTIONS, max_workers=WORKERS, progress_bar=False
    ).run(documents(1000, 32))
    return asking.last - asking.first


def pipeline_of(made: Any) -> Pipeline:
    """Return a pipeline of one component."""
    pipe = Pipeline()
    pipe.add_component("it", made)
    return pipe


def piped(pipe: Pipeline, docs: list[Document]) -> float:
    """Return how long a pipeline of one component takes."""
    start = time.perf_counter()
    pipe.run({"it": {"documents": docs}})
    return time.perf_counter() - start


def overhead(pipe: Pipeline, identity: Pipeline, docs: list[Document]) -> float:
    """Return what a component takes beyond Haystack's copying and the fit itself."""
    spent = 0.0
    fit = Fit.run

    def timed(self: Fit) -> Any:
        nonlocal spent
        start = time.perf_counter()
        result = fit(self)
        spent += time.perf_counter() - start
        return result

    Fit.run = timed  # type: ignore[method-assign]
    try:
        total = piped(pipe, docs)
    finally:
        Fit.run = fit  # type: ignore[method-assign]
    return total - spent - piped(identity, docs)


def _added(made: Any, identity: Pipeline, docs: list[Document], repeats: int) -> NDArray[np.float64]:
    pipe = pipeline_of(made)
    return np.array([overhead(pipe, identity, docs) for _ in range(repeats)])


def main() -> None:
    """Time and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    asked = []
    for _ in range(repeats):
        on_loop, tick = asyncio.run(asked_on_a_loop())
        asked.append((on_loop, asked_on_threads(), tick))
    loops, threads, ticks = (np.array(column) for column in zip(*asked, strict=True))
    rows = [
        [
            way,
            f"{np.median(seconds):.2f} ({seconds.min():.2f} to {seconds.max():.2f})",
            f"{np.median(seconds) / IDEAL:.3f}",
            free,
        ]
        for way, seconds, free in (("run_async", loops, f"{1000 * ticks.max():.0f}"), ("run", threads, "–"))
    ]
    print(rows, flush=True)
    docs = documents(DOCUMENTS, DIMENSIONS)
    identity = pipeline_of(Identity())
    with tempfile.TemporaryDirectory() as folder:
        ClusterLLMClusterer(n_clusters=CLUSTERS, progress_bar=False, artifact_path=folder).run(docs)
        assigner = ClusterLLMAssigner(folder, progress_bar=False)
        assigner.warm_up()
        made = {
            "ClusterLLMAssigner": assigner,
            "ClusterLLMClusterer": ClusterLLMClusterer(n_clusters=CLUSTERS, progress_bar=False),
            "ClusterLLMGranularitySelector": ClusterLLMGranularitySelector(n_clusters=[19, 21], progress_bar=False),
        }
        added = {name: _added(one, identity, docs, repeats) for name, one in made.items()}
    copying = np.array([piped(identity, docs) for _ in range(repeats)])
    costs = [[name, f"{np.median(took):.2f} ({took.min():.2f} to {took.max():.2f})"] for name, took in added.items()]
    costs.append(
        [
            "Haystack's own copying (an identity component)",
            f"{np.median(copying):.2f} ({copying.min():.2f} to {copying.max():.2f})",
        ]
    )
    print(costs, flush=True)
    text = (
        "## Haystack: what the components add\n\n"
        f"`python3 dev.py bench haystack_overhead` (medians of {repeats} runs; {platform.machine()}, {os.cpu_count()} "
        f"cores). {QUESTIONS} questions to a stand-in that takes {LATENCY} s, {WORKERS} at once: {IDEAL:.1f} s at "
        "best.\n\n"
    )
    text += table(
        ["way", "seconds (lowest to highest)", "of the ideal", "longest pause of another coroutine, ms"], rows
    )
    text += (
        f"\n\n{DOCUMENTS} documents with embeddings of {DIMENSIONS} dimensions in a pipeline of one component, without "
        "the fit itself and Haystack's copying:\n\n"
    )
    text += table(["component", "seconds (lowest to highest)"], costs)
    write_section("haystack_overhead", text)


if __name__ == "__main__":
    main()
