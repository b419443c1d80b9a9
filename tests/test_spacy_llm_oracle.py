import functools
import importlib.util
import subprocess
import sys
import threading
import time

import pytest

from asking_kit import ask
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_oracles.spacy_llm import SpacyLLMOracle
from clusterllm_plugins.errors import ClusterLLMError, MissingExtraError, PluginError
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.prompts import render
from clusterllm_plugins.questions import Answer, OracleError, pair_question, triplet_question
from clusterllm_plugins.testing import check_oracle
from openai_kit import completion, trouble

TRIPLET = triplet_question(["The kettle leaks", "Water drips from my kettle", "客厅的灯太暗了"], 0, 1, 2)
KEY = "squirrel7walnut"  # looks like no key that anybody knows
GPT = "spacy.GPT-4.v3"

FATAL, RETRYABLE, NEITHER = (True, False), (False, True), (False, False)


@pytest.fixture
def provider(provider, monkeypatch):
    monkeypatch.delenv("OPENAI_API_ORG", raising=False)
    return provider


@pytest.fixture
def models():
    """The registry of models, as it was before once a test is over."""
    pytest.importorskip("spacy_llm", reason="the extra spacy-llm is not installed")
    import catalogue
    from spacy_llm.registry import registry

    before = dict(catalogue.REGISTRY)
    yield registry.llm_models
    catalogue.REGISTRY.clear()
    catalogue.REGISTRY.update(before)


@pytest.fixture
def gpt(models, provider, monkeypatch):
    """Make spacy-llm's own model for OpenAI's protocol, which else asks OpenAI itself which models there are."""
    from spacy_llm.models.rest.openai import OpenAI

    monkeypatch.setattr(OpenAI, "_verify_auth", lambda model: None)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def make_model(**settings):
        return models.get(GPT)(**{"name": "acorn", "endpoint": provider.url, **settings})

    return make_model


@pytest.fixture
def make(gpt):
    def make_oracle(model=(), **settings):
        return SpacyLLMOracle(gpt(**dict(model)), **settings)

    return make_oracle


@pytest.fixture
def azure(models, provider, monkeypatch):
    """An oracle by the name of a model that sends a prompt to its own endpoint when it is made."""
    monkeypatch.setenv("AZURE_OPENAI_KEY", KEY)
    settings = {"name": "acorn", "deployment_name": "oak", "model_type": "chat", "base_url": provider.url}
    return SpacyLLMOracle("spacy.Azure.v2", settings)


def says(text):
    """Return a model that always says ``text``."""
    return lambda prompts: [[text for _ in of_doc] for of_doc in prompts]


def fails(error):
    def model(*prompts):
        raise error

    return model


def other(prompts, *more, **named):
    return [["2"]]


class CallableOracle:
    def __call__(self, prompts):
        return [["1"]]

    def answer(self, questions):
        return []


def choices(oracle):
    return [answer.choice for answer in oracle.answer([TRIPLET])]


def failure(oracle):
    with pytest.raises(OracleError) as caught:
        list(oracle.answer([TRIPLET]))
    assert "\n" not in str(caught.value)
    return caught.value


def kind(error):
    return error.fatal, error.retryable


def test_it_is_found_by_name():
    assert choices(Plugins().oracle({"name": "spacy-llm", "model": says("2")})) == ["2"]


def test_a_callable_is_asked_with_the_prompt_nested_by_doc_and_shard():
    asked = []

    def model(prompts):
        for of_doc in prompts:
            asked.append(list(of_doc))
            yield ("2" for _ in of_doc)

    assert (choices(SpacyLLMOracle(model)), asked) == (["2"], [[render(TRIPLET)]])


def test_a_registered_model_is_made_once_and_when_it_is_needed(models):
    made = []
    models.register("acorn.Counted.v1", func=lambda text: made.append(text) or says(text))
    oracle = SpacyLLMOracle("acorn.Counted.v1", {"text": "2"})
    before = list(made)
    oracle.check()
    assert (before, choices(oracle), choices(oracle), made) == ([], ["2"], ["2"], ["2"])


def test_a_model_of_spacy_llms_own_works_by_name(azure):
    assert choices(azure) == ["1"]


