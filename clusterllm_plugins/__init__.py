"""Text clustering guided by a large language model, with oracles and embedders as plugins.

Names are imported when they are first used (PEP 562): importing this package costs little.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning
    from clusterllm_plugins.estimator import ClusterLLM
    from clusterllm_plugins.granularity import select_n_clusters
    from clusterllm_plugins.guided.partition import merge_clusters
    from clusterllm_plugins.hookspecs import hookimpl
    from clusterllm_plugins.plugins import Plugins
    from clusterllm_plugins.prompts import PromptedOracle
    from clusterllm_plugins.protocols import Embedder, Oracle, TrainableEmbedder
    from clusterllm_plugins.questions import Answer, Completion, OracleError, Question, Usage
    from clusterllm_plugins.recording import load_answers

__version__ = "0.1.0"

_HOMES = {
    "Answer": "questions",
    "ClusterLLM": "estimator",
    "ClusterLLMError": "errors",
    "ClusterLLMWarning": "errors",
    "Completion": "questions",
    "Embedder": "protocols",
    "Oracle": "protocols",
    "OracleError": "questions",
    "Plugins": "plugins",
    "PromptedOracle": "prompts",
    "Question": "questions",
    "TrainableEmbedder": "protocols",
    "Usage": "questions",
    "hookimpl": "hookspecs",
    "load_answers": "recording",
    "merge_clusters": "guided.partition",
    "select_n_clusters": "granularity",
}

__all__ = [
    "Answer",
    "ClusterLLM",
    "ClusterLLMError",
    "ClusterLLMWarning",
    "Completion",
    "Embedder",
    "Oracle",
    "OracleError",
    "Plugins",
    "PromptedOracle",
    "Question",
    "TrainableEmbedder",
    "Usage",
    "hookimpl",
    "load_answers",
    "merge_clusters",
    "select_n_clusters",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
