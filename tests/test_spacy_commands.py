"""spaCy's own commands on the example project, and a packaged pipeline in an environment of its own."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import spacy
import srsly
from spacy.tokens import DocBin

from clusterllm_plugins import ClusterLLM, load_answers
from clusterllm_plugins.metrics import accuracy, ari, nmi
from spacy_kit import clusters

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SOURCES = ("project.yml", "configs", "scripts")
FEW = 20
# What makes the example's config fit on a few texts.
SMALL = {
    "components.clusterllm.n_clusters": 3,
    "initialize.components.clusterllm.answers": "null",
    "initialize.components.clusterllm.corpus.limit": FEW,
}
MEASURES = {"clusterllm_acc": accuracy, "clusterllm_nmi": nmi, "clusterllm_ari": ari}


# `python -m spacy`, as where torch is not installed: importing it would take most of the time of these tests.
SPACY = """
import runpy
import sys

class WithoutTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, WithoutTorch())
runpy.run_module("spacy", run_name="__main__", alter_sys=True)
"""


def run(*command, cwd, check=True):
    """Run a command without a key and, unless it is of this environment, without this environment's path."""
    left_out = {"OPENAI_API_KEY"} | (set() if command[0] == sys.executable else {"PYTHONPATH"})
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    # spaCy colours its messages and breaks their lines.
    environment |= {"HF_HUB_OFFLINE": "1", "ANSI_COLORS_DISABLED": "1", "COLUMNS": "1000"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def spacy_command(*arguments, cwd, check=True):
    return run(sys.executable, "-c", SPACY, *arguments, cwd=cwd, check=check)


def overrides(settings):
    return [part for name, value in settings.items() for part in (f"--{name}", value)]


def copy_project(folder):
    """Copy what is under version control; return the copy's folder."""
    target = folder / "examples" / "spacy"
    target.mkdir(parents=True)
    for file in EXAMPLES.glob("*.jsonl"):
        shutil.copy(file, target.parent)
    for name in SOURCES:
        source = EXAMPLES / "spacy" / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return target


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, converted and assembled."""
    folder = copy_project(tmp_path_factory.mktemp("project"))
    files = ("../messages.jsonl", "../messages_labels.jsonl", "xx", "corpus/messages.spacy")
    run(sys.executable, "scripts/convert.py", *files, cwd=folder)
    spacy_command("assemble", "configs/cluster.cfg", "fitted", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def nlp(project):
    return spacy.load(project / "fitted")


@pytest.fixture(scope="module")
def estimator(messages):
    """What the config says, without spaCy."""
    known = load_answers(EXAMPLES / "messages_answers.jsonl", messages)
    model = ClusterLLM(embedder="lsa", n_clusters=32, instruction="in terms of what the customer wants")
    return model.fit(messages, answers=known)


def read_docs(path, nlp):
    return list(DocBin().from_disk(path).get_docs(nlp.vocab))


@pytest.fixture
def few(project, nlp, tmp_path):
    """A few messages as .jsonl and, with gold categories, as .spacy, in a folder to write to."""
    lines = (EXAMPLES / "messages.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(lines[:FEW]), encoding="utf-8")
    DocBin(docs=read_docs(project / "corpus" / "messages.spacy", nlp)[:FEW]).to_disk(tmp_path / "few.spacy")
    return tmp_path


# Making configs.


@pytest.fixture(scope="module")
def base_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "base.cfg"
    spacy_command("init", "config", path, "-p", "clusterllm_embedder,clusterllm", cwd=path.parent)
    return path


@pytest.fixture(scope="module")
def full_config(project, tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "full.cfg"
    spacy_command("init", "fill-config", "configs/cluster.cfg", path, cwd=project)
    return path


def test_init_config_writes_every_setting_of_the_components(base_config):
    config = spacy.util.load_config(base_config)
    assert config["nlp"]["pipeline"] == ["clusterllm_embedder", "clusterllm"]
    for name in config["nlp"]["pipeline"]:
        defaults = spacy.blank("en").get_factory_meta(name).default_config
        assert config["components"][name] == {"factory": name} | defaults


def test_a_config_of_init_config_is_assembled_with_a_warning(base_config, tmp_path):
    assembled = spacy_command("assemble", base_config, "unfitted", cwd=tmp_path)
    assert "component 'clusterllm' has no corpus and learns nothing" in assembled.stderr
    assert not spacy.load(tmp_path / "unfitted").get_pipe("clusterllm").fitted


def test_fill_config_keeps_what_is_said_and_fills_in_the_rest(full_config):
    full = spacy.util.load_config(full_config)
    assert full["components"]["clusterllm"]["n_clusters"] == 32
    assert full["components"]["clusterllm"]["max_questions"] == 1024
    assert full["initialize"]["components"]["clusterllm"]["answers"] == "../messages_answers.jsonl"
    assert full["training"]["score_weights"]["clusterllm_acc"] == 1.0


# Fitting.


def test_convert_makes_a_label_the_one_gold_category(project, nlp, messages, message_labels):
    docs = read_docs(project / "corpus" / "messages.spacy", nlp)
    assert [doc.text for doc in docs] == messages
    assert [doc.cats for doc in docs] == [{label: 1.0} for label in message_labels]


def test_assemble_fits_what_the_estimator_fits(nlp, estimator, messages):
    assert clusters(nlp.pipe(messages)) == estimator.labels_.tolist()
    assert nlp.get_pipe("clusterllm").labels == tuple(estimator.cluster_labels_)


def test_assemble_uses_the_answers(nlp):
    answers = srsly.read_jsonl(EXAMPLES / "messages_answers.jsonl")
    decided = sum(answer["choice"] is not None for answer in answers)
    assert nlp.get_pipe("clusterllm").report["triplets"] == [decided]


def test_the_block_that_is_commented_out_is_an_oracle(project, tmp_path):
    pytest.importorskip("openai")
    config = (project / "configs" / "cluster.cfg").read_text(encoding="utf-8")
    before, block = config.split("# [initialize.components.clusterllm.oracle]\n")
    commented = "# [initialize.components.clusterllm.oracle]\n" + block
    asked = tmp_path / "asked.cfg"
    asked.write_text(before + commented.replace("# ", "").replace("#\n", "\n"), encoding="utf-8")
    failed = spacy_command("assemble", asked, tmp_path / "out", cwd=project, check=False)
    assert failed.returncode == 1
    assert "OPENAI_API_KEY" in failed.stderr.splitlines()[-1]


# Training, which is the same fit.


@pytest.fixture
def train(full_config, project, few):
    def run_train(**settings):
        paths = {"paths.train": few / "few.spacy", "paths.dev": few / "few.spacy"}
        given = overrides(SMALL | paths | {f"training.{name}": value for name, value in settings.items()})
        return spacy_command("train", full_config, "--output", few / "trained", *given, cwd=project)

    return run_train


def test_train_with_one_step_fits_the_pipeline(train, few, messages):
    trained = train(max_steps=1)
    rows = [line.split() for line in trained.stdout.splitlines() if line.strip()[:1].isdigit()]
    assert [row[:2] for row in rows] == [["0", "0"]]
    assert "Warning" not in trained.stderr
    best = spacy.load(few / "trained" / "model-best")
    assert set(clusters(best.pipe(messages[:FEW]))) == {0, 1, 2}
    assert best.meta["performance"]["clusterllm_acc"] == pytest.approx(float(rows[0][2]) / 100, abs=1e-4)


def test_train_with_the_usual_steps_is_warned_of(train):
    # patience and eval_frequency: to be done after two steps.
    trained = train(patience=1, eval_frequency=1)
    assert (
        "ClusterLLMWarning: component 'clusterllm': nothing in this pipeline learns by steps, but training.max_steps "
        "is 20000: give `spacy train` --training.max_steps 1, or use `spacy assemble`\n"
    ) in trained.stderr


# Using what was fitted.


@pytest.mark.parametrize("data", ["few.jsonl", "few.spacy"])
def test_apply_writes_docs_with_clusters(data, project, nlp, few, messages):
    spacy_command("apply", project / "fitted", data, "out.spacy", cwd=few)
    docs = read_docs(few / "out.spacy", nlp)
    assert [doc.text for doc in docs] == messages[:FEW]
    assert clusters(docs) == clusters(nlp.pipe(messages[:FEW]))
    assert {doc._.clusterllm_vector.dtype for doc in docs} == {np.dtype(np.float32)}


def test_evaluate_writes_how_well_clusters_match_the_categories(project, estimator, message_labels, tmp_path):
    evaluated = spacy_command(
        "evaluate", "fitted", "corpus/messages.spacy", "--output", tmp_path / "metrics.json", cwd=project
    )
    assert "Saved results" in evaluated.stdout
    found = srsly.read_json(tmp_path / "metrics.json")
    expected = {name: measure(message_labels, estimator.labels_) for name, measure in MEASURES.items()}
    assert {name: found[name] for name in MEASURES} == pytest.approx(expected)
    assert 0 < found["clusterllm_ari"] < found["clusterllm_acc"] < 1


def test_info_prints_the_pipeline(project):
    printed = spacy_command("info", "fitted", cwd=project).stdout
    assert "pipeline            ['clusterllm_embedder', 'clusterllm']" in printed


def test_benchmark_measures_the_speed(project, few):
    given = ("--batches", "30", "--batch-size", "4", "--warmup", "1")
    printed = spacy_command("benchmark", "speed", "fitted", few / "few.spacy", *given, cwd=project).stdout
    words = float(printed.split("Mean: ")[1].split()[0])
    assert words > 100


@pytest.mark.parametrize(
    ("function", "registry", "module"),
    [
        ("clusterllm.Jsonl.v1", "readers", "corpora.py"),
        ("clusterllm.Oracle.v1", "misc", "registered.py"),
        ("clusterllm.scorer.v1", "scorers", "scoring.py"),
    ],
)
def test_find_function_finds_ours(function, registry, module, tmp_path):
    found = spacy_command("find-function", function, "-r", registry, cwd=tmp_path).stdout
    assert f"Found registered function '{function}' at" in found
    assert f"clusterllm_plugins{os.sep}spacy{os.sep}{module}:" in found


def test_package_makes_a_package_of_the_pipeline(project, nlp, messages, tmp_path):
    given = ("--name", "messages", "--version", "0.1.0", "--build", "none")
    spacy_command("package", "fitted", tmp_path, *given, cwd=project)
    package = tmp_path / "xx_messages-0.1.0"
    meta = srsly.read_json(package / "meta.json")
    assert (meta["name"], meta["version"]) == ("messages", "0.1.0")
    assert meta["labels"]["clusterllm"] == list(nlp.get_pipe("clusterllm").labels)
    loaded = spacy.load(package / "xx_messages" / package.name)
    assert clusters(loaded.pipe(messages)) == clusters(nlp.pipe(messages))


# The project.


def test_every_command_of_the_project_can_be_skipped_and_explains_itself():
    commands = srsly.read_yaml(EXAMPLES / "spacy" / "project.yml")["commands"]
    assert [command["name"] for command in commands] == ["convert", "assemble", "apply", "evaluate", "package", "train"]
    for command in commands:
        assert command["help"]
        assert command["deps"]
        assert command["outputs"]


@pytest.mark.slow
def test_the_project_runs_and_then_skips_what_is_up_to_date(tmp_path):
    folder = copy_project(tmp_path)
    run_project(folder, sys.executable)
    again = run(sys.executable, "-m", "spacy", "project", "run", "all", cwd=folder)
    assert again.stdout.count("nothing changed") == 5


def run_project(folder, python):
    ran = run(python, "-m", "spacy", "project", "run", "all", cwd=folder)
    assert '"clusterllm_acc": 0.' in ran.stdout
    assert len(read_docs(folder / "corpus" / "clustered.spacy", spacy.blank("xx"))) == 725
    assert (folder / "packages" / "xx_messages-0.1.0" / "setup.py").is_file()


@pytest.mark.slow
def test_the_project_trains(project):
    run(sys.executable, "-m", "spacy", "project", "run", "train", cwd=project)
    assert spacy.load(project / "training" / "model-best").get_pipe("clusterllm").fitted


# An environment with the wheel and its extra `spacy`, nothing else: no torch, no LLM's client, no network when used.


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Return the environment's Python."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("clusterllm_plugins-*.whl")
    venv.create(folder / "venv", with_pip=True, symlinks=os.name != "nt")
    python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    # The same releases compute the same bits.
    same = folder / "same.txt"
    names = ("numpy", "scipy", "scikit-learn", "spacy", "thinc")
    same.write_text("\n".join(f"{name}=={version(name)}" for name in names))
    constraints = ("-c", ROOT / "constraints.txt", "-c", same)
    run(python, "-m", "pip", "install", "--quiet", *constraints, f"{wheel}[spacy]", "build", cwd=folder)
    return python


@pytest.fixture(scope="module")
def packaged(elsewhere, project, tmp_path_factory):
    """Package the assembled pipeline there, install it there; return the environment's Python."""
    folder = tmp_path_factory.mktemp("packaged")
    given = ("--name", "messages", "--version", "0.1.0", "--build", "wheel")
    run(elsewhere, "-m", "spacy", "package", project / "fitted", folder, *given, cwd=folder)
    (wheel,) = folder.glob("xx_messages-0.1.0/dist/*.whl")
    # Whatever it requires is there already.
    run(elsewhere, "-m", "pip", "install", "--quiet", "--no-index", wheel, cwd=folder)
    return elsewhere


# Not a function: modules make subclasses of `socket.socket`.
NO_NETWORK = """
import socket

class Refused(socket.socket):
    def __init__(self, *args, **kwargs):
        raise OSError("no network here")

socket.socket = Refused
"""

PREDICT = """
import json
import sys

import numpy as np
import spacy

pipeline, texts, out = sys.argv[1:]
nlp = spacy.load(pipeline)
with open(texts, encoding="utf-8") as file:
    docs = list(nlp.pipe(json.loads(line)["text"] for line in file))
names = ("cluster", "label", "score", "vector")
np.savez(out, **{name: np.array([doc._.get(f"clusterllm_{name}") for doc in docs]) for name in names})
"""


def predictions(python, pipeline, out, code=PREDICT):
    run(python, "-c", code, pipeline, EXAMPLES / "messages.jsonl", out, cwd=out.parent)
    with np.load(out) as arrays:
        return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}


