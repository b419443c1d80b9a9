"""What every embedder must keep."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from clusterllm_plugins.embedding import embed_texts, fit_if_needed
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning
from clusterllm_plugins.protocols import Embedder, Vectors, has_methods, is_trainable
from clusterllm_plugins.testing.making import check_identity, check_keyless, made
from clusterllm_plugins.testing.samples import ODD_TEXTS, TEXTS

Make = Callable[..., Embedder]

# Another place in the batch may change the last bits, not more.
_LAST_BITS = 1e-2


def check_embedder(make: Make, *, changed: Sequence[Make] = (), broken: Sequence[Make] = ()) -> None:
    """Check that an embedder keeps the contract.

    It is given :data:`TEXTS` at once, in another order, from several threads and as ``fit`` does it, and
    :data:`ODD_TEXTS` one by one.

    Args:
        make: Makes an embedder anew; for one with ``save`` it is also called with ``path=folder``.
        changed: Each makes one with another setting that could change a vector.
        broken: Each makes one that cannot embed: a wrong address, no key, a missing folder. It may also fail itself.

    Raises:
        AssertionError: If it does not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClusterLLMWarning)  # of texts that are cut, or hold no known word
        _check(make, changed)
        for make_broken in broken:
            _check_trouble(make_broken)


def _check(make: Make, changed: Sequence[Make]) -> None:
    embedder = made(make, "an embedder")
    assert has_methods(embedder, "embed"), f"{type(embedder).__name__} has no method embed(texts)"
    fit_if_needed(embedder, TEXTS)
    _check_fingerprint(embedder, make, changed)
    fingerprint = embedder.fingerprint
    vectors = embedder.embed(TEXTS)
    _check_vectors(vectors, len(TEXTS))
    assert np.array_equal(vectors, embedder.embed(TEXTS)), "embedding the same texts twice must give the same"
    shuffled = embedder.embed(TEXTS[::-1])[::-1]
    assert np.allclose(vectors, shuffled, atol=_LAST_BITS), "a vector must not depend on the other texts"
    in_fits = embed_texts(embedder, TEXTS)
    assert np.allclose(vectors, in_fits, atol=_LAST_BITS), "embed_each must give the vectors that embed gives"
    _check_threads(embedder, vectors)
    for text in ODD_TEXTS:
        _check_odd(embedder, text, vectors.shape[1])
    assert embedder.fingerprint == fingerprint, "fingerprint must not change while it embeds"
    if has_methods(embedder, "save"):
        _check_saved(embedder, make)
    if is_trainable(embedder):
        _check_trainable(embedder)


def _check_fingerprint(embedder: Embedder, make: Make, changed: Sequence[Make]) -> None:
    again = make()
    fit_if_needed(again, TEXTS)
    check_identity(embedder.fingerprint, again.fingerprint, "embedders")
    for place, make_changed in enumerate(changed):
        other = make_changed()
        fit_if_needed(other, TEXTS)
        message = f"changed[{place}]: another setting must change the fingerprint"
        assert other.fingerprint != embedder.fingerprint, message


def _check_vectors(vectors: object, n_texts: int) -> None:
    assert isinstance(vectors, np.ndarray), "embed must return an array"
    assert vectors.ndim == 2, f"vectors must have two dimensions, not {vectors.ndim}"
    assert vectors.dtype == np.float32, f"vectors must be float32, not {vectors.dtype}"
    assert len(vectors) == n_texts, f"{len(vectors)} vectors for {n_texts} texts"
    assert np.isfinite(vectors).all(), "vectors must be finite"


def _check_threads(embedder: Embedder, vectors: Vectors) -> None:
    """Check that threads that embed at once do not get each other's vectors."""
    halves = (slice(0, len(TEXTS) // 2), slice(len(TEXTS) // 2, None))
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda half: embedder.embed(TEXTS[half]), halves))
    for half, some in zip(halves, found, strict=True):
        assert np.allclose(vectors[half], some, atol=_LAST_BITS), "threads that embed at once must get their own"


def _check_odd(embedder: Embedder, text: str, width: int) -> None:
    """Check that an odd text has a vector, or an error of one line."""
    shown = f"{text[:20]!a} ({len(text)} characters)"
    try:
        vectors = embedder.embed([text])
    except ClusterLLMError as error:
        _check_one_line(error)
        return
    except Exception as error:
        raise AssertionError(
            f"the text {shown} must have a vector or a ClusterLLMError, not {type(error).__name__}"
        ) from error
    _check_vectors(vectors, 1)
    assert vectors.shape[1] == width, f"the text {shown} has a vector of size {vectors.shape[1]}, others of {width}"


def _check_one_line(error: ClusterLLMError) -> None:
    check_keyless(str(error), "an error must not hold a key")
    assert str(error), "an error must say what is wrong"
    assert "\n" not in str(error), f"an error must be one line: {str(error)[:200]!r}"


def _check_trouble(make: Make) -> None:
    try:
        make().embed(TEXTS[:2])
    except ClusterLLMError as error:
        _check_one_line(error)
    except Exception as error:
        raise AssertionError(
            f"an embedder that cannot embed must raise ClusterLLMError, not {type(error).__name__}"
        ) from error
    else:
        raise AssertionError("an embedder that cannot embed must raise ClusterLLMError, but it gave vectors")


def _check_saved(embedder: Embedder, make: Make) -> None:
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
