"""``lsa``: TF-IDF and truncated SVD (Deerwester et al. 1990), learnt from the corpus itself; no download.

Words and pairs of words carry topics; character n-grams see through typing errors and serve languages that are
written without spaces.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from clusterllm_plugins.errors import ArtifactError, ClusterLLMError
from clusterllm_plugins.protocols import Vectors
from clusterllm_plugins.vectors import normalise

_ANALYSERS: tuple[dict[str, Any], ...] = (
    {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
    {"analyzer": "char_wb", "ngram_range": (2, 4)},
)


class LSAEmbedder:
    """Latent semantic analysis of the corpus.

    Args:
        dimensions: The size of a vector; fewer where the corpus has fewer texts or terms.
        min_texts: In how many texts a term must stand to count; 1 for fewer than 1,000 texts.
        max_terms: The most terms kept of each kind, the most frequent ones.
        path: A folder written by :meth:`save`; the embedder is then already fitted.
    """

    def __init__(
        self,
        dimensions: int = 128,
        min_texts: int = 2,
        max_terms: int = 50_000,
        path: str | Path | None = None,
    ) -> None:
        if dimensions < 1:
            raise ClusterLLMError(f"embedder 'lsa': dimensions must be at least 1, not {dimensions}")
        self.dimensions = dimensions
        self.min_texts = min_texts
        self.max_terms = max_terms
        self._vocabularies: list[dict[str, int]] = []
        self._idfs: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        self._projection: Vectors | None = None  # (n_terms, dim)
        self._vectorisers: list[Any] = []
        if path is not None:
            self._load(Path(path))

    @property
    def fitted(self) -> bool:
        """Whether the embedder has learnt from a corpus."""
        return self._projection is not None

    @property
    def fingerprint(self) -> str:
        """The settings, and once fitted a digest of all that was learnt."""
        settings = f"lsa:{self.dimensions}:{self.min_texts}:{self.max_terms}"
        if self._projection is None:
            return f"{settings}:unfitted"
        digest = hashlib.sha256(json.dumps(self._vocabularies, sort_keys=True).encode())
        for array in (*self._idfs, self._projection.T):
            digest.update(np.ascontiguousarray(array).tobytes())
        return f"{settings}:{digest.hexdigest()[:16]}"

    def fit(self, texts: Sequence[str]) -> None:
        """Learn terms, their weights and the components from ``texts``.

        Raises:
            ClusterLLMError: If the texts have no term at all.
        """
        from scipy.sparse import hstack
        from sklearn.decomposition import TruncatedSVD

        min_texts = self.min_texts if len(texts) >= 1000 else 1
        matrices = []
        vocabularies: list[dict[str, int]] = []
        idfs: list[np.ndarray[Any, np.dtype[np.float64]]] = []
        for analyser in _ANALYSERS:
            vectoriser = _vectoriser(analyser, min_df=min_texts, max_features=self.max_terms)
            try:
                matrices.append(vectoriser.fit_transform(texts))
            except ValueError:  # no term of this kind stands in enough texts
                vocabularies.append({})
                idfs.append(np.empty(0))
                continue
            vocabularies.append({term: int(place) for term, place in vectoriser.vocabulary_.items()})
            idfs.append(np.asarray(vectoriser.idf_, dtype=np.float64))
        if not matrices:
            raise ClusterLLMError("embedder 'lsa': the texts have no terms in common, use another embedder")
        matrix = hstack(matrices).tocsr()
        dimensions = max(1, min(self.dimensions, *matrix.shape))
        svd = TruncatedSVD(dimensions, random_state=0).fit(matrix)
        self._learnt(vocabularies, idfs, svd.components_)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of length 1, float32, shape (n_texts, dim); zeros for a text without known terms.

        Raises:
            ClusterLLMError: If the embedder is not fitted.
        """
        if self._projection is None:
            raise ClusterLLMError("embedder 'lsa' learns from the corpus: call fit(texts) before embed")
        if not len(texts):
            return np.empty((0, self._projection.shape[1]), dtype=np.float32)
        from scipy.sparse import hstack

        # Made once: for a single text this takes longer than all the rest.
        self._vectorisers = self._vectorisers or [
            _vectoriser(analyser, vocabulary=vocabulary, idf=idf)
            for analyser, vocabulary, idf in zip(_ANALYSERS, self._vocabularies, self._idfs, strict=True)
            if vocabulary
        ]
        parts = [vectoriser.transform(texts) for vectoriser in self._vectorisers]
        projected = hstack(parts).tocsr().astype(np.float32) @ self._projection
        return normalise(np.asarray(projected, dtype=np.float32))

    def save(self, folder: Path) -> None:
        """Write what was learnt: ``terms.json`` and ``lsa.safetensors``."""
        if self._projection is None:
            raise ClusterLLMError("embedder 'lsa' is not fitted: there is nothing to save")
        folder.mkdir(parents=True, exist_ok=True)
        terms = [sorted(vocabulary, key=vocabulary.__getitem__) for vocabulary in self._vocabularies]
        (folder / "terms.json").write_text(json.dumps(terms, ensure_ascii=False), encoding="utf-8")
        arrays = {f"idf{number}": idf for number, idf in enumerate(self._idfs)}
        arrays["components"] = np.ascontiguousarray(self._projection.T)
        # Not save_file, whose files only their owner can read.
        (folder / "lsa.safetensors").write_bytes(save(arrays))

    def _learnt(self, vocabularies: list[dict[str, int]], idfs: list[Any], components: Any) -> None:
        """Keep what was learnt; ``components`` has shape (dim, n_terms)."""
        self._vocabularies, self._idfs = vocabularies, idfs
        # A sparse matrix times one that lies otherwise in memory would copy it each time.
        self._projection = np.ascontiguousarray(components.T, dtype=np.float32)
        self._vectorisers = []

    def _load(self, folder: Path) -> None:
        try:
            terms = json.loads((folder / "terms.json").read_text(encoding="utf-8"))
            arrays = load_file(folder / "lsa.safetensors")
            vocabularies = [{term: place for place, term in enumerate(kind)} for kind in terms]
            idfs = [arrays[f"idf{number}"] for number in range(len(_ANALYSERS))]
            self._learnt(vocabularies, idfs, arrays["components"])
        except Exception as error:  # whatever the broken file brings about
            raise ArtifactError(f"{folder}: not a saved 'lsa' embedder ({error})") from error


def _vectoriser(analyser: dict[str, Any], **settings: Any) -> Any:
    """Return a TF-IDF vectoriser, ready to use where vocabulary and idf are given."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    idf = settings.pop("idf", None)
    vectoriser = TfidfVectorizer(sublinear_tf=True, **analyser, **settings)
    if idf is not None:
        vectoriser.idf_ = idf
    return vectoriser
