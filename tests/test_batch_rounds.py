"""Whole runs through the files of the oracle ``batch`` alone, beside the same runs by HTTP; and names."""

import hashlib
import os
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from batch_kit import answered, asked, denied, run_batches, save
from clusterllm_oracles.batch import BatchOracle
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_plugins import ClusterLLM, OracleError
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.prompts import render_description
from guided_kit import make_blobs, texts_of
from openai_kit import completion

VECTORS, TRUTH = make_blobs((30,) * 4, spread=0.4)
TEXTS = texts_of(len(VECTORS))
GUIDED = {"method": "auto", "n_clusters": 4, "max_questions": 40}
PAPER = {
    "method": "paper",
    "n_clusters": (2, 8),
    "max_questions": 20,
    "max_granularity_questions": 20,
    "iterations": 3,
}


def reply(body):
    """Say what a model says that errs, now and then, always in the same way; and what that took."""
    prompt = body["messages"][0]["content"]
    luck = hashlib.sha256(prompt.encode()).digest()[0]
    text = "I would rather not" if luck < 10 else said(prompt, errs=luck < 40)
    tokens = [(text, {text: 1 - luck / 512, "?": luck / 1024})] if "logprobs" in body else None
    return text, (len(prompt.split()), 1), tokens


def said(prompt, errs):
    if "short name" in prompt:
        return f"Subject {category(prompt)}"
    if "yes or no" in prompt:
        left, right = (category(line) for line in re.findall(r"^Text [AB]: .*$", prompt, re.MULTILINE))
        return "yes" if (left == right) != errs else "no"
    query = category(re.search(r"^Query: .*$", prompt, re.MULTILINE)[0])
    groups = dict(re.findall(r"^(\d+)\. (.*)$", prompt, re.MULTILINE))
    fitting = [number for number, shown in groups.items() if (category(shown) == query) != errs]
    return fitting[0] if fitting else "none" if ", or none" in prompt else "1"


def category(shown):
    return Counter(TRUTH[int(number)] for number in re.findall(r'"text (\d+)"', shown)).most_common(1)[0][0]


@pytest.fixture
def provider(provider):
    provider.always = lambda body: (200, completion(*reply(body)), {})
    return provider


def fit(oracle, settings, store=None):
    model = ClusterLLM(oracle=oracle, store=store, progress=False, **settings)
    return model.fit(TEXTS, embeddings=VECTORS)


def fit_by_http(provider, settings, store=None):
    return fit(OpenAIOracle("acorn", base_url=provider.url, api_key_env=None), settings, store)


def fit_by_files(provider, folder, settings, store=None):
    """Return the model and the number of rounds; each run has an oracle of its own, as another process would."""
    for rounds in range(100):
        try:
            return fit(BatchOracle(folder, "acorn", base_url=provider.url), settings, store), rounds
        except OracleError:
            run_batches(folder, reply, seed=rounds)
    return pytest.fail("the run never ended")


@pytest.mark.filterwarnings("ignore::clusterllm_plugins.ClusterLLMWarning")
@pytest.mark.parametrize("settings", [GUIDED, PAPER], ids=["auto", "paper"])
@pytest.mark.parametrize("kept", [True, False], ids=["store", "memory"])
def test_a_run_through_files_alone_equals_the_run_by_http(provider, tmp_path, settings, kept):
    by_http = fit_by_http(provider, settings)
    by_files, rounds = fit_by_files(provider, tmp_path, settings, tmp_path / "answers.sqlite" if kept else None)
    assert rounds >= 4
    assert np.array_equal(by_files.labels_, by_http.labels_)
    assert by_files.cluster_labels_ == by_http.cluster_labels_
    assert (by_files.questions_, by_files.answers_) == (by_http.questions_, by_http.answers_)
    assert any(answer.confidence for answer in by_http.answers_)
    in_files = [line["body"] for number in range(1, rounds + 1) for line in asked(tmp_path, number)]
    by_requests = [{name: sent[name] for name in sent if name not in ("path", "key")} for sent in provider.requests]
    assert sorted(map(str, in_files)) == sorted(map(str, by_requests))  # the same was asked, and each once


@pytest.mark.filterwarnings("ignore::clusterllm_plugins.ClusterLLMWarning")
def test_answers_that_came_in_files_are_found_by_http(provider, tmp_path):
    store = tmp_path / "answers.sqlite"
    by_files, _ = fit_by_files(provider, tmp_path / "batch", GUIDED, store)
    by_http = fit_by_http(provider, GUIDED, store)
    assert np.array_equal(by_files.labels_, by_http.labels_)
    assert provider.requests == []


def test_the_command_stops_with_one_line_and_goes_on(tmp_path):
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS[:40]), encoding="utf-8")
    code = "from clusterllm_plugins.cli import main; main()"
    options = "cluster texts.txt -o out --embedder lsa --n-clusters 2 --method paper --max-questions 5 --oracle batch"
    command = [sys.executable, "-c", code, *options.split(), "--set", "oracle.folder=out/batch"]
    environment = {**os.environ, "OPENAI_API_KEY": ""}

    def run():
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)

    stopped = run()
    assert (stopped.returncode, stopped.stdout, stopped.stderr.count("\n")) == (2, "", 1)
    assert "run out/batch/requests-0001.jsonl as a batch" in stopped.stderr
    run_batches(tmp_path / "out" / "batch", reply)
    assert run().returncode == 0
    assert (tmp_path / "out" / "summary.json").exists()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "batch"


def test_names_of_all_groups_are_asked_for_in_one_file(folder, open_session):
    groups = [("green tea", "mint tea"), ("rain again", "more rain")]
    with pytest.raises(OracleError, match="2 requests without a result"):
        open_session(BatchOracle(folder)).describe(groups, QuestionCap(2))
    assert [line["body"]["messages"][0]["content"] for line in asked(folder)] == list(map(render_description, groups))
    run_batches(folder, lambda body: ("Hot drinks" if "tea" in str(body) else "Weather", (9, 2)))
    assert open_session(BatchOracle(folder)).describe(groups, QuestionCap(2)) == ["Hot drinks", "Weather"]


def test_a_refused_name_is_none(folder, open_session):
    groups = [("green tea", "mint tea"), ("rain again", "more rain")]
    with pytest.raises(OracleError):
        list(BatchOracle(folder).describe_all(groups))
    tea, rain = (line["custom_id"] for line in asked(folder))
    save(folder, [answered(tea, "Hot drinks"), denied(rain, 400)])
    assert open_session(BatchOracle(folder)).describe(groups, QuestionCap(2)) == ["Hot drinks", None]
