"""Every oracle that is registered here keeps the public contract, with the real thing behind it.

A new oracle needs a fixture ``NAME_oracle`` here, with ``_`` for ``-``: without one its test fails.
"""

import functools
import inspect
import json
import os
import re
import sys
import threading
from dataclasses import dataclass, field

import pytest
from typer.testing import CliRunner

import clusterllm_embedders
import clusterllm_oracles
from clusterllm_oracles.batch import BatchOracle
from clusterllm_oracles.council import CouncilOracle
from clusterllm_oracles.human import HumanOracle
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_oracles.replay import ReplayOracle
from clusterllm_oracles.simulated import SimulatedOracle
from clusterllm_oracles.spacy_llm import SpacyLLMOracle
from clusterllm_plugins import Answer, OracleError, Plugins
from clusterllm_plugins.cli import app
from clusterllm_plugins.plugins import describe_settings
from clusterllm_plugins.recording import answer_lines
from clusterllm_plugins.redactors import register_redactors
from clusterllm_plugins.testing import TEXTS, check_oracle, check_registered, odd_questions, questions
from provider_kit import serving

NOBODY = "http://127.0.0.1:9/v1"  # where nobody listens
LABELS = ["parcel", "login", "odd"] * 4


def names_of(register_all):
    names = []
    register_all(register=lambda name, factory: names.append(name))
    return sorted(names)


ORACLES = names_of(clusterllm_oracles.register_oracles)
COMPONENTS = [
    *(("oracle", name) for name in ORACLES),
    *(("embedder", name) for name in names_of(clusterllm_embedders.register_embedders)),
    *(("redactor", name) for name in names_of(register_redactors)),
]


@dataclass
class Candidate:
    """How an oracle is made: so that it answers, with other settings, and so that nobody answers."""

    make: object
    changed: list = field(default_factory=list)
    broken: list = field(default_factory=list)


@pytest.mark.parametrize("name", ORACLES)
def test_an_oracle_keeps_the_whole_contract(name, request):
    candidate = request.getfixturevalue(f"{name.replace('-', '_')}_oracle")
    assert candidate.changed
    assert candidate.broken
    check_oracle(candidate.make, changed=candidate.changed, broken=candidate.broken)


@pytest.mark.parametrize(("kind", "name"), COMPONENTS)
def test_users_are_told_of_every_setting(kind, name):
    check_registered(kind, name)


@pytest.mark.parametrize("name", ORACLES)
def test_the_command_says_who_answers_and_with_which_settings(name):
    factory = Plugins().oracles[name].load("oracle")
    listed = " ".join(CliRunner().invoke(app, ["oracles"]).output.split())
    summary = inspect.getdoc(factory).split("\n")[0].replace("``", "`")
    assert f"{name} (plugin clusterllm-plugins:oracles) {summary} {describe_settings(factory)}" in listed


# What stands behind them.


def reply(prompt):
    """Answer any question, in words, or name a group."""
    if "short name" in prompt:
        return "Late parcels"
    return "Yes." if "yes or no" in prompt else "I would say 2."


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("openai")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    with serving(reply) as running:
        yield running


@pytest.fixture
def openai_oracle(server, monkeypatch):
    monkeypatch.setenv("ACORN_KEY", "sk-walnut-12345")
    monkeypatch.delenv("HAZEL_KEY", raising=False)

    def made(**settings):
        settings = {"model": "acorn", "base_url": server.url, "api_key_env": "ACORN_KEY", **settings}
        return lambda: OpenAIOracle(**{"input_price": 1.0, "output_price": 2.0, **settings})

    changed = [made(model="hazel"), made(base_url=NOBODY), made(temperature=None), made(max_output_tokens=9)]
    broken = [made(base_url=NOBODY), made(base_url=f"{server.url}/chat", api_key_env="HAZEL_KEY")]
    return Candidate(made(), changed, broken)


@pytest.fixture
def council_oracle(server):
    cheap, dear = (OpenAIOracle(model, server.url, api_key_env=None) for model in ("acorn", "hazel"))
    away = OpenAIOracle("acorn", NOBODY, api_key_env=None)

    def made(*members, **settings):
        return lambda: CouncilOracle(list(members), **settings)

    changed = [made(dear, cheap), made(cheap, dear, mode="cascade"), made(cheap, dear, weights=[2, 1])]
    broken = [made(cheap, away), made(away, dear, mode="cascade")]
    return Candidate(made(cheap, dear), changed, broken)


