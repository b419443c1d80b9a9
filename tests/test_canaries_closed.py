"""Redaction fails closed with every kind of oracle, and what stands beside the texts is redacted as they are."""

import io
import json
import pickle

import pytest

from canary_kit import KEY, KEY_NAME, Life, logging_server, places_in, sensible, sightings, told_by, wanted_of
from clusterllm_oracles.batch import BatchOracle
from clusterllm_oracles.council import CouncilOracle
from clusterllm_oracles.human import HumanOracle
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_oracles.replay import ReplayOracle
from clusterllm_oracles.simulated import SimulatedOracle
from clusterllm_oracles.spacy_llm import SpacyLLMOracle
from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.questions import Answer, pair_question

CANARY = "quill1234ada@example.com"
WANTED = wanted_of([CANARY])
TEXTS = [f"The {what} of the {thing}" for what in ("lid", "key", "colour") for thing in ("kettle", "lamp", "gate")]
TEXTS[-1] += f" for {CANARY}"
KINDS = ["openai", "batch", "council", "human", "replay", "simulated", "haystack", "spacy-llm", "transformers"]


def raises(text):
    if CANARY in text:
        raise ValueError(f"cannot read {text}")
    return text


def forgets(text):
    return None if CANARY in text else text


@pytest.fixture
def asked():
    """What reached whoever answers."""
    return []


@pytest.fixture
def make(request, tmp_path, monkeypatch, asked):
    monkeypatch.setenv(KEY_NAME, KEY)

    def model(prompts):
        asked.append(prompts)
        return [["1"]]

    def replay():
        (tmp_path / "answers.jsonl").write_text('{"indices": [0, [1], [2]], "choice": "1"}\n', encoding="utf-8")
        return ReplayOracle(tmp_path / "answers.jsonl")

    def human():
        oracle = HumanOracle()
        oracle.streams = io.StringIO("1\n" * 50), io.StringIO()
        return oracle

    def haystack():
        pytest.importorskip("haystack", reason="the extra haystack is not installed")
        import canary_models
        from clusterllm_oracles.haystack import HaystackOracle

        monkeypatch.setattr(canary_models, "PROMPTS", asked)
        return HaystackOracle(canary_models.Repeating())

    def transformers():
        from local_model_kit import local

        return local(request.getfixturevalue("chat"))

    makers = {
        "batch": lambda: BatchOracle(tmp_path / "batch"),
        "council": lambda: CouncilOracle([SpacyLLMOracle(model), SpacyLLMOracle(model, fingerprint="other")]),
        "haystack": haystack,
        "human": human,
        "replay": replay,
        "simulated": lambda: SimulatedOracle([0, 1, 2] * 3),
        "spacy-llm": lambda: SpacyLLMOracle(model),
        "transformers": transformers,
    }
    return lambda kind: makers[kind]()


@pytest.mark.parametrize("redactor", [raises, forgets])
@pytest.mark.parametrize("kind", KINDS)
def test_a_redactor_that_fails_stops_all_before_anything_is_sent(make, asked, tmp_path, kind, redactor):
    with logging_server(sensible) as server:
        oracle = OpenAIOracle("acorn", server.url, KEY_NAME) if kind == "openai" else make(kind)
        model = ClusterLLM("lsa", oracle, 3, redact=[redactor], store=tmp_path / "answers.sqlite", progress=False)
        with pytest.raises(ClusterLLMError, match=rf"^redactor '{redactor.__name__}' .*: nothing was sent$") as caught:
            model.fit(TEXTS)
        assert server.log == []
    shown = oracle.streams[1].getvalue() if kind == "human" else ""
    assert (asked, shown) == ([], "")
    assert not (tmp_path / "batch").exists()
    assert sightings(places_in(tmp_path) | {"error": told_by(caught.value).encode()}, WANTED) == []


def test_a_redactor_that_fails_on_a_demonstration_stops_all_before_anything_is_sent(make, asked):
    demonstrations = [("the lid", f"write to {CANARY}", "no")]
    model = ClusterLLM("lsa", make("spacy-llm"), (2, 4), demonstrations=demonstrations, redact=[raises], method="paper")
    with pytest.raises(ClusterLLMError, match="nothing was sent"):
        model.fit(TEXTS[:-1])
    assert asked == []


