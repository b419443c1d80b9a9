"""``replay``: answers that were recorded before; asks nobody.

A whole run replays exactly: a question is looked for as it was shown, then with its groups in any order; what failed
or was refused by a cap fails or is refused again, as often as it was; names of clusters are given as they stand.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clusterllm_plugins.errors import DataError
from clusterllm_plugins.protocols import Vectors
from clusterllm_plugins.questions import NONE, Answer, Completion, OracleError, Question, Usage
from clusterllm_plugins.recording import names_in, read_recorded

_Key = tuple[object, ...]
_NOTHING = Usage(cost=0.0)


@dataclass
class _Recorded:
    """What is recorded of one question or name.

    Attributes:
        before: How it failed or was refused before there was an answer, in order.
        last: The answer, or where there was none the last failure.
        meaning: What a choice of groups was, independent of the order shown.
    """

    before: deque[Answer] = field(default_factory=deque)
    last: Answer = field(default_factory=lambda: Answer(None))
    meaning: tuple[int, ...] | str | None = None

    def add(self, answer: Answer) -> None:
        """Take the next line about it; of two answers the last counts."""
        kept = Answer(answer.choice, answer.confidence, error=answer.error, failed=answer.failed)
        if answer.failed or answer.refused:
            self.before.append(kept)
        self.last = kept

    def next(self) -> Answer:
        """Return what comes now."""
        return self.before.popleft() if self.before else self.last


class ReplayOracle:
    """Finds a question among recorded ones by its indices, in whatever order its groups are shown.

    It names clusters where the file tells of names.

    Args:
        path: JSONL as :func:`clusterllm_plugins.load_answers` reads it.

    Raises:
        DataError: If the file cannot be read.
    """

    uses_indices = True

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._digest, has_names = _looked_through(self._path)
        except OSError as error:
            raise DataError(f"oracle 'replay': cannot read {path} ({error.strerror})") from error
        self._recorded: dict[_Key, _Recorded] | None = None
        self._as_shown: dict[_Key, _Recorded] = {}
        self._names: dict[tuple[str, ...], _Recorded] = {}
        if not has_names:
            self.describe = None  # type: ignore[assignment, method-assign]  # see has_methods

    @property
    def fingerprint(self) -> str:
        """A digest of the file."""
        return f"replay:{self._digest}"

    def prepare(self, texts: Sequence[str], embeddings: Vectors) -> None:
        """Read the file, and check that it is about these texts."""
        self._recorded, self._as_shown, self._names = {}, {}, {}
        for asked, answer in read_recorded(self._path, texts):
            if isinstance(asked, Question):
                for place, key in ((self._as_shown, _exact_key(asked)), (self._recorded, _key(asked))):
                    recorded = place.setdefault(key, _Recorded())
                    recorded.add(answer)
                    recorded.meaning = _meaning(asked, answer.choice)
            else:
                self._names.setdefault(asked.texts, _Recorded()).add(answer)

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Answer as recorded; a question that was not recorded abstains."""
        if self._recorded is None:
            raise OracleError("oracle 'replay' must be prepared with the texts before it is asked", fatal=True)
        for question in questions:
            recorded = self._as_shown.get(_exact_key(question)) or self._recorded.get(_key(question))
            if recorded is None:
                yield Answer(None, error="not recorded")
                continue
            answer = recorded.next()
            choice = None if answer.choice is None else _choice(question, recorded.meaning)
            yield Answer(choice, answer.confidence, error=answer.error, failed=answer.failed)

    def describe(self, texts: Sequence[str]) -> Completion | Answer:
        """Return the name that was recorded for ``texts``, shape (n_texts,), as it stands."""
        recorded = self._names.get(tuple(texts))
        return Answer(None, error="not recorded") if recorded is None else recorded.next()

    def worst_case(self, question: Question) -> Usage:
        """Return that nothing is taken: caps on tokens or money hold, and choose the same questions as in the run."""
        return _NOTHING

    def worst_case_of(self, prompt: str) -> Usage:
        """Return the same of a name."""
        return _NOTHING

    def expected(self, question: Question) -> Usage:
        """Return that nothing is taken."""
        return _NOTHING

    def expected_of(self, prompt: str) -> Usage:
        """Return the same of a name."""
        return _NOTHING


def _looked_through(path: Path) -> tuple[str, bool]:
    """Return a digest of a file, and whether a line of it tells of names."""
    digest, has_names = hashlib.sha256(), False
    with path.open("rb") as file:
        for line in file:
            digest.update(line)
            has_names = has_names or names_in(line)
    return digest.hexdigest()[:16], has_names


def _exact_key(question: Question) -> _Key:
    return (question.indices, question.choices, question.repeat)


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