@pytest.mark.slow
def test_a_packaged_pipeline_predicts_the_same_bits_elsewhere_without_network_or_key(packaged, project, tmp_path):
    here = predictions(sys.executable, project / "fitted", tmp_path / "here.npz")
    there = predictions(packaged, "xx_messages", tmp_path / "there.npz", NO_NETWORK + PREDICT)
    assert there["vector"][1] == (725, 128)
    assert there == here


@pytest.mark.slow
def test_a_packaged_pipeline_requires_this_package(packaged, tmp_path):
    code = "from importlib.metadata import requires; print(*requires('xx_messages'), sep='\\n')"
    required = run(packaged, "-c", code, cwd=tmp_path).stdout
    (ours,) = (line for line in required.splitlines() if line.startswith("clusterllm-plugins"))
    assert f">={version('clusterllm-plugins')}" in ours


@pytest.mark.slow
def test_the_project_needs_the_extra_only(elsewhere, tmp_path):
    run_project(copy_project(tmp_path), elsewhere)


@pytest.mark.slow
def test_a_blank_pipeline_is_made_at_once_and_imports_nothing_heavy(elsewhere, tmp_path):
    code = """
import importlib.util, sys, time
import spacy
start = time.perf_counter()
spacy.blank("en")
print(time.perf_counter() - start)
heavy = ("torch", "sklearn", "scipy", "sentence_transformers", "transformers", "openai")
print([name for name in heavy if name in sys.modules], importlib.util.find_spec("torch"))
print("clusterllm" in spacy.Language.factories)
"""
    printed = [run(elsewhere, "-c", code, cwd=tmp_path).stdout.splitlines() for _ in range(3)]
    assert statistics.median(float(lines[0]) for lines in printed) < 1
    assert printed[0][1:] == ["[] None", "True"]


