"""Which local model it is, and what happens where it cannot be used."""

import importlib.util
import math
import os
import shutil
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="the extra transformers is not installed")
transformers = pytest.importorskip("transformers", reason="the extra transformers is not installed")

from asking_kit import ask  # noqa: E402
from clusterllm_oracles.transformers import TransformersOracle  # noqa: E402
from clusterllm_plugins.errors import ClusterLLMError, MissingExtraError  # noqa: E402
from local_model_kit import (  # noqa: E402
    NONE_OF_THREE,
    TEXTS,
    TRIPLET,
    TRIPLETS,
    failure,
    local,
    save_model,
)


def test_the_fingerprint_needs_no_model(chat):
    oracle = local(chat)
    assert oracle.fingerprint.startswith(f"transformers:{chat.name}:")
    assert local("acorns/nut-1b").fingerprint == "transformers:acorns/nut-1b:fp32:lNone:m32:p1.1"
    assert oracle._local._model is None
    assert oracle._local._dialogue is None


@pytest.mark.parametrize(
    "settings", [{"precision": "bf16"}, {"max_length": 999}, {"revision": "v2"}, {"model": "acorns/nut-2b"}], ids=str
)
def test_the_fingerprint_tells_settings_apart(settings):
    base = {"model": "acorns/nut-1b", "precision": "fp32"}
    assert TransformersOracle(**base | settings).fingerprint != TransformersOracle(**base).fingerprint


def test_the_fingerprint_tells_weights_apart_and_not_notes(chat, tmp_path):
    copies = [tmp_path / name / "model" for name in ("same", "weights", "template")]
    for copy in copies:
        shutil.copytree(chat, copy)
    (copies[0] / "README.md").write_text("A note.")
    save_model(copies[1], seed=1)
    (copies[2] / "chat_template.jinja").write_text("{{ messages }}")
    prints = [local(copy).fingerprint for copy in copies]
    assert len(set(prints)) == 3
    shutil.copytree(chat, tmp_path / "again" / "model")
    assert local(tmp_path / "again" / "model").fingerprint == prints[0]


def test_a_folder_comes_before_a_name_on_the_hub(chat, monkeypatch):
    monkeypatch.chdir(chat.parent)
    assert local(chat.name).fingerprint == local(chat).fingerprint


@pytest.mark.parametrize("call", ["check", "fingerprint", "answer", "worst_case"])
def test_a_missing_folder_stops_the_run_with_one_line(tmp_path, call):
    oracle = local(tmp_path / "nowhere")
    calls = {
        "check": oracle.check,
        "fingerprint": lambda: oracle.fingerprint,
        "answer": lambda: list(oracle.answer([TRIPLET])),
        "worst_case": lambda: oracle.worst_case(TRIPLET),
    }
    error = failure(calls[call])
    assert error.fatal
    assert str(error) == (
        f"oracle 'transformers' ({tmp_path / 'nowhere'}): there is no model in this folder (no config.json); "
        "name another, or one of the hub"
    )


@pytest.mark.parametrize("model", ["./nuts", "~/nuts", "nuts/from/here"])
def test_what_cannot_be_a_name_on_the_hub_is_a_folder(model):
    assert "there is no model in this folder" in str(failure(local(model).check))


def test_a_model_of_the_hub_that_is_not_here_stops_the_run():
    error = failure(lambda: list(local("acorns/nut-1b", local_files_only=True).answer([TRIPLET])))
    assert error.fatal
    assert str(error).startswith("oracle 'transformers' (acorns/nut-1b): ")


def test_damaged_weights_stop_the_run(chat, tmp_path):
    folder = shutil.copytree(chat, tmp_path / "damaged")
    (folder / "model.safetensors").write_bytes(b"nothing")
    error = failure(lambda: list(local(folder).answer([TRIPLET])))
    assert error.fatal
    assert "damaged" in str(error)


def test_pickled_weights_are_not_read(chat, tmp_path):
    folder = shutil.copytree(chat, tmp_path / "pickled")
    state = transformers.AutoModelForCausalLM.from_pretrained(chat).state_dict()
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert failure(lambda: list(local(folder).answer([TRIPLET]))).fatal


def test_a_tokenizer_that_cannot_tell_choices_apart_stops_the_run(tmp_path):
    folder = save_model(tmp_path, template="{{ messages[0].content }}")
    error = failure(lambda: list(local(folder).answer([TRIPLET])))
    assert error.fatal
    assert "two choices the same tokens" in str(error)


@pytest.mark.parametrize("device", ["cuda:77", "toaster"])
def test_a_device_that_is_not_there_stops_the_run(chat, device):
    error = failure(lambda: list(local(chat, device=device, precision="auto").answer([TRIPLET])))
    assert error.fatal


def starve(oracle, rows):
    """Let the model run out of memory at more than so many rows."""
    seen = []

    def refuse(_, args, given):
        seen.append(len(given["input_ids"]))
        if seen[-1] > rows:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more lines")

    oracle._local.model.register_forward_pre_hook(refuse, with_kwargs=True)
    return seen


def test_a_batch_that_does_not_fit_into_memory_is_halved(chat):
    oracle = local(chat)
    seen = starve(oracle, rows=2)
    answers = list(oracle.answer(TRIPLETS))
    assert [answer.choice for answer in answers] == [answer.choice for answer in local(chat).answer(TRIPLETS)]
    assert seen == [5, 2, 2, 1]
    assert oracle.batch_size == 2


def test_a_question_that_does_not_fit_into_memory_fails_alone(chat, open_session):
    oracle = local(chat)
    starve(oracle, rows=1)
    session = open_session(oracle)
    answers = ask(session, [NONE_OF_THREE])  # "none" takes a row more than a number
    assert session.tally.failed == 0
    assert answers[0].choice
    starve(oracle, rows=0)
    (answer,) = ask(session, [TRIPLET])
    assert answer.choice is None
    assert "out of memory at a question of" in answer.error
    assert session.tally.failed == 1
    assert "out of memory" in str(failure(lambda: oracle.describe(TEXTS)))


def test_another_failure_of_the_model_stops_the_run(chat):
    oracle = local(chat)

    def fail(*_):
        raise RuntimeError("device-side assert triggered")

    oracle._local.model.register_forward_pre_hook(fail)
    assert failure(lambda: list(oracle.answer([TRIPLET]))).fatal


def test_scores_that_are_not_numbers_abstain(chat):
    oracle = local(chat)
    with torch.no_grad():
        oracle._local.model.lm_head.weight.fill_(math.nan)
    (answer,) = oracle.answer([TRIPLET])
    assert (answer.choice, answer.confidence) == (None, None)
    assert answer.error == "the model's scores are not numbers; try precision 'fp32'"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "oracle 'transformers': batch_size must be at least 1, not 0"),
        ({"max_length": -1}, "oracle 'transformers': max_length must be at least 1, not -1"),
        ({"precision": "int4"}, "precision must be one of auto, fp32, bf16, not 'int4'"),
    ],
)
def test_a_setting_without_meaning_is_an_error(settings, message):
    with pytest.raises(ClusterLLMError) as caught:
        TransformersOracle("acorns/nut-1b", **settings)
    assert str(caught.value) == message


def test_a_missing_extra_is_named(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "transformers" else found(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'clusterllm-plugins\[transformers\]'"):
        TransformersOracle("acorns/nut-1b")


def test_making_one_imports_no_heavy_library(chat):
    code = (
        "import sys; from clusterllm_oracles.transformers import TransformersOracle; "
        f"TransformersOracle({str(chat)!r}); print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[]\n"
