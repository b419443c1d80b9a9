"""The components on an event loop: at once, in the context, cancelled at every stage."""

import asyncio
import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest
from haystack import component
from haystack.components.embedders import MockDocumentEmbedder
from haystack.dataclasses import ChatMessage

from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.protocols import has_methods
from clusterllm_plugins.questions import Answer, Completion
from haystack_integrations.components.clusterers.clusterllm import (
    ClusterLLMClusterer,
    ClusterLLMGranularitySelector,
)
from haystack_integrations.components.clusterers.clusterllm.on_loop import OnLoop
from haystack_integrations.components.embedders.clusterllm import ClusterLLMDocumentEmbedder
from haystack_kit import LSA, Knowing, SyncOnly, clusterer, documents, embedded
from openai_kit import completion


@component
class WarmedOnTheLoop(SyncOnly):
    """A chat generator that has both ways of warming up."""

    def __init__(self):
        self.calls = []

    def warm_up(self):
        self.calls.append("warm_up")

    async def warm_up_async(self):
        self.calls.append("warm_up_async")


@pytest.mark.parametrize("kind", [ClusterLLMClusterer, ClusterLLMGranularitySelector])
def test_on_an_event_loop_what_is_nested_is_warmed_up_there(kind):
    docs, _ = embedded()
    generator, other = WarmedOnTheLoop(), Knowing(replies="1")
    for one in (generator, other):
        asyncio.run(kind(one, n_clusters=[2, 3], progress_bar=False).run_async(docs))
    assert generator.calls == ["warm_up_async"]
    assert other.warm_ups == 1


def slow(latency=0.2):
    return Knowing(replies="1", latency=latency)


def test_on_an_event_loop_questions_run_at_once_and_the_loop_stays_free(messages):
    generator = slow()
    component = clusterer(generator, embedder=LSA, max_questions=64, max_workers=16)
    longest = 0.0

    async def tick():
        nonlocal longest
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.01)
            if generator.at_once:  # before and after it is clustering that runs, on a thread
                longest = max(longest, time.perf_counter() - start)

    async def main():
        ticking = asyncio.create_task(tick())
        start = time.perf_counter()
        await component.run_async(documents(messages[:100]))
        ticking.cancel()
        return time.perf_counter() - start

    took = asyncio.run(main())
    assert len(generator.prompts) == 64
    assert generator.most_at_once == 16
    assert took < 64 / 16 * 0.2 + 5
    assert 0 < longest < generator.latency  # as long as a single call that blocked the loop would take


def test_on_an_event_loop_the_generators_coroutine_is_called_on_it(texts):
    threads = set()
    generator = Knowing(replies="1")
    enter = generator.enter
    generator.enter = lambda messages: threads.add(threading.current_thread()) or enter(messages)
    asyncio.run(clusterer(generator, embedder=LSA, max_questions=3).run_async(documents(texts)))
    assert threads == {threading.main_thread()}


def test_on_an_event_loop_the_embedders_coroutine_is_awaited(texts):
    class Awaited:
        def run(self, documents):
            raise AssertionError("not here")

        async def run_async(self, documents):
            return MockDocumentEmbedder(dimension=4).run(documents)

    result = asyncio.run(clusterer(document_embedder=Awaited()).run_async(documents(texts)))
    assert len(result["documents"]) == 15


def test_on_an_event_loop_a_fit_keeps_the_context(texts, monkeypatch):
    request, seen, embedded_by = ContextVar("request"), [], ClusterLLM._embedded
    monkeypatch.setattr(
        ClusterLLM, "_embedded", lambda *arguments: seen.append(request.get(None)) or embedded_by(*arguments)
    )

    async def main():
        request.set("mine")
        await clusterer(embedder=LSA).run_async(documents(texts))

    asyncio.run(main())
    assert seen == ["mine"]


def test_both_ways_give_the_same(texts, truth):
    categories = dict(zip(texts, truth, strict=True))
    sync = clusterer(Knowing(categories), embedder=LSA).run(documents(texts))
    on_loop = asyncio.run(clusterer(Knowing(categories), embedder=LSA).run_async(documents(texts)))
    assert on_loop["documents"] == sync["documents"]
    assert on_loop["clusters"] == sync["clusters"]


def test_a_cancelled_run_loses_nothing_paid(messages, tmp_path):
    store = str(tmp_path / "answers.sqlite")
    docs = documents(messages[:100])
    generator = slow()

    async def main():
        component = clusterer(generator, embedder=LSA, max_questions=64, max_workers=8, store=store)
        run = asyncio.create_task(component.run_async(docs))
        while len(generator.prompts) < 20:
            await asyncio.sleep(0.01)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(main())
    asked = len(generator.prompts)
    assert asked < 64
    stats = clusterer(slow(), embedder=LSA, max_questions=64, store=store).run(docs)["stats"]
    assert stats["questions_recalled"] == asked
    assert stats["questions_asked"] == 64 - asked


def fits():
    return [thread for thread in threading.enumerate() if thread.name.startswith("clusterllm-fit")]


async def cancelled(run, times):
    for _ in range(times):
        run.cancel()
        await asyncio.sleep(0.01)
    with pytest.raises(asyncio.CancelledError):
        await run


