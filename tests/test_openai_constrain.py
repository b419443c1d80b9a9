"""Replies of the oracle ``openai`` that the endpoint constrains to the choices."""

import json

import pytest

from clusterllm_oracles.batch import BatchOracle
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.prompts import PROMPT_VERSION
from clusterllm_plugins.questions import choice_question, triplet_question
from openai_kit import completion

TEXTS = ["The kettle leaks", "Water drips from my kettle", "The lamp flickers"]
TRIPLET = triplet_question(TEXTS, 0, 1, 2)
OPEN = choice_question(TEXTS, 0, [[1], [2]], none=True)


@pytest.fixture
def make(provider):
    return lambda **settings: OpenAIOracle("acorn", provider.url, None, **settings)


def extra(request):
    usual = ("path", "key", "model", "messages", "temperature", "max_tokens", "logprobs", "top_logprobs")
    return {name: value for name, value in request.items() if name not in usual}


def test_by_default_nothing_is_constrained(provider, make):
    list(make().answer([OPEN]))
    assert extra(provider.requests[0]) == {}


@pytest.mark.parametrize(
    ("constrain", "expected"),
    [
        ("choice", {"structured_outputs": {"choice": ["1", "2", "none"]}}),
        ("grammar", {"grammar": 'root ::= "1" | "2" | "none"'}),
        (
            "schema",
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {
                        "name": "answer",
                        "strict": True,
                        "schema": {
                            "type": "object",
                            "properties": {"choice": {"type": "string", "enum": ["1", "2", "none"]}},
                            "required": ["choice"],
                            "additionalProperties": False,
                        },
                    },
                }
            },
        ),
    ],
)
def test_the_choices_are_sent_as_each_kind_of_server_takes_them(provider, make, constrain, expected):
    provider.always = 200, completion('{"choice": "none"}' if constrain == "schema" else "none"), {}
    assert [answer.choice for answer in make(constrain=constrain).answer([OPEN])] == ["none"]
    assert extra(provider.requests[0]) == expected


def test_a_name_is_not_constrained(provider, make):
    provider.always = 200, completion("Leaking kettles"), {}
    assert make(constrain="schema").describe(TEXTS[:2]).text == "Leaking kettles"
    assert extra(provider.requests[0]) == {}


@pytest.mark.parametrize("text", ['{"choice": "2"}', ' {"choice":"2"}\n', '{\n  "choice": "2"\n}'])
def test_the_json_object_is_read(provider, make, text):
    provider.always = 200, completion(text), {}
    assert [answer.choice for answer in make(constrain="schema").answer([TRIPLET])] == ["2"]


@pytest.mark.parametrize(
    "text",
    [
        "2",
        '"2"',
        '["2"]',
        '[["choice", "2"]]',
        '{"choice": 2}',
        '{"choice": "3"}',
        '{"choice": ["2"]}',
        '{"answer": "2"}',
        '{"choice": "2", "reason": "1"}',
        '{"choice": "1", "choice": "2"}',
        '{"choice": "2"} 2',
        '```json\n{"choice": "2"}\n```',
        "[" * 100_000,
    ],
)
def test_any_other_reply_abstains(provider, make, text):
    provider.always = 200, completion(text), {}
    (answer,) = make(constrain="schema").answer([TRIPLET])
    assert (answer.choice, answer.error[:36]) == (None, "not the JSON object that was asked f")


def test_worst_case_holds_where_the_endpoint_shows_the_model_the_schema(provider, make):
    def count_bytes(body):
        shown = body["messages"][0]["content"] + json.dumps(body["response_format"])
        return 200, completion('{"choice": "1"}', (len(shown.encode()) + 11, body["max_tokens"])), {}

    provider.always = count_bytes
    oracle = make(constrain="schema")
    (answer,) = oracle.answer([OPEN])
    worst = oracle.worst_case(OPEN)
    assert answer.choice == "1"
    assert answer.usage.input_tokens <= worst.input_tokens
    assert answer.usage.output_tokens <= worst.output_tokens


def test_where_the_server_does_not_count_the_schema_counts_as_shown(provider, make):
    provider.always = 200, completion('{"choice": "1"}', usage=None), {}
    oracle = make(constrain="schema")
    (answer,) = oracle.answer([TRIPLET])
    assert answer.usage == oracle.worst_case(TRIPLET)


def test_a_limit_that_cuts_the_object_is_refused():
    with pytest.raises(ClusterLLMError) as caught:
        OpenAIOracle(constrain="schema", max_output_tokens=4)
    assert str(caught.value) == (
        "oracle 'openai': constrain = 'schema' needs max_output_tokens of at least 16, not 4: a reply is a JSON object"
    )


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (OpenAIOracle, {"constrain": "json"}, "constrain is one of none, schema, choice, grammar, not 'json'"),
        (BatchOracle, {"constrain": "json"}, "constrain is one of none, schema, choice, grammar, not 'json'"),
        (OpenAIOracle, {"limit": "max"}, "limit is max_tokens or max_completion_tokens, not 'max'"),
    ],
)
def test_a_setting_without_meaning_is_refused_in_one_line(kind, settings, message):
    with pytest.raises(ClusterLLMError) as caught:
        kind(**settings)
    assert str(caught.value) == f"oracle '{'openai' if kind is OpenAIOracle else 'batch'}': {message}"


def test_the_limit_has_the_name_that_is_set(provider, make):
    list(make(limit="max_completion_tokens", max_output_tokens=7).answer([TRIPLET]))
    assert (provider.requests[0].get("max_tokens"), provider.requests[0]["max_completion_tokens"]) == (None, 7)


def test_an_empty_temperature_is_not_sent(provider, make):
    oracle = make(temperature="")
    list(oracle.answer([TRIPLET]))
    assert "temperature" not in provider.requests[0]
    assert oracle.fingerprint == make(temperature=None).fingerprint


def test_the_fingerprint_of_what_is_not_set_stays_as_it_was():
    oracle = OpenAIOracle("acorn", "http://localhost:1/v1", limit="max_tokens")
    assert oracle.fingerprint == f"openai:http://localhost:1/v1:acorn:t0.0:m16:p{PROMPT_VERSION}"


@pytest.mark.parametrize(
    "change", [{"constrain": "schema"}, {"constrain": "choice"}, {"limit": "max_completion_tokens"}]
)
@pytest.mark.parametrize("kind", [OpenAIOracle, BatchOracle])
def test_the_fingerprint_names_what_could_change_an_answer(change, kind):
    base = {"model": "acorn", "base_url": "http://localhost:1/v1"}
    assert kind(**base, **change).fingerprint == OpenAIOracle(**base, **change).fingerprint
    assert kind(**base, **change).fingerprint != kind(**base).fingerprint
