"""Haystack components that embed documents and texts, by any registered embedder or a fitted model."""

from haystack_integrations.components.embedders.clusterllm.document_embedder import ClusterLLMDocumentEmbedder
from haystack_integrations.components.embedders.clusterllm.text_embedder import ClusterLLMTextEmbedder

__all__ = ["ClusterLLMDocumentEmbedder", "ClusterLLMTextEmbedder"]
