"""The built-in oracles, registered through the same hook as a third party's."""

from __future__ import annotations

from clusterllm_plugins.hookspecs import Register, hookimpl


@hookimpl
def register_oracles(register: Register) -> None:
    """Register each oracle by a dotted string: none of them is imported before it is used."""
    register("batch", "clusterllm_oracles.batch:BatchOracle")
    register("council", "clusterllm_oracles.council:CouncilOracle")
    register("haystack", "clusterllm_oracles.haystack:HaystackOracle")
    register("human", "clusterllm_oracles.human:HumanOracle")
    register("openai", "clusterllm_oracles.openai:OpenAIOracle")
    register("replay", "clusterllm_oracles.replay:ReplayOracle")
    register("simulated", "clusterllm_oracles.simulated:SimulatedOracle")
    register("spacy-llm", "clusterllm_oracles.spacy_llm:SpacyLLMOracle")
    register("transformers", "clusterllm_oracles.transformers:TransformersOracle")
