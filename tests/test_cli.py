import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MESSAGES = ROOT / "examples" / "messages.jsonl"
ANSWERS = ROOT / "examples" / "messages_answers.jsonl"
REPLAY = [
    "--embedder",
    "lsa",
    "--n-clusters",
    "12",
    "--method",
    "paper",
    "--oracle",
    "replay",
    "--set",
    f"oracle.path={ANSWERS}",
]


def clusterllm(*arguments, check=True, cwd=None):
    command = [sys.executable, "-c", "from clusterllm_plugins.cli import main; main()", *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, check=check, cwd=cwd, env=environment)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The output of one run with recorded answers."""
    folder = tmp_path_factory.mktemp("cli") / "out"
    labelled = folder.parent / "labelled.jsonl"
    labels = (ROOT / "examples" / "messages_labels.jsonl").read_text(encoding="utf-8").splitlines()
    texts = MESSAGES.read_text(encoding="utf-8").splitlines()
    merged = [json.loads(text) | json.loads(label) for text, label in zip(texts, labels, strict=True)]
    labelled.write_text("\n".join(map(json.dumps, merged)), encoding="utf-8")
    printed = clusterllm("cluster", labelled, "-o", folder, "--label-field", "label", "--max-questions", "20", *REPLAY)
    (folder.parent / "printed.txt").write_text(printed.stdout, encoding="utf-8")
    return folder


def lines(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_cluster_writes_a_line_a_text(out, messages):
    records = lines(out / "clusters.jsonl")
    assert [record["text"] for record in records] == messages
    assert set(records[0]) == {"text", "cluster_id", "cluster_label", "cluster_score"}


def test_cluster_writes_a_summary_with_sizes_names_and_evaluation(out, messages):
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["n_clusters"] == 12
    assert sum(cluster["size"] for cluster in summary["clusters"]) == len(messages)
    assert 0 < summary["evaluation"]["acc"] < 1


def test_cluster_prints_clusters_and_measures(out):
    printed = (out.parent / "printed.txt").read_text(encoding="utf-8")
    assert printed.startswith("12 clusters of 725 texts, written to ")
    assert "against the labels: ACC" in printed


def test_predict_repeats_the_clusters_of_the_same_texts(out, tmp_path):
    clusterllm("predict", out, MESSAGES, "-o", tmp_path / "predicted.jsonl")
    assert lines(tmp_path / "predicted.jsonl") == lines(out / "clusters.jsonl")


def test_answers_are_read_back_by_cluster(out, tmp_path):
    clusterllm("answers", out, "-o", tmp_path / "answers.jsonl")
    assert len(lines(tmp_path / "answers.jsonl")) == 20
    options = ["--embedder", "lsa", "--n-clusters", "12", "--answers", tmp_path / "answers.jsonl"]
    again = clusterllm("cluster", MESSAGES, "-o", tmp_path / "again", *options)
    assert again.returncode == 0


def test_answers_of_an_interrupted_run_come_from_its_store(out, tmp_path):
    (tmp_path / "answers.sqlite").write_bytes((out / "answers.sqlite").read_bytes())
    assert len(clusterllm("answers", tmp_path).stdout.splitlines()) == 20


def test_answers_are_checked_against_the_texts(out, tmp_path):
    clusterllm("answers", out, "-o", tmp_path / "answers.jsonl")
    reversed_texts = tmp_path / "reversed.jsonl"
    reversed_texts.write_text("\n".join(MESSAGES.read_text(encoding="utf-8").splitlines()[::-1]), encoding="utf-8")
    failed = clusterllm(
        "cluster", reversed_texts, "-o", tmp_path / "out", "--answers", tmp_path / "answers.jsonl", check=False
    )
    assert failed.returncode == 2
    assert "the texts are not those that the question was about" in failed.stderr


def test_the_same_run_again_gives_the_same_and_asks_nothing(out, tmp_path):
    before = (out / "clusters.jsonl").read_bytes()
    labelled = out.parent / "labelled.jsonl"
    again = clusterllm("cluster", labelled, "-o", out, "--label-field", "label", "--max-questions", "20", *REPLAY)
    assert "20 recalled" in again.stdout
    assert " asked" not in again.stdout
    assert (out / "clusters.jsonl").read_bytes() == before


def test_other_settings_need_overwrite(tmp_path):
    first = ["cluster", MESSAGES, "-o", tmp_path / "out", "--embedder", "lsa", "--n-clusters"]
    clusterllm(*first, "5")
    refused = clusterllm(*first, "6", check=False)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"error: {tmp_path / 'out'}: holds results of other settings or texts; give another folder, or --overwrite\n"
    )
    clusterllm(*first, "6", "--overwrite")
    assert json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["n_clusters"] == 6


def test_a_folder_with_other_files_is_not_touched(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    refused = clusterllm("cluster", MESSAGES, "-o", tmp_path, "--embedder", "lsa", "--n-clusters", "5", check=False)
    assert "holds other files" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_quote_asks_nothing_and_needs_no_key():
    pytest.importorskip("openai")
    quoted = clusterllm("quote", MESSAGES, "--embedder", "lsa", "--oracle", "openai", "--max-questions", "30")
    questions = json.loads(quoted.stdout)["questions"]
    assert questions["perspective"] == 30
    assert 500 < questions["granularity"] <= 594


def test_config_and_set_are_read(tmp_path):
    config = ["-c", ROOT / "examples" / "config.toml", "--set", "embedder.dimensions=20", "--set", "n_clusters=7"]
    clusterllm("cluster", MESSAGES, "-o", tmp_path / "out", *config, cwd=ROOT)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["n_clusters"] == 7
    assert summary["report"]["embedder"].startswith("lsa:20:")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("plugins", "clusterllm-plugins:oracles"),
        ("oracles", "openai  (plugin clusterllm-plugins:oracles)"),
        ("embedders", "lsa  (plugin clusterllm-plugins:embedders)"),
    ],
)
def test_components_are_listed(command, expected):
    assert expected in clusterllm(command).stdout


@pytest.mark.parametrize("command", ["cluster", "predict", "quote", "answers", "plugins", "oracles", "embedders"])
def test_every_command_has_help_with_an_example(command):
    assert f"Example: clusterllm {command}" in clusterllm(command, "--help").stdout
