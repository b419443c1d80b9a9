"""``clusterllm explain`` through the real command, and what ``clusterllm cluster`` says of its clusters."""

import functools
import json
import os
import shutil
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.cli import app

TEXTS = [
    "The kettle whistles on the stove",
    "Tea with a little milk please",
    "A pot of black tea for two",
    "My bicycle has a flat tyre",
    "The chain of the bicycle came off",
    "Pump up the tyres of the bicycle",
    "",
    "Tea with a little milk please",
]
ANSWERS = [
    {"indices": [1, [2], [3]], "choice": "1"},
    {"indices": [5, [3], [0]], "choice": None},
    {"indices": [1, 5], "choice": "no"},
]


def clusterllm(folder, *arguments):
    """Run the real command in a process of its own."""
    environment = {"CLUSTERLLM_LOAD_PLUGINS": "", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "clusterllm_plugins", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env=os.environ | environment
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the output of a run on known answers, in out."""
    folder = tmp_path_factory.mktemp("explain")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (folder / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in ANSWERS))
    options = ["--method", "paper", "--embedder", "lsa", "--n-clusters", "2", "--answers", "answers.jsonl"]
    done = clusterllm(folder, "cluster", "texts.jsonl", "-o", "out", *options)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def explain(place):
    """Return a function that explains a line and returns what was printed."""

    @functools.cache
    def run(*arguments):
        done = clusterllm(place, "explain", "out", *arguments)
        assert (done.stderr, done.returncode) == ("", 0)
        return done.stdout

    return run


@pytest.fixture(scope="module")
def names(place):
    return ClusterLLM.load(place / "out").cluster_labels_


def cluster_of(place, line):
    return json.loads((place / "out" / "clusters.jsonl").read_text().splitlines()[line - 1])


def test_a_line_is_explained_in_words(place, explain, names):
    record = cluster_of(place, 2)
    lines = explain("2").splitlines()
    other = 1 - record["cluster_id"]
    assert lines[:2] == [
        "line 2: Tea with a little milk please",
        f"cluster {record['cluster_id']}: {record['cluster_label']}, score {record['cluster_score']:.3f}",
    ]
    assert lines[2].startswith(f"nearest other: cluster {other}: {names[other]}, farther by ")
    assert lines[3] == "questions about it: 2"


def test_json_is_what_the_model_explains_with_line_and_text(place, explain):
    told = ClusterLLM.load(place / "out").explain(4)
    assert json.loads(explain("5", "--json")) == {"line": 5, **told, "text": TEXTS[4]}


def test_a_text_that_the_model_does_not_hold_comes_from_the_results(place, explain):
    assert ClusterLLM.load(place / "out").explain(4)["text"] is None
    assert explain("5").startswith(f"line 5: {TEXTS[4]}\n")


def test_a_given_answer_is_told(explain):
    assert '"Pump up the tyres of the bicycle"' in explain("2")
    assert "? no, given with the texts" in explain("2")


def test_a_repeated_line_tells_of_the_answers_about_the_first(explain):
    assert json.loads(explain("8", "--json"))["questions"] == json.loads(explain("2", "--json"))["questions"]


def test_an_empty_line_is_told_to_be_empty(explain):
    assert explain("7").splitlines()[1].startswith("note: the text is empty")


def test_what_was_asked_is_told(place):
    (place / "labels.json").write_text(json.dumps(list("aaabbbca")))
    options = ["--oracle", "simulated", "--set", "oracle.labels=labels.json", "--set", "oracle.profile=uniform"]
    options += ["--method", "paper", "--embedder", "lsa", "--n-clusters", "2", "--max-questions", "6"]
    done = clusterllm(place, "cluster", "texts.jsonl", "-o", "asked", *options)
    assert done.returncode == 0, done.stderr
    model = ClusterLLM.load(place / "asked")
    line = model.questions_[0].anchor_index + 1
    told = json.loads(clusterllm(place, "explain", "asked", str(line), "--json").stdout)["questions"]
    assert [(found["known"], found["answer"]) for found in told if found["role"] == "anchor"] == [
        (False, answer.choice)
        for question, answer in zip(model.questions_, model.answers_, strict=True)
        if question.anchor == TEXTS[line - 1]
    ]


def test_a_saved_model_without_results_is_explained_without_the_text(place, tmp_path):
    ClusterLLM.load(place / "out").save(tmp_path / "saved")
    assert clusterllm(tmp_path, "explain", "saved", "5").stdout.startswith("line 5: (its text is not in this folder)\n")


# --- mistakes --------------------------------------------------------------------------------------------------


def test_a_mistake_is_one_line_and_code_2(place):
    done = clusterllm(place, "explain", "out", "-1")
    message = "error: LINE is the number of a text, from 1, not '-1'\n"
    assert (done.stderr, done.stdout, done.returncode) == (message, "", 2)


@pytest.fixture
def here(place, monkeypatch):
    """Return a function that runs the command in this process: further mistakes, without the cost of one each."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("CLUSTERLLM_LOAD_PLUGINS", "")
    return lambda *arguments: CliRunner().invoke(app, ["explain", *arguments])


@pytest.mark.parametrize("line", ["0", "x", "1.0", "٣", "9" * 5000], ids=lambda line: line[:4])
def test_a_line_that_is_no_number_is_told(here, line):
    done = here("out", line)
    message = f"error: LINE is the number of a text, from 1, not {line[:40]!r}\n"
    assert (done.stderr, done.stdout, done.exit_code) == (message, "", 2)


def test_a_line_out_of_range_is_told(here):
    done = here("out", "9")
    assert (done.stderr, done.stdout, done.exit_code) == ("error: out: has 8 texts, there is no line 9\n", "", 2)


def test_a_folder_without_results_is_told(here):
    done = here(".", "1")
    assert (done.stderr, done.stdout, done.exit_code) == ("error: .: not a fitted model (no artifact.json)\n", "", 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}\n", "damaged"),
        ("5\n", "damaged"),
        ("", "damaged"),
        ('{"text": "Tea", "cluster_id": 7}\n', "is of another model"),
    ],
)
def test_results_that_are_not_of_the_model_are_told(here, tmp_path, monkeypatch, content, message):
    shutil.copytree("out", tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "clusters.jsonl").write_text(content)
    done = here("out", "1")
    expected = f"error: out/clusters.jsonl, line 1: {message}; run `clusterllm cluster` again\n"
    assert (done.stderr, done.exit_code) == (expected, 2)


