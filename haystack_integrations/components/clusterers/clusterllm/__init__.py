"""Haystack components that group documents."""

from haystack_integrations.components.clusterers.clusterllm.assigner import ClusterLLMAssigner
from haystack_integrations.components.clusterers.clusterllm.clusterer import ClusterLLMClusterer
from haystack_integrations.components.clusterers.clusterllm.document_grouper import ClusterLLMDocumentGrouper
from haystack_integrations.components.clusterers.clusterllm.granularity_selector import ClusterLLMGranularitySelector

__all__ = [
    "ClusterLLMAssigner",
    "ClusterLLMClusterer",
    "ClusterLLMDocumentGrouper",
    "ClusterLLMGranularitySelector",
]
