"""Bad input through the real command: one line that says what, where and what to do, code 2, and nothing is touched."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from clusterllm_plugins import Plugins
from clusterllm_plugins.cli import app
from clusterllm_plugins.config import setting_names
from clusterllm_plugins.plugins import describe_settings

TEXTS = [
    "The kettle whistles on the stove",
    "Tea with a little milk please",
    "A pot of black tea for two",
    "My bicycle has a flat tyre",
    "The chain of the bicycle came off",
    "Pump up the tyres of the bike",
]
# As on a machine where nothing but the built-ins is installed, and no key is set.
ENVIRONMENT = {"CLUSTERLLM_LOAD_PLUGINS": "", "OPENAI_API_KEY": "", "HF_HUB_OFFLINE": "1"}
SETTINGS = ", ".join(setting_names())


def jsonl(*texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


FILES = {
    "good.jsonl": jsonl(*TEXTS),
    "good.doc": jsonl(*TEXTS),
    "empty.jsonl": "",
    "broken.jsonl": jsonl(TEXTS[0]) + '{"text": Tea}\n',
    "no_field.jsonl": jsonl(TEXTS[0]) + '{"body": "Tea"}\n',
    "latin.jsonl": jsonl(TEXTS[0]).encode() + b'{"text": "Th\xe9"}\n',
    "one.jsonl": jsonl(TEXTS[0]),
    "blank.jsonl": jsonl(TEXTS[0], "", " \n"),
    "equal.jsonl": jsonl(*TEXTS[:1] * 3),
    "half_emoji.jsonl": jsonl(*TEXTS, "Tea \ud83d"),
    "out_of_range.jsonl": '{"indices": [0, 1], "choice": "yes"}\n{"indices": [0, 6], "choice": "no"}\n',
    "misspelt.toml": "n_cluster = 3\n",
    "yaml.toml": "n_clusters: 3\n",
    "a_file": "in the way\n",
}
CLUSTER = ["cluster", "good.jsonl", "-o", "out", "--embedder", "lsa"]


@pytest.fixture
def workplace(tmp_path):
    """A folder with all sorts of files."""
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path


def clusterllm(folder, *arguments):
    """Run the real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "clusterllm_plugins", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=os.environ | ENVIRONMENT,
    )