def test_an_unknown_option_is_told(here):
    done = here("out", "1", "--jsno")
    assert (done.stdout, done.exit_code, "--jsno" in done.stderr) == ("", 2, True)


def test_help_has_an_example(here):
    assert "Example: clusterllm explain out 3" in here("--help").stdout


# --- what cluster prints ---------------------------------------------------------------------------------------


def printed_clusters(folder, n_clusters):
    texts = [f"subject{number} word{number} thing{number}" for number in range(25)]
    texts += texts[:1] * 3
    (folder / "many.txt").write_text("\n".join(texts))
    options = ["--method", "paper", "--embedder", "lsa", "--n-clusters", str(n_clusters)]
    return clusterllm(folder, "cluster", "many.txt", "-o", "many", *options).stdout.splitlines()


def test_cluster_prints_sizes_and_names_the_largest_first(tmp_path):
    lines = printed_clusters(tmp_path, 20)[1:21]
    clusters = json.loads((tmp_path / "many" / "summary.json").read_text())["clusters"]
    clusters.sort(key=lambda cluster: -cluster["size"])
    assert [line.split(maxsplit=1) for line in lines] == [[str(c["size"]), c["cluster_label"]] for c in clusters]


def test_cluster_prints_at_most_twenty_names(tmp_path):
    lines = printed_clusters(tmp_path, 23)
    assert lines[21] == "... and 3 more"


def test_cluster_says_nothing_of_more_where_all_are_printed(tmp_path):
    assert not any("more" in line for line in printed_clusters(tmp_path, 20))
