"""``spacy``: the vectors of any spaCy pipeline, from its word vectors, else from what its pipes compute."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clusterllm_embedders.arriving import finished, in_order, valid
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning, MissingExtraError
from clusterllm_plugins.protocols import Keep, Vectors, has_methods

if TYPE_CHECKING:
    from spacy.language import Language

_WHERE = "embedder 'spacy'"


class SpacyEmbedder:
    """Embeds texts as spaCy does in ``doc.vector``; a pipeline given by name is loaded when it is first used.

    Nothing is downloaded. A text without a word that the pipeline knows has a vector of zeros, with a warning; one
    that is longer than the pipeline's ``max_length`` is cut there, with a warning.

    Args:
        model: The name of an installed pipeline, a folder, or a ``Language`` object.
        pipes: The names of the pipes that run; ``None`` = none where there are word vectors, else those that set
            ``doc.tensor``.
        batch_size: Texts that go through the pipeline together.
        normalize: Whether vectors are scaled to length 1.

    Raises:
        MissingExtraError: If spaCy is not installed.
        ClusterLLMError: If ``model`` is no pipeline.
    """

    def __init__(
        self,
        model: str | Path | Language,
        pipes: Sequence[str] | None = None,
        batch_size: int = 256,
        normalize: bool = True,
    ) -> None:
        if importlib.util.find_spec("spacy") is None:
            raise MissingExtraError(_WHERE, "spacy")
        if batch_size < 1:
            raise ClusterLLMError(f"{_WHERE}: batch_size must be at least 1, not {batch_size}")
        is_named = isinstance(model, str | Path)
        if not is_named and not has_methods(model, "pipe", "make_doc"):
            raise ClusterLLMError(f"{_WHERE}: model must be a name, a folder or a Language, not {type(model).__name__}")
        self.batch_size = batch_size
        self.normalize = normalize
        self._model = model
        self._pipes = None if pipes is None else list(pipes)
        self._where = f"{_WHERE} ({Path(model).name})" if isinstance(model, str | Path) else _WHERE
        self._nlp: Language | None = None if isinstance(model, str | Path) else model
        self._digest: str | None = None
        self._width: int | None = None
        self._lock = threading.RLock()

    @property
    def nlp(self) -> Language:
        """The pipeline, loaded when it is first asked for.

        Raises:
            ClusterLLMError: If it cannot be loaded.
        """
        with self._lock:
            if self._nlp is None:
                import spacy

                try:
                    self._nlp = spacy.load(self._model)  # type: ignore[arg-type]
                except Exception as error:  # whatever a stranger's package does
                    reason = " ".join(str(error).split())
                    raise ClusterLLMError(
                        f"{self._where}: cannot be loaded ({reason[:300]}); install the pipeline, nothing is downloaded"
                    ) from error
            return self._nlp

    @property
    def pipes(self) -> list[str]:
        """The names of the pipes that run, in order.

        Raises:
            ClusterLLMError: If the pipeline has one of them not.
        """
        nlp = self.nlp
        if self._pipes is not None:
            if unknown := sorted(set(self._pipes) - set(nlp.component_names)):
                raise ClusterLLMError(
                    f"{self._where}: has no pipe {unknown[0]!r} (pipes: {', '.join(nlp.component_names) or 'none'})"
                )
            return [name for name in nlp.component_names if name in self._pipes]
        if nlp.vocab.vectors.size:
            return []
        return [name for name in nlp.pipe_names if "doc.tensor" in nlp.get_pipe_meta(name).assigns]

    @property
    def fingerprint(self) -> str:
        """Name and version of the pipeline, and a digest of what makes its vectors: word vectors, tokenizer, pipes."""
        with self._lock:
            if self._digest is None:
                self._digest = self._digested()
        meta = self.nlp.meta
        return f"spacy:{meta['lang']}_{meta['name']}-{meta['version']}:{self._digest}:n{self.normalize}"

    def _digested(self) -> str:
        nlp: Any = self.nlp  # spaCy types tokenizers and pipes as callables only
        digest = hashlib.sha256(nlp.vocab.vectors.to_bytes(exclude=["strings"]))
        digest.update(nlp.tokenizer.to_bytes(exclude=["vocab"]))
        for name in self.pipes:
            pipe: Any = nlp.get_pipe(name)
            digest.update(f"{name}:{nlp.get_pipe_meta(name).factory}".encode())
            if has_methods(pipe, "to_bytes"):
                digest.update(pipe.to_bytes(exclude=["vocab"]))
        return digest.hexdigest()[:16]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text, float32, shape (n_texts, dim).

        Raises:
            ClusterLLMError: If the pipeline has no vectors, or fails.
        """
        return in_order(self.embed_each, texts, self._width)

    def embed_each(self, texts: Sequence[str], keep: Keep) -> None:
        """Call ``keep`` with the positions and vectors of each batch.

        Raises:
            ClusterLLMError: If the pipeline has no vectors, or fails.
        """
        left_out = self._left_out()
        empty: list[int] = []
        n_unknown = n_cut = 0
        for start in range(0, len(texts), self.batch_size):
            part = [valid(text) for text in texts[start : start + self.batch_size]]
            limit = self.nlp.max_length
            n_cut += sum(len(text) > limit for text in part)
            positions, rows = [], []
            for position, vector in enumerate(self._vectors([text[:limit] for text in part], left_out), start):
                if vector.size:
                    positions.append(position)
                    rows.append(vector)
                else:  # an empty doc has no tensor
                    empty.append(position)
                n_unknown += not vector.any() and bool(texts[position].strip())
            if rows:
                keep(positions, finished(np.stack(rows), self.normalize))
                self._width = len(rows[0])
        if empty:
            keep(empty, np.zeros((len(empty), self._known_width(left_out)), dtype=np.float32))
        self._warn(n_unknown, n_cut, len(texts))

    def _left_out(self) -> list[str]:
        """Return the names of the pipes that do not run.

        Raises:
            ClusterLLMError: If nothing would make a vector.
        """
        nlp, pipes = self.nlp, self.pipes
        if not nlp.vocab.vectors.size and not pipes:
            raise ClusterLLMError(
                f"{self._where}: the pipeline has no vectors; take one that has word vectors (a name that ends in _md "
                "or _lg) or a pipe that sets doc.tensor, or name its pipes in the setting pipes"
            )
        return [name for name in nlp.pipe_names if name not in pipes]

    def _vectors(self, texts: Sequence[str], left_out: list[str]) -> Iterator[Vectors]:
        try:
            for doc in self.nlp.pipe(texts, batch_size=self.batch_size, disable=left_out):
                vector: Any = doc.vector
                yield np.asarray(vector.get() if hasattr(vector, "get") else vector, dtype=np.float32)  # from a GPU
        except Exception as error:  # whatever a stranger's pipe does
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ClusterLLMError(f"{self._where}: {reason[:400]}") from error

    def _known_width(self, left_out: list[str]) -> int:
        if self._width is None:
            self._width = next(self._vectors(["."], left_out)).size
        if not self._width:
            raise ClusterLLMError(f"{self._where}: the pipeline has no vectors: those of its docs are empty")
        return self._width

    def _warn(self, n_unknown: int, n_cut: int, n_texts: int) -> None:
        if n_unknown:
            _warn(f"{self._where}: {n_unknown} of {n_texts} texts have no word that it knows: their vectors are zeros")
        if n_cut:
            _warn(f"{self._where}: {n_cut} of {n_texts} texts are longer than {self.nlp.max_length} characters, cut")


def _warn(message: str) -> None:
    warnings.warn(message, ClusterLLMWarning, stacklevel=4)
