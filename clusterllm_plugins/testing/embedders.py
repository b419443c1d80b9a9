"""What every embedder must keep."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from clusterllm_plugins.embedding import fit_if_needed
from clusterllm_plugins.protocols import Embedder, has_methods, is_trainable
from clusterllm_plugins.testing.samples import TEXTS


def check_embedder(make: Callable[..., Embedder]) -> None:
    """Check that an embedder keeps the contract.

    Args:
        make: Makes an embedder anew; for one with ``save`` it is also called with ``path=folder``.

    Raises:
        AssertionError: If it does not.
    """
    embedder = make()
    assert has_methods(embedder, "embed"), f"{type(embedder).__name__} has no method embed(texts)"
    fit_if_needed(embedder, TEXTS)
    assert isinstance(embedder.fingerprint, str), "fingerprint must be a str"
    assert embedder.fingerprint, "fingerprint must not be empty"
    vectors = embedder.embed(TEXTS)
    assert isinstance(vectors, np.ndarray), "embed must return an array"
    assert vectors.ndim == 2, f"vectors must have two dimensions, not {vectors.ndim}"
    assert vectors.dtype == np.float32, f"vectors must be float32, not {vectors.dtype}"
    assert len(vectors) == len(TEXTS), f"{len(vectors)} vectors for {len(TEXTS)} texts"
    assert np.isfinite(vectors).all(), "vectors must be finite"
    assert np.array_equal(vectors, embedder.embed(TEXTS)), "embedding the same texts twice must give the same"
    # Another place in the batch may change the last bits, not more.
    shuffled = embedder.embed(TEXTS[::-1])[::-1]
    assert np.allclose(vectors, shuffled, atol=1e-2), "a vector must not depend on the other texts"
    if has_methods(embedder, "save"):
        _check_saved(embedder, make)
    if is_trainable(embedder):
        _check_trainable(embedder)


def _check_saved(embedder: Embedder, make: Callable[..., Embedder]) -> None:
    with TemporaryDirectory() as folder:
        embedder.save(Path(folder))  # type: ignore[attr-defined]
        restored = make(path=folder)
        assert restored.fingerprint == embedder.fingerprint, "a restored embedder must have the same fingerprint"
        assert np.array_equal(restored.embed(TEXTS), embedder.embed(TEXTS)), "a restored embedder must embed equally"


def _check_trainable(embedder: Embedder) -> None:
    before = embedder.embed(TEXTS)
    triplets = np.array([[0, 1, 2], [2, 3, 0]], dtype=np.int64)
    tuned: Embedder = embedder.finetune(TEXTS, triplets, seed=0, progress=False)  # type: ignore[attr-defined]
    assert tuned is not embedder, "finetune must return a new embedder"
    assert np.array_equal(embedder.embed(TEXTS), before), "finetune must leave the old embedder as it is"
    assert tuned.fingerprint != embedder.fingerprint, "a fine-tuned embedder must have another fingerprint"
    assert not math.isclose(float(np.abs(tuned.embed(TEXTS) - before).max()), 0.0), "finetune changed nothing"
