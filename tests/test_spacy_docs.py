"""docs/spacy.md: every example runs as written."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import spacy

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "spacy.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
CONFIG = re.search(r"```ini\n(\[nlp\].*?)```", TEXT, re.DOTALL)[1]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that has the examples, as a checkout does, and can be written into."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_five_examples_and_the_distillation():
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("number", range(6))
def test_an_example_runs(number, checkout, capsys):
    exec(compile(EXAMPLES[number], f"example {number + 1}", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_config_assembles(checkout):
    (checkout / "config.cfg").write_text(CONFIG)
    command = [sys.executable, "-m", "spacy", "assemble", "config.cfg", "pipeline"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert spacy.load("pipeline")("my lamp came in pieces")._.clusterllm_label


@pytest.mark.parametrize("factory", ["clusterllm", "clusterllm_embedder"])
def test_the_config_has_every_setting(factory):
    block = spacy.util.load_config_from_str(CONFIG)["components"][factory]
    assert set(block) == {"factory", *spacy.blank("en").get_factory_meta(factory).default_config}
