"""Which endpoint of OpenAI's protocol is meant, and the key for it: for whoever asks one, an oracle or an embedder."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.questions import OracleError

_HOST = "api.openai.com"


def endpoint(base_url: str | None) -> str | None:
    """Return the endpoint that is meant: the one given, else that of ``OPENAI_BASE_URL``, which the library reads."""
    return base_url or os.environ.get("OPENAI_BASE_URL") or None


def is_openai(base_url: str | None) -> bool:
    """Return whether it is OpenAI's own endpoint; at another one a model of the same name may cost anything."""
    return base_url is None or urlsplit(base_url).hostname == _HOST


def key_variable(api_key_env: str | None, where: str) -> str | None:
    """Return the name of the environment variable that holds a key, ``None`` for a server without one.

    Raises:
        ClusterLLMError: If it is no name of a variable; the message begins with ``where``.
    """
    if api_key_env and not api_key_env.isidentifier():
        # Never quoted: it may be the key itself.
        raise ClusterLLMError(f"{where}: api_key_env takes the name of an environment variable, not a key")
    return api_key_env or None  # TOML has no null


def key_in(variable: str | None, where: str) -> str:
    """Return the key that an environment variable holds; without one a word that a server without keys ignores.

    Raises:
        OracleError: If the variable holds none; it is fatal and begins with ``where``.
    """
    if variable is None:
        return "none"  # the library insists on a key
    key = os.environ.get(variable, "").strip()
    if not key.isascii():
        raise OracleError(f"{where}: the environment variable {variable} holds characters that no key has", fatal=True)
    if not key:
        raise OracleError(
            f"{where}: the environment variable {variable} holds no key; "
            'set it, or set api_key_env to "" for a server without one',
            fatal=True,
        )
    return key
