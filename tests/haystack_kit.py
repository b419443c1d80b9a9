"""Documents, chat generators and pipelines that the tests of the Haystack components share."""

import asyncio
import json
import os
import re
import time
from collections import Counter
from typing import Any

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

import numpy as np
from haystack import Document, component, default_from_dict, default_to_dict
from haystack.dataclasses import ChatMessage

from haystack_integrations.components.clusterers.clusterllm import ClusterLLMClusterer

LSA = {"name": "lsa", "dimensions": 8}


def documents(texts):
    return [Document(content=text, meta={"place": place}) for place, text in enumerate(texts)]


def embedded(count=40, clusters=4, size=6, noise=0.2):
    """Return documents with embeddings in clusters, well separated unless there is more noise, and each's cluster."""
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(clusters, size))
    labels = np.arange(count) % clusters
    vectors = centres[labels] + rng.normal(scale=noise, size=(count, size))
    return [
        Document(content=f"text {place}", embedding=vector.tolist()) for place, vector in enumerate(vectors)
    ], labels.tolist()


def clusterer(chat_generator=None, **parameters):
    """Return a clusterer; the paper's method asks as many questions as it may, whatever the answers are."""
    defaults = {"n_clusters": 3, "method": "paper", "progress_bar": False}
    return ClusterLLMClusterer(chat_generator, **defaults | parameters)


def ids(result):
    return [document.meta["cluster_id"] for document in result["documents"]]


def same_partition(labels, truth):
    pairs = set(zip(labels, truth, strict=True))
    return len(pairs) == len(set(labels)) == len(set(truth))


def first_choice(messages):
    """Answer any question: the first candidate, or yes."""
    return "yes" if "yes or no" in messages[0].text else "1"


@component
class Knowing:
    """A chat generator that knows the categories, and can be slow, or fail."""

    def __init__(self, categories: dict[str, str] | None = None, latency: float = 0.0, replies: str | None = None):
        self.categories = categories or {}
        self.latency = latency
        self.replies = replies
        self.prompts = []
        self.at_once = self.most_at_once = 0
        self.warm_ups = 0

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(self, categories=self.categories, latency=self.latency, replies=self.replies)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Knowing":
        return default_from_dict(cls, data)

    def warm_up(self):
        self.warm_ups += 1

    def reply(self, prompt):
        if self.replies is not None:
            return self.replies
        if "short name" in prompt:
            return self.most_frequent(re.findall(r'^- "(.*)"$', prompt, re.MULTILINE))
        texts = re.findall(r'^(?:Query|Text A|Text B|\d+): ?"(.*)"$|^\d+\. "(.*)"$', prompt, re.MULTILINE)
        anchor, *others = [self.most_frequent((one or other).split('" | "')) for one, other in texts]
        if "yes or no" in prompt:
            return "yes" if anchor == others[0] else "no"
        return next((str(place) for place, other in enumerate(others, start=1) if other == anchor), "neither of them")

    def most_frequent(self, texts):
        """Return the category of most of the texts."""
        return Counter(self.categories[json.loads(f'"{text}"')] for text in texts).most_common(1)[0][0]

    def enter(self, messages):
        self.prompts.append(messages[0].text)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)

    def answer(self, messages):
        self.at_once -= 1
        usage = {"prompt_tokens": 10, "completion_tokens": 1}
        return {"replies": [ChatMessage.from_assistant(self.reply(messages[0].text), meta={"usage": usage})]}

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage]) -> dict[str, Any]:
        self.enter(messages)
        time.sleep(self.latency)
        return self.answer(messages)

    @component.output_types(replies=list[ChatMessage])
    async def run_async(self, messages: list[ChatMessage]) -> dict[str, Any]:
        self.enter(messages)
        await asyncio.sleep(self.latency)
        return self.answer(messages)


@component
class SyncOnly:
    """A chat generator without ``run_async``."""

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage]) -> dict[str, Any]:
        return {"replies": [ChatMessage.from_assistant(first_choice(messages))]}


@component
class Failing:
    """Fails on some calls, or gives replies of another kind."""

    def __init__(self, every: int = 1, kind: str = "raise", error: str = "ValueError"):
        self.every, self.kind, self.error = every, kind, error
        self.calls = 0

    def to_dict(self) -> dict[str, Any]:
        return default_to_dict(self, every=self.every, kind=self.kind, error=self.error)

    def result(self):
        self.calls += 1
        if self.calls % self.every:
            return {"replies": [ChatMessage.from_assistant("1")]}
        if self.kind == "raise":
            raise {"ValueError": ValueError, "TimeoutError": TimeoutError}[self.error]("it broke")
        return {"replies": [] if self.kind == "none" else [ChatMessage.from_assistant(tool_calls=[])]}

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage]) -> dict[str, Any]:
        return self.result()

    @component.output_types(replies=list[ChatMessage])
    async def run_async(self, messages: list[ChatMessage]) -> dict[str, Any]:
        return self.result()
