"""Settings of the command line: defaults, then a TOML file, then options and ``--set``."""

from __future__ import annotations

import difflib
import inspect
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clusterllm_plugins.errors import ClusterLLMError

COMPONENTS = ("embedder", "oracle")
# What the command line decides by itself.
_NOT_IN_CONFIG = ("progress",)


def setting_names() -> list[str]:
    """Return the settings that a config may hold: those of ``ClusterLLM``."""
    from clusterllm_plugins.estimator import ClusterLLM

    names = list(inspect.signature(ClusterLLM).parameters)
    return [name for name in names if name not in _NOT_IN_CONFIG]


def read_config(path: Path) -> dict[str, Any]:
    """Read a TOML file with the settings of ``ClusterLLM``, and tables ``[embedder]`` and ``[oracle]``.

    Raises:
        ClusterLLMError: If it cannot be read, is not TOML, or has a key that is no setting.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ClusterLLMError(f"{path}: cannot read the config ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ClusterLLMError(f"{path}: not a TOML file ({error})") from error
    for key in content:
        _check_name(key, f"{path}: unknown setting")
    return content


def merge(config: Mapping[str, Any], options: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return the settings of ``ClusterLLM``: the config, over it the options given, over it each ``--set``.

    Args:
        config: From :func:`read_config`.
        options: Of the command line; ``None`` = not given. A component's name replaces that of the config and,
            where it is another one, its settings.
        assignments: ``"oracle.model=gpt-4o"`` or ``"n_clusters=20"``; a value is JSON, else a text.

    Raises:
        ClusterLLMError: If an assignment has no meaning.
    """
    settings = {name: _as_table(name, value) for name, value in config.items()}
    for name, value in options.items():
        if value is None:
            continue
        if name in COMPONENTS and (settings.get(name) or {}).get("name") == value:
            continue
        settings[name] = _as_table(name, value)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ClusterLLMError(f"--set {assignment!r}: write KEY=VALUE, for example oracle.model=gpt-4o")
        _assign(settings, key.strip(), _value(text))
    for name in COMPONENTS:
        if settings.get(name) is not None and "name" not in settings[name]:
            raise ClusterLLMError(f"{name}.name is missing: say which {name} these settings are for")
    return settings


def parse_n_clusters(text: str) -> int | tuple[int, int] | str:
    """Return ``"auto"``, a number, or ``(low, high)`` for ``"20-80"``.

    Raises:
        ClusterLLMError: If it is none of these.
    """
    low, dash, high = text.partition("-")
    if text == "auto":
        return "auto"
    if _is_number(low) and not dash:
        return int(low)
    if _is_number(low) and _is_number(high):
        return int(low), int(high)
    raise ClusterLLMError(f"--n-clusters takes a number, LOW-HIGH or auto, not {text!r}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _as_table(name: str, value: Any) -> Any:
    """Return a component as a table with its name; ``None`` turns the oracle off."""
    if name not in COMPONENTS or value is None:
        return value
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise ClusterLLMError(f"{name} must be a name or a table with a name, not {value!r}")
    return dict(value)


def _assign(settings: dict[str, Any], key: str, value: Any) -> None:
    name, dot, inner = key.partition(".")
    _check_name(name, "--set: unknown setting")
    if dot:
        if name not in COMPONENTS:
            raise ClusterLLMError(f"--set {key}: only {' and '.join(COMPONENTS)} have settings of their own")
        settings[name] = {**(settings.get(name) or {}), inner: value}
    else:
        settings[name] = _as_table(name, value)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _check_name(name: str, message: str) -> None:
    known = setting_names()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ClusterLLMError(f"{message} {name!r}{hint} (settings: {', '.join(known)})")
