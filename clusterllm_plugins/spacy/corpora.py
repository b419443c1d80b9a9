"""Where a component's texts come from when it is fitted: readers for ``[initialize]``, and what becomes of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from spacy.language import Language
from spacy.tokens import Doc, DocBin
from spacy.training import Example
from spacy.util import registry

from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning, DataError
from clusterllm_plugins.files import read_texts
from clusterllm_plugins.spacy.units import units_of

if TYPE_CHECKING:
    from clusterllm_plugins.spacy.base import ClusterLLMPipe

CorpusReader = Callable[[Language], Iterable[Example | Doc | str]]

_DUMMY = ["x", "y", "z"]  # what nlp.initialize() hands to the components when it is given no examples


@registry.readers("clusterllm.Jsonl.v1")
def read_jsonl(
    path: str, text_field: str = "text", label_field: str | None = None, limit: int = 0
) -> Callable[[Language], Iterator[Example]]:
    """Return a reader of texts: .jsonl, and .csv, .txt (a text a line) or .parquet.

    Args:
        path: The file.
        text_field: The field or column that holds the text.
        label_field: The one that holds a known category, which becomes the gold ``doc.cats``: for evaluation only.
        limit: The most texts; 0 = all.
    """

    def read(nlp: Language) -> Iterator[Example]:
        file = read_texts(Path(path), text_field, label_field)
        last = limit or len(file.texts)
        for place, text in enumerate(file.texts[:last]):
            cats = {} if file.labels is None else {file.labels[place]: 1.0}
            doc = nlp.make_doc(text)
            gold = doc.copy()
            gold.cats = cats
            yield Example(doc, gold)

    return read


@registry.readers("clusterllm.DocBin.v1")
def read_docbin(path: str, limit: int = 0) -> Callable[[Language], Iterator[Example]]:
    """Return a reader of a .spacy file, or of all in a folder; unlike ``spacy.Corpus.v1`` it keeps annotations.

    Args:
        path: The file or folder.
        limit: The most docs; 0 = all.
    """

    def read(nlp: Language) -> Iterator[Example]:
        files = sorted(Path(path).rglob("*.spacy")) if Path(path).is_dir() else [Path(path)]
        count = 0
        for file in files:
            for doc in _stored(file, nlp):
                if limit and count >= limit:
                    return
                count += 1
                yield Example(doc, doc.copy())
        if not count:
            raise DataError(f"{path}: holds no docs")

    return read


def _stored(file: Path, nlp: Language) -> Iterator[Doc]:
    try:
        docs = DocBin().from_disk(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except Exception as error:  # whatever a file of another kind brings about
        raise DataError(f"{file}: not a .spacy file") from error
    yield from docs.get_docs(nlp.vocab)


def corpus_docs(
    name: str,
    nlp: Language | None,
    get_examples: Callable[[], Iterable[Example]],
    corpus: CorpusReader | None,
    *,
    warn: bool = True,
) -> list[Doc] | None:
    """Return the docs that a component is fitted on; their gold annotations are left out.

    Args:
        name: The component's.
        nlp: The pipeline.
        get_examples: The pipeline's examples, used where there is no corpus.
        corpus: A reader.
        warn: Whether to warn where there is nothing to learn from.

    Returns:
        The docs, or ``None`` where spaCy was given no examples and made one up (``nlp.initialize()``,
        ``spacy assemble``).
    """
    if corpus is None:
        examples = list(get_examples())
        if len(examples) == 1 and [token.text for token in examples[0].reference] == _DUMMY:
            if warn:
                warnings.warn(
                    f"component {name!r} has no corpus and learns nothing: give it one in "
                    f"[initialize.components.{name}.corpus]",
                    ClusterLLMWarning,
                    stacklevel=4,
                )
            return None
        return [example.predicted for example in examples]
    if nlp is None:
        raise ClusterLLMError("give the pipeline too: nlp=nlp")
    if not callable(corpus):
        raise ClusterLLMError(f"corpus must be a reader such as 'clusterllm.Jsonl.v1', not {type(corpus).__name__}")
    items = corpus(nlp)
    if isinstance(items, str) or not isinstance(items, Iterable):
        raise ClusterLLMError(f"a corpus holds examples, docs or texts, it is not {type(items).__name__} itself")
    return [_as_doc(item, nlp) for item in items]


def _as_doc(item: object, nlp: Language) -> Doc:
    if isinstance(item, Example):
        return item.predicted
    if isinstance(item, Doc):
        return item
    if isinstance(item, str):
        return nlp.make_doc(item)
    raise ClusterLLMError(f"a corpus holds examples, docs or texts, not {type(item).__name__}")


def components_before(component: ClusterLLMPipe, nlp: Language | None) -> Iterator[Callable[[Doc], Doc]]:
    """Yield the components of a pipeline before ``component``, the disabled ones too."""
    for _, other in nlp.components if nlp is not None else ():
        if other is component:
            return
        yield other


def through_pipeline(
    component: ClusterLLMPipe, nlp: Language | None, docs: list[Doc], *, embed: bool = False
) -> list[Doc]:
    """Return copies of docs with the annotations of all components before ``component``, the disabled ones too.

    The disabled ones, since ``with nlp.select_pipes(enable=[...])`` is how others are kept from being initialized
    again. Our own components are left out: they are asked directly. With ``embed`` our fitted embedders are not:
    others may make vectors of theirs.
    """
    from clusterllm_plugins.spacy.base import ClusterLLMPipe
    from clusterllm_plugins.spacy.embedder import ClusterLLMEmbedder

    stream: Iterable[Doc] = (doc.copy() for doc in docs)
    for other in components_before(component, nlp):
        if not isinstance(other, ClusterLLMPipe) or (embed and isinstance(other, ClusterLLMEmbedder) and other.fitted):
            stream = other.pipe(stream) if hasattr(other, "pipe") else map(other, stream)
    return list(stream)


def texts_of(docs: Iterable[Doc], span_key: str | None) -> list[str]:
    """Return the texts of what is clustered."""
    return [unit.text for doc in docs for unit in units_of(doc, span_key)]
