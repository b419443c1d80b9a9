"""The factories that spaCy finds by their entry points.

The first ``spacy.blank`` of a process imports this module, whether its components are used or not: it imports spaCy,
numpy, srsly and the light half of the core, nothing else.

Settings that mean more than one type are annotated with ``Any`` and checked by the component, whose error is one line.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spacy.language import Language

from clusterllm_plugins.spacy.attributes import DEFAULT_VECTORS, PREFIX, register_defaults
from clusterllm_plugins.spacy.clusterer import ClusterLLMClusterer
from clusterllm_plugins.spacy.embedder import ClusterLLMEmbedder
from clusterllm_plugins.spacy.granularity import ClusterLLMGranularity

register_defaults()


@Language.factory(
    "clusterllm_embedder",
    assigns=["doc._.clusterllm_vector"],
    default_config={
        "embedder": "auto",
        "redact": [],
        "prefix": PREFIX,
        "span_key": None,
        "set_doc_vector": False,
        "cache": None,
    },
)
def make_embedder(
    nlp: Language, name: str, embedder: Any, redact: Any, prefix: Any, span_key: Any, set_doc_vector: bool, cache: Any
) -> ClusterLLMEmbedder:
    """Make the component ``clusterllm_embedder``; the settings are those of :class:`ClusterLLMEmbedder`."""
    return ClusterLLMEmbedder(
        nlp,
        name,
        embedder=embedder,
        redact=redact,
        prefix=prefix,
        span_key=span_key,
        set_doc_vector=set_doc_vector,
        cache=cache,
    )


_ASKING: dict[str, Any] = {
    "max_granularity_questions": 594,
    "max_cost": None,
    "max_tokens": None,
    "instruction": None,
    "demonstrations": [],
    "redact": [],
    "store": None,
    "progress": True,
    "random_state": 0,
    "prefix": PREFIX,
    "span_key": None,
}


@Language.factory(
    "clusterllm",
    assigns=["doc._.clusterllm_cluster", "doc._.clusterllm_label", "doc._.clusterllm_score"],
    requires=["doc._.clusterllm_vector"],
    default_config={
        "vectors": DEFAULT_VECTORS,
        "n_clusters": "auto",
        "method": "auto",
        "max_questions": 1024,
        "iterations": 1,
        "refine": "auto",
        "write_cats": False,
        "write_user_data": False,
        "scorer": {"@scorers": "clusterllm.scorer.v1"},
        **_ASKING,
    },
    default_score_weights={"clusterllm_acc": 1.0, "clusterllm_nmi": 0.0, "clusterllm_ari": 0.0},
)
def make_clusterer(
    nlp: Language,
    name: str,
    vectors: Any,
    n_clusters: Any,
    method: Any,
    max_questions: Any,
    iterations: Any,
    max_granularity_questions: Any,
    max_cost: Any,
    max_tokens: Any,
    instruction: Any,
    demonstrations: Any,
    redact: Any,
    store: Any,
    progress: bool,
    random_state: Any,
    refine: Any,
    prefix: Any,
    span_key: Any,
    write_cats: bool,
    write_user_data: bool,
    scorer: Callable[..., Any] | None,
) -> ClusterLLMClusterer:
    """Make the component ``clusterllm``; the settings are those of :class:`ClusterLLMClusterer`."""
    return ClusterLLMClusterer(
        nlp,
        name,
        vectors=vectors,
        n_clusters=n_clusters,
        method=method,
        max_questions=max_questions,
        iterations=iterations,
        max_granularity_questions=max_granularity_questions,
        max_cost=max_cost,
        max_tokens=max_tokens,
        instruction=instruction,
        demonstrations=demonstrations,
        redact=redact,
        store=store,
        progress=progress,
        random_state=random_state,
        refine=refine,
        prefix=prefix,
        span_key=span_key,
        write_cats=write_cats,
        write_user_data=write_user_data,
        scorer=scorer,
    )


@Language.factory(
    "clusterllm_granularity",
    assigns=["doc._.clusterllm_n_clusters"],
    requires=["doc._.clusterllm_vector"],
    default_config={"vectors": DEFAULT_VECTORS, "n_clusters": "auto", **_ASKING},
)
def make_granularity(
    nlp: Language,
    name: str,
    vectors: Any,
    n_clusters: Any,
    max_granularity_questions: Any,
    max_cost: Any,
    max_tokens: Any,
    instruction: Any,
    demonstrations: Any,
    redact: Any,
    store: Any,
    progress: bool,
    random_state: Any,
    prefix: Any,
    span_key: Any,
) -> ClusterLLMGranularity:
    """Make the component ``clusterllm_granularity``; the settings are those of :class:`ClusterLLMGranularity`."""
    return ClusterLLMGranularity(
        nlp,
        name,
        vectors=vectors,
        n_clusters=n_clusters,
        max_granularity_questions=max_granularity_questions,
        max_cost=max_cost,
        max_tokens=max_tokens,
        instruction=instruction,
        demonstrations=demonstrations,
        redact=redact,
        store=store,
        progress=progress,
        random_state=random_state,
        prefix=prefix,
        span_key=span_key,
    )
