"""A key turns up nowhere: whatever an endpoint says back, and wherever a user puts it by mistake."""

import json
from contextlib import nullcontext

import pytest

from canary_kit import (
    KEY,
    KEY_NAME,
    SHAPED_KEY,
    Life,
    echo,
    echoed_error,
    listening,
    logging_server,
    places_in,
    sensible,
    sightings,
    told_by,
    wanted_of,
)
from clusterllm_oracles.batch import BatchOracle
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_oracles.spacy_llm import SpacyLLMOracle
from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.answer_log import AnswerLog
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.hookspecs import hookimpl
from clusterllm_plugins.keys import shows_key, without_held_keys, without_keys
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.prompts import answer_of
from clusterllm_plugins.questions import Answer, Completion, OracleError, triplet_question

TEXTS = [
    f"The {what} of the {thing}"
    for what in ("lid", "plug", "colour", "price", "handle")
    for thing in ("kettle", "lamp", "gate", "shelf", "rug")
]
TRIPLET = triplet_question(TEXTS, 0, 1, 2)
WANTED = wanted_of([], KEY, SHAPED_KEY)


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    monkeypatch.setenv(KEY_NAME, KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def seen(tmp_path):
    """Fit, save and look everywhere for a key; the errors of both methods are looked at, too."""

    def look(oracle, *plugins):
        error, said = None, []
        with listening() as lines, AnswerLog(tmp_path / "log.jsonl", texts=True) as log:
            for method in ("paper", "auto"):
                store = tmp_path / f"{method}.sqlite"
                model = ClusterLLM("lsa", oracle, 3, method, max_questions=15, store=store, progress=False)
                for plugin in (log, *plugins):
                    model.add_plugin(plugin)
                try:
                    model.fit(TEXTS).save(tmp_path / method)
                except (OracleError, ClusterLLMError) as caught:
                    error = caught
                    said.append(told_by(error))
                said += [repr(model), str(model.get_params()), repr(vars(model)), repr(vars(oracle))]
        return error, sightings(places_in(tmp_path) | {"said": "\n".join([*lines, *said]).encode()}, WANTED)

    return look


def replies(status, text):
    """Return what a server says, with the key in place of KEY."""
    return lambda prompt, key: (status, text.replace("KEY", key.removeprefix("Bearer ")).encode())


BODIES = {
    "echo": echo,
    "error": echoed_error,
    "401": replies(401, '{"error": {"message": "Incorrect API key provided: KEY"}}'),
    "400 in quotes": replies(400, '{"error": {"message": "the \\"KEY\\" and \'KEY\'"}}'),
    "500": replies(500, "<html>KEY</html>"),
    "no JSON": replies(200, "KEY is not JSON"),
    "no completion": replies(200, '"KEY KEY KEY KEY KEY"'),
    "cut": replies(200, '"' + "x" * 60 + 'KEY"'),
    "small letters": lambda prompt, key: (400, f"key {key.lower()}"),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_openai(seen, body):
    with logging_server(body) as server:
        oracle = OpenAIOracle("acorn", server.url, KEY_NAME, max_retries=0, max_output_tokens=300)
        _, found = seen(oracle)
    assert server.keys[0] == f"Bearer {KEY}"
    assert found == []


@pytest.mark.parametrize("fails", [False, True])
def test_haystack(seen, fails):
    pytest.importorskip("haystack", reason="the extra haystack is not installed")
    import canary_models
    from clusterllm_oracles.haystack import HaystackOracle

    canary_models.PROMPTS.clear()
    oracle = HaystackOracle(canary_models.Repeating(fails=fails), max_retries=0, raise_on_failure=True)
    error, found = seen(oracle)
    assert canary_models.PROMPTS
    assert (error is not None, found) == (fails, [])


def test_haystack_keeps_the_cause_of_an_error_that_holds_no_key():
    pytest.importorskip("haystack", reason="the extra haystack is not installed")
    from clusterllm_oracles.haystack import HaystackOracle
    from haystack_kit import Failing

    with pytest.raises(OracleError) as caught:
        list(HaystackOracle(Failing()).answer([TRIPLET]))
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("fails", [False, True])
def test_spacy_llm(seen, monkeypatch, fails):
    monkeypatch.setenv("WALNUT_API_KEY", KEY)  # a callable does not say which key it holds

    def model(prompts):
        prompt = prompts[0][0]
        if fails:
            raise ValueError(echoed_error(prompt, f"Bearer {KEY}")[1])
        return [[echo(prompt, f"Bearer {KEY}")]]

    assert seen(SpacyLLMOracle(model, max_retries=0))[1] == []
    with pytest.raises(OracleError) if fails else nullcontext() as caught:
        SpacyLLMOracle(model).complete("x", ())
    assert sightings({"error": told_by(caught.value).encode() if fails else b""}, WANTED) == []


def test_batch(seen, tmp_path, monkeypatch):
    from batch_kit import run_batches

    monkeypatch.setenv("WALNUT_API_KEY", KEY)
    oracle = BatchOracle(tmp_path / "batch", max_output_tokens=300)
    for _ in range(12):
        error, _ = seen(oracle)
        if error is None:
            break
        run_batches(tmp_path / "batch", lambda body: (echo(body["messages"][0]["content"], f"Bearer {KEY}"), (5, 1)))
    for results in (tmp_path / "batch").glob("results-*"):
        results.unlink()  # what came from there
    assert (error, sightings(places_in(tmp_path), WANTED)) == (None, [])


class Stranger:
    """An oracle of somebody else's, that does not know about keys."""

    fingerprint = "stranger"
    max_retries = 0

    def __init__(self, say):
        self.say = say

    def answer(self, questions):
        return [self.say() for _ in questions]

    def describe(self, texts):
        return Completion(f"Key {SHAPED_KEY}")


def raising(error):
    def say():
        raise error

    return say


@pytest.mark.parametrize(
    "say",
    [
        raising(ValueError(f"refused {SHAPED_KEY}")),
        raising(OracleError(f"refused {SHAPED_KEY}")),
        raising(OracleError(f"refused {SHAPED_KEY}", retryable=True)),
        lambda: Answer(None, error=f"refused {SHAPED_KEY}"),
    ],
    ids=["error", "passing", "retryable", "abstains"],
)
def test_an_oracle_of_somebody_elses(seen, say):
    assert seen(Stranger(say))[1] == []


def test_a_choice_that_is_none_is_cut_after_the_key_is_out(seen, monkeypatch):
    monkeypatch.setenv("WALNUT_API_KEY", KEY)
    assert seen(Stranger(lambda: Answer("x" * 20 + KEY)))[1] == []


def test_an_unreadable_reply_is_cut_after_the_key_is_out(monkeypatch):
    monkeypatch.setenv("WALNUT_API_KEY", KEY)
    error = answer_of(Completion("x" * 60 + KEY), ("1", "2")).error
    assert sightings({"error": error.encode()}, WANTED) == []


def test_a_name_that_holds_a_key(open_session, tmp_path):
    names = open_session(Stranger(None)).describe([TEXTS], QuestionCap(1))
    assert names == ["Key"]
    assert sightings(places_in(tmp_path), WANTED) == []


def test_the_reply_of_openai_that_holds_its_key():
    with logging_server(lambda prompt, key: f"{prompt} {key}") as server:
        text = OpenAIOracle("acorn", server.url, KEY_NAME).complete("Ulm", ()).text
    assert text == "Ulm Bearer ***"


def test_the_reply_of_haystack_that_holds_its_key():
    pytest.importorskip("haystack", reason="the extra haystack is not installed")
    import canary_models
    from clusterllm_oracles.haystack import HaystackOracle

    reply = HaystackOracle(canary_models.Repeating()).complete("Give a group", ()).text
    assert reply == "Key ***"


def test_the_error_of_haystack_that_holds_its_key():
    pytest.importorskip("haystack", reason="the extra haystack is not installed")
    import canary_models
    from clusterllm_oracles.haystack import HaystackOracle

    with pytest.raises(OracleError) as caught:
        HaystackOracle(canary_models.Repeating(fails=True)).complete("x", ())
    assert sightings({"error": told_by(caught.value).encode()}, WANTED) == []


def test_the_reply_of_spacy_llm_that_holds_a_key(monkeypatch):
    monkeypatch.setenv("WALNUT_API_KEY", KEY)
    assert SpacyLLMOracle(lambda prompts: [[f"Key {KEY}"]]).complete("x", ()).text == "Key ***"


def test_the_cause_of_an_error_without_a_key_stays():
    with pytest.raises(OracleError) as caught:
        ClusterLLM("lsa", Stranger(raising(ValueError("no luck"))), 3, progress=False).fit(TEXTS)
    assert isinstance(caught.value.__cause__, ValueError)


class Broken:
    """A plugin whose hook fails."""

    @hookimpl
    def answer_received(self, question, answer, oracle):
        raise ValueError(f"refused {SHAPED_KEY}")


def test_a_hook_that_fails(seen, caplog):
    assert seen(Stranger(lambda: Answer("1")), Broken())[1] == []


# Where a user puts a key by mistake.

WRONG = {
    "api_key": "hazelnut",
    "base_url": f"https://ada:{KEY.replace('/', '-')}@oak.example/v1",
    "base_url by name only": "https://hazelnut@oak.example/v1",
    "base_url with a query": "https://oak.example/v1?api-key=hazelnut",
    "base_url with another": "https://oak.example/v1?version=2&sig=hazelnut",
    "model": SHAPED_KEY,
    "api_key_env": SHAPED_KEY,
}


@pytest.mark.parametrize("oracle", ["openai", "batch"])
@pytest.mark.parametrize("setting", WRONG)
def test_a_key_in_a_setting_is_refused_and_nothing_written(tmp_path, setting, oracle):
    name = setting.split()[0]
    run = Life(tmp_path, {"name": oracle, name: WRONG[setting]}, TEXTS, TEXTS, redact=[])
    assert run.cluster() == 2
    assert not (run.folder / "out").exists()
    (told,) = (text for place, text in run.said.items() if "beside" in place)
    assert told.startswith(f"error: oracle '{oracle}'")
    assert name in told.split("\n")[0]
    assert "hazelnut" not in told
    assert sightings(run.places, WANTED) == []


@pytest.mark.parametrize("make", [OpenAIOracle, lambda **settings: BatchOracle("batch", **settings)])
@pytest.mark.parametrize("setting", [name for name in WRONG if name.startswith(("base_url", "model"))])
def test_an_oracle_made_in_python_refuses_it_too(make, setting):
    with pytest.raises(ClusterLLMError, match="key; ") as caught:
        make(**{setting.split()[0]: WRONG[setting]})
    assert WRONG[setting] not in str(caught.value)


def test_a_key_in_the_address_of_the_environment_is_refused(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", WRONG["base_url"])
    with pytest.raises(ClusterLLMError, match="holds a user or a key"):
        OpenAIOracle()


@pytest.mark.parametrize(
    "settings",
    [
        {"config": {"name": "oak", "api_key": "hazelnut"}},
        {"config": {"endpoint": "https://ada:hazelnut@oak.example"}},
        {"config": {"headers": {"Authorization": "hazelnut"}}},
        {"config": {"Access-Token": "hazelnut"}},
    ],
)
def test_a_key_further_inside_is_refused(settings):
    with pytest.raises(ClusterLLMError, match="key; ") as caught:
        Plugins().oracle({"name": "spacy-llm", "model": "acorn", **settings})
    assert "hazelnut" not in str(caught.value)


def test_a_key_of_the_environment_is_refused_whatever_it_looks_like(monkeypatch):
    monkeypatch.setenv("OAK_API_KEY", "walnut hazel")
    with pytest.raises(ClusterLLMError, match="the setting 'model' looks like a key"):
        Plugins().oracle({"name": "openai", "model": "walnut hazel"})


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "https://oak.example/v1?api-version=2024-02-01"},
        {"base_url": "http://[::1]:8080/v1"},
        {"model": "org/model@main"},
        {"max_output_tokens": 5},
        {"api_key_env": "ACORN_KEY"},
    ],
)
def test_what_is_no_key_is_taken(settings):
    Plugins().oracle({"name": "openai", **settings})