@pytest.mark.parametrize("times", [1, 2])
def test_a_run_cancelled_while_it_embeds_asks_nothing(texts, monkeypatch, times):
    begun, calls, embedded_by = threading.Event(), [], ClusterLLM._embedded

    def slowly(*arguments):
        calls.append(arguments)
        begun.set()
        time.sleep(0.2)
        return embedded_by(*arguments)

    monkeypatch.setattr(ClusterLLM, "_embedded", slowly)
    generator = Knowing(replies="1")

    async def main():
        run = asyncio.create_task(clusterer(generator, embedder=LSA).run_async(documents(texts)))
        await asyncio.to_thread(begun.wait, 10)
        await cancelled(run, times)

    asyncio.run(main())
    for thread in fits():
        thread.join(10)
    assert generator.prompts == []
    assert len(calls) == 1  # nor does it go on without an oracle


def test_a_run_cancelled_twice_ends_at_once_and_asks_nothing_more(texts):
    generator = slow(latency=0.3)
    complaints = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["message"]))
        component = clusterer(generator, embedder=LSA, max_workers=2)
        run = asyncio.create_task(component.run_async(documents(texts)))
        while len(generator.prompts) < 2:
            await asyncio.sleep(0.01)
        start = time.perf_counter()
        await cancelled(run, 2)
        assert time.perf_counter() - start < 0.2
        await asyncio.to_thread(lambda: [thread.join(10) for thread in fits()])
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(main())
    assert len(generator.prompts) == 2
    assert complaints == []


@component
class Busy:
    """A chat generator that asks for patience."""

    def __init__(self):
        self.calls = 0

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage]) -> dict[str, Any]:
        self.calls += 1
        error = ConnectionError("busy")
        error.response = SimpleNamespace(status_code=429, headers={"retry-after": "30"})
        raise error

    @component.output_types(replies=list[ChatMessage])
    async def run_async(self, messages: list[ChatMessage]) -> dict[str, Any]:
        return self.run(messages)


def test_a_run_cancelled_while_it_waits_for_a_retry_ends(texts):
    generator = Busy()

    async def main():
        component = clusterer(generator, embedder=LSA, max_workers=2)
        run = asyncio.create_task(component.run_async(documents(texts)))
        while generator.calls < 2:
            await asyncio.sleep(0.01)
        start = time.perf_counter()
        await cancelled(run, 1)
        assert time.perf_counter() - start < 5

    asyncio.run(main())
    assert generator.calls == 2


@component
class OnAThread(SyncOnly):
    """A chat generator whose coroutine needs a thread of the loop."""

    @component.output_types(replies=list[ChatMessage])
    async def run_async(self, messages: list[ChatMessage]) -> dict[str, Any]:
        return await asyncio.wait_for(asyncio.to_thread(self.run, messages), 2)


def test_fits_leave_the_threads_of_the_loop_to_the_calls(texts):
    async def main():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        component = clusterer(OnAThread(), embedder=LSA, max_questions=3, max_retries=0)
        return await asyncio.gather(*(component.run_async(documents(texts)) for _ in range(3)))

    results = asyncio.run(main())
    assert [result["stats"]["questions_asked"] for result in results] == [3, 3, 3]


def test_an_embedder_that_learns_does_so_once_however_many_runs_begin_at_once(messages):
    embedder = ClusterLLMDocumentEmbedder(embedder=LSA, progress_bar=False)

    async def main():
        return await asyncio.gather(*(embedder.run_async(documents(messages[:size])) for size in (100, 30, 60)))

    results = asyncio.run(main())
    assert len({str(result["documents"][0].embedding) for result in results}) == 1


# An oracle that can be asked on the loop, in place of a chat generator.


@pytest.fixture
def provider(provider):
    provider.at_once = provider.most_at_once = 0
    provider.latency, counting = 0.05, threading.Lock()

    def reply(body):
        with counting:
            provider.at_once += 1
            provider.most_at_once = max(provider.most_at_once, provider.at_once)
        time.sleep(provider.latency)
        with counting:
            provider.at_once -= 1
        prompt = body["messages"][0]["content"]
        return 200, completion("Notes" if "short name" in prompt else "1"), {}

    provider.always = reply
    return provider


def openai_oracle(provider, **settings):
    return {"name": "openai", "base_url": provider.url, "api_key_env": None, "model": "acorn", **settings}


@pytest.fixture
def clients(monkeypatch):
    """The clients that are made for event loops."""
    made, connect = [], OpenAIOracle._connected_for
    monkeypatch.setattr(OpenAIOracle, "_connected_for", lambda *arguments: made.append(connect(*arguments)) or made[-1])
    monkeypatch.setattr(OpenAIOracle, "complete", None)  # what threads would call
    return made


def test_the_oracle_openai_is_asked_on_the_loop_and_its_client_closed(messages, provider, clients):
    oracle = openai_oracle(provider, concurrency=6)
    component = clusterer(oracle=oracle, embedder=LSA, max_questions=24)
    result = asyncio.run(component.run_async(documents(messages[:100])))
    assert result["stats"]["questions_asked"] == 24
    assert provider.most_at_once == 6
    assert len(set(clients)) == 1
    assert clients[0].is_closed()


