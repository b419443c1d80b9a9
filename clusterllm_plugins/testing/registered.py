"""What every registered component must keep: it is found by its name, and its settings can be listed."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Literal

from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.plugins import Plugins


def check_registered(kind: Literal["oracle", "embedder", "redactor"], name: str) -> None:
    """Check that a component is registered in this environment, and what users are told of its settings.

    ``clusterllm oracles`` and the error for a misspelt setting show a factory's signature: each setting must stand in
    it by name, with its type, and be explained in the docstring.

    Args:
        kind: Of the component.
        name: As users write it.

    Raises:
        AssertionError: If it is not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClusterLLMWarning)  # of broken plugins; said below
        plugins = Plugins()
    broken = "".join(f"; {plugin.name} is broken: {plugin.error}" for plugin in plugins.broken)
    assert name in plugins.registrations[kind], f"no {kind} {name!r} is registered{broken}"
    factory = plugins.registrations[kind][name].load(kind)
    explained = inspect.getdoc(factory) or ""
    for parameter in inspect.signature(factory).parameters.values():
        by_name = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        what = f"{kind} {name!r}, setting {parameter.name!r}"
        assert by_name, f"{what}: a setting must be a parameter with a name of its own, not {parameter}"
        assert parameter.annotation is not parameter.empty, f"{what} has no type"
        assert re.search(rf"\b{re.escape(parameter.name)}\b", explained), f"{what} is not in the docstring"