def test_a_redactor_that_fails_stops_predict(make):
    model = ClusterLLM("lsa", None, 3, redact=[raises], progress=False).fit(TEXTS[:-1])
    with pytest.raises(ClusterLLMError, match="nothing was sent") as caught:
        model.predict(TEXTS)
    assert sightings({"error": told_by(caught.value).encode()}, WANTED) == []


def test_what_other_redactors_have_passed_is_redacted_again():
    first = ClusterLLM("lsa", "parrot", 2, redact=["phones"])
    redacted = first.set_params(oracle=Silent()).first_questions(TEXTS[-3:], 1)[0]
    assert CANARY in "".join(map(str, (redacted.anchor, *redacted.groups)))
    texts = [redacted.anchor, *(text for group in redacted.groups for text in group)]
    second = ClusterLLM("lsa", Silent(), 2, redact=["emails"])
    assert CANARY not in str(second.first_questions(texts, 1))


class Silent:
    """An oracle that is never asked."""

    fingerprint = "silent"

    def answer(self, questions):
        return [Answer("1") for _ in questions]


def life(tmp_path, oracle=None, **more):
    return Life(tmp_path, oracle or {"name": "human"}, TEXTS, TEXTS, **more)


def test_demonstrations_are_saved_redacted(tmp_path, make):
    demonstrations = [("the lid", f"write to {CANARY}", "no")]
    model = ClusterLLM("lsa", None, 3, demonstrations=demonstrations, redact=["emails"], progress=False).fit(TEXTS)
    model.save(tmp_path / "model")
    assert sightings(places_in(tmp_path), WANTED) == []
    assert ClusterLLM.load(tmp_path / "model").demonstrations == (("the lid", "write to [email]", "no"),)


def test_the_settings_of_a_run_hold_redacted_demonstrations(tmp_path):
    run = life(tmp_path)
    run.settings = ["--embedder", "lsa", "--n-clusters", "3", "--redact", "emails"]
    demonstrations = json.dumps([["the lid", f"write to {CANARY}", "no"]])
    assert run.cluster("out", "--set", f"demonstrations={demonstrations}") == 0
    assert "write to [email]" in (run.folder / "out" / "settings.json").read_text(encoding="utf-8")
    assert sightings(run.places, WANTED) == []


@pytest.mark.parametrize("demonstrations", [CANARY, [[CANARY, "lid", "maybe"]]])
def test_wrong_demonstrations_are_not_quoted_where_texts_are_redacted(demonstrations):
    with pytest.raises(ClusterLLMError) as caught:
        ClusterLLM("lsa", None, 3, demonstrations=demonstrations, redact=["emails"]).fit(TEXTS)
    assert sightings({"error": told_by(caught.value).encode()}, WANTED) == []


def test_the_error_of_a_known_answer_is_saved_redacted(tmp_path):
    known = [(pair_question(TEXTS, 0, 8), Answer(None, error=f"unreadable reply: '{CANARY}'"))]
    ClusterLLM("lsa", None, 3, redact=["emails"], progress=False).fit(TEXTS, answers=known).save(tmp_path / "model")
    assert sightings(places_in(tmp_path), WANTED) == []


@pytest.mark.parametrize("first", [CANARY, "+44 20 7946 0958", "Please write to 0172 3456789", "The invoice is wrong!"])
def test_the_first_line_of_a_table_without_a_header_is_not_quoted(tmp_path, first):
    run = life(tmp_path)
    run.file = tmp_path / "texts.csv"
    run.file.write_text(f'"{first}"\nThe lid\n', encoding="utf-8")
    assert run.cluster() == 2
    (told,) = (text for name, text in run.said.items() if "beside" in name)
    assert "no field 'text' (fields: 1 of which the name may be a text)" in told
    assert first not in told


def test_a_pickled_model_holds_redacted_texts():
    model = ClusterLLM("lsa", None, 3, redact=["emails"], progress=False).fit(TEXTS)
    assert sightings({"pickle": pickle.dumps(model), "repr": repr(model).encode()}, WANTED) == []
