"""``batch``: questions and answers in files, in the format of OpenAI's Batch API; nothing is sent, no key is needed.

In: the questions of a round. Out: the answers that results files hold; for the rest a requests file is written, and
the run stops with a line that says which file is waited for. The same run again goes on from there. Names of
clusters are asked for likewise.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clusterllm_oracles.batch_folder import Folder, Kind, Result
from clusterllm_oracles.chat import ChatOracle, chat_settings
from clusterllm_oracles.prices import BATCH_SHARE, prices_of
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning
from clusterllm_plugins.prompts import answer_of, render, render_description
from clusterllm_plugins.questions import Answer, Completion, OracleError, Question

# The Batch API's limits of one file.
MAX_REQUESTS = 50_000
MAX_BYTES = 200_000_000


@dataclass(frozen=True)
class _Request:
    """A prompt, the admissible replies, and the id by which its result is found whatever the order of lines."""

    id: str
    prompt: str
    choices: tuple[str, ...]


class BatchOracle(ChatOracle):
    """Exchanges numbered files through a folder with whoever runs the batches.

    Its fingerprint is that of the oracle ``openai`` with the same settings, since the same model is asked the same:
    a stored answer that came one way is found the other way.

    Args:
        folder: Where the files go; it is made with the first one. Runs may share it, one after the other.
        model: The model's name at the endpoint.
        base_url: Whose batches these are, as for the oracle ``openai``; ``None`` = OpenAI's. Nothing is sent there.
        url: The path that each request names.
        batch_size: The most requests of a file.
        temperature: 0 = the likeliest answer; ``None`` or ``""`` = not sent, for a model that takes none.
        max_output_tokens: The most tokens of a reply; a model that thinks aloud needs many.
        logprobs: Whether log-probabilities are asked for, as the oracle ``openai`` does; where a result says that they
            are refused, the next file asks without them.
        constrain: How a reply is constrained to the choices, as for the oracle ``openai``.
        limit: The name of the parameter for ``max_output_tokens``, likewise.
        input_price: US dollars per million input tokens *in a batch*; ``None`` = half the list price where these are
            OpenAI's batches (module ``prices``) and ``output_price`` is ``None``, too; else unknown.
        output_price: US dollars per million output tokens, likewise.

    Raises:
        ClusterLLMError: If ``batch_size`` is no number of requests that a file may have, ``base_url`` or
            ``model`` holds a key, or another setting has no meaning.
    """

    concurrency = 1  # the questions of a round are asked together, in files

    def __init__(
        self,
        folder: str | Path = "batch",
        model: str = "gpt-4o-mini",
        base_url: str | None = None,
        url: str = "/v1/chat/completions",
        batch_size: int = MAX_REQUESTS,
        temperature: float | Literal[""] | None = 0.0,
        max_output_tokens: int = 16,
        input_price: float | None = None,
        output_price: float | None = None,
        logprobs: bool = True,
        constrain: str = "none",
        limit: str | None = None,
    ) -> None:
        if not 1 <= batch_size <= MAX_REQUESTS:
            raise ClusterLLMError(f"oracle 'batch': batch_size must be from 1 to {MAX_REQUESTS}, not {batch_size}")
        chat = chat_settings(
            "oracle 'batch'", model, base_url, temperature, max_output_tokens, constrain, logprobs, limit
        )
        super().__init__(chat, prices_of(model, chat.base_url, (input_price, output_price), BATCH_SHARE))
        self.batch_size = batch_size
        self._folder = Path(folder)
        self._url = url
        self._prefix = f"{_digest(self.fingerprint, 8)}-"  # of the ids of all requests with these settings
        self._warned: set[str] = set()

    def check(self) -> None:
        """Raise :class:`DataError` where a file in the folder cannot be read."""
        Folder.read(self._folder)

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Answer from the results files, up to the first question that has no result yet.

        Raises:
            OracleError: At that question; it stops the run and says which file is waited for.
            DataError: If a file cannot be read or written.
        """
        requests = [self._request(render(question), question.choices, question.repeat) for question in questions]
        for question, request, result in zip(questions, requests, self._results(requests), strict=True):
            yield answer_of(self._completion(request, result), question.choices)

    def describe_all(self, groups: Sequence[Sequence[str]], instruction: str | None = None) -> Iterator[Completion]:
        """Name groups of texts, shape (n_groups, any); how and with which errors as in :meth:`answer`."""
        requests = [self._request(render_description(texts, instruction)) for texts in groups]
        for request, result in zip(requests, self._results(requests), strict=True):
            yield self._completion(request, result)

    def complete(self, prompt: str, choices: Sequence[str]) -> Completion:
        """Return the reply to one prompt, with the errors of :meth:`answer`."""
        request = self._request(prompt, choices)
        return self._completion(request, next(self._results([request])))

    def _request(self, prompt: str, choices: Sequence[str] = (), repeat: int = 0) -> _Request:
        return _Request(self._prefix + _digest(f"{repeat} {prompt}", 32), prompt, tuple(choices))

    def _completion(self, request: _Request, result: Result) -> Completion:
        if result.kind != "answered":
            return self._refused(result.reason)
        return self._completion_in(result.body, request.prompt, request.choices)

    def _results(self, requests: Sequence[_Request]) -> Iterator[Result]:
        """Yield a final result for each request; at the first without one write what is missing, and raise."""
        folder = Folder.read(self._folder)
        self._warn_once(folder.ignored({request.id for request in requests}))
        final = self._final(folder)
        missing = {request.id: request for request in requests if request.id not in final}
        for request in requests:
            if request.id in missing:
                raise self._waiting(folder, missing)
            yield final[request.id]

    def _final(self, folder: Folder) -> dict[str, Result]:
        """Return the results that are not asked for again: answers, and questions that were refused.

        Where nothing with these settings was answered yet, it may be the settings that are refused.
        """
        mine = {id_: result for id_, result in folder.results.items() if id_.startswith(self._prefix)}
        accepted = any(result.kind == "answered" for result in mine.values())
        final = ("answered", "refused") if accepted else ("answered",)
        return {id_: result for id_, result in mine.items() if result.kind in final}

    def _waiting(self, folder: Folder, missing: dict[str, _Request]) -> OracleError:
        """Write those of ``missing`` (by id) that no file asks for yet; return what to do now."""
        pending = {number: ids for number, ids in folder.requests.items() if number not in folder.received}
        waiting = [number for number, ids in pending.items() if not ids.isdisjoint(missing)]
        asked = set().union(*pending.values())
        new = [request for id_, request in missing.items() if id_ not in asked]
        logprobs = not any(id_.startswith(self._prefix) for id_ in folder.without_logprobs)
        waiting += [folder.write(lines) for lines in self._files(new, logprobs)]

        def files(kind: Kind) -> str:
            return ", ".join(str(folder.file(kind, number)) for number in sorted(waiting))

        failed = [folder.results[id_].reason for id_ in missing if id_ in folder.results]
        again = f" ({len(failed)} of them failed before, the first with {failed[0]!r})" if failed else ""
        return OracleError(
            f"oracle 'batch': {len(missing)} request{'' if len(missing) == 1 else 's'} without a result{again}: "
            f"run {files('requests')} as a batch, save its results as {files('results')} "
            f"and its errors, if any, as {files('errors')}, then do the same again",
            fatal=True,
        )

    def _files(self, requests: Sequence[_Request], logprobs: bool) -> Iterator[list[str]]:
        """Yield the lines of each file: of one file, unless it would pass a limit."""
        lines: list[str] = []
        size = 0
        for request in requests:
            body = self._chat.body(request.prompt, request.choices, logprobs=logprobs)
            # In ASCII: to some readers other separators than the line feed end a line too.
            line = json.dumps({"custom_id": request.id, "method": "POST", "url": self._url, "body": body})
            if lines and (len(lines) >= self.batch_size or size + len(line) + 1 > MAX_BYTES):
                yield lines
                lines, size = [], 0
            lines.append(line)
            size += len(line) + 1
        if lines:
            yield lines

    def _warn_once(self, message: str | None) -> None:
        if message and message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, ClusterLLMWarning, stacklevel=2)


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]
