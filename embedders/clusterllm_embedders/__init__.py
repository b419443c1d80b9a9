"""The built-in embedders, registered through the same hook as a third party's."""

from __future__ import annotations

from clusterllm_plugins.hookspecs import Register, hookimpl


@hookimpl
def register_embedders(register: Register) -> None:
    """Register each embedder by a dotted string: none of them is imported before it is used."""
    register("haystack", "clusterllm_embedders.haystack:HaystackEmbedder")
    register("lsa", "clusterllm_embedders.lsa:LSAEmbedder")
    register("minilm", "clusterllm_embedders.minilm:MiniLMEmbedder")
    register("openai", "clusterllm_embedders.openai:OpenAIEmbedder")
    register("sentence-transformers", "clusterllm_embedders.sentence_transformer:SentenceTransformerEmbedder")
    register("spacy", "clusterllm_embedders.spacy_pipeline:SpacyEmbedder")
