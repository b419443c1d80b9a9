"""From a fitted :class:`ClusterLLM` to an artifact and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clusterllm_plugins.artifact import ANSWERS, EMBEDDER, read_artifact, write_artifact
from clusterllm_plugins.components import EmbedderSpec, must_be_saved, redaction_of, resolve_embedder, restore_embedder
from clusterllm_plugins.errors import ArtifactError
from clusterllm_plugins.explaining import Background
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.protocols import has_methods
from clusterllm_plugins.questions import Answer, Question, Usage
from clusterllm_plugins.recording import is_answer, read_lines
from clusterllm_plugins.space import Space

if TYPE_CHECKING:
    from clusterllm_plugins.estimator import ClusterLLM

_ARRAYS = ("labels_", "cluster_scores_", "cluster_centers_", "embeddings_")


def save_model(model: ClusterLLM, folder: Path) -> None:
    """Write ``model`` to ``folder``."""
    space, spec = model.space_, model._embedder_spec
    with_embedder = space.embedder is not None and must_be_saved(space.embedder, tuned=space.tuned)
    if with_embedder and not has_methods(space.embedder, "save"):
        raise ArtifactError(f"embedder {type(space.embedder).__name__} cannot be saved: it has no method save")
    arrays = {name.rstrip("_"): getattr(model, name) for name in _ARRAYS}
    arrays["cluster_offsets"] = model.cluster_offsets_
    arrays["first"] = model._background.first
    if space.adapter is not None:
        arrays["adapter"] = space.adapter
    params = {name: _plain(value) for name, value in model.get_params(deep=False).items()}
    params["demonstrations"] = redaction_of(model.redact).demonstrations(params["demonstrations"])
    content = {
        "params": params,
        "cluster_labels": model.cluster_labels_,
        "report": model.report_,
        "usage": vars(model.usage_),
        "embedder": spec.to_dict() if spec else None,
        "tuned": space.tuned,
        "frozen": space.frozen,
        "with_embedder": with_embedder,
        "known": model._background.known_lines(),
    }
    write_artifact(folder, content, arrays, model._answer_lines, space.embedder if with_embedder else None)


def load_model(cls: type[ClusterLLM], folder: Path, embedder: Any) -> ClusterLLM:
    """Read a model from ``folder``; ``embedder`` takes the place of the saved one where given."""
    content, arrays = read_artifact(folder)
    model = cls(**{name: _native(name, value) for name, value in content["params"].items()})
    for name in _ARRAYS:
        setattr(model, name, arrays[name.rstrip("_")])
    # An earlier version's artifact has centroids only.
    model.cluster_offsets_ = arrays.get("cluster_offsets", np.zeros(len(model.cluster_centers_), np.float32))
    model.n_clusters_ = len(model.cluster_centers_)
    model.cluster_labels_ = content["cluster_labels"]
    model.report_ = content["report"]
    model.usage_ = Usage(**content["usage"])
    model._answer_lines = read_lines(folder / ANSWERS)
    records = [record for line in model._answer_lines if is_answer(record := json.loads(line))]
    model.questions_ = [Question.from_dict(record) for record in records]
    model.answers_ = [Answer.from_dict(record) for record in records]
    model._background = Background.of_artifact(model.labels_, arrays.get("first"), content.get("known", []))
    saved = content["embedder"]
    spec = EmbedderSpec(saved["name"], saved["settings"]) if saved else None
    plugins = Plugins()
    if embedder is not None:
        loaded, spec = resolve_embedder(plugins, embedder)
        model.embedder = embedder
    elif spec is not None and spec.name is not None:
        loaded = restore_embedder(plugins, spec, folder / EMBEDDER if content["with_embedder"] else None)
    else:
        loaded = None
    model._embedder_spec = spec
    model.space_ = Space(loaded, arrays.get("adapter"), content["tuned"], content["frozen"])
    return model


def _plain(value: Any) -> Any:
    """Return a JSON-able stand-in for a constructor argument; ``None`` for an object that has none."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.integer):
        return int(value)
    try:
        return json.loads(json.dumps(value))
    except TypeError:
        return None


def _native(name: str, value: Any) -> Any:
    """Return a constructor argument as it was before its trip through JSON."""
    if name == "embedder" and value is None:
        return "auto"
    if name in ("n_clusters", "demonstrations", "redact") and isinstance(value, list):
        return tuple(tuple(item) if isinstance(item, list) else item for item in value)
    return value
