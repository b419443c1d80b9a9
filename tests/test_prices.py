import datetime

import pytest

pytest.importorskip("openai")

from clusterllm_oracles.batch import BatchOracle
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_oracles.prices import DATE, PRICES, SOURCE, prices_of
from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.questions import triplet_question

TRIPLET = triplet_question(["tea", "milk", "mug"], 0, 1, 2)
UNKNOWN = (None, None)


@pytest.fixture(autouse=True)
def _openai_itself(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def cost(oracle, per_input, per_output):
    worst = oracle.worst_case(TRIPLET)
    assert worst.cost is not None
    return worst.cost == pytest.approx((worst.input_tokens * per_input + worst.output_tokens * per_output) / 1e6)


def test_the_table_is_dated_and_names_its_source():
    assert datetime.date.fromisoformat(DATE) < datetime.date.today()
    assert SOURCE.startswith("https://")


@pytest.mark.parametrize("model", PRICES)
def test_a_listed_price_is_positive_and_output_is_dearer(model):
    per_input, per_output = PRICES[model]
    assert 0 < per_input < per_output


def test_openai_prices_a_listed_model():
    assert cost(OpenAIOracle("gpt-4o-mini"), 0.15, 0.6)


def test_a_batch_costs_half(tmp_path):
    assert cost(BatchOracle(tmp_path, "gpt-4o-mini"), 0.075, 0.3)


def test_given_prices_stand():
    assert cost(OpenAIOracle("gpt-4o-mini", input_price=1.0, output_price=2.0), 1.0, 2.0)


def test_one_given_price_is_not_completed():
    assert prices_of("gpt-4o-mini", None, (1.0, None)) == (1.0, None)


@pytest.mark.parametrize("url", ["https://api.openai.com/v1", "https://API.openai.com/v1/", None])
def test_openai_by_its_address_is_openai(url):
    assert prices_of("gpt-4o", url, UNKNOWN) == (2.5, 10.0)


@pytest.mark.parametrize("url", ["http://localhost:11434/v1", "https://api.openai.com.example/v1", "api.openai.com"])
def test_another_endpoint_has_no_listed_prices(url):
    assert prices_of("gpt-4o", url, UNKNOWN) == UNKNOWN


def test_an_endpoint_of_the_environment_has_no_listed_prices(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:11434/v1")
    assert OpenAIOracle("gpt-4o-mini").worst_case(TRIPLET).cost is None


def test_a_model_that_is_not_listed_has_no_price():
    assert prices_of("gpt-4o-mini-tuned", None, UNKNOWN) == UNKNOWN


def test_prices_are_no_part_of_the_fingerprint():
    assert OpenAIOracle().fingerprint == OpenAIOracle(input_price=1.0, output_price=1.0).fingerprint


@pytest.mark.parametrize("method", ["auto", "paper"])
def test_a_quote_states_dollars(messages, method):
    model = ClusterLLM("lsa", {"name": "openai"}, n_clusters=5, method=method, max_questions=10, progress=False)
    quoted = model.quote(messages)
    tokens = quoted["input_tokens_at_most"], quoted["output_tokens_at_most"]
    assert quoted["cost_at_most"] == pytest.approx((tokens[0] * 0.15 + tokens[1] * 0.6) / 1e6)