def test_a_pattern_to_be_redacted_may_be_of_an_address_with_a_key():
    redact = Plugins().redactor({"name": "patterns", "patterns": [r"https?://\w+:\w+@\S+", r"https?://[^@]+@\S+"]})
    assert redact("see https://ada:hazel@oak.example/") == "see [redacted]"


@pytest.mark.parametrize(
    "assignment", [f"oracle={SHAPED_KEY}", SHAPED_KEY, f"n_clusters={SHAPED_KEY}", f"oracle.{SHAPED_KEY}=1"]
)
def test_a_key_anywhere_on_the_command_line_is_not_repeated(tmp_path, assignment):
    run = Life(tmp_path, {"name": "human"}, TEXTS, TEXTS, redact=[])
    assert run.cluster("out", "--set", assignment) == 2
    told = [text.split("\n")[0].encode() for text in run.said.values()]  # the line that a user sees
    assert sightings(dict(enumerate(told)), WANTED) == []


def test_a_key_stands_in_no_attribute_of_an_oracle():
    with logging_server(sensible) as server:
        oracle = OpenAIOracle("acorn", server.url, KEY_NAME)
        list(oracle.answer([TRIPLET]))
    own = {name: value for name, value in vars(oracle).items() if name != "_client"}  # the library's, which needs it
    assert sightings({"oracle": f"{oracle!r} {vars(oracle)!r} {own}".encode()}, WANTED) == []