def test_a_model_over_http_asks_its_endpoint_with_name_settings_and_key(provider, make):
    list(make({"config": {"temperature": 0.5}}).answer([TRIPLET]))
    messages = [{"role": "user", "content": render(TRIPLET)}]
    assert provider.requests == [
        {"path": "/v1", "key": f"Bearer {KEY}", "model": "acorn", "messages": messages, "temperature": 0.5}
    ]


def test_a_model_that_runs_here_needs_no_spacy_llm(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choices(SpacyLLMOracle(says("1"))) == ["1"]


def test_requests_are_sent_at_once(provider, make, open_session):
    barrier = threading.Barrier(8, timeout=5)

    def reply(body):
        barrier.wait()
        return 200, completion("yes"), {}

    provider.always = reply
    answers = ask(open_session(make()), [pair_question([f"note {n}", "x"], 0, 1) for n in range(8)])
    assert [answer.choice for answer in answers] == ["yes"] * 8


def test_a_429_is_retried_by_the_session_after_the_time_that_the_server_asks_for(provider, make, open_session, waits):
    provider.replies = [trouble(429, headers={"Retry-After": "7"})]
    (answer,) = ask(open_session(make()), [TRIPLET])
    assert (answer.choice, waits, len(provider.requests)) == ("1", [7.0], 2)


@pytest.mark.parametrize(
    ("model", "text", "asked"),
    [({}, "dog bites man", 1), ({}, "man bites dog", 2), ({"config": {"temperature": 1.0}}, "dog bites man", 2)],
)
def test_a_second_run_asks_only_what_is_new(provider, make, open_session, model, text, asked):
    ask(open_session(make()), [pair_question(["dog bites man", "x"], 0, 1)])
    ask(open_session(make(model)), [pair_question([text, "x"], 0, 1)])
    assert len(provider.requests) == asked


@pytest.mark.parametrize("text", ["**Answer: 2**", "<think>1?</think>\n2", "the second one"])
def test_replies_are_read_tolerantly(text):
    assert choices(SpacyLLMOracle(says(text))) == ["2"]


def test_the_module_imports_nothing_of_spacy_llm():
    code = "import sys, clusterllm_oracles.spacy_llm; print({'spacy', 'spacy_llm', 'requests'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_name_without_spacy_llm_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"^oracle 'spacy-llm' needs .*clusterllm-plugins\[spacy-llm\]"):
        SpacyLLMOracle(GPT)


@pytest.mark.parametrize("act", [SpacyLLMOracle.check, choices, lambda oracle: oracle.concurrency])
def test_an_unknown_name_is_told_with_near_ones(models, act):
    with pytest.raises(PluginError, match=r"no model 'spacy.GPT-4.v9' in @llm_models, near ones: spacy.GPT-4.v"):
        act(SpacyLLMOracle("spacy.GPT-4.v9"))


@pytest.mark.parametrize("model", [5, OpenAIOracle, CallableOracle()])
def test_what_is_no_model_is_refused(model):
    with pytest.raises(ClusterLLMError, match=r"(int|OpenAIOracle|CallableOracle) is neither a model nor the name of"):
        SpacyLLMOracle(model)


def test_settings_for_a_callable_are_refused():
    with pytest.raises(ClusterLLMError, match="config is for a model given by name; set it where it is made"):
        SpacyLLMOracle(says("1"), {"name": "acorn"})


def test_a_broken_spacy_llm_is_an_error_of_one_line(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy_llm.registry", None)
    assert "cannot be made (ModuleNotFoundError: " in str(failure(SpacyLLMOracle(GPT)))


@pytest.mark.filterwarnings("ignore:Could not find the API key")
def test_a_missing_key_is_fatal_and_told_in_one_line(azure, monkeypatch):
    monkeypatch.delenv("AZURE_OPENAI_KEY")
    error = failure(azure)
    assert error.fatal
    assert str(error).endswith("cannot be made (AssertionError: ); are its settings and its provider's key right?")


def test_a_key_that_is_refused_when_the_model_is_made_is_fatal(provider, azure):
    provider.always = trouble(401, f"Incorrect key: {KEY}")
    with pytest.raises(OracleError, match=r"\(spacy.Azure.v2\): cannot be made \(ValueError: .*Incorrect key: \*\*\*"):
        azure.check()


def test_an_unknown_setting_is_fatal(models):
    error = failure(SpacyLLMOracle(GPT, {"endpont": "x"}))
    assert (kind(error), "unexpected keyword argument 'endpont'" in str(error)) == (FATAL, True)


@pytest.mark.parametrize(
    "reason",
    [
        f"denied:\n{KEY}. Again: {KEY}",
        "denied: sk-squirrel-7",
        f"x/?key={KEY[::-1]}&n=1",
        f"Authorization: Bearer {KEY[::-1]}",
        f"http://me:{KEY[::-1]}@x",
        *("x" * length + " sk-squirrel-7" for length in range(380, 440, 5)),  # the line is cut
    ],
)
def test_no_key_is_in_an_error(monkeypatch, reason):
    monkeypatch.setenv("ACORN_API_KEY", KEY)
    monkeypatch.setenv("ACORN_TOKEN", KEY[:9])  # a part of the other one
    error = str(failure(SpacyLLMOracle(fails(ValueError(reason)))))
    assert [part for part in ("sk-", "squirrel", "walnut", KEY[::-1]) if part in error] == []
    assert len(error) <= 500


def test_the_key_of_a_model_over_http_is_not_in_an_error(provider, make, monkeypatch):
    provider.always = trouble(400, f"Incorrect key provided: {KEY}")
    oracle = make()
    monkeypatch.delenv("OPENAI_API_KEY")
    assert "squirrel" not in str(failure(oracle))


@pytest.mark.parametrize("config", [{"api_key": KEY}, {"headers": {"X-Oak": KEY}}, {"x": [{"url": f"x?key={KEY}"}]}])
def test_a_key_is_not_in_the_fingerprint(models, make, config):
    oracles = SpacyLLMOracle(GPT, {"config": config}), SpacyLLMOracle(functools.partial(other, **config))
    assert KEY not in "".join(oracle.fingerprint for oracle in (*oracles, make({"config": config})))


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, NEITHER), (422, NEITHER), (401, FATAL), (403, FATAL), (404, FATAL)]
    + [(status, RETRYABLE) for status in (408, 409, 429, 500, 503)],
)
@pytest.mark.parametrize("body", [trouble(0)[1], ["no luck"], b"<html>"])
def test_trouble_is_told_apart_by_status_whatever_the_body(provider, make, status, expected, body):
    provider.always = status, body, {}
    error = failure(make())
    assert (kind(error), str(status) in str(error), len(provider.requests)) == (expected, True, 1)


