"""spaCy components: vectors, clusters and the number of clusters on docs or spans.

spaCy finds the factories, readers, scorers and ``@misc`` functions through entry points; nothing here needs to be
imported to use ``nlp.add_pipe("clusterllm")``. The names below are for type annotations and for code that makes
components by hand.
"""

from __future__ import annotations

from clusterllm_plugins.spacy.clusterer import ClusterLLMClusterer
from clusterllm_plugins.spacy.embedder import ClusterLLMEmbedder
from clusterllm_plugins.spacy.granularity import ClusterLLMGranularity

__all__ = ["ClusterLLMClusterer", "ClusterLLMEmbedder", "ClusterLLMGranularity"]
