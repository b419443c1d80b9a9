"""From the settings of an estimator to the components it works with."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clusterllm_plugins.errors import ArtifactError, MissingExtraError, PluginError
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.protocols import Embedder, check_embedder_protocol, has_methods
from clusterllm_plugins.redaction import Redaction

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbedderSpec:
    """How an embedder was made, so that it can be made again.

    Attributes:
        name: Its registered name, or ``None`` where the user gave an object.
        settings: Its JSON-able settings.
    """

    name: str | None
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict."""
        return {"name": self.name, "settings": self.settings}


def resolve_embedder(plugins: Plugins, spec: str | Mapping[str, Any] | Embedder) -> tuple[Embedder, EmbedderSpec]:
    """Return an embedder and how it was made; ``"auto"`` is minilm where installed, else lsa."""
    if spec == "auto":
        try:
            return plugins.embedder("minilm"), EmbedderSpec("minilm", {})
        except MissingExtraError:
            log.info("embedder 'auto': minilm is not installed, lsa is used")
            return plugins.embedder("lsa"), EmbedderSpec("lsa", {})
    embedder = plugins.embedder(spec)
    if isinstance(spec, str):
        return embedder, EmbedderSpec(spec, {})
    if isinstance(spec, Mapping):
        return embedder, _spec_of(spec)
    return embedder, EmbedderSpec(None, {})


def _spec_of(spec: Mapping[str, Any]) -> EmbedderSpec:
    """Return how an embedder was made; one whose settings hold an object is as good as an object itself."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in spec.items()}
    try:
        json.dumps(settings)
    except (TypeError, ValueError):
        return EmbedderSpec(None, {})
    return EmbedderSpec(settings.pop("name"), settings)


def restore_embedder(plugins: Plugins, spec: EmbedderSpec, folder: Path | None) -> Embedder:
    """Return the embedder of a saved model.

    Args:
        plugins: Know the factory.
        spec: How it was made.
        folder: What ``save`` wrote, or ``None`` where its settings are enough.
    """
    settings = dict(spec.settings)
    if folder is not None:
        settings["path"] = str(folder)
    if spec.name is None:
        raise ArtifactError(
            "this model's embedder was given as an object: load it with ClusterLLM.load(folder, embedder=...)"
        )
    embedder = plugins.embedder({"name": spec.name, **settings})
    check_embedder_protocol(embedder, spec.name)
    return embedder


def must_be_saved(embedder: Embedder, *, tuned: bool) -> bool:
    """Return whether a model's folder must hold the embedder: it learnt from this corpus or these answers."""
    return tuned or (has_methods(embedder, "fit") and has_methods(embedder, "save"))


def resolve_redaction(plugins: Plugins, redact: Sequence[Any]) -> Redaction:
    """Return the redaction by the user's redactors, in their order."""
    if isinstance(redact, str):
        raise PluginError(f"redact takes a list of redactors: write ({redact!r},)")
    return Redaction([(_name(spec), plugins.redactor(spec)) for spec in redact])


def redaction_of(redact: Sequence[Any]) -> Redaction:
    """Return the redaction by these redactors; plugins are looked for only where there are any."""
    return resolve_redaction(Plugins(), redact) if redact else Redaction()


def _name(spec: Any) -> str:
    if isinstance(spec, str):
        return spec
    return str(spec.get("name")) if isinstance(spec, Mapping) else getattr(spec, "__name__", type(spec).__name__)
