"""The embedder ``openai`` against a real server on the loopback, which also misbehaves."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openai")

from clusterllm_embedders import embedding_texts
from clusterllm_embedders.embedding_texts import inputs_of, requests_of, sendable
from clusterllm_embedders.openai import OpenAIEmbedder
from clusterllm_embedders.prices import price_of
from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.embedding import embed_texts
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning, DataError
from embedding_worker import texts_of
from embeddings_kit import EmbeddingServer, embeddings, tokens_of, vector_of
from loopback import running

WORKER = Path(__file__).with_name("embedding_worker.py")
KEY = "sk-walnut-1234567890abcdef"
ODD_KEY = "acorn/Walnut+Hazel=7f3a9c"  # looks like no key that anybody knows
TEXTS = texts_of(40)
WANTED = np.stack([vector_of(text) for text in TEXTS])

pytestmark = pytest.mark.usefixtures("no_proxy")


@pytest.fixture
def server():
    with running(EmbeddingServer()) as server:
        yield server


@pytest.fixture
def made(server, waits):
    """Make an embedder whose waits are written down in place of waiting."""

    def make(**settings):
        settings = {"model": "acorn", "base_url": server.url, "api_key_env": "", "batch_size": 10} | settings
        embedder = OpenAIEmbedder(**settings)
        embedder._caller._sleep = waits.append
        return embedder

    return make


def said(status, message="no luck", headers=()):
    return status, {"error": {"message": message}}, dict(headers)


def altered(change):
    """Return a reply that is well but for what ``change`` does to its data."""

    def reply(body):
        good = embeddings(body | {"encoding_format": "float"})
        change(good["data"])
        return 200, good, {}

    return reply


# What is sent, and what comes back.


@pytest.mark.parametrize("encoding_format", ["base64", "float"])
def test_each_text_has_its_vector(made, server, encoding_format):
    assert np.allclose(made(encoding_format=encoding_format).embed(TEXTS), WANTED, atol=1e-6)
    assert {body["encoding_format"] for body in server.requests} == {encoding_format}


def test_texts_go_in_batches(made, server):
    made().embed(TEXTS)
    assert sorted(len(body["input"]) for body in server.requests) == [10] * 4


def test_a_server_that_sends_them_in_another_order_is_understood(made, server):
    server.always = altered(lambda data: data.reverse())
    assert np.allclose(made().embed(TEXTS), WANTED, atol=1e-6)


def test_a_server_that_ignores_the_format_is_understood(made, server):
    server.always = altered(lambda data: None)
    assert np.allclose(made().embed(TEXTS), WANTED, atol=1e-6)


def test_dimensions_are_asked_for(made, server):
    assert made(dimensions=3).embed(TEXTS[:2]).shape == (2, 3)
    assert server.requests[0]["dimensions"] == 3


def test_dimensions_are_not_sent_where_they_are_not_set(made, server):
    made().embed(TEXTS[:2])
    assert set(server.requests[0]) == {"model", "input", "encoding_format"}


def test_vectors_have_length_one_unless_that_is_not_wanted(made, server):
    server.always = altered(lambda data: [one.update(embedding=[3.0, 4.0]) for one in data])
    assert np.allclose(made().embed(TEXTS[:1]), [[0.6, 0.8]])
    assert np.allclose(made(normalize=False).embed(TEXTS[:1]), [[3, 4]])


def test_a_blank_text_is_not_sent(made, server):
    vectors = made().embed(["", TEXTS[0], " \n"])
    assert server.texts == [TEXTS[0]]
    assert (vectors.any(axis=1)).tolist() == [False, True, False]


def test_making_one_needs_no_key_and_sends_nothing(server, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "acorn" in OpenAIEmbedder("acorn", base_url=server.url).fingerprint
    assert server.requests == []


def test_the_key_of_the_variable_is_sent(made, server, monkeypatch):
    monkeypatch.setenv("ACORN_KEY", KEY)
    made(api_key_env="ACORN_KEY").embed(TEXTS[:1])
    assert server.keys == [f"Bearer {KEY}"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"api_key_env": KEY}, "api_key_env takes the name"),
        ({"base_url": f"http://{KEY}@127.0.0.1/v1"}, "holds a user or a key"),
        ({"batch_size": 2049}, "batch_size must be from 1 to 2048, not 2049"),
        ({"dimensions": 0}, "dimensions must be at least 1"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"encoding_format": "text"}, "encoding_format is one of base64, float, not 'text'"),
        ({"max_cost": 1.0}, "max_cost needs a price, and that of 'acorn' is unknown here"),
    ],
)
def test_a_setting_without_meaning_is_an_error(made, settings, message):
    with pytest.raises(ClusterLLMError, match=message) as raised:
        made(**settings)
    assert KEY not in str(raised.value)


def test_the_list_price_is_of_openai_only():
    assert price_of("text-embedding-3-small", None, None) == 0.02
    assert price_of("text-embedding-3-small", "http://127.0.0.1/v1", None) is None
    assert price_of("text-embedding-3-small", None, 1.5) == 1.5


# Long texts.


def test_a_request_keeps_to_the_limit_of_tokens(monkeypatch):
    monkeypatch.setattr(embedding_texts, "REQUEST_TOKENS", 100)
    requests = requests_of(inputs_of([letter * 26 for letter in "abcdef"], None), 10)
    assert [sum(one.tokens for one in request) for request in requests] == [90, 90]


def test_a_text_alone_may_be_larger_than_a_request(monkeypatch):
    monkeypatch.setattr(embedding_texts, "REQUEST_TOKENS", 10)
    assert [len(request) for request in requests_of(inputs_of(["a" * 99, "b"], None), 10)] == [1, 1]


def test_a_long_text_is_cut_with_a_warning(made, server):
    text = "The kettle whistles. " * 500
    with pytest.warns(ClusterLLMWarning, match="longer than max_length = 1000 tokens"):
        made(max_length=1000).embed([text])
    assert text.startswith(server.texts[0])
    assert 3000 < len(server.texts[0]) < len(text)


def test_a_text_is_cut_before_it_can_be_too_long_in_any_script():
    assert len(sendable("茶壶" * 9000, 8192).encode()) <= 8192


def test_a_refused_length_says_what_to_set(made, server):
    server.replies = [said(400, "This model's maximum context length is 512 tokens")]
    with pytest.raises(ClusterLLMError, match=r"set max_length or batch_size lower: .*512 tokens"):
        made().embed(TEXTS[:1])


# Trouble that passes.


@pytest.mark.parametrize(
    "reply",
    [
        said(429),
        said(500),
        said(503),
        (200, b'{"data": [{"index": 0, "embed', {}),
        (200, b"<html>busy</html>", {}),
        (200, {"error": {"message": "busy"}}, {}),
        altered(lambda data: data.pop()),
        altered(lambda data: data[0].update(index=1)),
        altered(lambda data: data[0].update(embedding=[float("nan")] * 4)),
        altered(lambda data: data[0].update(embedding=[1.0])),
        altered(lambda data: data[0].update(embedding=None)),
        altered(lambda data: data[0].update(embedding="AAA")),
        None,
    ],
)
def test_trouble_that_passes_is_tried_again(made, server, waits, reply):
    server.replies = [reply if callable(reply) else (lambda body: reply)]
    assert np.allclose(made(concurrency=1).embed(TEXTS[:10]), WANTED[:10], atol=1e-6)
    assert (len(server.requests), len(waits)) == (2, 1)


@pytest.mark.parametrize(
    ("name", "value", "seconds"),
    [
        ("Retry-After", lambda: "7", 7),
        ("retry-after-ms", lambda: "1500", 1.5),
        # A date has whole seconds, and so has that of the server.
        ("Retry-After", lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True), 60),
    ],
)
def test_the_server_says_how_long_to_wait(made, server, waits, name, value, seconds):
    server.replies = [lambda body: said(429, headers={name: value()})]
    made().embed(TEXTS[:1])
    assert waits == [pytest.approx(seconds, abs=1.1 if seconds == 60 else 1e-6)]


def test_the_waits_grow_with_full_jitter(made, server, waits):
    server.replies = [said(500)] * 5
    made().embed(TEXTS[:1])
    assert all(0 <= wait <= 0.5 * 2**number for number, wait in enumerate(waits))
    assert len(waits) == 5


def test_all_threads_pause_where_every_request_fails(made, server, waits):
    server.replies = [said(500)] * 20  # eight open the circuit, seven more are in flight by then
    assert np.allclose(made(batch_size=1, max_retries=3).embed(TEXTS), WANTED, atol=1e-6)
    assert [wait for wait in waits if wait in (1, 2, 4, 8)] == [1, 2, 4, 8]


def test_an_outage_ends_when_the_patience_does(made, server):
    server.always = said(503)
    with pytest.raises(ClusterLLMError, match=r"no answer for \d+ s: .*503.*run it again later"):
        made(batch_size=1, patience=60).embed(TEXTS)


def test_requests_keep_to_the_rate(server):
    embedder = OpenAIEmbedder(
        "acorn", base_url=server.url, api_key_env="", batch_size=1, requests_per_minute=1200, concurrency=4
    )
    start = time.monotonic()
    embedder.embed(TEXTS[:11])
    assert 0.5 <= time.monotonic() - start < 5


def test_tokens_that_were_not_taken_are_given_back_to_the_rate(server):
    def seconds(tokens_per_minute):
        embedder = OpenAIEmbedder(
            "acorn",
            base_url=server.url,
            api_key_env="",
            batch_size=1,
            concurrency=1,
            tokens_per_minute=tokens_per_minute,
        )
        start = time.monotonic()
        embedder.embed(TEXTS[:11])
        return time.monotonic() - start

    # About 10 tokens each are billed, 35 reserved: ten of them take half a second at 12,000 a minute, not 1.75.
    assert 0.4 <= seconds(12_000) < 1.5


# Trouble that stays.


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (said(401, f"Incorrect API key {ODD_KEY}"), "401"),
        (said(404, "no such model"), "no such model"),
        (said(400, "bad\nrequest"), "bad request"),
        (said(429, "insufficient_quota"), "insufficient_quota"),
    ],
)
def test_trouble_that_stays_is_one_line_without_the_key(made, server, monkeypatch, reply, message):
    monkeypatch.setenv("ORCHARD", ODD_KEY)
    server.always = reply
    with pytest.raises(ClusterLLMError, match=message) as raised:
        made(api_key_env="ORCHARD", concurrency=1).embed(TEXTS[:10])
    assert len(server.requests) == 1
    assert "\n" not in str(raised.value)
    chain, error = [], raised.value
    while error is not None:
        chain.append(f"{error!r} {vars(error)}")
        error = error.__cause__ or error.__context__
    assert ODD_KEY not in str(chain)


def test_vectors_of_another_size_are_an_error(made, server):
    server.always = altered(lambda data: data[0].update(embedding=[1.0] * 4))
    with pytest.raises(ClusterLLMError, match="vectors of size 4, not 9; the model cannot shorten vectors"):
        made(dimensions=9).embed(TEXTS[:1])


def test_retries_end(made, server):
    server.always = said(500)
    with pytest.raises(ClusterLLMError, match="500"):
        made(max_retries=2).embed(TEXTS[:1])
    assert len(server.requests) == 3


def test_a_missing_key_is_one_line(made, monkeypatch):
    monkeypatch.delenv("HAZEL_KEY", raising=False)
    with pytest.raises(ClusterLLMError, match="the environment variable HAZEL_KEY holds no key"):
        made(api_key_env="HAZEL_KEY").embed(TEXTS[:1])


# Nothing is paid twice.


def test_a_second_run_sends_nothing(made, server, tmp_path):
    first = embed_texts(made(), TEXTS, cache=tmp_path)
    count = len(server.requests)
    assert np.array_equal(embed_texts(made(), TEXTS, cache=tmp_path), first)
    assert len(server.requests) == count == 4


def test_what_came_before_an_error_is_kept(made, server, tmp_path):
    server.replies = [lambda body: (200, embeddings(body), {})] * 3 + [said(401)]
    with pytest.raises(ClusterLLMError, match="30 of 40 texts are embedded and kept in the cache, the same run goes"):
        embed_texts(made(concurrency=1), TEXTS, cache=tmp_path)
    server.requests.clear()
    embed_texts(made(), TEXTS, cache=tmp_path)
    assert len(server.texts) == 10


def test_without_a_cache_the_error_says_that_nothing_is_kept(made, server):
    server.replies = [lambda body: (200, embeddings(body), {}), said(401)]
    with pytest.raises(ClusterLLMError, match="without a cache none is kept"):
        embed_texts(made(concurrency=1), TEXTS)


def test_an_interrupt_keeps_what_is_in_flight(server, tmp_path):
    server.latency = 0.3
    embedder = OpenAIEmbedder("acorn", base_url=server.url, api_key_env="", batch_size=5, concurrency=3)

    def interrupt():
        while not server.in_flight:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        embed_texts(embedder, TEXTS, cache=tmp_path)
    sent = len(server.texts)
    assert 0 < sent < 40
    server.requests.clear()
    server.latency = 0
    embed_texts(embedder, TEXTS, cache=tmp_path)
    assert len(server.texts) == 40 - sent


def test_a_second_interrupt_does_not_wait(server, tmp_path):
    server.latency = 2.0
    embedder = OpenAIEmbedder("acorn", base_url=server.url, api_key_env="", batch_size=5, concurrency=2)

    def interrupt():
        for _ in range(2):
            while not server.in_flight:
                time.sleep(0.005)
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        embed_texts(embedder, TEXTS, cache=tmp_path)
    assert time.monotonic() - start < 1.5


@pytest.mark.slow
def test_a_killed_run_pays_twice_only_for_what_was_in_flight(tmp_path):
    moments = random.Random(3)
    count, batch_size, concurrency, kills = 600, 5, 4, 5
    with running(EmbeddingServer(latency=0.05)) as server:
        settings = {"url": server.url, "cache": str(tmp_path), "count": count}
        settings |= {"batch_size": batch_size, "concurrency": concurrency}
        command = [sys.executable, str(WORKER), json.dumps(settings)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
        for _ in range(kills):
            before = len(server.requests)
            with subprocess.Popen(command, env=environment) as worker:
                while len(server.requests) == before:
                    assert worker.poll() is None
                    time.sleep(0.005)
                time.sleep(moments.uniform(0.1, 0.4))
                worker.kill()
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=120)
        assert (done.stdout, done.stderr) == (f"{count}\n", "")
        sent = Counter(server.texts)
        finished = len(server.requests)
        assert subprocess.run(command, check=False, env=environment, capture_output=True, timeout=120).returncode == 0
        assert len(server.requests) == finished
    assert len(sent) == count
    assert sent.total() - count <= kills * concurrency * batch_size


# Caps.


def cap_of(cap, **settings):
    return settings | ({"max_tokens": cap} if isinstance(cap, int) else {"max_cost": cap, "input_price": 1000.0})


@pytest.mark.parametrize("cap", [1500, 1.5])
def test_no_cap_is_passed_by_sixteen_threads(server, tmp_path, cap):
    server.latency = 0.01
    embedder = OpenAIEmbedder("acorn", base_url=server.url, api_key_env="", batch_size=3, concurrency=16, **cap_of(cap))
    with pytest.raises(ClusterLLMError, match=rf"the cap of {cap} .* is reached; raise max_\w+; \d+ of 400 texts"):
        embed_texts(embedder, texts_of(400), cache=tmp_path)
    assert 1400 < server.billed <= 1500
    assert embedder.usage.tokens == server.billed
    assert server.most_in_flight > 4


def test_a_run_goes_on_when_its_cap_is_raised(made, server, tmp_path):
    with pytest.raises(ClusterLLMError, match="is reached"):
        embed_texts(made(max_tokens=200), TEXTS, cache=tmp_path)
    assert 0 < len(server.texts) < 40
    assert np.allclose(embed_texts(made(max_tokens=2000), TEXTS, cache=tmp_path), WANTED, atol=1e-6)
    assert len(server.texts) == 40


def test_failed_attempts_count_against_the_cap(made, server):
    worst = len(TEXTS[0]) + 4
    server.always = said(500)
    with pytest.raises(ClusterLLMError, match="the cap"):
        made(max_tokens=3 * worst, max_retries=5).embed(TEXTS[:1])
    assert len(server.requests) == 3


def test_a_cap_holds_for_all_that_an_embedder_ever_sends(made, server):
    embedder = made(max_tokens=50)
    embedder.embed(TEXTS[:2])
    assert server.billed == sum(map(tokens_of, TEXTS[:2]))
    embedder.embed(TEXTS[2:3])
    with pytest.raises(ClusterLLMError, match="the cap of 50 tokens"):
        embedder.embed(TEXTS[3:4])


def test_usage_is_what_the_server_counts(made, server):
    embedder = made(input_price=2.0)
    embedder.embed(TEXTS)
    tokens = sum(map(tokens_of, TEXTS))
    assert (embedder.usage.tokens, embedder.usage.requests) == (tokens, 4)
    assert embedder.usage.cost == pytest.approx(2e-6 * tokens)


def test_a_server_that_does_not_count_is_taken_to_have_used_the_most(made, server):
    server.always = lambda body: (200, embeddings(body, usage=False), {})
    embedder = made()
    embedder.embed(TEXTS)
    assert embedder.usage.tokens == embedder.worst_case(TEXTS).tokens == sum(len(text) + 4 for text in TEXTS)


def test_threads_share_the_concurrency_of_an_embedder(server):
    server.latency = 0.05
    embedder = OpenAIEmbedder("acorn", base_url=server.url, api_key_env="", batch_size=5, concurrency=3)
    threads = [threading.Thread(target=embedder.embed, args=(TEXTS,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.most_in_flight == 3


def test_sizes_that_differ_between_requests_are_an_error(made, server):
    server.replies = [lambda body: (200, embeddings(body), {}), lambda body: (200, embeddings(body, size=5), {})]
    with pytest.raises((ClusterLLMError, DataError), match="vectors of size 5, not 4"):
        embed_texts(made(concurrency=1), TEXTS)


# Beside a fit.


def model_with(server, **settings):
    spec = {"name": "openai", "model": "acorn", "base_url": server.url, "api_key_env": "", "input_price": 2.0}
    return ClusterLLM(embedder=spec, n_clusters=3, progress=False, **settings)


def test_the_report_says_what_a_fit_has_taken(server, tmp_path):
    model = model_with(server, cache=tmp_path).fit(TEXTS)
    tokens = sum(map(tokens_of, TEXTS))
    assert model.report_["embedding"] == {"input_tokens": tokens, "requests": 1, "cost": pytest.approx(2e-6 * tokens)}
    assert model.fit(TEXTS).report_["embedding"]["input_tokens"] == 0


def test_a_quote_says_what_embedding_takes(server):
    spec = {"name": "simulated", "labels": ["a"] * 40}
    quoted = model_with(server, oracle=spec).quote(TEXTS)["embedding"]
    assert server.requests == []
    assert quoted["input_tokens"] <= quoted["input_tokens_at_most"] == sum(len(text) + 4 for text in TEXTS)
    assert quoted["cost"] == pytest.approx(2e-6 * quoted["input_tokens"])


def test_a_loaded_model_embeds_where_it_did(server, tmp_path):
    model = model_with(server).fit(TEXTS)
    model.save(tmp_path / "model")
    server.requests.clear()
    assert np.array_equal(ClusterLLM.load(tmp_path / "model").predict(TEXTS), model.labels_)
    assert len(server.texts) == len(TEXTS)
