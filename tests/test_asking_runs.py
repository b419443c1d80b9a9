"""Whole runs of the command against a real server: killed, interrupted, watched at a terminal."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from clusterllm_plugins.prompts import render
from clusterllm_plugins.store import AnswerStore
from misbehaving_server import misbehaving
from test_cli import MESSAGES, ROOT, lines

pytest.importorskip("openai")

CONCURRENCY = 8
pytestmark = pytest.mark.usefixtures("no_proxy")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


@pytest.fixture(scope="module")
def knowing():
    """Replies to prompts of somebody who knows the categories of the sample messages."""
    labels = [record["label"] for record in lines(ROOT / "examples" / "messages_labels.jsonl")]
    label_of = {record["text"]: label for record, label in zip(lines(MESSAGES), labels, strict=True)}

    def labels_in(line):
        return [label_of[json.loads(quoted)] for quoted in _QUOTED.findall(line)]

    def reply(prompt):
        shown = [labels_in(line) for line in prompt.split("\n")[2:]]
        shown = [labels for labels in shown if labels]
        if prompt.startswith("Give a group"):
            (commonest, _), *_ = Counter(label for labels in shown for label in labels).most_common()
            return commonest.replace("_", " ")
        (anchor,), *groups = shown
        if prompt.startswith("Decide whether"):
            return "yes" if groups[0] == [anchor] else "no"
        near = [number for number, labels in enumerate(groups, start=1) if anchor in labels]
        return str(near[0]) if near else "none"

    return reply


def command(server, folder, *more):
    return [
        *("cluster", MESSAGES, "-o", folder, "--embedder", "lsa", "--n-clusters", "32", "--max-questions", "150"),
        *("--oracle", "openai", "--set", f"oracle.base_url={server.url}", "--set", "oracle.api_key_env="),
        *("--set", f"oracle.concurrency={CONCURRENCY}", "--set", "oracle.timeout=2", *more),
    ]


def start(server, folder, *more):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    code = "from clusterllm_plugins.cli import main; main()"
    arguments = [str(part) for part in command(server, folder, *more)]
    pipes = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], **pipes)


def stored_prompts(folder):
    path = folder / "answers.sqlite"
    if not path.exists():
        return set()
    with AnswerStore(path) as store:
        return {render(question) for _, question, _ in store}


@pytest.mark.slow
def test_a_whole_run_survives_kills(tmp_path, knowing, capsys):
    kills, moments = 10, random.Random(3)
    folder, lost = tmp_path / "out", []
    with misbehaving(seed=2, latency=0.05, reply=knowing) as server:
        for number in range(kills):
            before, kept = len(server.requests), stored_prompts(folder)
            run = start(server, folder)
            share = (number + moments.random()) / kills  # of what is asked in all, about
            while len(server.requests) - before < 1 or len(stored_prompts(folder)) < 100 * share:
                assert run.poll() is None, run.communicate()
                time.sleep(0.01)
            run.kill()
            run.communicate()
            time.sleep(0.2)  # what is on its way arrives
            after = stored_prompts(folder)
            assert kept <= after
            came = server.requests[before:]
            assert not {request.prompt for request in came} & kept
            lost.append(len({r.prompt for r in came if r.answered and "Give a group" not in r.prompt} - after))
            assert not (folder / "clusters.jsonl").exists()
        before, kept = len(server.requests), stored_prompts(folder)
        out, err = start(server, folder).communicate(timeout=300)
        assert "clusters of 725 texts" in out, err
        assert not {request.prompt for request in server.requests[before:]} & kept
        again = start(server, folder, "--overwrite")
        before = len(server.requests)
        again.communicate(timeout=300)
        assert len(server.requests) == before
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert len(lines(folder / "clusters.jsonl")) == 725
    assert max(lost) <= CONCURRENCY
    with capsys.disabled():
        print(f"\n  {kills} kills of a whole run: {summary['report']['questions']}, {sum(lost)} paid twice, in flight")


@pytest.fixture
def person():
    """Somebody at a pseudo-terminal."""
    pytest.importorskip("pty")
    from terminal_kit import Person

    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(Person(*arguments, columns=200, OPENAI_API_KEY=""))


@pytest.mark.slow
def test_progress_says_what_was_asked_abstained_and_spent_and_the_time_left(tmp_path, knowing, person):
    prices = ("--set", "oracle.input_price=1", "--set", "oracle.output_price=2")
    with misbehaving(seed=2, latency=0.1, reply=knowing) as server:
        run = person(*command(server, tmp_path / "out", *prices))
        run.wait_for("clusters of 725 texts")
    bars = re.findall(r"asking about \w+: +\d+%\|[^|]*\| (\d+)/(\d+) \[\d\d:\d\d<\d\d:\d\d[^\]]*\]", run.screen)
    asked = [int(number) for number, _ in bars]
    assert asked == sorted(asked)
    assert asked[-1] > 50
    assert len({total for _, total in bars}) == 1  # it counts up to the cap
    assert re.search(r"\d+ abstained, [\d,]+ tokens, \$0\.\d{4}\]", run.screen)


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_in_flight_and_the_same_command_goes_on(tmp_path, knowing, person):
    folder = tmp_path / "out"
    with misbehaving(bad=0.0, latency=0.3, reply=knowing) as server:
        run = person(*command(server, folder))
        while len(server.requests) < 30:
            time.sleep(0.01)
        run.type("\x03")
        run.wait_for("calls are in flight and awaited; Ctrl-C again does not wait")
        run.wait_for("stopped: the same command goes on where it was; no answer is lost")
        assert run.process.wait(timeout=20) == 1
        came = {request.prompt for request in server.requests}
        assert stored_prompts(folder) == came
        before = len(server.requests)
        out, err = start(server, folder).communicate(timeout=300)
        assert "clusters of 725 texts" in out, err
        assert not {request.prompt for request in server.requests[before:]} & came


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(tmp_path, knowing, person):
    with misbehaving(bad=0.0, latency=0.05, reply=knowing) as server:
        run = person(*command(server, tmp_path / "out", "--set", "oracle.timeout=60"))
        while len(server.requests) < 30:
            time.sleep(0.01)
        server.latency = 50.0
        time.sleep(0.5)
        os.killpg(run.process.pid, signal.SIGINT)
        run.wait_for("Ctrl-C again does not wait")
        since = time.monotonic()
        os.killpg(run.process.pid, signal.SIGINT)
        run.wait_for("stopped: the same command goes on where it was; no answer is lost")
        run.process.wait(timeout=20)
        assert time.monotonic() - since < 10