def known(kind):
    """Return the names of the built-in components."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLUSTERLLM_LOAD_PLUGINS", "")
        return ", ".join(sorted(Plugins().registrations[kind]))


def openai_settings():
    return describe_settings(Plugins().oracles["openai"].load("oracle"))


CASES = {
    "empty file": (["cluster", "empty.jsonl", "-o", "out"], "empty.jsonl: the file is empty"),
    "missing file": (["cluster", "missing.jsonl", "-o", "out"], "missing.jsonl: no such file"),
    "unknown suffix": (
        ["cluster", "good.doc", "-o", "out"],
        "good.doc: unknown kind of file, give one of .jsonl, .csv, .txt, .parquet",
    ),
    "broken JSON": (["cluster", "broken.jsonl", "-o", "out"], "broken.jsonl, line 2: not JSON (Expecting value)"),
    "missing text field": (
        ["cluster", "no_field.jsonl", "-o", "out"],
        "no_field.jsonl, line 2: no field 'text' (fields: 'body')",
    ),
    "not UTF-8": (
        ["cluster", "latin.jsonl", "-o", "out"],
        "latin.jsonl, line 2: not UTF-8 (invalid continuation byte)",
    ),
    "one text": (
        ["cluster", "one.jsonl", "-o", "out", "--embedder", "lsa"],
        "clustering needs at least two texts that are not empty, got 1",
    ),
    "equal texts": (
        ["cluster", "equal.jsonl", "-o", "out", "--embedder", "lsa", "--n-clusters", "3"],
        "cannot make 3 clusters out of 1 distinct text",
    ),
    "more clusters than texts": (
        [*CLUSTER, "--n-clusters", "7"],
        "cannot make 7 clusters out of 6 distinct texts",
    ),
    "unknown embedder": (
        ["cluster", "good.jsonl", "-o", "out", "--embedder", "minilmm"],
        lambda: f"unknown embedder 'minilmm'; did you mean 'minilm'? (known: {known('embedder')})",
    ),
    "unknown oracle": (
        [*CLUSTER, "--oracle", "crystal-ball"],
        lambda: f"unknown oracle 'crystal-ball' (known: {known('oracle')})",
    ),
    "unknown setting": (
        [*CLUSTER, "--oracle", "openai", "--set", "oracle.modle=x"],
        lambda: f"oracle 'openai' has no setting 'modle'; did you mean 'model'? (settings: {openai_settings()})",
    ),
    "missing key": (
        [*CLUSTER, "--oracle", "openai"],
        "oracle 'openai': the environment variable OPENAI_API_KEY holds no key; "
        'set it, or set api_key_env to "" for a server without one',
    ),
    "output below a file": (
        ["cluster", "good.jsonl", "-o", "a_file/out", "--embedder", "lsa"],
        "a_file/out: cannot be used for output (Not a directory); give another folder",
    ),
    "predict on a wrong folder": (["predict", ".", "good.jsonl"], ".: not a fitted model (no artifact.json)"),
    "misspelt key in a config": (
        [*CLUSTER, "--config", "misspelt.toml"],
        f"misspelt.toml: unknown setting 'n_cluster'; did you mean 'n_clusters'? (settings: {SETTINGS})",
    ),
    "config that is not TOML": (
        [*CLUSTER, "--config", "yaml.toml"],
        "yaml.toml: not a TOML file (Expected '=' after a key in a key/value pair (at line 1, column 11))",
    ),
    "answer out of range": (
        [*CLUSTER, "--answers", "out_of_range.jsonl"],
        "out_of_range.jsonl, line 2: index 6 is out of range for 6 texts",
    ),
    "number of clusters": (
        [*CLUSTER, "--n-clusters", "many"],
        "--n-clusters takes a number, LOW-HIGH or auto, not 'many'",
    ),
}


@pytest.mark.parametrize(("arguments", "message"), CASES.values(), ids=CASES)
def test_bad_input_ends_with_one_line_and_code_2(workplace, arguments, message):
    done = clusterllm(workplace, *arguments)
    expected = message if isinstance(message, str) else message()
    assert (done.stderr, done.stdout, done.returncode) == (f"error: {expected}\n", "", 2)
    # Nothing was made.
    assert {path.name for path in workplace.iterdir()} == set(FILES)


# --- further mistakes, without the cost of a process each ------------------------------------------------------


@pytest.fixture
def here(workplace, monkeypatch):
    """Return a function that runs the command in this process."""
    monkeypatch.chdir(workplace)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return lambda *arguments: CliRunner().invoke(app, arguments)


@pytest.fixture
def made(workplace):
    """Return a function that returns what was made."""
    return lambda: {path.name for path in workplace.iterdir()} - set(FILES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n-clusters", "0"], "n_clusters must be at least 1, and low at most high, not 0"),
        (["--n-clusters", "5-3"], "n_clusters must be at least 1, and low at most high, not (5, 3)"),
        (["--n-clusters", "7-9"], "cannot make 7 clusters out of 6 distinct texts"),
        (["--method", "papre"], "method must be one of auto, paper, not 'papre'; did you mean 'paper'?"),
        (["--max-questions", "-1"], "max_questions must be a whole number of at least 0, not -1"),
        (["--max-cost", "-1"], "max_cost must be a number of at least 0 or None, not -1.0"),
        (["--max-cost", "nan"], "max_cost must be a number of at least 0 or None, not nan"),
        (["--random-state", "-1"], "random_state must be at least 0, not -1"),
        (["--label-field", "label"], "good.jsonl, line 1: no field 'label' (fields: 'text')"),
        (["--text-field", "body"], "good.jsonl, line 1: no field 'body' (fields: 'text')"),
        (["--config", "missing.toml"], "missing.toml: cannot read the config (No such file or directory)"),
        (["--answers", "missing.jsonl"], "missing.jsonl: cannot read recorded answers (No such file or directory)"),
        (["--set", "oracle.modle=x"], "oracle.name is missing: say which oracle these settings are for"),
        (["--set", "redact=names"], "redact must be a list of redactors, not 'names'"),
        (
            ["--set", 'redact=["nonsense"]'],
            "unknown redactor 'nonsense' (known: emails, names, numbers, patterns, phones)",
        ),
        (["--set", "instruction=5"], "instruction must be a text or None, not 5"),
        (["--set", "embedder=5"], "embedder must be a name or a table with a name, not 5"),
        (
            ["--set", 'demonstrations=[["Tea", "Milk"]]'],
            "a demonstration is (left, right, 'yes' or 'no'), not ('Tea', 'Milk')",
        ),
        (
            ["--store", "missing/answers.sqlite"],
            "answer store missing/answers.sqlite: unable to open database file; give another path as the store",
        ),
    ],
)
def test_a_bad_setting_is_told(here, made, arguments, message):
    done = here(*CLUSTER, *arguments)
    assert (done.stderr, done.exit_code, made()) == (f"error: {message}\n", 2, set())


@pytest.mark.parametrize(
    "assignment",
    ["store=5", "redact=5", "demonstrations=5", "demonstrations=[5]", "embedder.dimensions=many", "n_clusters={}"],
)
def test_a_setting_of_a_wrong_type_is_told_by_its_name(here, made, assignment):
    done = here(*CLUSTER, "--set", assignment)
    name = assignment.partition("=")[0].rpartition(".")[2].removesuffix("s")
    assert (done.exit_code, name in done.stderr, done.stderr.count("\n"), made()) == (2, True, 1, set())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cluster", "blank.jsonl", "-o", "out"], "clustering needs at least two texts that are not empty, got 1"),
        (
            ["cluster", "good.jsonl", "-o", "a_file", "--embedder", "lsa"],
            "a_file: cannot be used for output (File exists); give another folder",
        ),
        (["quote", "one.jsonl"], "clustering needs at least two texts that are not empty, got 1"),
        (["quote", "missing.jsonl"], "missing.jsonl: no such file"),
        (["predict", "missing", "good.jsonl"], "missing: not a fitted model (no artifact.json)"),
        (["answers", "."], ".: no run of `clusterllm cluster` (neither artifact.json nor answers.sqlite)"),
    ],
)
def test_every_command_tells_of_bad_input(here, made, arguments, message):
    done = here(*arguments)
    assert (done.stderr, done.exit_code, made()) == (f"error: {message}\n", 2, set())


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("openai", ["--oracle", "openai"], "oracle 'openai' needs an extra: pip install 'clusterllm-plugins[openai]'"),
        (
            "sentence_transformers",
            ["--embedder", "minilm"],
            "embedder 'minilm' needs an extra: pip install 'clusterllm-plugins[offline]'",
        ),
    ],
)
def test_a_missing_extra_is_told_with_what_to_install(here, made, monkeypatch, module, arguments, message):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest))
    done = here("cluster", "good.jsonl", "-o", "out", "--embedder", "lsa", *arguments)
    assert (done.stderr, done.exit_code, made()) == (f"error: {message}\n", 2, set())


def test_half_of_an_emoji_is_refused_before_anything_is_asked(here, made):
    done = here("cluster", "half_emoji.jsonl", "-o", "out", "--embedder", "lsa")
    assert (done.exit_code, done.stderr.startswith("error: half_emoji.jsonl, line 7: "), made()) == (2, True, set())


def test_a_key_given_as_a_setting_is_not_shown(here):
    stderr = here(*CLUSTER, "--oracle", "openai", "--set", "oracle.api_key=sk-secret").stderr
    assert ("has no setting 'api_key'" in stderr, "sk-secret" in stderr) == (True, False)


def test_output_of_predict_in_the_place_of_a_folder_is_told(here, run):
    os.mkdir("taken")
    done = here("predict", str(run[0] / "out"), "good.jsonl", "-o", "taken")
    message = "error: taken: cannot be written (Is a directory); give another place\n"
    assert (done.stderr, done.exit_code) == (message, 2)


# --- warnings --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run on good texts, an empty one and two duplicates, and what the command said."""
    folder = tmp_path_factory.mktemp("warnings")
    (folder / "texts.jsonl").write_text(jsonl(*TEXTS, "  ", TEXTS[0], TEXTS[1]))
    options = ["-o", "out", "--embedder", "lsa", "--n-clusters", "2"]
    return folder, clusterllm(folder, "cluster", "texts.jsonl", *options)


