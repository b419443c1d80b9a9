"""``clusterllm_embedder``: puts a vector on each doc, or on each span of a group.

No postponed annotations here: spaCy checks ``[initialize]`` against those of ``initialize``, and reads no strings.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example

from clusterllm_plugins.components import (
    EmbedderSpec,
    must_be_saved,
    resolve_embedder,
    resolve_redaction,
    restore_embedder,
)
from clusterllm_plugins.embedding import embed_texts, fit_if_needed
from clusterllm_plugins.errors import ArtifactError, ClusterLLMError
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.protocols import Embedder, Vectors, has_methods, is_trainable, optional
from clusterllm_plugins.settings import check_path, check_redact
from clusterllm_plugins.spacy.attributes import PREFIX, Attributes
from clusterllm_plugins.spacy.base import Arrays, ClusterLLMPipe
from clusterllm_plugins.spacy.corpora import CorpusReader, corpus_docs, texts_of, through_pipeline
from clusterllm_plugins.spacy.units import check_span_key, units_of


class ClusterLLMEmbedder(ClusterLLMPipe):
    """Sets ``doc._.clusterllm_vector``.

    Args:
        nlp: The pipeline that it is made for.
        name: Its name there.
        embedder: A registered name, ``{"name": ..., **settings}``, an :class:`Embedder`, or ``"auto"``: minilm where it
            is installed, else lsa.
        redact: Redactors, applied in this order before a text reaches the embedder.
        prefix: What the custom attributes start with.
        span_key: Embed the spans of this group instead of docs; ``"sents"`` and ``"ents"`` are sentences and entities.
        set_doc_vector: Whether ``doc.vector`` and ``doc.similarity`` use the vector too, by a hook on each doc; hooks
            do not survive serialization, nor the way back from a worker process.
        cache: Folder that keeps the vectors, so that no text is embedded twice; ``None`` keeps none.

    Raises:
        ClusterLLMError: If something given cannot be used; the message says what to do.
    """

    def __init__(
        self,
        nlp: Language | None,
        name: str = "clusterllm_embedder",
        *,
        embedder: str | Mapping[str, Any] | Embedder = "auto",
        redact: Sequence[Any] = (),
        prefix: str = PREFIX,
        span_key: str | None = None,
        set_doc_vector: bool = False,
        cache: str | Path | None = None,
    ) -> None:
        settings = {
            "embedder": embedder,
            "redact": redact,
            "prefix": prefix,
            "span_key": span_key,
            "set_doc_vector": set_doc_vector,
            "cache": cache,
        }
        super().__init__(nlp, name, settings)
        with self._named_errors():
            check_span_key(span_key)
            if set_doc_vector and span_key is not None:
                raise ClusterLLMError("set_doc_vector works on docs, not with span_key")
            check_redact(redact)
            check_path("cache", cache)
            self.attributes = Attributes(prefix)
            self.attributes.register(self.attributes.vector, self.attributes.space)
            plugins = Plugins()
            self._redaction = resolve_redaction(plugins, redact)
            self._plain, self._spec = resolve_embedder(plugins, embedder)
        self.redact = tuple(redact)
        self.span_key = span_key
        self.cache = cache
        self._set_doc_vector = set_doc_vector
        self._use(self._plain, self._first_space)

    @property
    def embedder(self) -> Embedder:
        """What makes the vectors."""
        return self._embedder

    @property
    def space(self) -> str:
        """Names the state of the embedder: another one after each time that it has learnt something."""
        return self._space

    @property
    def fitted(self) -> bool:
        """Whether the embedder needs no corpus, or has had one."""
        return _is_fitted(self._embedder)

    @property
    def can_be_tuned(self) -> bool:
        """Whether answers can teach the embedder, and it can be saved afterwards."""
        return is_trainable(self._plain) and self._spec.name is not None

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return a vector per text, float32, shape (n_texts, dim); zeros for an empty one."""
        clean = [self._redaction.text(text) for text in texts]
        kept = [place for place, text in enumerate(clean) if text.strip()]
        if not clean:
            return np.zeros((0, 0), dtype=np.float32)
        if not kept:
            return np.zeros((len(clean), self._empty_width()), dtype=np.float32)
        some = embed_texts(self._embedder, [clean[place] for place in kept], cache=self.cache)
        if len(some) == len(clean):
            return some
        vectors = np.zeros((len(clean), some.shape[1]), dtype=np.float32)
        vectors[kept] = some
        return vectors

    def predict(self, docs: list[Doc]) -> Vectors:
        """Return the vectors of the docs' units, one row each, in order, shape (n_units, dim)."""
        with self._named_errors():
            return self.embed([unit.text for doc in docs for unit in units_of(doc, self.span_key)])

    def set_annotations(self, docs: list[Doc], predictions: Vectors) -> None:
        """Set the vector, and which space it is of, on each unit."""
        rows = iter(predictions)
        for doc in docs:
            for unit in units_of(doc, self.span_key):
                # A copy: a view would keep the whole batch in memory as long as one of its docs.
                unit._.set(self.attributes.vector, next(rows).copy())
                unit._.set(self.attributes.space, self._space)
            if self._set_doc_vector:
                # Hooks without the component: they are pickled with the doc.
                doc.user_hooks["vector"] = partial(_vector_of, self.attributes.vector)
                doc.user_hooks["vector_norm"] = _vector_norm
                doc.user_hooks["has_vector"] = _has_vector

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        corpus: CorpusReader | None = None,
    ) -> None:
        """Let an embedder that learns from a corpus (``lsa``) do so; any other needs no initialization.

        Args:
            get_examples: The pipeline's own examples; used where there is no ``corpus``.
            nlp: The pipeline.
            corpus: A reader, for example ``clusterllm.Jsonl.v1``.

        Raises:
            ClusterLLMError: If the corpus cannot be used.
        """
        if not _learns(self._plain):
            return
        pipeline = nlp or self._nlp()
        with self._named_errors():
            # A clusterer after it will fit it; only where there is none something is amiss.
            alone = sum(isinstance(other, ClusterLLMPipe) for _, other in pipeline.components) < 2 if pipeline else True
            docs = corpus_docs(self.name, pipeline, get_examples, corpus, warn=alone)
            if docs is None:
                return
            if self.span_key is not None:
                docs = through_pipeline(self, pipeline, docs)
            texts = [text for text in texts_of(docs, self.span_key) if text.strip()]
            if not texts:
                raise ClusterLLMError("the corpus has no text that is not empty")
            # Anew, not on top of what was learnt from another corpus.
            self._learn(
                self._plain if self._spec.name is None else restore_embedder(Plugins(), self._spec, None), texts
            )

    def fit(self, docs: Iterable[Doc], *, nlp: Language | None = None) -> None:
        """Let the embedder learn from docs; a short form of :meth:`initialize`."""
        self.initialize(tuple, nlp=nlp, corpus=lambda _: docs)

    def learn_if_needed(self, texts: Sequence[str]) -> None:
        """Let an embedder that learns from a corpus do so, unless it has."""
        if not self.fitted:
            self._learn(self._embedder, [text for text in texts if text.strip()])

    def untuned(self) -> Embedder:
        """Return the embedder as it was before any answer taught it something."""
        return self._plain if self.can_be_tuned else self._embedder

    def tune(self, tuned: Embedder, lesson: str) -> None:
        """Use an embedder that answers have taught; ``lesson`` tells apart what it has learnt."""
        self._use(tuned, _digest(self._first_space, lesson), tuned=True)

    def untune(self) -> None:
        """Use the embedder as it was before any answer taught it something."""
        if self._tuned:
            self._use(self._plain, self._first_space)

    @property
    def _first_space(self) -> str:
        """The space of the embedder before it has learnt anything."""
        return _digest(self._spec.name or self._plain, self._spec.settings, self.redact)

    def _learn(self, embedder: Embedder, texts: Sequence[str]) -> None:
        if self._spec.name is None:
            raise ClusterLLMError(
                f"embedder {type(embedder).__name__} learns from the corpus and could not be saved, since it was given "
                "as an object: register it and give its name"
            )
        clean = [self._redaction.text(text) for text in texts]
        fit_if_needed(embedder, clean)
        self._use(embedder, _digest(self._first_space, *clean))

    def _use(self, embedder: Embedder, space: str, *, tuned: bool = False) -> None:
        self._embedder = embedder
        self._space = space
        self._tuned = tuned
        self._width: int | None = None

    def _empty_width(self) -> int:
        """Return the size of a vector when there is only empty text: some text must be embedded to know it."""
        if self._width is None:
            self._width = embed_texts(self._embedder, ["."]).shape[1]
        return self._width

    def _unfitted(self) -> str:
        return (
            f"embedder {self._spec.name!r} learns from a corpus; initialize a 'clusterllm' after it, or call "
            f"nlp.get_pipe({self.name!r}).fit(docs)"
        )

    def _must_be_saved(self) -> bool:
        return self.fitted and must_be_saved(self._embedder, tuned=self._tuned)

    def _save_model(self, folder: Path) -> None:
        if self._must_be_saved():
            self._embedder.save(folder)  # type: ignore[attr-defined]  # checked when it learnt

    def _state(self) -> tuple[dict[str, Any], Arrays]:
        state = {
            "embedder": self._spec.to_dict() if self._spec.name is not None else None,
            "redact": _digest(self.redact),
            "space": self._space,
            "tuned": self._tuned,
            "with_model": self._must_be_saved(),
        }
        return state, {}

    def _set_state(self, state: dict[str, Any], arrays: Arrays, folder: Path | None) -> None:
        saved = EmbedderSpec(**state["embedder"]) if state["embedder"] is not None else EmbedderSpec(None, {})
        spec = self._spec
        if self._settings["embedder"] == "auto":
            spec = saved  # what it was where it learnt, not what is installed here
        elif saved.name != spec.name:
            raise ArtifactError(
                f"component {self.name!r}: was saved with embedder {saved.name!r}, the config says {spec.name!r}; "
                "set it to what it was, or fit the component again"
            )
        if state["redact"] != _digest(self.redact):
            raise ArtifactError(
                f"component {self.name!r}: was saved with another redact than the config says; set it to what it was, "
                "or fit the component again"
            )
        plain = self._plain if spec == self._spec else restore_embedder(Plugins(), spec, None)
        learnt = plain
        if state["with_model"]:
            if folder is None:
                raise self._damaged("model", FileNotFoundError("there is no such folder"))
            learnt = restore_embedder(Plugins(), spec, folder)
        self._plain, self._spec = plain, spec
        self._use(learnt, state["space"], tuned=state["tuned"])


def _vector_of(attribute: str, doc: Doc) -> Vectors:
    vector: Vectors = doc._.get(attribute)
    return vector


def _vector_norm(doc: Doc) -> float:
    return float(np.linalg.norm(np.asarray(doc.vector)))  # spaCy keeps the norm that a doc had before


def _has_vector(doc: Doc) -> bool:
    return True


def _learns(embedder: Embedder) -> bool:
    return has_methods(embedder, "fit")


def _is_fitted(embedder: Embedder) -> bool:
    return not _learns(embedder) or bool(optional(embedder, "fitted", False))


def _digest(*parts: Any) -> str:
    """Return a short name for what was learnt from what."""
    data = json.dumps(
        parts, sort_keys=True, default=lambda part: getattr(part, "__qualname__", type(part).__qualname__)
    )
    return hashlib.sha256(data.encode()).hexdigest()[:16]
