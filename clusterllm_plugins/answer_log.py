"""An observer that writes a JSON line for each answer: when, how long, how many tokens, what it cost.

In: the hook ``answer_given``. Out: a file that grows, each line flushed. No text stands in it unless that is asked for,
and no key. A cluster's name, an oracle's own words about a failure and an unreadable reply may hold a text, too: they
are left out with the texts.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from clusterllm_plugins.describing import Asked, Description
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.hookspecs import hookimpl
from clusterllm_plugins.keys import without_keys
from clusterllm_plugins.protocols import Oracle
from clusterllm_plugins.questions import Answer, Usage

# Of what an error says, these words are ours and hold no text.
_OURS = re.compile(
    r"unreadable reply|not an admissible choice|not recorded|no choice has the most weight"
    r"|all members abstained(?:: unreadable reply)?|.*?(?P<status>\bError code: \d{3}\b)",
    re.DOTALL,
)
_START = b'{"time": '  # how each line begins


class AnswerLog:
    """Writes a line for each answer that a session gives; a context manager that closes the file.

    Register it as a plugin: ``ClusterLLM(...).add_plugin(AnswerLog("answers.log.jsonl"))``. A line has

    * ``time`` (UTC), ``source`` (``asked``, ``recalled``, ``known``, ``failed``, ``refused``: by a cap), ``oracle``;
    * ``kind`` (``choice``, ``pair``, ``description``), ``indices`` of the texts, ``choices``, ``choice`` (null =
      abstained), ``confidence``, ``error``;
    * ``attempts`` (0 where the oracle was not asked), ``seconds`` of the last one, ``input_tokens``,
      ``output_tokens``, ``requests`` and ``cost`` in US dollars (null = unknown) of this run: 0 where the oracle was
      not asked;
    * ``votes`` of the members, where the oracle is a council;
    * ``texts`` (redacted) with ``texts=True``, and the whole of ``error`` then.

    Args:
        path: The file, made with its folder where missing, appended to where it is such a log.
        texts: Whether to write texts, names of clusters and errors in full.

    Raises:
        DataError: If the file cannot be written or holds something else.
    """

    def __init__(self, path: str | Path, *, texts: bool = False) -> None:
        self._path = Path(path)
        self._texts = texts
        self._named: tuple[Oracle | None, str] = (None, "")
        try:
            if not self._path.parent.exists():
                self._path.parent.mkdir(parents=True, exist_ok=True)
            self._check()
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise DataError(f"log {path}: cannot be written ({error.strerror}); give another file") from error

    def _check(self) -> None:
        """Raise :class:`DataError` for a file that is no log: nothing may be added to the user's texts."""
        if not self._path.is_file() or not self._path.stat().st_size:
            return
        with self._path.open("rb") as file:
            if file.read(len(_START)) != _START:
                raise DataError(f"log {self._path}: holds something else than a log of answers; give another file")

    @hookimpl
    def answer_given(
        self, question: Asked, answer: Answer, oracle: Oracle, source: str, attempts: int, seconds: float
    ) -> None:
        """Write a line."""
        is_name = isinstance(question, Description)
        # What a cap says is ours, and holds no text.
        in_full = self._texts or source == "refused"
        # A failed attempt may have cost something; what was not asked cost nothing.
        usage = answer.usage if source == "asked" else Usage(cost=None if attempts else 0.0)
        record: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "source": source,
            "oracle": self._name(oracle),
            "kind": getattr(question, "kind", "description"),
            "indices": getattr(question, "indices", None),
            "choices": getattr(question, "choices", None),
            "choice": None if is_name and not self._texts else answer.choice,
            "confidence": answer.confidence,
            "error": answer.error if in_full else _kind_of(answer.error),
            "attempts": attempts,
            "seconds": round(seconds, 4),
            **vars(usage),
        }
        if votes := getattr(answer, "votes", None):
            record["votes"] = votes
        if self._texts:
            record["texts"] = question.texts
        line = json.dumps(_cleaned(record), ensure_ascii=False) + "\n"
        self._file.write(line.encode())  # in one piece: no kill leaves a half, and no other thread gets between

    def _name(self, oracle: Oracle) -> str:
        """Return the oracle's fingerprint, which may take long to make."""
        named = self._named
        if named[0] is not oracle:
            self._named = named = (oracle, oracle.fingerprint)
        return named[1]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> AnswerLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _kind_of(error: str | None) -> str | None:
    """Return of an error only what is known to hold no text."""
    if error is None:
        return None
    match = _OURS.match(error)
    return (match["status"] or match[0]) if match else "other"


def _cleaned(value: Any) -> Any:
    """Return nested values without anything that looks like a key."""
    if isinstance(value, str):
        return without_keys(value)
    if isinstance(value, dict):
        return {name: _cleaned(item) for name, item in value.items()}
    return [_cleaned(item) for item in value] if isinstance(value, list | tuple) else value
