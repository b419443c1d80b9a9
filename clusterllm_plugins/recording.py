"""Recorded answers: JSON Lines with a question's indices and the answer, read and written.

A line has ``indices`` (nested lists = a choice, two numbers = a pair) and ``choice`` (null = abstained); a line
that this package wrote also has the question's other fields and a hash of each text, which is checked, so that
answers are never applied to other texts. Unknown keys are ignored.

A line of the kind ``description`` is the name of a cluster: ``texts`` as they were shown and ``choice``, the name; one
without texts says that the oracle could have named clusters. It is no known answer, and neither is a question that a
cap on tokens or money forbade, or that failed (``failed``); only the oracle ``replay`` reads these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from clusterllm_plugins.describing import Asked, Description
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.protocols import has_methods
from clusterllm_plugins.questions import NONE, Answer, Question, Usage

if TYPE_CHECKING:
    from clusterllm_plugins.asking import Session

Known = list[tuple[Question, Answer]]


def load_answers(path: str | Path, texts: Sequence[str]) -> Known:
    """Read recorded answers about ``texts``.

    Args:
        path: A JSONL file, a line a question; names of clusters, and questions that failed or that a cap forbade,
            are left out.
        texts: The texts that the recorded indices point into, in the order of that time.

    Returns:
        (question, answer) pairs, to be given to ``ClusterLLM.fit(texts, answers=...)``.

    Raises:
        DataError: If the file cannot be read, a line is not a recorded answer, an index is out of range, or a
            text is not the recorded one; the message names the line.
    """
    return [
        (asked, answer)
        for asked, answer in read_recorded(path, texts)
        if isinstance(asked, Question) and not answer.refused and not answer.failed
    ]


def read_recorded(path: str | Path, texts: Sequence[str]) -> Iterator[tuple[Asked, Answer]]:
    """Yield everything that is recorded about ``texts``, one line after the other, names and refusals too.

    Raises:
        DataError: As :func:`load_answers`.
    """
    for number, record in _read_lines(Path(path)):
        read = _read_name if _is_name(record) else _read_record
        yield read(record, texts, f"{path}, line {number}")


def answer_lines(
    pairs: Iterable[tuple[Asked, Answer]], texts: Sequence[str] | None = None, shown: Sequence[str] | None = None
) -> Iterator[str]:
    """Yield a JSON line, as :func:`load_answers` reads it, for each (question or description, answer) pair.

    Args:
        pairs: What was asked and answered.
        texts: The texts before redaction, which the hashes are taken of; by default the questions' own.
        shown: The same texts after it, among which the texts of names are found; by default ``texts``.
    """
    place: dict[str, int] | None = None
    for asked, answer in pairs:
        if isinstance(asked, Question):
            record = asked.to_dict() | answer.to_dict()
            originals = asked.texts if texts is None else _map_nested(asked.indices, texts.__getitem__)
            record["hashes"] = _map_nested(originals, text_hash)
        else:
            record = json.loads(asked.canonical()) | answer.to_dict()
            if texts is not None:
                if place is None:
                    place = {text: number for number, text in reversed(list(enumerate(shown or texts)))}
                record["indices"] = [place[text] for text in asked.texts]
                record["hashes"] = [text_hash(texts[index]) for index in record["indices"]]
        yield json.dumps(record, ensure_ascii=False)


def recorded(session: Session | None) -> list[tuple[Asked, Answer]]:
    """Return what a session asked; where it named nothing though its oracle can, with a line that says so.

    Whether an oracle can name clusters decides how many other questions are asked.
    """
    if session is None:
        return []
    if not has_methods(session.oracle, "describe") or any(
        isinstance(asked, Description) for asked, _ in session.record
    ):
        return session.record
    return [*session.record, (Description(()), Answer(None))]


def is_answer(record: dict[str, Any]) -> bool:
    """Return whether a line that this package wrote is an answer to a question, not a name or a refusal."""
    return not _is_name(record) and not Answer.from_dict(record).refused


def names_in(line: bytes) -> bool:
    """Return whether a line, as it stands in a file, is of the kind that tells of names."""
    if b'"description"' not in line:
        return False
    try:
        return _is_name(json.loads(line))
    except ValueError:  # said with its number when the file is read
        return False


def _is_name(record: Any) -> bool:
    return isinstance(record, dict) and record.get("kind") == "description"


def read_lines(path: Path) -> list[str]:
    """Return the lines of a JSONL file; not by ``splitlines``, as a JSON string may hold other separators."""
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def stream_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file of recorded answers, one at a time, split at line feeds only.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with path.open("rb") as file:
            for line in file:
                yield line.decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.reason
        raise DataError(f"{path}: cannot read recorded answers ({reason})") from error


def text_hash(text: str) -> str:
    """Return the first 16 hexadecimal digits of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(stream_lines(path), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: not JSON ({error})") from error
        wanted = ("texts" if _is_name(record) else "indices", "choice")
        if not isinstance(record, dict) or not all(key in record for key in wanted):
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
    failed = bool(record.get("failed", False))
    return question, Answer(choice, record.get("confidence"), usage, record.get("error"), failed)


def _read_name(record: dict[str, Any], texts: Sequence[str], where: str) -> tuple[Description, Answer]:
    """Return a name with the texts that are shown now, where it says which these are; else with those of then."""
    shown, indices, name = record["texts"], record.get("indices"), record["choice"]
    if not isinstance(shown, list) or not all(isinstance(text, str) for text in shown):
        raise DataError(f"{where}: 'texts' of a name must be a list of texts")
    if name is not None and not isinstance(name, str):
        raise DataError(f"{where}: a name must be a text, not {name!r}")
    if indices is not None:
        if not isinstance(indices, list):
            raise DataError(f"{where}: 'indices' of a name must be a list, not {indices!r}")
        now = [_text_at(texts, index, where) for index in indices]
        if now != shown and list(map(text_hash, now)) != record.get("hashes"):
            raise DataError(f"{where}: the texts are not those that were named; give the same file")
        shown = now
    usage = _read_usage(record.get("usage"), where)
    failed = bool(record.get("failed", False))
    answer = Answer(name, record.get("confidence"), usage, record.get("error"), failed)
    return Description(tuple(shown), record.get("instruction")), answer


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
