"""What ships for plugin authors: conformance checks and a fixture."""

import contextlib
import itertools
import socket
import threading
import time
import types

import numpy as np
import pytest

from clusterllm_plugins import Answer, Completion, OracleError, Plugins, PromptedOracle, hookimpl
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.questions import Usage
from clusterllm_plugins.testing import check_embedder, check_oracle, check_registered, making, registered


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
            said = choices[0] if choices else "parcels"
            return Completion(f"I would say {said}.", Usage(len(prompt.split()), 5, 1))

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


class Cheap(Echo):
    def answer(self, questions):
        return [Answer(question.choices[0], usage=Usage(1, 1, 1, 0.02)) for question in questions]

    def worst_case(self, question):
        return Usage(1, 1, 1, 0.01)


class Silent(Echo):
    def answer(self, questions):
        return [Answer(None) for _ in questions]


class Verbose(Echo):
    def answer(self, questions):
        return [Answer(None, error="not\ntoday") for _ in questions]


class Generous(Echo):
    def answer(self, questions):
        return [Answer(question.choices[0], usage=Usage(-1, 2, 1)) for question in questions]


class Addressed(Echo):
    def __init__(self):
        self.fingerprint = f"model:{OBJECT!r}"


class Indiscreet(Echo):
    def __init__(self):
        self.fingerprint = "acorn:sk-walnut12345"


class Restless(Echo):
    def answer(self, questions):
        self.fingerprint += "1"
        return super().answer(questions)


class Unlimited(Echo):
    requests_per_minute = 0


class Talkative(Echo):
    def __init__(self):
        super().__init__()
        with contextlib.suppress(Exception):
            socket.create_connection(("127.0.0.1", 9))


class Curious(Echo):
    """Counts tokens at its provider's."""

    def worst_case(self, question):
        with contextlib.suppress(Exception):
            socket.socket().connect(("127.0.0.1", 9))
        return Usage(10, 2, 1)


class Careless(Echo):
    """Keeps the question that it is at where all threads see it."""

    concurrency = 4

    def answer(self, questions):
        for question in questions:
            self.question = question
            time.sleep(0.01)
            yield Answer(self.question.choices[-1])


class Curt(Echo):
    def describe(self, texts):
        return "parcels"


class Wordy(Echo):
    def describe(self, texts):
        return Completion("parcels", Usage(10, 7, 1))

    def worst_case_of(self, prompt):
        return Usage(10, 6, 1)


class Sparing(Wordy):
    batch_size = 2

    def worst_case_of(self, prompt):
        return Usage(10, 7, 1)

    def describe_all(self, groups):
        return [self.describe(groups[0])]


class Headless(Echo):
    def describe_all(self, groups):
        return [Completion("parcels") for _ in groups]


class Local(Echo):
    """Reads Latin letters only."""

    def answer(self, questions):
        for question in questions:
            question.anchor.encode("latin-1")
        return super().answer(questions)


OBJECT = object()


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
        (Cheap, "0.02 US dollars spent, worst_case said 0.01"),
        (Silent, "an answer without a choice must say why"),
        (Verbose, r"an error must be one line, not 'not\\ntoday'"),
        (Generous, "input_tokens must be an int of at least 0, not -1"),
        (Addressed, "fingerprint must not hold an address in memory"),
        (Indiscreet, "fingerprint must not hold a key"),
        (Restless, "fingerprint must not change while it answers"),
        (Unlimited, "requests_per_minute must be positive, or None"),
        (Talkative, "making an oracle must contact nobody, but it tried to"),
        (Curious, r"worst_case must contact nobody, but it tried to: \[\('127.0.0.1', 9\)\]"),
        (Careless, "is no choice"),
        (Curt, "a name must be a Completion, not str"),
        (Wordy, "7 output_tokens used, worst_case_of said 6"),
        (Sparing, "1 names for 2 groups"),
        (Headless, "describe_all needs describe"),
    ],
)
def test_the_check_finds_what_an_oracle_does_wrong(oracle, message):
    with pytest.raises(AssertionError, match=message):
        check_oracle(oracle)


def test_an_oracle_must_cope_with_texts_of_all_scripts():
    with pytest.raises(UnicodeEncodeError):
        check_oracle(Local)


def test_making_an_oracle_must_be_cheap(monkeypatch):
    monkeypatch.setattr(making, "LONGEST_MAKING", 0.01)
    with pytest.raises(AssertionError, match="load what is heavy when it is first used"):
        check_oracle(lambda: time.sleep(0.02) or Echo())


def test_the_network_is_back_after_the_check():
    check_oracle(Echo)
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()


class Tuned(Echo):
    def __init__(self, temperature=0.0, fingerprint="echo:{}"):
        self.fingerprint = fingerprint.format(temperature)


def test_a_setting_that_changes_answers_changes_the_fingerprint():
    check_oracle(Tuned, changed=[lambda: Tuned(0.5), lambda: Tuned(1.0)])
    with pytest.raises(AssertionError, match=r"^changed\[1\]: another setting must change the fingerprint"):
        check_oracle(Tuned, changed=[lambda: Tuned(0.5), lambda: Tuned(1.0, "echo:0.0")])


class Failing(Echo):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def answer(self, questions):
        if self.error:
            raise self.error
        return super().answer(questions)


