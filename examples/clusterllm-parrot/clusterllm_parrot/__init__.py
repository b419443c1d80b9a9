"""What this plugin brings: the oracle ``parrot`` and the embedder ``letters``."""

from __future__ import annotations

from clusterllm_plugins import hookimpl
from clusterllm_plugins.hookspecs import Register


@hookimpl
def register_oracles(register: Register) -> None:
    """Register the oracle."""
    register("parrot", "clusterllm_parrot.oracle:ParrotOracle")


@hookimpl
def register_embedders(register: Register) -> None:
    """Register the embedder."""
    register("letters", "clusterllm_parrot.embedder:LetterEmbedder")
