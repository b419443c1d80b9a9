"""The folder that the oracle ``batch`` exchanges files through: what was asked for in it, and what came back.

Files are numbered: ``requests-0001.jsonl`` is answered by ``results-0001.jsonl`` and, for what failed,
``errors-0001.jsonl``. Their lines are those of OpenAI's Batch API, in any order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clusterllm_oracles.refusals import REFUSING, names_logprobs
from clusterllm_oracles.replies import at, failure_in
from clusterllm_plugins.errors import DataError
from clusterllm_plugins.files import read_jsonl, write_lines
from clusterllm_plugins.keys import without_keys

LONGEST_REASON = 200  # characters
# Of the statuses from 400 to 499 these say nothing about the question.
_PASSING = (401, 403, 404, 408, 409, 429)

Kind = Literal["requests", "results", "errors"]


@dataclass(frozen=True)
class Result:
    """What a line says that came back.

    Attributes:
        kind: ``"answered"``; ``"refused"``: the same would be refused again; ``"failed"``: it may succeed.
        body: The chat completion of an answer.
        reason: Why there is none.
        without_logprobs: Whether it was log-probabilities that were refused; they are left out of the next file.
    """

    kind: Literal["answered", "refused", "failed"]
    body: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    without_logprobs: bool = False


@dataclass
class Folder:
    """What the files of a folder say.

    Attributes:
        path: The folder, which need not exist.
        requests: The ids in each requests file, by its number.
        received: The numbers of which results or errors are there.
        results: By id; an answer where there is one, else what was said last.
        last_number: The largest in use, or 0.
        without_logprobs: The ids of requests that were refused for asking for log-probabilities.
    """

    path: Path
    requests: dict[int, set[str]]
    received: set[int]
    last_number: int
    results: dict[str, Result] = field(default_factory=dict)
    without_logprobs: set[str] = field(default_factory=set)
    _repeated: int = 0  # lines

    @classmethod
    def read(cls, path: Path) -> Folder:
        """Read all files of ``path``.

        Raises:
            DataError: If one cannot be read, or a line is not what the format says; the message has its number.
        """
        if path.exists() and not path.is_dir():
            raise DataError(f"{path}: is not a folder; give another one as the setting 'folder'")
        files: dict[Kind, dict[int, Path]] = {kind: _numbered(path, kind) for kind in ("requests", "results", "errors")}
        numbers = [number for numbered in files.values() for number in numbered]
        requests = {number: {id_ for id_, *_ in _lines(file)} for number, file in files["requests"].items()}
        folder = cls(path, requests, {*files["results"], *files["errors"]}, max(numbers, default=0))
        for number in sorted(folder.received):
            folder._receive([files[kind][number] for kind in ("results", "errors") if number in files[kind]])
        return folder

    def _receive(self, files: Sequence[Path]) -> None:
        """Take the results of one requests file."""
        seen: set[str] = set()
        for file in files:
            for id_, record, where in _lines(file):
                result = _result(record, where)
                if result.without_logprobs:
                    self.without_logprobs.add(id_)
                if id_ in seen:
                    self._repeated += 1
                elif id_ not in self.results or self.results[id_].kind != "answered":
                    self.results[id_] = result
                seen.add(id_)
        if not seen:
            raise DataError(f"{files[0]}: the file is empty; save the results once more, or delete the file")

    def ignored(self, asked: set[str]) -> str | None:
        """Return which results are not used, in words: those of no request, and all but one of a request."""
        unknown = len(self.results.keys() - asked.union(*self.requests.values()))
        counts = ((unknown, "that answer no request of this folder"), (self._repeated, "that answer one again"))
        ignored = " and ".join(f"{number} {what}" for number, what in counts if number)
        return f"{self.path}: lines of results are ignored: {ignored}" if ignored else None

    def file(self, kind: Kind, number: int) -> Path:
        """Return the path of a file."""
        return self.path / f"{kind}-{number:04}.jsonl"

    def write(self, lines: Sequence[str]) -> int:
        """Write the next requests file, all or nothing, and return its number.

        Raises:
            DataError: If it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be made ({error.strerror}); give another folder") from error
        self.last_number += 1
        write_lines(self.file("requests", self.last_number), lines)
        return self.last_number


def _numbered(folder: Path, kind: Kind) -> dict[int, Path]:
    """Return the files of one kind by their numbers."""
    found = ((re.fullmatch(rf"{kind}-(\d+)\.jsonl", path.name), path) for path in folder.glob(f"{kind}-*.jsonl"))
    return {int(match[1]): path for match, path in found if match}


def _lines(file: Path) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the id of each line, what it says, and where it stands."""
    for where, record in read_jsonl(file):
        id_ = record.get("custom_id")
        if not isinstance(id_, str):
            raise DataError(f"{where}: the line has no 'custom_id'")
        yield id_, record, where


def _result(record: dict[str, Any], where: str) -> Result:
    response, error = record.get("response"), record.get("error")
    if not isinstance(response, dict):
        if not error:
            raise DataError(f"{where}: the line has neither a 'response' nor an 'error'")
        response = {}
    status, body = response.get("status_code"), response.get("body")
    if status == 200 and isinstance(body, dict):
        if not (failure := failure_in(body)):
            return Result("answered", body)
        status, error, body = *failure, None
    reason = _reason(status, error, body)
    if status in REFUSING and names_logprobs(reason):
        return Result("failed", reason=reason, without_logprobs=True)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in _PASSING
    return Result("refused" if refused else "failed", reason=reason)


def _reason(status: object, error: object, body: object) -> str:
    """Return in one line why a request failed, without what looks like a key."""
    said = (at(error, "message"), at(body, "error", "message"), at(error, "code"), error)
    reason = next((text for text in said if isinstance(text, str) and text.strip()), "no reason given")
    told = reason if status is None else f"status {status}: {reason}"
    return without_keys(" ".join(told.split()))[:LONGEST_REASON]  # cut last, or a part of a key could stay