def test_an_oracle_that_says_what_is_wrong_keeps_the_contract():
    check_oracle(Echo, broken=[lambda: Failing(OracleError("echo: the key is wrong", fatal=True))])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (None, "an oracle that nobody answers must raise an OracleError, not answer"),
        (ValueError("no luck"), "trouble must be an OracleError, not ValueError: no luck"),
        (OracleError(" "), "an error must say what went wrong"),
        (OracleError("no\nluck"), "an error must be one line"),
        (OracleError("denied: sk-walnut12345"), "an error must not show a key"),
        (OracleError("denied", fatal=True, retryable=True), "an error is fatal or retryable, not both"),
    ],
)
def test_the_check_finds_what_is_wrong_with_an_error(error, message):
    with pytest.raises(AssertionError, match=message) as caught:
        check_oracle(Echo, broken=[lambda: Failing(error)])
    assert "walnut" not in str(caught.value)


def plugin_with(factory):
    """Return what finds one plugin, whose oracle is ``factory``."""

    @hookimpl
    def register_oracles(register):
        register("acme", factory)

    found = Plugins(discover=False)
    module = types.ModuleType("clusterllm_acme")
    module.register_oracles = register_oracles
    found.register(module, "clusterllm-acme")
    return lambda: found


def explained(url: str = "localhost", size: int = 1):
    """Make an oracle.

    Args:
        url: Where it is.
        size: Of the model.
    """


def variadic(**settings: str):
    """Make an oracle with settings."""


def untyped(url):
    """Make an oracle at url."""


def unexplained(url: str, size: int):
    """Make an oracle of that size at resize_url."""


def test_a_registered_component_keeps_the_contract(monkeypatch):
    monkeypatch.setattr(registered, "Plugins", plugin_with(explained))
    check_registered("oracle", "acme")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (variadic, r"oracle 'acme', setting 'settings': a setting must be a parameter .*, not \*\*settings"),
        (untyped, "oracle 'acme', setting 'url' has no type"),
        (unexplained, "oracle 'acme', setting 'url' is not in the docstring"),
    ],
)
def test_the_check_finds_what_users_are_not_told(factory, message, monkeypatch):
    monkeypatch.setattr(registered, "Plugins", plugin_with(factory))
    with pytest.raises(AssertionError, match=message):
        check_registered("oracle", "acme")


def test_the_check_finds_what_is_not_registered():
    with pytest.raises(AssertionError, match="no oracle 'walnut' is registered"):
        check_registered("oracle", "walnut")


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
        (Short, "11 vectors for 12 texts"),
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


class Calling(Lengths):
    def __init__(self):
        socket.create_connection(("127.0.0.1", 9))


class Numbered(Lengths):
    made = 0

    def __init__(self):
        Numbered.made += 1
        self.fingerprint = f"numbered {Numbered.made}"


class Squeamish(Lengths):
    def embed(self, texts):
        if not all(texts):
            raise KeyError("an empty text")
        return super().embed(texts)


class Wordy(Lengths):
    def embed(self, texts):
        if not all(texts):
            raise ClusterLLMError("an empty text\nis none")
        return super().embed(texts)


class Growing(Lengths):
    def embed(self, texts):
        vectors = super().embed(texts)
        return vectors if all(texts) else np.ones((len(texts), 7), dtype=np.float32)


class Mixing(Lengths):
    """Keeps what it is given where another thread finds it."""

    def embed(self, texts):
        self.texts = texts
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.05)
        return super().embed([*self.texts, *texts][: len(texts)])


class TwoFaced(Lengths):
    def embed_each(self, texts, keep):
        keep(range(len(texts)), np.ones((len(texts), 2), dtype=np.float32))


class Drifting(Lengths):
    calls = 0

    @property
    def fingerprint(self):
        return f"drifting {self.calls > 3}"

    def embed(self, texts):
        self.calls += 1
        return super().embed(texts)


@pytest.mark.parametrize(
    ("embedder", "message"),
    [
        (Calling, "making an embedder must contact nobody"),
        (Numbered, "two embedders of the same settings must have one fingerprint"),
        (Squeamish, "must have a vector or a ClusterLLMError, not KeyError"),
        (Wordy, "an error must be one line"),
        (Growing, "has a vector of size 7, others of"),
        (Mixing, "threads that embed at once must get their own"),
        (TwoFaced, "embed_each must give the vectors that embed gives"),
        (Drifting, "fingerprint must not change while it embeds"),
    ],
)
def test_the_check_finds_what_an_embedder_does_wrong_beyond_its_vectors(embedder, message):
    with pytest.raises((AssertionError, OSError), match=message):
        check_embedder(embedder)


def test_the_check_finds_a_fingerprint_that_does_not_know_a_setting():
    with pytest.raises(AssertionError, match=r"changed\[0\]: another setting must change the fingerprint"):
        check_embedder(Lengths, changed=[Lengths])


def test_the_check_finds_trouble_that_is_not_told():
    with pytest.raises(AssertionError, match="must raise ClusterLLMError, but it gave vectors"):
        check_embedder(Lengths, broken=[Lengths])


def test_the_check_finds_trouble_of_a_strange_kind():
    def make():
        raise ZeroDivisionError

    with pytest.raises(AssertionError, match="must raise ClusterLLMError, not ZeroDivisionError"):
        check_embedder(Lengths, broken=[make])
