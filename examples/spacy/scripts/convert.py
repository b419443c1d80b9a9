"""Make a .spacy file with gold categories, for ``spacy evaluate`` and ``spacy train``; a fit needs the texts only."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import spacy
from spacy.tokens import Doc, DocBin


def values(path: Path, field: str) -> list[str]:
    """Return one field of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)[field] for line in file]


def docs(texts: list[str], labels: list[str], lang: str) -> Iterator[Doc]:
    """Yield a doc per text, tokenized only, its label as the one gold category."""
    nlp = spacy.blank(lang)
    for text, label in zip(texts, labels, strict=True):
        doc = nlp.make_doc(text)
        doc.cats = {label: 1.0}
        yield doc


def main(texts: str, labels: str, lang: str, out: str) -> None:
    """Convert two JSONL files of the same order: "text" of one, "label" of the other."""
    target = Path(out)
    target.parent.mkdir(parents=True, exist_ok=True)
    DocBin(docs=docs(values(Path(texts), "text"), values(Path(labels), "label"), lang)).to_disk(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