def labels(folder):
    return [json.loads(line)["cluster_id"] for line in (folder / "out" / "clusters.jsonl").open()]


def test_empty_and_repeated_texts_give_a_warning_of_one_line_each(run):
    assert run[1].stderr == "warning: 1 empty text got the label -1\nwarning: 2 texts repeated an earlier one\n"


def test_warnings_do_not_stop_the_work(run):
    assert run[1].returncode == 0


def test_an_empty_text_has_the_label_minus_one_and_no_other_has(run):
    assert [label == -1 for label in labels(run[0])] == [False] * 6 + [True, False, False]


def test_a_repeated_text_has_the_label_of_the_first(run):
    found = labels(run[0])
    assert found[7:] == found[:2]


def test_good_texts_give_no_warning(here):
    done = here(*CLUSTER, "--n-clusters", "2")
    assert (done.exit_code, done.stderr) == (0, "")


def test_two_texts_can_be_two_clusters(here, workplace):
    (workplace / "two.txt").write_text("\n".join(TEXTS[2:4]))
    done = here("cluster", "two.txt", "-o", "out", "--embedder", "lsa", "--n-clusters", "2")
    assert (done.stderr, sorted(labels(workplace))) == ("", [0, 1])


# --- broken plugins --------------------------------------------------------------------------------------------