def test_an_error_names_oracle_model_endpoint_and_reason(provider, make):
    provider.always = trouble(404, "no such tree")
    assert str(failure(make())).startswith(
        f"oracle 'spacy-llm' (spacy_llm.models.rest.openai.model.OpenAI, acorn at {provider.url}): "
        "ValueError: Request to OpenAI API failed: no such tree (404 Client Error"
    )


def test_an_empty_account_is_fatal(provider, make):
    provider.always = trouble(429, "You exceeded your current quota", code="insufficient_quota")
    assert kind(failure(make())) == FATAL


@pytest.mark.parametrize(
    "reply",
    [lambda body: time.sleep(0.3) or (200, completion(), {}), lambda body: None, (200, b"{}", {"Content-Length": 99})],
)
def test_a_slow_or_broken_connection_may_do_better_next_time(provider, make, reply):
    provider.always = reply
    assert kind(failure(make({"max_request_time": 0.1}))) == RETRYABLE


@pytest.mark.parametrize("endpoint", ["localhost:1/v1", "ftp://localhost/v1", "http://"])
def test_an_endpoint_that_is_none_is_fatal(make, endpoint):
    assert kind(failure(make({"endpoint": endpoint}))) == FATAL


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    "body",
    [
        b"<html>hotel network</html>",
        {"choices": []},
        {"choices": [{"index": 1, "message": {}, "finish_reason": "length"}]},
        completion(None),
        trouble(0, "1")[1],
    ],
)
def test_a_response_without_a_text_abstains(provider, make, body, strict):
    provider.always = 200, body, {}
    assert kind(failure(make({"strict": strict}))) == NEITHER


def test_a_reply_in_json_is_read(provider, make):
    provider.always = 200, completion('{"answer": "2"}'), {}
    assert choices(make()) == ["2"]


