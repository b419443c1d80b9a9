"""Importing this package is cheap, and so is discovering plugins; every public name is there."""

import os
import statistics
import subprocess
import sys
import time

import pytest

import clusterllm_plugins

HEAVY = ("torch", "transformers", "sentence_transformers", "spacy", "haystack", "openai")
PUBLIC = (
    "ClusterLLM",
    "Question",
    "Answer",
    "Usage",
    "Oracle",
    "OracleError",
    "Embedder",
    "TrainableEmbedder",
    "load_answers",
)


def run(code, path=""):
    """Run code in an interpreter of its own and return what it printed."""
    environment = os.environ | {"PYTHONPATH": str(path), "CLUSTERLLM_LOAD_PLUGINS": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A folder of empty modules in the heavy ones' names: importing one shows, installed or not."""
    folder = tmp_path_factory.mktemp("heavy")
    for name in HEAVY:
        (folder / f"{name}.py").touch()
    return folder


@pytest.mark.parametrize(
    "code",
    [
        "import clusterllm_plugins",
        "import clusterllm_plugins.cli",
        "import clusterllm_plugins.testing.fixtures",
        "from clusterllm_plugins import Answer, Embedder, Oracle, PromptedOracle, Question, hookimpl",
        "from clusterllm_plugins import Plugins; assert Plugins().oracles and Plugins().embedders",
        "from clusterllm_plugins.cli import app; app(['--help'], standalone_mode=False)",
        "from clusterllm_plugins.cli import app; app(['cluster', '--help'], standalone_mode=False)",
        "from clusterllm_plugins.cli import app; app(['plugins'], standalone_mode=False)",
        "from clusterllm_plugins.cli import app; app(['oracles'], standalone_mode=False)",
        "from clusterllm_plugins.cli import app; app(['embedders'], standalone_mode=False)",
    ],
)
def test_no_heavy_module_is_imported(code, stand_ins):
    heavy = (*HEAVY, "sklearn.cluster")
    printed = run(f"{code}\nimport sys\nprint(*[name for name in {heavy} if name in sys.modules])", stand_ins)
    assert printed.splitlines()[-1] == ""


def test_importing_the_package_imports_no_dependency():
    dependencies = ("numpy", "scipy", "sklearn", "pluggy", "safetensors", "srsly", "tqdm", "typer")
    code = f"import sys, clusterllm_plugins\nprint([name for name in {dependencies} if name in sys.modules])"
    assert run(code) == "[]\n"


def seconds(code):
    """Return how long an interpreter takes that runs code."""
    start = time.perf_counter()
    run(code)
    return time.perf_counter() - start


@pytest.mark.parametrize(
    ("code", "most", "runs"),
    [
        ("import clusterllm_plugins", 0.5, 5),
        ("from clusterllm_plugins.cli import app; app(['--help'], standalone_mode=False)", 1.0, 3),
    ],
    ids=["import", "help"],
)
def test_it_costs_little_over_a_bare_interpreter(code, most, runs):
    # Measured in turns, so that another process on this machine slows both alike.
    extra = [seconds(code) - seconds("pass") for _ in range(runs)]
    assert statistics.median(extra) < most


@pytest.mark.parametrize("name", clusterllm_plugins.__all__)
def test_every_public_name_resolves(name):
    assert getattr(clusterllm_plugins, name) is not None


@pytest.mark.parametrize("name", PUBLIC)
def test_the_names_that_others_call_are_public(name):
    assert name in clusterllm_plugins.__all__


@pytest.mark.parametrize("name", clusterllm_plugins.__all__)
def test_a_name_is_listed_before_it_is_used(name):
    assert name in dir(clusterllm_plugins)


def test_a_star_import_brings_every_public_name():
    missing = run(
        "from clusterllm_plugins import *\nimport clusterllm_plugins as p\nprint(set(p.__all__) - set(dir()))"
    )
    assert missing == "set()\n"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'clusterllm_plugins' has no attribute 'Clusterer'"):
        clusterllm_plugins.Clusterer  # noqa: B018


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "clusterllm_plugins", "--help"], capture_output=True, text=True, check=True
    )
    assert "Cluster texts with the help of a large language model." in done.stdout
