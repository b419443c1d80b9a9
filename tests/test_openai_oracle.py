import socket
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

import clusterllm_oracles
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_plugins.asking import Session
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.failures import retry_after_of
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.prompts import render
from clusterllm_plugins.questions import Answer, OracleError, Usage, pair_question, triplet_question
from clusterllm_plugins.store import AnswerStore
from clusterllm_plugins.testing import TEXTS as SAMPLES
from clusterllm_plugins.testing import check_oracle
from openai_kit import completion, trouble

TEXTS = ["The kettle leaks", "Water drips from my kettle", "客厅的灯太暗了，换了灯泡还是不亮"]
TRIPLET = triplet_question(TEXTS, 0, 1, 2)
PAIR = pair_question(TEXTS, 0, 2)
KEY = "sk-squirrel-7"


@pytest.fixture
def make(provider, monkeypatch):
    monkeypatch.setenv("ACORN_KEY", KEY)

    def make_oracle(**settings):
        return OpenAIOracle(**{"model": "acorn", "base_url": provider.url, "api_key_env": "ACORN_KEY", **settings})

    return make_oracle


@pytest.fixture
def run():
    def ask(oracle, questions=(TRIPLET,), **settings):
        waits = []
        with AnswerStore() as store:
            plugins = Plugins(discover=False)
            session = Session(oracle, plugins=plugins, store=store, sleep=waits.append, **settings)
            return session.ask(list(questions), QuestionCap(100)), session, waits

    return ask


def failure(oracle):
    with pytest.raises(OracleError) as caught:
        list(oracle.answer([TRIPLET]))
    return caught.value


def test_it_is_found_by_name(provider):
    plugins = Plugins(discover=False)
    plugins.register(clusterllm_oracles, "builtin")
    oracle = plugins.oracle({"name": "openai", "base_url": provider.url, "api_key_env": None})
    assert [answer.choice for answer in oracle.answer([TRIPLET])] == ["1"]


def test_a_reply_is_an_answer(provider, make):
    provider.replies = [(200, completion("Choice 2"), {})]
    assert [answer.choice for answer in make().answer([TRIPLET])] == ["2"]


def test_what_a_reply_took_is_counted(provider, make):
    provider.replies = [(200, completion("yes", (61, 3)), {})]
    (answer,) = make().answer([PAIR])
    assert answer == Answer("yes", usage=Usage(61, 3, 1))


def test_a_request_has_model_prompt_and_limits(provider, make):
    list(make(temperature=0.5, max_output_tokens=7).answer([TRIPLET]))
    assert provider.requests == [
        {
            "path": "/v1/chat/completions",
            "key": f"Bearer {KEY}",
            "model": "acorn",
            "messages": [{"role": "user", "content": render(TRIPLET)}],
            "temperature": 0.5,
            "max_tokens": 7,
            "logprobs": True,
            "top_logprobs": 5,
        }
    ]


def test_the_likeliest_answer_is_asked_for_by_default(provider, make):
    list(make().answer([TRIPLET]))
    assert provider.requests[0]["temperature"] == 0


def test_openais_own_endpoint_gets_its_newer_name_for_the_limit(provider, make, monkeypatch):
    oracle = make(base_url=None, max_output_tokens=7)
    monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
    list(oracle.answer([TRIPLET]))
    assert (provider.requests[0].get("max_tokens"), provider.requests[0]["max_completion_tokens"]) == (None, 7)


