import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from clusterllm_plugins.asking import Session
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.store import AnswerStore

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parent.parent

HAS_SPACY = importlib.util.find_spec("spacy") is not None
collect_ignore_glob = [] if HAS_SPACY else ["test_spacy_*.py"]


def pytest_report_header():
    return None if HAS_SPACY else "left out: test_spacy_*.py, since the extra spacy is not installed"


# Three subjects with words of their own, five messages each.
SUBJECTS = {
    "delivery": [
        "parcel late",
        "parcel courier never came",
        "courier lost parcel",
        "late courier",
        "parcel still late",
    ],
    "password": ["password reset", "login password wrong", "reset my login", "login fails", "wrong password again"],
    "invoice": ["invoice copy", "invoice tax number", "copy of tax invoice", "tax missing", "send invoice copy"],
}


@pytest.fixture
def texts() -> list[str]:
    return [text for group in SUBJECTS.values() for text in group]


@pytest.fixture
def truth() -> list[str]:
    return [subject for subject, group in SUBJECTS.items() for _ in group]


@pytest.fixture(scope="module")
def one_torch_thread():
    """On a busy machine, the threads of a small model mostly wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def blobs() -> tuple[np.ndarray, np.ndarray]:
    """Vectors of four separate clusters of 30, and their clusters."""
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(4, 8))
    labels = np.repeat(np.arange(4), 30)
    return (centres[labels] + rng.normal(scale=0.3, size=(120, 8))).astype(np.float32), labels


@pytest.fixture(scope="session")
def messages() -> list[str]:
    lines = (ROOT / "examples" / "messages.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="session")
def message_labels() -> list[str]:
    lines = (ROOT / "examples" / "messages_labels.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["label"] for line in lines]


# A store, and sessions on it.


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.sqlite"


@pytest.fixture
def store(path):
    with AnswerStore(path) as store:
        yield store


@pytest.fixture
def waits():
    return []


@pytest.fixture
def open_session(store, waits):
    def make(oracle, *hooks, **settings):
        plugins = Plugins(discover=False)
        for number, hook in enumerate(hooks):
            plugins.register(hook, f"hook-{number}")
        settings = {"store": store, "sleep": waits.append} | settings
        return Session(oracle, plugins=plugins, **settings)

    return make


# A server that stands in for a provider.


@pytest.fixture
def no_proxy(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def provider(no_proxy):
    """A server that speaks OpenAI's chat completions and says what a test wants."""
    from loopback import running
    from openai_kit import Provider

    with running(Provider()) as server:
        yield server


# Tiny random language models.


@pytest.fixture(scope="session")
def chat(tmp_path_factory):
    """The folder of a model with a chat template and rotary positions."""
    from local_model_kit import save_model

    return save_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """The folder of a model without a chat template, with absolute positions."""
    from local_model_kit import save_model

    return save_model(tmp_path_factory.mktemp("plain"), template=None, kind="gpt2")
