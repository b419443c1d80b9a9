"""The vector space of a fit: an embedder, and a linear map on its vectors where the answers taught one."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clusterllm_plugins.embedding import embed_texts
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.protocols import Embedder, Vectors, is_trainable
from clusterllm_plugins.questions import Usage
from clusterllm_plugins.refinement import Matrix, train_adapter
from clusterllm_plugins.sampling import Triplets
from clusterllm_plugins.vectors import blocks


@dataclass(frozen=True)
class Space:
    """How texts become vectors.

    Attributes:
        embedder: Makes the vectors; ``None`` where the user gave precomputed ones and no embedder.
        adapter: A linear map on them, shape (dim, dim), or ``None``.
        tuned: Whether ``embedder`` was fine-tuned in this fit.
        frozen: Whether the embedder must stay as it is, since the vectors were precomputed.
        checkpoints: A folder for an embedder that keeps the state of its fine-tuning, or ``None``.
        taken_before: What the embedder had taken when this fit began, where it counts that.
    """

    embedder: Embedder | None
    adapter: Matrix | None = None
    tuned: bool = False
    frozen: bool = False
    checkpoints: Path | None = None
    taken_before: Usage | None = None

    def embed(self, texts: Sequence[str], progress: bool, cache: str | Path | None = None) -> Vectors:
        """Return the vectors of ``texts``, shape (n_texts, dim); ``cache`` is a folder that keeps the embedder's.

        Raises:
            DataError: If there is no embedder, or its vectors are not of the size that was fitted.
        """
        if self.embedder is None:
            raise DataError(
                "this model was fitted on precomputed embeddings: give the embedder that made them "
                "(ClusterLLM(embedder=...) or ClusterLLM.load(folder, embedder=...))"
            )
        return self.map(embed_texts(self.embedder, texts, progress, cache))

    def map(self, vectors: Vectors) -> Vectors:
        """Return the embedder's vectors after the linear map."""
        if self.adapter is None:
            return vectors
        if vectors.shape[1] != len(self.adapter):
            raise DataError(
                f"the embedder gave vectors of size {vectors.shape[1]}, the model was fitted on {len(self.adapter)}"
            )
        return mapped_by(self.adapter, vectors)

    def refined(
        self, texts: Sequence[str], vectors: Vectors, triplets: Triplets, seed: int, progress: bool
    ) -> tuple[Space, Vectors | None]:
        """Learn from triplets (paper, section 3.1): fine-tune the embedder, or else learn a linear map.

        Args:
            texts: What the triplets point into.
            vectors: Their vectors in this space, shape (n_texts, dim).
            triplets: Positions (anchor, chosen, rejected), shape (n_triplets, 3).
            seed: Decides the order of the triplets.
            progress: Whether to show a progress bar.

        Returns:
            The new space, and the vectors in it where they need no embedding.
        """
        if self.embedder is not None and not self.frozen and is_trainable(self.embedder):
            finetune = self.embedder.finetune  # type: ignore[attr-defined]
            keeps = self.checkpoints is not None and "checkpoints" in inspect.signature(finetune).parameters
            options = {"checkpoints": self.checkpoints} if keeps else {}
            tuned = finetune(texts, triplets, seed=seed, progress=progress, **options)
            return replace(self, embedder=tuned, tuned=True), None
        learnt = train_adapter(vectors, triplets, seed=seed, progress=progress)
        adapter = learnt if self.adapter is None else (self.adapter @ learnt).astype(np.float32)
        return replace(self, adapter=adapter), mapped_by(learnt, vectors)

    @property
    def refinement(self) -> str:
        """What the answers taught, in words."""
        if self.tuned:
            return "fine-tuned embedder"
        return "none" if self.adapter is None else "linear map on frozen vectors"


def mapped_by(matrix: Matrix, vectors: Vectors) -> Vectors:
    """Return ``vectors @ matrix``, float32, in blocks, as memory-mapped vectors would be read into memory whole."""
    mapped: Vectors = np.empty((len(vectors), matrix.shape[1]), dtype=np.float32)
    for part in blocks(len(vectors)):
        mapped[part] = vectors[part] @ matrix
    return mapped
