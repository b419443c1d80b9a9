"""The built-in embedders, registered through the same hook as a third party's."""

from __future__ import annotations

from clusterllm_plugins.hookspecs import Register, hookimpl


@hookimpl
def register_embedders(register: Register) -> None:
    """Register each embedder by a dotted string: none of them is imported before it is used."""
    register("lsa", "clusterllm_embedders.lsa:LSAEmbedder")
    register("minilm", "clusterllm_embedders.minilm:MiniLMEmbedder")
    register("sentence-transformers", "clusterllm_embedders.sentence_transformer:SentenceTransformerEmbedder")