FIT = """
import json
import sys

import numpy as np
import spacy
from spacy.vectors import Vectors

texts = json.loads(sys.argv[1])
nlp = spacy.blank("en")
if sys.argv[2] == "lsa":
    nlp.add_pipe("clusterllm_embedder", config={"embedder": {"name": "lsa", "dimensions": 8}})
    settings = {}
else:
    subjects = (["parcel", "courier", "late"], ["password", "login", "reset"], ["invoice", "tax", "copy"])
    words = [word for subject in subjects for word in subject]
    rows = np.repeat(np.eye(3, dtype=np.float32), 3, axis=0)
    nlp.vocab.vectors = Vectors(strings=nlp.vocab.strings, data=rows, keys=words, name="by-hand")
    settings = {"vectors": "doc.vector"}
nlp.add_pipe("clusterllm", config={"n_clusters": 3, **settings})
nlp.get_pipe("clusterllm").fit([nlp.make_doc(text) for text in texts])
nlp.to_disk("fitted")
for pipeline in (nlp, spacy.load("fitted")):
    docs = list(pipeline.pipe(texts))
    print(json.dumps([(doc._.clusterllm_cluster, doc._.clusterllm_label, doc._.clusterllm_score) for doc in docs]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("source", ["lsa", "static"])
def test_a_pipeline_is_fitted_saved_and_loaded_elsewhere(source, elsewhere, texts, truth, tmp_path):
    printed = run(elsewhere, "-c", NO_NETWORK + FIT, json.dumps(texts), source, cwd=tmp_path).stdout
    first, loaded = map(json.loads, printed.splitlines())
    assert loaded == first
    assert accuracy(truth, [cluster for cluster, *_ in first]) > 0.9
