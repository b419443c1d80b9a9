"""``replay``: answers that were recorded before; asks nobody."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from clusterllm_plugins.errors import DataError
from clusterllm_plugins.protocols import Vectors
from clusterllm_plugins.questions import NONE, Answer, OracleError, Question
from clusterllm_plugins.recording import load_answers

_Key = tuple[object, ...]


class ReplayOracle:
    """Finds a question among recorded ones by its indices, in whatever order its groups are shown.

    Args:
        path: JSONL as :func:`clusterllm_plugins.load_answers` reads it.

    Raises:
        DataError: If the file cannot be read.
    """

    uses_indices = True

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._digest = hashlib.sha256(self._path.read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise DataError(f"oracle 'replay': cannot read {path} ({error.strerror})") from error
        self._recorded: dict[_Key, Answer] | None = None
        self._chosen: dict[_Key, tuple[int, ...] | str | None] = {}

    @property
    def fingerprint(self) -> str:
        """A digest of the file."""
        return f"replay:{self._digest}"

    def prepare(self, texts: Sequence[str], embeddings: Vectors) -> None:
        """Read the file, and check that it is about these texts."""
        self._recorded = {}
        for question, answer in load_answers(self._path, texts):
            key = _key(question)
            self._recorded[key] = answer
            self._chosen[key] = _meaning(question, answer.choice)

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Answer as recorded; a question that was not recorded abstains."""
        if self._recorded is None:
            raise OracleError("oracle 'replay' must be prepared with the texts before it is asked", fatal=True)
        for question in questions:
            recorded = self._recorded.get(_key(question))
            if recorded is None:
                yield Answer(None, error="not recorded")
            else:
                yield Answer(_choice(question, self._chosen[_key(question)]), recorded.confidence)


def _key(question: Question) -> _Key:
    groups = question.group_indices
    if question.kind == "pair":
        return ("pair", frozenset((question.anchor_index, *groups[0])), question.repeat)
    return ("choice", question.anchor_index, frozenset(groups), NONE in question.choices, question.repeat)


def _meaning(question: Question, choice: str | None) -> tuple[int, ...] | str | None:
    """Return what was chosen, independent of the order shown: a group, or the choice itself."""
    if choice is None or choice == NONE or question.kind == "pair":
        return choice
    return question.group_indices[int(choice) - 1]


def _choice(question: Question, meaning: tuple[int, ...] | str | None) -> str | None:
    if isinstance(meaning, tuple):
        return str(question.group_indices.index(meaning) + 1)
    return meaning
