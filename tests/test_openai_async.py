"""The oracle ``openai`` on an event loop: the same requests and answers, no thread held up, clients closed."""

import asyncio
import gc
import threading
import time
import warnings

import pytest

from clusterllm_oracles.loops import waited_for
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.prompts import render_description
from clusterllm_plugins.questions import OracleError, pair_question, triplet_question
from openai_kit import completion, trouble

TEXTS = [f"note {number}" for number in range(20)]
TRIPLET = triplet_question(TEXTS, 0, 1, 2)
PAIR = pair_question(TEXTS, 0, 1)


@pytest.fixture
def make(provider):
    return lambda **settings: OpenAIOracle("acorn", provider.url, None, **settings)


def answers(oracle, questions=(TRIPLET,)):
    async def main():
        try:
            return await oracle.answer_async(list(questions))
        finally:
            await oracle.close_async()

    return asyncio.run(main())


def reply(body):
    text = "yes" if "yes or no" in body["messages"][0]["content"] else "2"
    return 200, completion(text, (50, 2), tokens=[(text, {text: 0.75, "1": 0.25})]), {}


def test_both_ways_ask_and_answer_the_same(provider, make):
    provider.always = reply
    oracle = make(input_price=1.0, output_price=2.0)
    assert answers(oracle, [TRIPLET, PAIR]) == list(oracle.answer([TRIPLET, PAIR]))
    assert provider.requests[:2] == provider.requests[2:]


def test_a_name_is_asked_for_on_the_loop(provider, make):
    provider.always = 200, completion("Short notes"), {}
    oracle = make()

    async def main():
        completion = await oracle.describe_async(TEXTS[:2])
        await oracle.close_async()
        return completion

    assert asyncio.run(main()).text == "Short notes"
    assert provider.requests[0]["messages"][0]["content"] == render_description(TEXTS[:2])


@pytest.mark.parametrize(
    ("said", "fatal", "retryable", "retry_after"),
    [
        (trouble(401), True, False, None),
        (trouble(429, headers={"Retry-After": "7"}), False, True, 7.0),
        (trouble(400, "temperature is not supported"), True, False, None),
        ((200, {"error": "stopped"}, {}), False, True, None),
        ((200, b"<html>", {}), False, True, None),
    ],
)
def test_trouble_is_told_apart_as_on_threads(provider, make, said, fatal, retryable, retry_after):
    provider.always = said
    with pytest.raises(OracleError) as caught:
        answers(make())
    assert (caught.value.fatal, caught.value.retryable, caught.value.retry_after) == (fatal, retryable, retry_after)
    assert len(provider.requests) == 1


def test_what_is_refused_on_a_loop_is_not_sent_from_threads_either(provider, make):
    provider.always = lambda body: trouble(400, "no logprobs") if "logprobs" in body else (200, completion(), {})
    oracle = make()
    with pytest.warns(ClusterLLMWarning), pytest.raises(OracleError):
        answers(oracle)
    assert [answer.choice for answer in oracle.answer([TRIPLET])] == ["1"]


def test_a_missing_key_is_said_and_nothing_is_sent(provider, monkeypatch):
    monkeypatch.delenv("ACORN_KEY", raising=False)
    with pytest.raises(OracleError, match="ACORN_KEY holds no key"):
        answers(OpenAIOracle("acorn", provider.url, "ACORN_KEY"))
    assert provider.requests == []


def test_calls_run_at_once_on_one_client_and_the_loop_stays_free(provider, make, monkeypatch):
    import openai

    made, create = [], openai.AsyncOpenAI
    monkeypatch.setattr(
        openai, "AsyncOpenAI", lambda **settings: made.append(threading.current_thread()) or create(**settings)
    )
    together = threading.Barrier(8)

    def reply_together(body):
        together.wait(10)
        return 200, completion(), {}

    provider.always = reply_together
    oracle = make()

    async def main():
        got = await asyncio.gather(*(oracle.answer_async([TRIPLET]) for _ in range(8)))
        await oracle.close_async()
        return [answer.choice for (answer,) in got]

    assert asyncio.run(main()) == ["1"] * 8
    assert len(made) == 1
    assert made[0] is not threading.main_thread()


def test_each_loop_has_a_client_of_its_own(make):
    oracle = make()
    assert [answers(oracle)[0].choice for _ in range(2)] == ["1", "1"]


def test_a_client_that_was_not_closed_serves_its_own_loop_only(make):
    oracle = make()
    for _ in range(2):  # the connections of the first loop end with it
        assert asyncio.run(oracle.answer_async([TRIPLET]))[0].choice == "1"


@pytest.mark.parametrize("on_loop", [True, False])
def test_a_closed_client_is_made_anew(make, on_loop):
    oracle = make()

    async def main():
        for _ in range(2):
            assert (await oracle.answer_async([TRIPLET]))[0].choice == "1"
            await oracle.close_async()
        await oracle.close_async()

    if on_loop:
        asyncio.run(main())
    else:
        for _ in range(2):
            assert [answer.choice for answer in oracle.answer([TRIPLET])] == ["1"]
            oracle.close()
        oracle.close()


def test_a_call_that_the_loop_cancels_is_not_waited_for():
    async def main():
        going = asyncio.Event()

        async def call():
            going.set()
            await asyncio.sleep(60)

        waiting = asyncio.create_task(asyncio.to_thread(waited_for, call(), asyncio.get_running_loop(), "here"))
        await going.wait()
        (task,) = asyncio.all_tasks() - {waiting, asyncio.current_task()}
        task.cancel()
        with pytest.raises(OracleError, match="here: the call was cancelled") as caught:
            await waiting
        assert caught.value.fatal

    asyncio.run(main())


def test_a_loop_that_is_closed_is_not_called():
    loop = asyncio.new_event_loop()
    loop.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a coroutine that was never awaited
        with pytest.raises(OracleError, match="here: the event loop has ended"):
            waited_for(asyncio.sleep(0), loop, "here")
        gc.collect()


def test_a_cancelled_call_ends_at_once_and_leaves_nothing_open(provider, make):
    come, going = threading.Event(), threading.Event()

    def wait(body):
        come.set()
        going.wait(10)
        return 200, completion(), {}

    provider.always = wait
    oracle, complaints = make(), []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context["message"]))
        call = asyncio.create_task(oracle.answer_async([TRIPLET]))
        await asyncio.to_thread(come.wait, 10)
        start = time.perf_counter()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await oracle.close_async()
        assert time.perf_counter() - start < 1

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        asyncio.run(main())
        gc.collect()
    going.set()
    assert complaints == []