@pytest.fixture
def plant(here, tmp_path_factory, monkeypatch):
    """Return a function that installs the distribution clusterllm-bad with one module."""

    def plant(source):
        folder = tmp_path_factory.mktemp("site")
        info = folder / "clusterllm_bad-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clusterllm-bad\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[clusterllm]\nmain = clusterllm_bad\n")
        (folder / "clusterllm_bad.py").write_text(source)
        monkeypatch.setenv("CLUSTERLLM_LOAD_PLUGINS", "clusterllm-bad")
        monkeypatch.syspath_prepend(folder)

    yield plant
    sys.modules.pop("clusterllm_bad", None)


def test_a_broken_plugin_gives_one_warning_and_does_not_stop_the_work(here, plant):
    plant("raise RuntimeError('no licence')")
    done = here(*CLUSTER, "--n-clusters", "2")
    message = "warning: plugin 'clusterllm-bad:main' is skipped: RuntimeError: no licence\n"
    assert (done.stderr, done.exit_code) == (message, 0)


def test_a_broken_plugin_is_listed_with_its_reason(here, plant):
    plant("raise RuntimeError('no licence')")
    done = here("plugins")
    assert (done.stdout.splitlines()[-1], done.stderr) == ("clusterllm-bad:main  BROKEN: RuntimeError: no licence", "")


@pytest.mark.parametrize("kind", ["oracle", "embedder"])
def test_a_component_that_cannot_be_imported_is_listed_as_broken_among_the_others(here, plant, kind):
    plant(
        "from clusterllm_plugins import hookimpl\n"
        f"@hookimpl\ndef register_{kind}s(register):\n    register('aaa', 'clusterllm_bad_parts:Bad')\n"
    )
    names = [line.split()[0] for line in here(f"{kind}s").stdout.splitlines() if not line.startswith(" ")]
    assert names == ["aaa", *known(kind).split(", ")]


@pytest.mark.parametrize("kind", ["oracle", "embedder"])
def test_a_component_whose_module_raises_is_listed_as_broken_among_the_others(here, plant, kind):
    plant(
        "from clusterllm_plugins import hookimpl\n"
        "def __getattr__(name):\n    raise OSError('a library is missing')\n"
        f"@hookimpl\ndef register_{kind}s(register):\n    register('aaa', 'clusterllm_bad:Bad')\n"
    )
    assert "a library is missing" in here(f"{kind}s").stdout