def test_an_endpoint_from_the_environment_is_part_of_the_fingerprint(provider, make, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
    assert provider.url in make(base_url=None).fingerprint


def test_a_server_without_keys_needs_none(provider, make, monkeypatch):
    monkeypatch.delenv("ACORN_KEY")
    oracle = make(api_key_env=None)
    oracle.check()
    assert [answer.choice for answer in oracle.answer([TRIPLET])] == ["1"]


def test_no_key_of_another_server_is_sent_to_one_without_keys(provider, make, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    list(make(api_key_env=None).answer([TRIPLET]))
    assert KEY not in provider.requests[0]["key"]


@pytest.mark.parametrize("act", [OpenAIOracle.check, lambda oracle: list(oracle.answer([TRIPLET]))])
@pytest.mark.parametrize("key", [None, ""])
def test_a_missing_key_is_fatal_and_says_what_to_do(make, monkeypatch, act, key):
    monkeypatch.delenv("ACORN_KEY")
    if key is not None:
        monkeypatch.setenv("ACORN_KEY", key)
    with pytest.raises(OracleError) as caught:
        act(make())
    assert str(caught.value) == (
        "oracle 'openai': the environment variable ACORN_KEY holds no key; "
        'set it, or set api_key_env to "" for a server without one'
    )
    assert caught.value.fatal


def test_nothing_is_sent_without_a_key(provider, make, monkeypatch):
    monkeypatch.delenv("ACORN_KEY")
    failure(make())
    assert provider.requests == []


def test_the_key_is_looked_for_in_openai_api_key_by_default(provider, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    list(OpenAIOracle(base_url=provider.url).answer([TRIPLET]))
    assert provider.requests[0]["key"] == f"Bearer {KEY}"


def test_white_space_around_a_key_is_not_sent(provider, make, monkeypatch):
    monkeypatch.setenv("ACORN_KEY", f" {KEY}\n")
    list(make().answer([TRIPLET]))
    assert provider.requests[0]["key"] == f"Bearer {KEY}"


def test_a_key_with_white_space_around_it_is_never_in_an_error(provider, make, monkeypatch):
    monkeypatch.setenv("ACORN_KEY", f"{KEY} ")
    provider.always = trouble(401, f"Incorrect key provided: {KEY}")
    assert "squirrel" not in str(failure(make()))


def test_a_key_that_cannot_be_sent_is_fatal(make, monkeypatch):
    monkeypatch.setenv("ACORN_KEY", "sk-squirrel…7")
    error = failure(make())
    assert (error.fatal, "squirrel" in str(error)) == (True, False)


def test_a_key_in_place_of_its_name_is_refused_without_showing_it():
    with pytest.raises(ClusterLLMError) as caught:
        OpenAIOracle(api_key_env=KEY)
    assert str(caught.value) == "oracle 'openai': api_key_env takes the name of an environment variable, not a key"


def test_the_key_is_not_in_the_fingerprint(make):
    assert KEY not in make().fingerprint


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
def test_the_key_is_never_in_an_error(provider, make, status):
    provider.always = trouble(status, f"Incorrect key provided: {KEY}. And again: {KEY}")
    assert "squirrel" not in str(failure(make()))


@pytest.mark.parametrize("length", range(200, 330, 5))
def test_no_part_of_the_key_is_in_a_long_error(provider, make, length):
    provider.always = trouble(401, f"{'x' * length} {KEY}")
    assert "sk-" not in str(failure(make()))


def test_an_error_names_oracle_model_and_reason(provider, make):
    provider.always = trouble(404, "no model acorn")
    message = str(failure(make()))
    assert message.startswith(f"oracle 'openai' (acorn at {provider.url}): ")
    assert "no model acorn" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("status", "fatal", "retryable"),
    [
        (400, False, False),
        (401, True, False),
        (403, True, False),
        (404, True, False),
        (422, False, False),
        (429, False, True),
        (500, False, True),
        (503, False, True),
    ],
)
def test_trouble_is_told_apart(provider, make, status, fatal, retryable):
    provider.always = trouble(status)
    error = failure(make())
    assert (error.fatal, error.retryable) == (fatal, retryable)


def test_an_empty_account_is_fatal(provider, make):
    provider.always = trouble(429, "You exceeded your current quota", code="insufficient_quota")
    assert failure(make()).fatal


def test_a_server_that_is_not_there_may_come_back(make):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    error = failure(make(base_url=f"http://127.0.0.1:{port}/v1"))
    assert (error.retryable, error.fatal) == (True, False)


def test_a_slow_reply_may_be_faster_next_time(provider, make):
    def slow(body):
        time.sleep(0.3)
        return 200, completion(), {}

    provider.always = slow
    error = failure(make(timeout=0.05))
    assert (error.retryable, error.fatal) == (True, False)


@pytest.mark.parametrize("status", [429, 500])
def test_the_library_does_not_retry(provider, make, status):
    provider.always = trouble(status)
    failure(make())
    assert len(provider.requests) == 1


def test_the_session_waits_as_long_as_the_provider_asks(provider, make, run):
    provider.replies = [trouble(429, headers={"Retry-After": "7"})]
    answers, _, waits = run(make())
    assert ([answer.choice for answer in answers], waits) == (["1"], [7.0])


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "2.5"}, 2.5),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after-ms": "?", "retry-after": "7"}, 7.0),
        # By the clock of the provider, whatever ours says.
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_every_form_of_retry_after_is_understood(headers, seconds):
    error = Exception("busy")
    error.response = SimpleNamespace(headers=headers)
    assert retry_after_of(error) == seconds


def test_a_date_to_retry_after_reaches_the_session(provider, make):
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    provider.replies = [trouble(429, headers={"Retry-After": later})]
    assert failure(make()).retry_after == pytest.approx(100, abs=5)


def test_a_failing_server_is_asked_again_by_the_session(provider, make, run):
    provider.replies = [trouble(500), trouble(503)]
    answers, _, _ = run(make())
    assert ([answer.choice for answer in answers], len(provider.requests)) == (["1"], 3)


def test_as_many_retries_as_set(provider, make, run):
    provider.always = trouble(500)
    run(make(max_retries=2))
    assert len(provider.requests) == 3


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_model_stops_the_run(provider, make, run, status):
    provider.always = trouble(status)
    with pytest.raises(OracleError):
        run(make())
    assert len(provider.requests) == 1


def test_a_question_that_the_server_refuses_abstains_alone(provider, make, run):
    provider.replies = [trouble(400, "content policy")]
    answers, _, _ = run(make(concurrency=1), [PAIR, TRIPLET])
    assert [answer.choice for answer in answers] == [None, "1"]