# What keys look like.


@pytest.mark.parametrize("name", ["OAK_KEY", "OAK_API_KEY_2", "oak_token", "OAK_SECRET", "OAK_PASSWORD"])
def test_what_the_environment_holds_is_a_key_by_the_name_of_its_variable(monkeypatch, name):
    monkeypatch.setenv(name, "a walnut")
    monkeypatch.setenv(name, "walnut/h")
    assert without_keys("is walnut/h right?") == without_held_keys("is walnut/h right?") == "is *** right?"


@pytest.mark.parametrize("written", [str, json.dumps, repr, str.lower, str.upper])
def test_a_key_is_known_however_it_is_written(written):
    key = "walnut\"'/hazel\\"
    assert "hazel" not in without_keys(f"is {written(key)} right?", [key]).lower()


def test_a_key_in_base64_or_an_address_is_known():
    told = without_keys("Basic OmFjb3JuL1dhbG51dCtIYXplbD03ZjNhOWM= /v1?k=acorn%2FWalnut%2BHazel%3D7f3a9c", [KEY])
    assert told == "Basic ***= /v1?k=***"


@pytest.mark.parametrize("text", ["Bearer tokens expired", "API key=value pairs", "sk-ating", "http://a@b", "hf_hub"])
def test_a_name_that_only_speaks_of_keys_stays(text):
    assert without_held_keys(text) == text


@pytest.mark.parametrize(
    "text",
    ["Bearer hazelnut", "?key=hazelnut&a", "http://ada:hazelnut@oak", "sk-hazelnut1", "sk-ha*****lnut", SHAPED_KEY],
)
def test_an_error_shows_nothing_that_may_be_a_key(text):
    assert not any(part in without_keys(text) for part in ("hazel", "lnut", "Hazel"))


def test_a_key_is_seen_in_what_an_error_came_from():
    error = ValueError("no luck")
    error.__context__ = KeyError(SHAPED_KEY)
    assert shows_key(error)
    assert not shows_key(ValueError("no luck"))


def test_a_short_value_is_no_key(monkeypatch):
    monkeypatch.setenv("OAK_KEY", "false")
    assert without_keys("it is false") == "it is false"