@pytest.fixture
def batch_oracle(tmp_path):
    from batch_kit import run_batches

    folder = tmp_path / "batch"

    def made(**settings):
        return lambda: BatchOracle(
            **{"folder": folder, "model": "acorn", "input_price": 1.0, "output_price": 2.0} | settings
        )

    for _ in range(10):  # as many rounds as it takes until all that is asked has a result
        try:
            check_oracle(made())
            break
        except OracleError:
            run_batches(folder, lambda body: (reply(body["messages"][0]["content"]), (50, 1)))
    (tmp_path / "file").write_text("")
    broken = [made(folder=tmp_path / "empty"), made(folder=tmp_path / "file")]
    return Candidate(made(), [made(model="hazel"), made(temperature=None), made(max_output_tokens=9)], broken)


@pytest.fixture
def transformers_oracle(chat, plain, tmp_path):
    from local_model_kit import local

    def made(folder=chat, **settings):
        return lambda: local(folder, batch_size=3, **settings)

    changed = [made(plain), made(max_length=2000), made(max_output_tokens=5)]
    return Candidate(made(), changed, [made(tmp_path)])


@pytest.fixture
def haystack_oracle():
    pytest.importorskip("haystack")
    from haystack.components.generators.chat import MockChatGenerator

    from clusterllm_oracles.haystack import HaystackOracle
    from haystack_kit import Failing, first_choice

    def made(generator):
        return lambda: HaystackOracle(generator, input_price=1.0, output_price=2.0)

    working = MockChatGenerator(response_fn=first_choice)
    return Candidate(made(working), [made(MockChatGenerator("1")), made(MockChatGenerator("2"))], [made(Failing())])


def model_of(size, prompts):
    return [[reply(prompt) for prompt in of_doc] for of_doc in prompts]


def failing_model(prompts):
    raise ValueError("denied:\nsk-walnut-12345")


@pytest.fixture
def spacy_llm_oracle():
    def made(model, **settings):
        return lambda: SpacyLLMOracle(model, **settings)

    small, large = functools.partial(model_of, 1), functools.partial(model_of, 2)
    return Candidate(made(small, concurrency=4), [made(large), made(small, fingerprint="mine")], [made(failing_model)])


@pytest.fixture
def replay_oracle(tmp_path):
    def made(name, place):
        path = tmp_path / name
        pairs = [(question, Answer(question.choices[place])) for question in [*questions(), *odd_questions()]]
        path.write_text("".join(f"{line}\n" for line in answer_lines(pairs, TEXTS)), encoding="utf-8")
        return lambda: ReplayOracle(path)

    strangers = tmp_path / "strangers.jsonl"
    strangers.write_text(json.dumps({"indices": [0, 1], "choice": "yes", "hashes": ["0" * 16, "1" * 16]}))
    broken = [lambda: ReplayOracle(tmp_path / "missing.jsonl"), lambda: ReplayOracle(strangers)]
    return Candidate(made("recorded.jsonl", -1), [made("other.jsonl", 0)], broken)


@pytest.fixture
def simulated_oracle():
    def made(labels=LABELS, **settings):
        return lambda: SimulatedOracle(labels, **settings)

    changed = [made(LABELS[::-1]), made(seed=1), made(profile="uniform"), made(profile="uniform", accuracy=1.0)]
    return Candidate(made(), changed, [made(LABELS[:2])])


@pytest.fixture
def human_oracle(monkeypatch):
    pytest.importorskip("termios", reason="this system has no pseudo-terminals")
    keyboard, inside = os.openpty()
    shown, typed = os.fdopen(inside, "w", encoding="utf-8", closefd=False), os.fdopen(inside, encoding="utf-8")

    def press():
        screen = ""
        while True:
            try:
                screen += os.read(keyboard, 65536).decode("utf-8", "replace")
            except OSError:  # the test is over
                return
            if "is no answer here" in screen:
                os.write(keyboard, b"q")
            *pages, screen = screen.split("q quit")
            for page in pages:
                choices = re.search(r"(?:y yes|1-\d+( and Enter)?).*$", page)
                os.write(keyboard, b"y" if "y yes" in choices[0] else b"2\r" if choices[1] else b"2")

    person = threading.Thread(target=press, daemon=True)
    person.start()

    def at_the_terminal(name="me"):
        # Here, as pytest puts its own streams in place before each test.
        monkeypatch.setattr(sys, "stdin", typed)
        monkeypatch.setattr(sys, "stderr", shown)
        return HumanOracle(name)

    def nowhere():
        with open(os.devnull, encoding="utf-8") as nothing:
            monkeypatch.setattr(sys, "stdin", nothing)
        return HumanOracle()

    yield Candidate(at_the_terminal, [lambda: at_the_terminal("ann")], [nowhere])
    monkeypatch.undo()
    shown.close()
    typed.close()
    person.join(timeout=10)
    os.close(keyboard)
