"""What ships for plugin authors: conformance checks and a fixture."""

import itertools

import numpy as np
import pytest

from clusterllm_plugins import Answer, Completion, Plugins, PromptedOracle
from clusterllm_plugins.questions import Usage
from clusterllm_plugins.testing import check_embedder, check_oracle


class Echo:
    """An oracle that takes the first choice."""

    def __init__(self):
        self.fingerprint = "echo:1"

    def answer(self, questions):
        return [Answer(question.choices[0], usage=Usage(10, 2, 1)) for question in questions]


class Lengths:
    """An embedder that knows how long a text is."""

    fingerprint = "lengths:1"

    def embed(self, texts):
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


def test_the_fixture_discovers_nothing(clusterllm_plugins_empty):
    assert (type(clusterllm_plugins_empty), clusterllm_plugins_empty.names) == (Plugins, [])


def test_a_good_oracle_keeps_the_contract():
    check_oracle(Echo)


def test_an_oracle_behind_a_language_model_keeps_the_contract():
    class Polite(PromptedOracle):
        fingerprint = "polite:1"

        def complete(self, prompt, choices):
            return Completion(f"I would say {choices[0]}.", Usage(len(prompt.split()), 5, 1))

    check_oracle(Polite)


class Terse(Echo):
    def answer(self, questions):
        return super().answer(questions)[1:]


class Dictionary(Echo):
    def answer(self, questions):
        return [{"choice": question.choices[0]} for question in questions]


class Inventive(Echo):
    def answer(self, questions):
        return [Answer("perhaps") for _ in questions]


class Overconfident(Echo):
    def answer(self, questions):
        return [Answer(question.choices[0], confidence=1.5) for question in questions]


class Nameless(Echo):
    def __init__(self):
        super().__init__()
        self.fingerprint = ""


class Fickle(Echo):
    def __init__(self, numbers=itertools.count()):  # noqa: B008
        super().__init__()
        self.fingerprint = f"fickle:{next(numbers)}"


class Understating(Echo):
    def worst_case(self, question):
        return Usage(9, 2, 1)


@pytest.mark.parametrize(
    ("oracle", "message"),
    [
        (object, "object has no method answer"),
        (Terse, "0 answers to 1 questions"),
        (Dictionary, "an answer must be an Answer, not dict"),
        (Inventive, "'perhaps' is no choice"),
        (Overconfident, r"confidence must be in \[0, 1\]"),
        (Nameless, "fingerprint must not be empty"),
        (Fickle, "two oracles of the same settings must have one fingerprint"),
        (Understating, "10 input_tokens used, worst_case said 9"),
    ],
)
def test_the_check_finds_what_an_oracle_does_wrong(oracle, message):
    with pytest.raises(AssertionError, match=message):
        check_oracle(oracle)


def test_a_good_embedder_keeps_the_contract():
    check_embedder(Lengths)


class Wide(Lengths):
    def embed(self, texts):
        return super().embed(texts).astype(np.float64)


class Short(Lengths):
    def embed(self, texts):
        return super().embed(texts)[1:]


class Flat(Lengths):
    def embed(self, texts):
        return super().embed(texts).ravel()


class Infinite(Lengths):
    def embed(self, texts):
        return super().embed(texts) / np.float32(0)


class Moody(Lengths):
    calls = 0

    def embed(self, texts):
        self.calls += 1
        return super().embed(texts) * np.float32(self.calls)


class Sociable(Lengths):
    def embed(self, texts):
        return super().embed(texts) * np.arange(1, len(texts) + 1, dtype=np.float32)[:, None]


class Forgetful(Lengths):
    def __init__(self, path=None):
        self.fingerprint = "forgetful" if path is None else "restored"

    def save(self, folder):
        pass


@pytest.mark.parametrize(
    ("embedder", "message"),
    [
        (object, "object has no method embed"),
        (Wide, "vectors must be float32, not float64"),
        (Short, "6 vectors for 7 texts"),
        (Flat, "vectors must have two dimensions, not 1"),
        (Infinite, "vectors must be finite"),
        (Moody, "embedding the same texts twice must give the same"),
        (Sociable, "a vector must not depend on the other texts"),
        (Forgetful, "a restored embedder must have the same fingerprint"),
    ],
)
def test_the_check_finds_what_an_embedder_does_wrong(embedder, message):
    with np.errstate(divide="ignore"), pytest.raises(AssertionError, match=message):
        check_embedder(embedder)
