"""What is clustered: docs, or the spans of a group; their texts, and where their vectors come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from spacy.tokens import Doc, Span
from thinc.util import to_numpy

from clusterllm_plugins.errors import ClusterLLMError, DataError
from clusterllm_plugins.protocols import Vectors
from clusterllm_plugins.spacy.attributes import space_of

Unit = Doc | Span

BUILT_IN = ("doc.vector", "doc.tensor")
_CUSTOM = "doc._."


def units_of(doc: Doc, span_key: str | None) -> list[Unit]:
    """Return the doc itself, or its spans.

    Args:
        doc: A doc.
        span_key: ``None`` = the doc; a group of ``doc.spans``; where there is no such group, ``"sents"`` and ``"ents"``
            are the doc's sentences and entities.

    Raises:
        DataError: If sentences are asked for and nothing has set them.
    """
    if span_key is None:
        return [doc]
    if span_key in doc.spans:
        return list(doc.spans[span_key])
    if span_key == "ents":
        return list(doc.ents)
    if span_key != "sents":
        return []
    if not doc.has_annotation("SENT_START"):
        raise DataError("span_key 'sents' needs sentences: add a component before it that sets them, as 'sentencizer'")
    return list(doc.sents)


def check_span_key(span_key: Any) -> None:
    """Raise :class:`ClusterLLMError` for what cannot be the name of a group of spans."""
    if span_key is not None and (not isinstance(span_key, str) or not span_key):
        raise ClusterLLMError(f"span_key must be the name of a group of spans or None, not {span_key!r}")


def is_empty(unit: Unit) -> bool:
    """Return whether there is nothing but white space to be clustered."""
    return not unit.text.strip()


@dataclass(frozen=True)
class VectorSource:
    """Where a component reads vectors.

    Args:
        where: ``"doc._.NAME"``, ``"doc.vector"`` (static vectors, or a hook) or ``"doc.tensor"`` (as ``tok2vec`` sets
            it, averaged over the tokens); of spans the same of the span.

    Raises:
        ClusterLLMError: If it is something else.
    """

    where: str

    def __post_init__(self) -> None:
        if self.where not in BUILT_IN and not self.attribute.isidentifier():
            raise ClusterLLMError(f"vectors must be 'doc._.NAME', 'doc.vector' or 'doc.tensor', not {self.where!r}")

    @property
    def attribute(self) -> str:
        """The name of the custom attribute; empty for the built-in ones."""
        is_custom = isinstance(self.where, str) and self.where.startswith(_CUSTOM)
        return self.where.removeprefix(_CUSTOM) if is_custom else ""

    def read(self, units: list[Unit]) -> Vectors:
        """Return the units' vectors, float32, shape (n_units, dim); zeros for an empty one.

        Raises:
            DataError: If there are none, or they are of different sizes.
        """
        rows = [None if is_empty(unit) else self._row(unit) for unit in units]
        sizes = {row.shape for row in rows if row is not None}
        if len(sizes) > 1:
            raise DataError(f"{self.where} holds vectors of different sizes: {', '.join(map(str, sorted(sizes)))}")
        shape = sizes.pop() if sizes else (0,)
        if len(shape) != 1:
            raise DataError(f"{self.where} must hold vectors of shape (dim,), not {shape}")
        vectors = np.zeros((len(rows), *shape), dtype=np.float32)
        for place, row in enumerate(rows):
            if row is not None:
                vectors[place] = row
        if not np.isfinite(vectors).all():
            raise DataError(f"{self.where} holds a vector that is not finite")
        return vectors

    def space(self, unit: Unit) -> str | None:
        """Return which space a unit's vector is of, where that is known."""
        name = space_of(self.attribute)
        return unit._.get(name) if self.attribute and unit._.has(name) else None

    def common_space(self, units: list[Unit]) -> str | None:
        """Return which space the vectors of all units are of, where that is known.

        Raises:
            DataError: If they are of several.
        """
        spaces = {self.space(unit) for unit in units} - {None}
        if len(spaces) > 1:
            raise DataError(f"{self.where} holds vectors of several embedders, or states of one: embed all docs again")
        return spaces.pop() if spaces else None

    def _row(self, unit: Unit) -> Vectors:
        value = self._value(unit)
        if value is None or not np.size(value):
            raise DataError(f"found no vector in {self.where}: {self._hint()}")
        try:
            row: Vectors = np.asarray(to_numpy(value), dtype=np.float32)  # type: ignore[no-untyped-call]
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.where} holds {type(value).__name__}, not a vector") from error
        return row

    def _value(self, unit: Unit) -> Any:
        if self.attribute:
            return unit._.get(self.attribute) if unit._.has(self.attribute) else None
        if self.where == "doc.vector":
            return unit.vector
        tensor = unit.tensor if isinstance(unit, Doc) else unit.doc.tensor
        if not len(tensor):
            return None
        return tensor.mean(axis=0) if isinstance(unit, Doc) else tensor[unit.start : unit.end].mean(axis=0)

    def _hint(self) -> str:
        if self.attribute:
            return "add 'clusterllm_embedder' before it, or set vectors to 'doc.vector' or 'doc.tensor'"
        if self.where == "doc.vector":
            return "the pipeline has no word vectors; add 'clusterllm_embedder' and set vectors to its attribute"
        return "add a component before it that sets doc.tensor, as 'tok2vec'"