def test_the_oracle_openai_gives_the_same_on_the_loop(texts, provider):
    component = clusterer(oracle=openai_oracle(provider), embedder=LSA, max_questions=10)
    on_loop = asyncio.run(component.run_async(documents(texts)))
    sync = component.run(documents(texts))
    assert on_loop == sync
    assert component.to_dict()["init_parameters"]["oracle"] == openai_oracle(provider)


def test_what_is_saved_names_the_oracle_and_not_what_stood_for_it(texts, provider, tmp_path):
    settings = {"oracle": openai_oracle(provider), "embedder": LSA, "max_questions": 3}
    asyncio.run(clusterer(**settings, artifact_path=str(tmp_path / "loop")).run_async(documents(texts)))
    assert ClusterLLM.load(tmp_path / "loop").oracle == openai_oracle(provider)


def test_a_run_that_asks_the_oracle_openai_ends_where_it_is_cancelled(messages, provider, clients, tmp_path):
    provider.latency = 0.2
    store = str(tmp_path / "answers.sqlite")
    settings = {"oracle": openai_oracle(provider), "embedder": LSA, "max_questions": 64, "store": store}

    async def main():
        run = asyncio.create_task(clusterer(**settings).run_async(documents(messages[:100])))
        while len(provider.requests) < 16:
            await asyncio.sleep(0.01)
        await cancelled(run, 1)

    asyncio.run(main())
    asked = len(provider.requests)
    assert asked < 64
    assert all(client.is_closed() for client in clients)
    stats = asyncio.run(clusterer(**settings).run_async(documents(messages[:100])))["stats"]
    assert (stats["questions_recalled"], stats["questions_asked"]) == (asked, 64 - asked)


def test_a_run_that_asks_the_oracle_openai_ends_at_once_where_it_is_cancelled_twice(texts, provider, clients):
    provider.latency = 0.6
    complaints = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["message"]))
        component = clusterer(oracle=openai_oracle(provider, concurrency=2), embedder=LSA)
        run = asyncio.create_task(component.run_async(documents(texts)))
        while len(provider.requests) < 2:
            await asyncio.sleep(0.01)
        start = time.perf_counter()
        await cancelled(run, 2)
        assert time.perf_counter() - start < 0.4
        await asyncio.to_thread(lambda: [thread.join(10) for thread in fits()])
        await asyncio.sleep(0)
        gc.collect()

    asyncio.run(main())
    assert len(provider.requests) == 2
    assert complaints == []
    assert all(client.is_closed() for client in clients)


def test_an_oracle_that_fails_for_good_on_the_loop_leaves_the_clustering(texts, provider, clients):
    provider.always = 401, {"error": {"message": "who are you"}}, {}
    result = asyncio.run(clusterer(oracle=openai_oracle(provider), embedder=LSA).run_async(documents(texts)))
    assert "who are you" in result["stats"]["oracle_error"]
    assert len(result["documents"]) == len(texts)
    assert all(client.is_closed() for client in clients)


class Elsewhere:
    """A stranger's oracle that can be asked either way."""

    fingerprint = "elsewhere"
    concurrency = 3

    def __init__(self):
        self.threads = set()

    def answer(self, questions):
        raise AssertionError("not here")

    async def answer_async(self, questions):
        self.threads.add(threading.current_thread())
        return [Answer(question.choices[0]) for question in questions]

    def describe(self, texts):
        return Completion("Notes")


def test_any_oracle_that_can_is_asked_on_the_loop(texts):
    oracle = Elsewhere()
    component = clusterer(oracle=oracle, embedder=LSA, max_questions=3)
    result = asyncio.run(component.run_async(documents(texts)))
    assert oracle.threads == {threading.main_thread()}
    assert result["stats"]["oracle"] == "elsewhere"


@pytest.mark.parametrize("kind", ["plain", "openai"])
def test_names_are_asked_for_on_the_loop_where_that_can_be(provider, clients, kind):
    oracle = Elsewhere() if kind == "plain" else OpenAIOracle("acorn", provider.url, None)

    async def main():
        on_loop = OnLoop(oracle, asyncio.get_running_loop())
        name = await asyncio.to_thread(on_loop.describe, ["a note", "another"])
        await on_loop.close_async()
        return name.text

    assert asyncio.run(main()) == "Notes"
    assert len(clients) == (kind == "openai")


def test_what_stands_for_an_oracle_can_do_what_that_one_can(provider):
    optional = ("check", "prepare", "worst_case", "worst_case_of", "describe", "describe_all")
    able = {
        kind: [name for name in optional if has_methods(OnLoop(oracle, asyncio.new_event_loop()), name)]
        for kind, oracle in (("plain", Elsewhere()), ("openai", OpenAIOracle("acorn", provider.url, None)))
    }
    assert able == {"plain": ["describe"], "openai": ["check", "worst_case", "worst_case_of", "describe"]}
    assert OnLoop(Elsewhere(), asyncio.new_event_loop()).concurrency == 3
