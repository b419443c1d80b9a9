"""200 canaries and a key through whole runs with every built-in oracle: they turn up nowhere."""

import json
from functools import partial

import pytest

from batch_kit import run_batches
from canary_kit import (
    KEY,
    KEY_NAME,
    Life,
    canaries,
    echo,
    logging_server,
    sensible,
    sightings,
    texts_with,
    wanted_of,
)

CANARIES, NEW = canaries(), canaries(seed=3)
TEXTS, NEW_TEXTS = texts_with(CANARIES), texts_with(NEW)
WANTED = wanted_of([*CANARIES, *NEW], KEY)

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv(KEY_NAME, KEY)
    for name in ("OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def live(tmp_path):
    """Do all that the command can with an oracle; return all that was said and written."""

    def run(oracle, between=lambda: None, **more):
        return Life(tmp_path, oracle, TEXTS, NEW_TEXTS, **more).whole(between).places

    return run


def at(server):
    return {"name": "openai", "base_url": server.url, "api_key_env": KEY_NAME, "max_output_tokens": 300}


def batch_reply(body):
    return sensible(body["messages"][0]["content"]), (5, 1)


def test_the_search_finds_what_is_not_redacted(live):
    with logging_server(sensible) as server:
        places = live(at(server), redact=[]) | {"server": b"\n".join(server.log)}
    found = sightings(places, wanted_of(CANARIES))
    assert len({canary for place, canary in found if place == "server"}) >= 190
    assert {place for place, _ in found} >= {
        "0 quote",
        "out/answers.sqlite",
        "out/answers.sqlite (rows)",
        "out/answers.jsonl",
        "out/embedder/terms.json",
        "out.log.jsonl",
    }


@pytest.mark.parametrize("reply", [sensible, echo])
def test_openai(live, reply):
    with logging_server(reply) as server:
        places = live(at(server)) | {"server": b"\n".join(server.log)}
    assert server.keys[0] == f"Bearer {KEY}"
    assert sightings(places, WANTED) == []


def test_batch(live, tmp_path):
    folder = tmp_path / "results" / "batch"
    places = live({"name": "batch", "folder": str(folder)}, between=partial(run_batches, folder, batch_reply))
    assert "batch/requests-0001.jsonl" in places
    assert sightings(places, WANTED) == []


def test_transformers(live, chat):
    places = live({"name": "transformers", "model": str(chat), "device": "cpu", "precision": "fp32"})
    assert sightings(places, WANTED) == []


def test_council(live):
    with logging_server(echo) as server:
        members = [at(server), at(server) | {"model": "oak"}]
        places = live({"name": "council", "members": members}) | {"server": b"\n".join(server.log)}
    assert sightings(places, WANTED) == []


def test_simulated(live, tmp_path):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([place % 4 for place in range(len(TEXTS))]), encoding="utf-8")
    assert sightings(live({"name": "simulated", "labels": str(labels)}), WANTED) == []


def test_replay(live, tmp_path):
    answers = tmp_path / "answers.jsonl"
    lines = [{"indices": [place, [place + 1], [place + 2]], "choice": "1"} for place in range(len(TEXTS) - 2)]
    answers.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert sightings(live({"name": "replay", "path": str(answers)}), WANTED) == []


def test_haystack(live, monkeypatch):
    pytest.importorskip("haystack", reason="the extra haystack is not installed")
    monkeypatch.setenv("HAYSTACK_DESERIALIZATION_ALLOWLIST", "canary_models")
    import canary_models

    canary_models.PROMPTS.clear()
    places = live({"name": "haystack", "chat_generator": {"type": "canary_models.Repeating", "init_parameters": {}}})
    assert canary_models.PROMPTS
    assert sightings(places | {"prompts": "\n".join(canary_models.PROMPTS).encode()}, WANTED) == []


def test_spacy_llm(live, monkeypatch):
    pytest.importorskip("spacy_llm", reason="the extra spacy-llm is not installed")
    monkeypatch.setenv("WALNUT_API_KEY", KEY)  # a callable does not say in which variable its key is
    import catalogue
    from spacy_llm.registry import registry

    import canary_models

    before = dict(catalogue.REGISTRY)
    registry.llm_models.register("acorn.Repeating.v1", func=canary_models.repeating)
    canary_models.PROMPTS.clear()
    try:
        places = live({"name": "spacy-llm", "model": "acorn.Repeating.v1"})
    finally:
        catalogue.REGISTRY.clear()
        catalogue.REGISTRY.update(before)
    assert canary_models.PROMPTS
    assert sightings(places | {"prompts": "\n".join(canary_models.PROMPTS).encode()}, WANTED) == []


def test_human(tmp_path):
    pytest.importorskip("termios", reason="this system has no pseudo-terminals")
    from terminal_kit import Person

    life = Life(tmp_path, {"name": "human"}, TEXTS, NEW_TEXTS)
    asked = ["--method", "paper", "--max-questions", "4", "--log", life.folder / "log.jsonl", "--log-texts"]
    with Person("cluster", life.file, "-o", life.folder / "out", *life.settings, *asked) as person:
        person.press("1", "m", "2", "s", "1")
        code, _ = person.end()
    assert code == 0, person.screen
    life.after(life.folder / "out")
    places = life.places | {"screen": person.screen.encode()}
    assert "[email]" in person.screen
    assert sightings(places, WANTED) == []
