"""The components in an environment with the wheel and its extra ``haystack``, nothing else: no torch, no spaCy."""

import os
import statistics
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow

LEFT_OUT = ("torch", "spacy", "sentence_transformers", "transformers")
MODULE = "haystack_integrations.components.clusterers.clusterllm"

CLUSTER = """
import numpy as np
from haystack import Document, Pipeline
from haystack.components.generators.chat import MockChatGenerator
from haystack_integrations.components.clusterers.clusterllm import ClusterLLMAssigner, ClusterLLMClusterer

rng = np.random.default_rng(0)
truth = np.arange(60) % 3
vectors = 5 * rng.normal(size=(3, 8))[truth] + rng.normal(scale=0.2, size=(60, 8))
documents = [Document(content=f"text {place}", embedding=row) for place, row in enumerate(vectors.tolist())]
pipe = Pipeline()
settings = {"n_clusters": 3, "method": "paper", "max_questions": 20, "artifact_path": "fitted", "progress_bar": False}
pipe.add_component("clusterer", ClusterLLMClusterer(MockChatGenerator("1"), **settings))
result = Pipeline.loads(pipe.dumps()).run({"clusterer": {"documents": documents}})["clusterer"]
labels = [document.meta["cluster_id"] for document in result["documents"]]
print(len(set(zip(labels, truth.tolist()))), result["stats"]["questions_asked"])
again = ClusterLLMAssigner("fitted").run(documents)["documents"]
print([document.meta["cluster_id"] for document in again] == labels)
"""


def run(*command, cwd):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OPENAI_API_KEY")}
    environment["HAYSTACK_TELEMETRY_ENABLED"] = "False"
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return the environment's Python."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("clusterllm_plugins-*.whl")
    venv.create(folder / "venv", with_pip=True, symlinks=os.name != "nt")
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{wheel}[haystack]", cwd=folder)
    return python


def test_precomputed_embeddings_are_clustered_and_assigned(python, tmp_path):
    code = "import importlib.util; print([name for name in {} if importlib.util.find_spec(name)])"
    assert run(python, "-c", code.format(LEFT_OUT), cwd=tmp_path).strip() == "[]"
    assert run(python, "-c", CLUSTER, cwd=tmp_path).split("\n")[-3:-1] == ["3 20", "True"]


def test_importing_the_components_costs_little(python, tmp_path):
    code = f"""
import time
import haystack
start = time.perf_counter()
import {MODULE}
print(time.perf_counter() - start)
"""
    seconds = [float(run(python, "-c", code, cwd=tmp_path).split()[-1]) for _ in range(5)]
    assert statistics.median(seconds) <= 0.3
