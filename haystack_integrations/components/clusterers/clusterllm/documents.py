"""From documents to what is clustered, and back: documents are never changed, copies carry the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from haystack import Document

from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.protocols import Labels, Vectors

EXEMPLARS = 3
KEYWORDS = 10


@dataclass(frozen=True)
class Prepared:
    """Documents that can be clustered, and those that cannot.

    Attributes:
        documents: The former.
        texts: Their texts, shape (n_documents,).
        embeddings: Their vectors, shape (n_documents, dim); ``None`` where they are made from the texts.
        failed: Copies of the latter, with the reason in their meta.
    """

    documents: list[Document]
    texts: list[str]
    embeddings: Vectors | None
    failed: list[Document]


@dataclass(frozen=True)
class Preparation:
    """How documents become texts and vectors.

    Args:
        component: The name of the component, for its errors.
        meta_prefix: What its keys in ``meta`` start with.
        meta_fields_to_embed: Fields of ``meta`` that stand before the content.
        embedding_separator: What stands between these.
        raise_on_failure: Whether a document that cannot be used is an error.
    """

    component: str
    meta_prefix: str
    meta_fields_to_embed: Sequence[str]
    embedding_separator: str
    raise_on_failure: bool

    @classmethod
    def of(cls, component: str, parameters: Mapping[str, Any]) -> Preparation:
        """Return what a component's parameters say."""
        return cls(
            component,
            parameters.get("meta_prefix", "cluster"),
            parameters["meta_fields_to_embed"] or [],
            parameters["embedding_separator"],
            parameters["raise_on_failure"],
        )

    def check(self, documents: Any) -> None:
        """Raise :class:`TypeError` unless ``documents`` is a list of documents."""
        is_list = isinstance(documents, list)
        wrong = next((item for item in documents if not isinstance(item, Document)), None) if is_list else documents
        if not is_list or wrong is not None:
            raise TypeError(f"{self.component} takes a list of Documents, not {type(wrong).__name__}")

    def text(self, document: Document) -> str:
        """Return what is clustered of a document: the chosen fields of its meta, and its content."""
        return text_of(document, self.meta_fields_to_embed, self.embedding_separator)

    def prepare(self, documents: list[Document], *, with_embeddings: bool) -> Prepared:
        """Sort out what cannot be used: no content and, ``with_embeddings``, none of those or one of another size.

        Raises:
            ValueError: If there is such a document and ``raise_on_failure`` is set.
        """
        found = [_vector(document) if with_embeddings else None for document in documents]
        sizes = Counter(len(vector) for vector in found if vector is not None)
        # The most frequent size counts; of two equally frequent ones the first.
        size = sizes.most_common(1)[0][0] if sizes else 0
        reasons = [
            _no_content(document) or (_no_vector(document, vector, size) if with_embeddings else None)
            for document, vector in zip(documents, found, strict=True)
        ]
        kept = [document for document, reason in zip(documents, reasons, strict=True) if reason is None]
        failed = [
            self.failed(document, reason)
            for document, reason in zip(documents, reasons, strict=True)
            if reason is not None
        ]
        vectors = None
        if with_embeddings:
            rows = [vector for vector, reason in zip(found, reasons, strict=True) if reason is None]
            vectors = np.array(rows, dtype=np.float32).reshape(len(kept), size)
        return Prepared(kept, [self.text(document) for document in kept], vectors, failed)

    def failed(self, document: Document, reason: str) -> Document:
        """Return a copy of a document that says why it could not be used.

        Raises:
            ValueError: If ``raise_on_failure`` is set.
        """
        if self.raise_on_failure:
            raise ValueError(f"{self.component}: document {document.id} {reason}")
        return replace(document, meta={**document.meta, f"{self.meta_prefix}_error": reason})

    def clustered(self, document: Document, cluster: int, label: str, score: float) -> Document:
        """Return a copy of a document with its cluster; what an earlier run said of a failure is gone."""
        meta = {key: value for key, value in document.meta.items() if key != f"{self.meta_prefix}_error"}
        found = {"id": cluster, "label": label, "score": score}
        return replace(document, meta={**meta, **{f"{self.meta_prefix}_{key}": value for key, value in found.items()}})


def _no_content(document: Document) -> str | None:
    return None if document.content and document.content.strip() else "has no content"


def _given(document: Document) -> bool:
    return document.embedding is not None and len(document.embedding) > 0  # it may be an array


def _vector(document: Document) -> Vectors | None:
    """Return a document's embedding, shape (dim,), or ``None`` where it has none."""
    if not _given(document):
        return None
    try:
        with np.errstate(over="ignore"):  # becomes infinite, which is told
            vector = np.asarray(document.embedding, dtype=np.float32)
    except (TypeError, ValueError):
        return None
    return vector if vector.ndim == 1 else None


def _no_vector(document: Document, vector: Vectors | None, size: int) -> str | None:
    """Return why a document's embedding cannot be used, or ``None``."""
    if vector is None:
        return "has an embedding that is no list of numbers" if _given(document) else "has no embedding"
    if len(vector) != size:
        return f"has an embedding of size {len(vector)}, the others of {size}"
    return None if np.isfinite(vector).all() else "has an embedding that is not finite"


def with_embeddings(component: Any, documents: list[Document], result: Mapping[str, Any]) -> list[Document]:
    """Return copies of documents with the embeddings that a document embedder returned for them.

    Raises:
        ClusterLLMError: If it did not return one document for each, in the same order.
    """
    embedded = result["documents"]
    if len(embedded) != len(documents):
        raise ClusterLLMError(
            f"{type(component).__name__}: the document embedder gave {len(embedded)} documents for {len(documents)}"
        )
    ids, others = [document.id for document in documents], [document.id for document in embedded]
    if ids != others and sorted(ids) == sorted(others):
        raise ClusterLLMError(f"{type(component).__name__}: the document embedder gave the documents in another order")
    return [replace(doc, embedding=other.embedding) for doc, other in zip(documents, embedded, strict=True)]


def text_of(document: Document, meta_fields: Sequence[str], separator: str) -> str:
    """Return the chosen fields of a document's meta and its content, as Haystack's own embedders join them."""
    fields = [str(document.meta[name]) for name in meta_fields if document.meta.get(name) is not None]
    return separator.join([*fields, document.content or ""])


def summaries(
    documents: Sequence[Document],
    texts: Sequence[str],
    labels: Labels,
    vectors: Vectors,
    centroids: Vectors,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Return what there is to know of each cluster, in plain Python types.

    Args:
        documents: Shape (n_documents,).
        texts: Theirs, redacted.
        labels: Their clusters, -1 for none.
        vectors: Normalised, shape (n_documents, dim).
        centroids: Shape (n_clusters, dim).
        names: Shape (n_clusters,).
    """
    from clusterllm_plugins.naming import keywords

    kept = np.flatnonzero(labels >= 0).tolist()
    terms = keywords([texts[place] for place in kept], labels[kept], len(names), KEYWORDS)
    found = []
    for cluster, name in enumerate(names):
        members = np.flatnonzero(labels == cluster)
        nearest = members[np.argsort(-(vectors[members] @ centroids[cluster]), kind="stable")[:EXEMPLARS]]
        found.append(
            {
                "id": cluster,
                "label": name,
                "size": len(members),
                "keywords": terms[cluster],
                "exemplar_ids": [documents[place].id for place in nearest.tolist()],
            }
        )
    return found
