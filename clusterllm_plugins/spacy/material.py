"""What a clusterer is fitted on: texts and, unless an embedder component makes them, their vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.training import Example

from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.protocols import Vectors
from clusterllm_plugins.recording import Known, load_answers
from clusterllm_plugins.spacy.base import ClusterLLMPipe
from clusterllm_plugins.spacy.corpora import CorpusReader, components_before, corpus_docs, texts_of, through_pipeline
from clusterllm_plugins.spacy.embedder import ClusterLLMEmbedder
from clusterllm_plugins.spacy.units import VectorSource, units_of


@dataclass(frozen=True)
class Material:
    """A corpus, ready for a fit.

    Attributes:
        texts: What is clustered, shape (n_texts,).
        vectors: Their vectors, shape (n_texts, dim); ``None`` where ``embedder`` makes them.
        embedder: The component that does.
        space: Which embedder's vectors they are of, where that is known.
    """

    texts: list[str]
    vectors: Vectors | None = None
    embedder: ClusterLLMEmbedder | None = None
    space: str | None = None


@dataclass(frozen=True)
class Reading:
    """Where and of what a component reads vectors.

    Args:
        source: Where.
        span_key: Of which spans; ``None`` = of docs.
        redact: What must be taken out of a text before an embedder sees it.
    """

    source: VectorSource
    span_key: str | None
    redact: tuple[Any, ...]

    def gather(
        self,
        component: ClusterLLMPipe,
        nlp: Language | None,
        get_examples: Callable[[], Iterable[Example]],
        corpus: CorpusReader | None,
    ) -> Material | None:
        """Return the corpus of ``component``, or ``None`` where there is none.

        Raises:
            ClusterLLMError: If it cannot be used.
        """
        docs = corpus_docs(component.name, nlp, get_examples, corpus)
        if docs is None:
            return None
        embedder = self.embedder(component, nlp)
        if self.span_key is not None or embedder is None:
            docs = through_pipeline(component, nlp, docs, embed=embedder is None)
        texts = texts_of(docs, self.span_key)
        if self.span_key is not None and not texts:
            raise ClusterLLMError(f"no doc of the corpus has spans under {self.span_key!r}")
        if embedder is not None:
            return Material(texts, embedder=embedder)
        units = [unit for doc in docs for unit in units_of(doc, self.span_key)]
        return Material(texts, vectors=self.source.read(units), space=self.source.common_space(units))

    def embedder(self, component: ClusterLLMPipe, nlp: Language | None) -> ClusterLLMEmbedder | None:
        """Return the embedder component before ``component`` whose vectors it reads, disabled or not.

        Raises:
            ClusterLLMError: If that one embeds something else, or redacts otherwise.
        """
        found = None
        for other in components_before(component, nlp):
            if isinstance(other, ClusterLLMEmbedder) and other.attributes.vector == self.source.attribute:
                found = other
        if found is None:
            return None
        if found.span_key != self.span_key:
            raise ClusterLLMError(
                f"span_key is {self.span_key!r}, that of {found.name!r} {found.span_key!r}: make them equal"
            )
        self.check_redaction(found.name, found.redact)
        return found

    def check_redaction(self, name: str, redact: tuple[Any, ...]) -> None:
        """Raise :class:`ClusterLLMError` where a component that it works with redacts otherwise."""
        if redact != self.redact:
            raise ClusterLLMError(f"redact is {list(self.redact)}, that of {name!r} {list(redact)}: make them equal")


def known_answers(answers: str | Path | Known | None, texts: list[str]) -> Known:
    """Return answers already had: as they are, or read from a file."""
    if answers is None:
        return []
    return load_answers(answers, texts) if isinstance(answers, str | Path) else answers
