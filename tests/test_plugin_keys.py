"""A setting that looks like a key is refused: settings are written to disk."""

import pytest

from clusterllm_plugins import Plugins
from clusterllm_plugins.errors import PluginError

KEYS = [
    "sk-abcdefgh12345678",
    "sk-proj-A1b2C3d4E5f6G7h8I9j0",
    "sk-ant-api03-0123456789abcdef",
    "sk_live_0123456789abcdefghij",
    "hf_0123456789abcdefghij",
    "gsk_0123456789abcdefghij",
    "ghp_0123456789abcdefghij",
    "xai-0123456789abcdefghij",
    "AKIA0123456789ABCDEF",
    "AIzaSyA0123456789abcdefghijklmnopqrstu",
    "Bearer abc",
    "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl",
    "  sk-abcdefgh12345678  ",
]
OTHERS = [
    "gpt-4o-mini",
    "gpt-4o-mini-2024-07-18",
    "sklearn-based-embedder-v2",
    "sentence-transformers/all-MiniLM-L6-v2",
    "hf-internal-testing/tiny-random-bert",
    "OPENAI_API_KEY",
    "http://localhost:11434/v1",
    "in terms of sk-this",
    "sk-short",
    "",
]


def make(value, **nested):
    Plugins().oracle({"name": "openai", "model": value, **nested})


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_refused_and_not_repeated(key):
    with pytest.raises(PluginError) as caught:
        make(key)
    assert str(caught.value) == (
        "oracle 'openai': the setting 'model' looks like a key; put the key into an environment variable and give that "
        "one's name"
    )


@pytest.mark.parametrize("value", OTHERS)
def test_anything_else_is_not(value):
    make(value)


def test_a_key_further_inside_is_refused():
    with pytest.raises(PluginError, match="the setting 'token' looks like a key"):
        make("gpt-4o-mini", headers={"token": KEYS[0]})


def test_an_embedder_is_checked_too():
    with pytest.raises(PluginError, match="embedder 'lsa': the setting 'path' looks like a key"):
        Plugins().embedder({"name": "lsa", "path": KEYS[0]})
