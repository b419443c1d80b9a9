"""docs/asking.md and the README's examples of oracles run as written, with stand-ins for whoever answers.

Only addresses and names of models are replaced, by those of a server on the loopback and of a tiny model; of the sample
messages the first ones will do.
"""

import json
import re
import shlex
import shutil
import subprocess
import textwrap
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from batch_kit import run_batches
from clusterllm_oracles import prices
from clusterllm_plugins import ClusterLLM, Plugins, endpoints
from clusterllm_plugins.budget import NOT_ASKED
from clusterllm_plugins.cli import app
from provider_kit import serving, serving_files

ROOT = Path(__file__).resolve().parent.parent
ASKING = (ROOT / "docs" / "asking.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Who answers\n")[1].split("\n## ")[0]
FEW = 160  # messages
SAMPLES = {
    path.name: path.read_text(encoding="utf-8").splitlines(keepends=True)[:FEW]
    for path in (ROOT / "examples" / "messages.jsonl", ROOT / "examples" / "messages_labels.jsonl")
}
TEXTS = [json.loads(line)["text"] for line in SAMPLES["messages.jsonl"]]


def blocks(text, language=""):
    """Return the blocks of code in a language."""
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for written_in, block in found if written_in == language]


def commands(block):
    """Return the arguments of each call of ``clusterllm`` in a block."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("clusterllm ")]


def section(title):
    """Return a section of docs/asking.md."""
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", ASKING, re.DOTALL | re.MULTILINE)
    assert match, f"docs/asking.md has no section {title!r}"
    return match[1]


def shell(title):
    """Return the arguments of all calls of ``clusterllm`` in the blocks of a section."""
    return [command for block in blocks(section(title)) for command in commands(block)]


def reply(prompt):
    if "short name" in prompt:
        return "Late parcels"
    return "yes" if "yes or no" in prompt else "1"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A folder like a checkout, a server that stands in for all, and what runs a command there."""
    pytest.importorskip("openai")
    (tmp_path / "examples").mkdir()
    for name, lines in SAMPLES.items():
        (tmp_path / "examples" / name).write_text("".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serving(reply) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-walnut-12345")
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setattr(endpoints, "_HOST", "127.0.0.1")  # OpenAI's list prices are those of the stand-in
        yield Runner(server)


class Runner:
    """Runs the examples.

    Attributes:
        server: Stands in for OpenAI and for every local server.
        replaced: What is written in an example, and what stands in for it.
    """

    def __init__(self, server):
        self.server = server
        self.replaced = {f"http://localhost:{port}/v1": server.url for port in (8000, 8080, 11434)}

    def standing_in(self, text):
        for written, instead in self.replaced.items():
            text = text.replace(written, str(instead))
        return text

    def command(self, arguments):
        return CliRunner().invoke(app, [self.standing_in(argument) for argument in arguments])

    def done(self, arguments):
        """Run a command, which must succeed; return what it prints."""
        result = self.command(arguments)
        assert result.exit_code == 0, (arguments, result.output)
        return result.output

    def python(self, block, **names):
        exec(compile(self.standing_in(block), "example", "exec"), {"ClusterLLM": ClusterLLM, "texts": TEXTS, **names})


def tiny_model(run, folder):
    """Put one with random weights in place of the model that the examples name."""
    pytest.importorskip("transformers")
    from local_model_kit import save_model

    run.replaced["Qwen/Qwen2.5-1.5B-Instruct"] = save_model(folder / "tiny", longest=600)


# The README.


def readme(oracle):
    """Return the README's block about an oracle."""
    match = re.search(rf"\n`{oracle}`.*?```\w*\n(.*?)```", README, re.DOTALL)
    assert match, f"README.md has no example of the oracle {oracle!r}"
    return match[1]


def asked(output):
    return int(re.search(r"questions: (\d+) asked", output)[1])


def test_readme_names_every_oracle_of_the_table():
    named = {name for row in re.findall(r"^\| (`.*?) \|", README, re.MULTILINE) for name in re.findall(r"`(.*?)`", row)}
    import clusterllm_oracles

    registered = []
    clusterllm_oracles.register_oracles(register=lambda name, factory: registered.append(name))
    assert named == set(registered)
    assert all(readme(name) for name in registered)


def test_readme_openai(run):
    hosted, local = commands(readme("openai"))
    assert asked(run.done(hosted)) > 0
    assert run.server.keys[-1] == "Bearer sk-walnut-12345"
    assert json.loads(Path("hosted/summary.json").read_text())["usage"]["cost"] > 0
    assert asked(run.done(local)) > 0
    assert run.server.keys[-1] == "Bearer none"


@pytest.mark.slow
def test_readme_transformers(run, tmp_path):
    tiny_model(run, tmp_path)
    assert asked(run.done(*commands(readme("transformers")))) > 0
    assert not run.server.prompts


def test_readme_haystack(run, capsys):
    pytest.importorskip("haystack")
    run.python(readme("haystack"))
    assert run.server.prompts
    assert "'failed': 0" in capsys.readouterr().out


@pytest.mark.slow
def test_readme_spacy_llm(run, monkeypatch):
    rest = pytest.importorskip("spacy_llm.models.rest.openai")
    monkeypatch.setattr(rest.OpenAI, "_verify_auth", lambda model: None)  # it asks OpenAI itself
    run.replaced['{"name": "gpt-4o"}'] = json.dumps({"name": "gpt-4o", "endpoint": run.server.url})
    assert asked(run.done(*commands(readme("spacy-llm")))) > 0
    assert run.server.prompts


@pytest.mark.slow
def test_readme_human(run):
    pytest.importorskip("termios", reason="this system has no pseudo-terminals")
    from terminal_kit import Person

    (command,) = commands(readme("human"))
    with Person(*command) as person:
        person.press("1", "s", "u", "1", "q")
        code, screen = person.end()
    assert (code, "you quit after 2 answers; run the same again" in " ".join(screen)) == (2, True)


@pytest.mark.slow
def test_readme_batch(run):
    (command,) = commands(readme("batch"))
    waiting = run.command(command)
    assert waiting.exit_code == 2
    assert " requests without a result: run batched/files/requests-0001.jsonl as a batch" in waiting.output
    run_batches(Path("batched/files"), lambda body: (reply(body["messages"][0]["content"]), (50, 1)))
    while (result := run.command(command)).exit_code:
        run_batches(Path("batched/files"), lambda body: (reply(body["messages"][0]["content"]), (50, 1)))
    assert len(list(Path("batched/files").glob("requests-*.jsonl"))) <= 3
    assert "questions: " in result.output
    assert not run.server.prompts


@pytest.mark.slow
def test_readme_replay(run):
    told = asked(run.done(commands(readme("openai"))[1]))
    sent = len(run.server.prompts)
    answers, again = commands(readme("replay"))
    run.done(answers)
    lines = [json.loads(line) for line in Path("told.jsonl").read_text().splitlines()]
    assert sum(line["kind"] != "description" for line in lines) == told  # those are about names
    assert asked(run.done(again)) > 0
    assert len(run.server.prompts) == sent


@pytest.mark.slow
def test_readme_council(run, tmp_path, capsys):
    tiny_model(run, tmp_path)
    run.python(readme("council"))
    assert run.server.prompts  # one with random weights is never sure
    assert "'failed': 0" in capsys.readouterr().out


@pytest.mark.slow
def test_readme_simulated(run):
    output = run.done(*commands(readme("simulated")))
    assert asked(output) > 0
    assert "note: the oracle is simulated" in output


# docs/asking.md.


def labels():
    """Return the category of each message."""
    texts, categories = (
        [json.loads(line)[field] for line in (ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()]
        for name, field in (("messages.jsonl", "text"), ("messages_labels.jsonl", "label"))
    )
    return dict(zip(texts, categories, strict=True))


LABELS = labels()


def knowing(prompt):
    """Answer a choice by the categories of the messages, for a run that goes on after its checks of the oracle."""
    if "yes or no" in prompt or "short name" in prompt:
        return "yes"
    lines = re.findall(r"^(?:Query|\d+)[:.] (.*)$", prompt, re.MULTILINE)
    anchor, *groups = [
        Counter(LABELS[json.loads(text)] for text in line.split(" | ")).most_common(1)[0][0] for line in lines
    ]
    return next((str(number) for number, group in enumerate(groups, start=1) if group == anchor), "none")


def lines_of(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_every_link_within_the_page_leads_somewhere():
    titles = re.findall(r"^#+ (.*)$", ASKING, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\(#(.*?)\)", ASKING)) <= anchors


def test_every_message_is_one_of_ours_or_of_the_provider():
    sources = [path for folder in ("clusterllm_plugins", "oracles") for path in (ROOT / folder).rglob("*.py")]
    # As a message reads: a long one is written in pieces, some of which are filled in.
    code = re.sub(r'"\s+f?"', "", "\n".join(path.read_text(encoding="utf-8") for path in sources))
    code = code.replace("{NOT_ASKED}", NOT_ASKED)
    code += "Error code: 401 Error code: 429 Error code: 400 Connection error. Request timed out."
    rows = re.findall(r"^\| `([^`]*)`", section("What a message means"), re.MULTILINE)
    assert len(rows) > 20
    assert [row for row in rows if not all(part in code for part in re.split(r"\b0\b", row))] == []


def test_the_prices_are_of_the_date_of_the_table():
    assert f"list prices of {prices.DATE}" in section("Cost")


@pytest.mark.slow
def test_the_walk_through(run):
    quote, *clusterings = shell("Ten thousand private messages and two dollars")
    quoted = run.done(quote)
    assert "--- question 3 of 3 shown ---" in quoted
    assert 0 < json.loads(quoted[: quoted.index("\n---")])["cost_at_most"] < 2
    assert not run.server.prompts
    run.server.reply = knowing
    trial, whole = map(run.done, clusterings)
    assert asked(trial) > 0
    assert int(re.search(r"(\d+) recalled", whole)[1]) > 0
    assert 0 < json.loads(Path("out/summary.json").read_text())["usage"]["cost"] < 2


def test_a_quote_at_prices_of_ones_own(run):
    (quote,) = shell("Cost")
    assert json.loads(run.done(quote))["cost_at_most"] > 0


@pytest.mark.slow
def test_answers_are_replayed(run):
    (cluster,) = [command for command in commands(readme("openai")) if "local" in command]
    run.done(["out" if argument == "local" else argument for argument in cluster])
    sent = len(run.server.prompts)
    answers, again = shell("Resuming")
    run.done(answers)
    assert asked(run.done(again)) > 0
    assert len(run.server.prompts) == sent


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_servers_of_ones_own(run, number):
    assert asked(run.done(shell("A server on this machine: Ollama, vLLM, llama.cpp")[number])) > 0
    assert set(run.server.keys) == {"Bearer none"}


@pytest.mark.slow
def test_a_local_model(run, tmp_path, capsys):
    tiny_model(run, tmp_path)
    (block,) = blocks(section("A model on this machine: `transformers`"), "python")
    run.python(block)
    assert "'failed': 0" in capsys.readouterr().out
    assert not run.server.prompts


def test_redactors():
    (block,) = blocks(section("Redactors"), "python")
    names = {"ClusterLLM": ClusterLLM}
    exec(compile(block, "example", "exec"), names)
    names["model"].first_questions(TEXTS, 0)


@pytest.mark.slow
def test_batches_step_by_step(run, monkeypatch):
    title = "In files: the oracle `batch`"
    (command,) = shell(title)
    send, fetch = blocks(section(title), "python")
    from batch_kit import answered

    class Files:
        """OpenAI's files and batches, as far as the example goes."""

        def post(self, path, body):
            if path.endswith("/files"):
                self.requests = [json.loads(line) for line in re.findall(rb'^{"custom_id".*$', body, re.MULTILINE)]
                return {
                    "id": "file-1",
                    "object": "file",
                    "bytes": 1,
                    "created_at": 1,
                    "filename": "f",
                    "purpose": "batch",
                    "status": "processed",
                }
            assert json.loads(body)["input_file_id"] == "file-1"
            return self.batch("validating")

        def get(self, path):
            if path.endswith("/content"):
                return "".join(json.dumps(answered(line["custom_id"])) + "\n" for line in self.requests)
            return self.batch("completed", output_file_id="file-2")

        def batch(self, status, **more):
            return {
                "id": "batch_1",
                "object": "batch",
                "endpoint": "/v1/chat/completions",
                "input_file_id": "file-1",
                "completion_window": "24h",
                "status": status,
                "created_at": 1,
                **more,
            }

    for _ in range(3):
        waiting = run.command(command)
        if not waiting.exit_code:
            break
        number = re.search(r"requests-(\d{4})\.jsonl", waiting.output)[1]
        with serving_files(Files()) as url:
            monkeypatch.setenv("OPENAI_BASE_URL", url)
            names = {}
            for block in (send, fetch):
                exec(compile(block.replace("-0001.", f"-{number}."), "example", "exec"), names)
        monkeypatch.setenv("OPENAI_BASE_URL", run.server.url)
    assert waiting.exit_code == 0, waiting.output
    assert not run.server.prompts


@pytest.mark.slow
def test_councils(run):
    title = "Several oracles: `council`"
    tables = [tomllib.loads(run.standing_in(block)) for block in blocks(section(title), "toml")]
    Path("recorded.jsonl").write_text("")
    assert [len(Plugins().oracle(table["oracle"]).members) for table in tables] == [3, 2, 2]
    Path("council.toml").write_text(run.standing_in(blocks(section(title), "toml")[0]))
    Path("examples/messages.jsonl").write_bytes((ROOT / "examples" / "messages.jsonl").read_bytes())  # all of them
    run.server.reply = knowing
    first, second = shell(title)
    run.done(first)
    assert len([line for line in lines_of("votes.jsonl") if line.get("votes")]) >= 100
    run.done(second)


@pytest.mark.slow
def test_a_person(run):
    pytest.importorskip("termios", reason="this system has no pseudo-terminals")
    from terminal_kit import Person

    (command,) = shell("A person")
    with Person(*command) as person:
        person.press("1", "s", "u", "1", "q")
        assert person.end()[0] == 2
    (block,) = blocks(section("A person"), "python")
    run.python(block)


def test_the_log(run):
    block, *_ = blocks(section("A log of the answers"), "python")
    run.server.reply = knowing
    run.python(block)
    lines = lines_of("answers.log.jsonl")
    shown = json.loads(blocks(section("A log of the answers"), "json")[0])
    assert list(shown) == list(lines[0])
    named = re.findall(r"^\| (`.*?) \|", section("A log of the answers"), re.MULTILINE)
    assert {name for row in named for name in re.findall(r"`(\w+)`", row)} - {"votes"} < set(lines[0])


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_questions_to_jq(run):
    line = blocks(section("A log of the answers"), "json")[0]
    for name in ("answers.log.jsonl", "out.log.jsonl"):
        record = json.loads(line)
        others = record | {"indices": [7, [4], [2]], "seconds": 0.1}, record | {"indices": None, "cost": None}
        Path(name).write_text(line + "".join(f"{json.dumps(other)}\n" for other in others))
    filters = [command for block in blocks(ASKING) for command in block.splitlines() if command.startswith("jq ")]
    found = [
        subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout for command in filters
    ]
    assert [found[0], found[2]] == ["4\n", "2.6e-05\n"]
    assert json.loads(found[1].split("}")[0] + "}") == {"seconds": 0.4127, "attempts": 2, "source": "asked"}