def test_as_many_retries_as_set(provider, make, open_session):
    provider.always = trouble(500)
    ask(open_session(make(max_retries=2)), [TRIPLET])
    assert len(provider.requests) == 3


def test_the_model_that_was_given_still_retries_for_others(provider, gpt):
    model = gpt(interval=0.01)
    list(SpacyLLMOracle(model).answer([TRIPLET]))
    provider.replies = [trouble(429)]
    assert model([["hi"]]) == [["1"]]


class NamedError(Exception):
    """An error of another library, which is known by its fields alone."""

    def __init__(self, **fields):
        super().__init__("no luck")
        vars(self).update(fields)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError(), RETRYABLE),
        (ConnectionResetError(), RETRYABLE),
        (NamedError(status_code=429), RETRYABLE),
        (NamedError(status_code=401), FATAL),
        (NamedError(code=503), RETRYABLE),
        (NamedError(status_code=429, code="insufficient_quota"), FATAL),
        (NamedError(code="rate"), NEITHER),
        (KeyError("x"), NEITHER),
        (OracleError("mine", retryable=True), RETRYABLE),
    ],
)
def test_trouble_of_any_callable_is_told_apart(error, expected):
    assert kind(failure(SpacyLLMOracle(fails(error)))) == expected


@pytest.mark.parametrize("replies", [[], [[]], ["1"], "1", [[None]], [[1]], [[b"1"]], [b"1"], [None], None, 5])
def test_replies_of_another_shape_abstain_and_are_asked_again_by_the_next_run(open_session, replies):
    for given, choice in ((replies, None), ([["1"]], "1")):
        (answer,) = ask(open_session(SpacyLLMOracle(lambda prompts, given=given: given)), [TRIPLET])
        assert answer.choice == choice


def test_a_reply_is_charged_at_its_worst_case():
    oracle = SpacyLLMOracle(says("1"), max_output_tokens=9)
    (answer,) = oracle.answer([TRIPLET])
    assert (answer, answer.usage.output_tokens) == (Answer("1", usage=oracle.worst_case(TRIPLET)), 9)


def test_limits_are_handed_to_the_session():
    oracle = SpacyLLMOracle(other, requests_per_minute=6, tokens_per_minute=7)
    assert (oracle.requests_per_minute, oracle.tokens_per_minute) == (6, 7)


def test_how_many_are_asked_at_once(make):
    oracles = make(), make(concurrency=3), SpacyLLMOracle(other), SpacyLLMOracle(other, concurrency=4)
    assert [oracle.concurrency for oracle in oracles] == [8, 3, 1, 4]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"name": "walnut"}, False),
        ({"endpoint": "http://localhost:1/v1"}, False),
        ({"config": {"max_tokens": 7}}, False),
        ({"max_tries": 2, "interval": 2.0, "max_request_time": 7.0}, True),
    ],
)
def test_a_fingerprint_names_what_could_change_an_answer(make, provider, change, same):
    usual = {"name": "acorn", "endpoint": provider.url}
    assert (make(change).fingerprint == make().fingerprint) == same
    assert (SpacyLLMOracle(GPT, usual | change).fingerprint == SpacyLLMOracle(GPT, usual).fingerprint) == same


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (other, says("1")),
        (other, functools.partial(other, CallableOracle())),
        (functools.partial(other, 1), functools.partial(other, 2)),
        (functools.partial(other, 1), functools.partial(says, 1)),
        (functools.partial(other, n=1), functools.partial(other, n=2)),
    ],
)
def test_callables_are_told_apart_by_name_and_arguments(first, second):
    assert SpacyLLMOracle(first).fingerprint != SpacyLLMOracle(second).fingerprint


def test_a_fingerprint_begins_with_the_name_or_with_what_is_given_in_its_place(models):
    oracles = SpacyLLMOracle(GPT, {"name": "acorn"}), SpacyLLMOracle(says("1"), fingerprint="mine")
    assert [oracle.fingerprint for oracle in oracles] == [
        f'spacy-llm:{GPT}:{{"name": "acorn"}}:p1',
        "spacy-llm:mine:p1",
    ]


def test_it_keeps_the_contract(provider, make):
    def reply(body):
        return 200, completion("yes" if "yes or no" in body["messages"][0]["content"] else "2"), {}

    provider.always = reply
    check_oracle(make)
