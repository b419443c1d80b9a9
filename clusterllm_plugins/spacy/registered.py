"""``@misc`` functions, by which any registered oracle or embedder can be named in a config.

A function with open-ended arguments cannot be: spaCy checks a block against the signature. So the component's own
settings stand in a block of their own.
"""

from __future__ import annotations

from typing import Any

from spacy.util import registry

from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.protocols import Oracle


@registry.misc("clusterllm.Oracle.v1")
def make_oracle(name: str, settings: dict[str, Any] | None = None) -> Oracle:
    """Return a registered oracle.

    Args:
        name: Its name.
        settings: Its settings.

    Raises:
        PluginError: If the name or a setting is unknown.
    """
    return Plugins().oracle({**(settings or {}), "name": name})


@registry.misc("clusterllm.Embedder.v1")
def make_embedder(name: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a registered embedder, as ``clusterllm_embedder`` takes it: it makes and restores it by its name.

    Args:
        name: Its name.
        settings: Its settings.

    Raises:
        PluginError: If the name or a setting is unknown.
    """
    spec = {**(settings or {}), "name": name}
    Plugins().embedder(spec)
    return spec
