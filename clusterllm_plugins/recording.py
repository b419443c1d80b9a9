"""Recorded answers: JSON Lines with a question's indices and the answer, read and written.

A line has ``indices`` (nested lists = a choice, two numbers = a pair) and ``choice`` (null = abstained); a line
that this package wrote also has the question's other fields and a hash of each text, which is checked, so that
answers are never applied to other texts. Unknown keys are ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from clusterllm_plugins.errors import DataError
from clusterllm_plugins.questions import NONE, Answer, Question, Usage

Known = list[tuple[Question, Answer]]


def load_answers(path: str | Path, texts: Sequence[str]) -> Known:
    """Read recorded answers about ``texts``.

    Args:
        path: A JSONL file, a line a question.
        texts: The texts that the recorded indices point into, in the order of that time.

    Returns:
        (question, answer) pairs, to be given to ``ClusterLLM.fit(texts, answers=...)``.

    Raises:
        DataError: If the file cannot be read, a line is not a recorded answer, an index is out of range, or a
            text is not the recorded one; the message names the line.
    """
    return [_read_record(record, texts, f"{path}, line {number}") for number, record in _read_lines(Path(path))]


def answer_lines(pairs: Iterable[tuple[Question, Answer]], texts: Sequence[str] | None = None) -> Iterator[str]:
    """Yield a JSON line, as :func:`load_answers` reads it, for each (question, answer) pair.

    Args:
        pairs: What was asked and answered.
        texts: The texts before redaction, which the hashes are taken of; by default the questions' own.
    """
    for question, answer in pairs:
        record = question.to_dict() | answer.to_dict()
        originals = question.texts if texts is None else _map_nested(question.indices, texts.__getitem__)
        record["hashes"] = _map_nested(originals, text_hash)
        yield json.dumps(record, ensure_ascii=False)


def read_lines(path: Path) -> list[str]:
    """Return the lines of a JSONL file; not by ``splitlines``, as a JSON string may hold other separators."""
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def text_hash(text: str) -> str:
    """Return the first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        # Not splitlines: a JSON string may hold other line separators than the line feed.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.reason
        raise DataError(f"{path}: cannot read recorded answers ({reason})") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
        if not isinstance(record, dict) or "indices" not in record or "choice" not in record:
            raise DataError(f"{path}, line {number}: a recorded answer has 'indices' and 'choice'")
        yield number, record


def _read_record(record: dict[str, Any], texts: Sequence[str], where: str) -> tuple[Question, Answer]:
    indices = record["indices"]
    has_groups = isinstance(indices, list) and any(isinstance(index, list) for index in indices)
    kind: Literal["choice", "pair"] = "choice" if has_groups else "pair"
    try:
        chosen = _map_nested(indices, lambda index: _text_at(texts, index, where))
        question = Question(
            kind=kind,
            indices=indices,
            texts=chosen,
            choices=tuple(record.get("choices") or _default_choices(kind, indices)),
            instruction=record.get("instruction"),
            demonstrations=tuple(record.get("demonstrations") or ()),
            repeat=record.get("repeat", 0),
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where}: not a question ({error})") from error
    hashes = record.get("hashes")
    # The hashes are of the texts as they were; those that were sent may have been redacted.
    were_sent = record.get("texts") == _map_nested(question.texts, str)
    if hashes is not None and not were_sent and _map_nested(question.texts, text_hash) != hashes:
        raise DataError(f"{where}: the texts are not those that the question was about; give the same file")
    choice = record["choice"]
    if choice is not None and choice not in question.choices:
        raise DataError(f"{where}: {choice!r} is not one of the choices {', '.join(question.choices)}")
    usage = _read_usage(record.get("usage"), where)
    return question, Answer(choice, record.get("confidence"), usage, record.get("error"))


def _read_usage(record: Any, where: str) -> Usage:
    if record is None:
        return Usage()
    if not isinstance(record, dict):
        raise DataError(f"{where}: usage must be an object, not {record!r}")
    return Usage(**{field.name: record[field.name] for field in fields(Usage) if field.name in record})


def _default_choices(kind: str, indices: list[Any]) -> tuple[str, ...]:
    """Return the choices of a line that names none: two single exemplars mean the paper's triplet."""
    if kind == "pair":
        return ("yes", "no")
    groups = indices[1:]
    numbers = tuple(str(number) for number in range(1, len(groups) + 1))
    is_triplet = len(groups) == 2 and all(len(group) == 1 for group in groups)
    return numbers if is_triplet else (*numbers, NONE)


def _text_at(texts: Sequence[str], index: Any, where: str) -> str:
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(texts):
        raise DataError(f"{where}: index {index!r} is out of range for {len(texts)} texts")
    return texts[index]


def _map_nested(nested: Any, function: Any) -> Any:
    """Return lists of the same nesting with ``function`` applied to each leaf."""
    if isinstance(nested, list | tuple):
        return [_map_nested(item, function) for item in nested]
    return function(nested)