def test_an_unreadable_reply_abstains(provider, make, run):
    provider.always = (200, completion("I would rather not"), {})
    answers, session, _ = run(make())
    assert answers == [Answer(None, usage=Usage(52, 1, 1), error="unreadable reply: 'I would rather not'")]
    assert session.tally.abstained == 1


@pytest.mark.parametrize("content", [None, ""])
def test_a_reply_without_text_abstains(provider, make, content):
    provider.replies = [(200, completion(content), {})]
    assert [answer.choice for answer in make().answer([TRIPLET])] == [None]


@pytest.mark.parametrize("choices", [[], None])
def test_a_reply_without_choices_abstains(provider, make, choices):
    provider.replies = [(200, completion() | {"choices": choices}, {})]
    assert [answer.choice for answer in make().answer([TRIPLET])] == [None]


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_a_reply_that_is_no_json_does_not_stop_the_run(provider, make, run, kind):
    provider.always = (200, b"<html>Please log in to the hotel network</html>", {"Content-Type": kind})
    answers, _, _ = run(make(max_retries=1))
    assert [answer.choice for answer in answers] == [None]


def test_a_reply_that_does_not_say_what_it_took_counts_as_the_worst_case(provider, make):
    provider.replies = [(200, completion(usage=None), {})]
    oracle = make()
    (answer,) = oracle.answer([TRIPLET])
    assert answer.usage == oracle.worst_case(TRIPLET)


def test_a_cap_on_tokens_holds_where_the_server_does_not_count(provider, make, run):
    provider.always = (200, completion(usage=None), {})
    oracle = make(concurrency=1)
    questions = [pair_question([f"note {n}" for n in range(10)], n, n + 1) for n in range(9)]
    worst = oracle.worst_case(questions[0]).tokens
    run(oracle, questions, max_tokens=3 * worst)
    assert len(provider.requests) == 3


def test_cost_is_reckoned_from_prices_per_million_tokens(provider, make):
    provider.replies = [(200, completion("1", (1000, 10)), {})]
    (answer,) = make(input_price=2.0, output_price=50.0).answer([TRIPLET])
    assert answer.usage.cost == pytest.approx(0.0025)


@pytest.mark.parametrize("prices", [{}, {"input_price": 2.0}, {"output_price": 2.0}])
def test_cost_is_unknown_without_both_prices(make, prices):
    oracle = make(**prices)
    (answer,) = oracle.answer([TRIPLET])
    assert (answer.usage.cost, oracle.worst_case(TRIPLET).cost) == (None, None)


def test_worst_case_has_a_cost_where_prices_are_known(make):
    worst = make(input_price=2.0, output_price=50.0, max_output_tokens=4).worst_case(TRIPLET)
    assert worst.cost == pytest.approx((worst.input_tokens * 2 + 4 * 50) / 1e6)


def test_a_cap_on_money_holds(provider, make, run):
    oracle = make(input_price=1.0, output_price=1.0, concurrency=1)
    questions = [pair_question([f"note {n}" for n in range(10)], n, n + 1) for n in range(9)]
    worst = oracle.worst_case(questions[0]).cost
    _, session, _ = run(oracle, questions, max_cost=worst + 53e-6 * 3.5)
    assert (len(provider.requests), session.usage.cost) == (4, pytest.approx(4 * 53e-6))


def count_bytes(body):
    prompt = body["messages"][0]["content"]
    return 200, completion("1", (len(prompt.encode()) + 11, body["max_tokens"])), {}


@pytest.mark.parametrize("question", [TRIPLET, PAIR, pair_question(SAMPLES, 5, 6)])
def test_worst_case_is_not_exceeded_even_with_a_token_for_every_byte(provider, make, question):
    provider.always = count_bytes
    oracle = make()
    worst = oracle.worst_case(question)
    (answer,) = oracle.answer([question])
    assert answer.usage.input_tokens <= worst.input_tokens
    assert answer.usage.output_tokens <= worst.output_tokens


@pytest.mark.parametrize(
    "change",
    [{"model": "walnut"}, {"base_url": "http://localhost:1/v1"}, {"temperature": 1.0}, {"max_output_tokens": 9}],
)
def test_fingerprint_names_what_could_change_an_answer(make, change):
    assert make(**change).fingerprint != make().fingerprint


@pytest.mark.parametrize("change", [{"concurrency": 2}, {"timeout": 1.0}, {"max_retries": 0}, {"input_price": 1.0}])
def test_fingerprint_does_not_change_with_what_changes_no_answer(make, change):
    assert make(**change).fingerprint == make().fingerprint


def test_it_keeps_the_contract(provider, make):
    def reply(body):
        prompt = body["messages"][0]["content"]
        return 200, completion("no" if "yes or no" in prompt else "2", (len(prompt.split()), 1)), {}

    provider.always = reply
    check_oracle(make)


def test_how_long_an_outage_is_waited_for_changes_no_answer():
    patient = OpenAIOracle("acorn", "http://127.0.0.1:9/v1", None, patience=7200)
    assert patient.patience == 7200
    assert patient.fingerprint == OpenAIOracle("acorn", "http://127.0.0.1:9/v1", None).fingerprint
