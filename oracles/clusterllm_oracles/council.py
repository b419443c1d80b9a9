"""``council``: several oracles are asked, and decide by vote, or in turn from the cheapest to the dearest.

An answer is a function of the settings and the question alone, as with any oracle: a weight that was estimated while
the questions are asked would depend on their order, on the number of threads, and on what an earlier run left in the
store. Weights are therefore fixed before the first question: given, or estimated from votes that a run has logged.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from clusterllm_oracles.voting import log_odds, read_ballots, reliabilities, winner
from clusterllm_plugins.describing import named_by
from clusterllm_plugins.errors import ClusterLLMError, MissingExtraError, PluginError
from clusterllm_plugins.pacing import DEFAULT_MAX_RETRIES
from clusterllm_plugins.plugins import Plugins, refuse_keys
from clusterllm_plugins.protocols import Oracle, Vectors, has_methods, optional
from clusterllm_plugins.questions import Answer, Completion, OracleError, Question, Usage

MODES = ("vote", "cascade")
ESTIMATED = "estimated"
MOST_KEPT = 10_000  # questions whose answers so far are kept for another attempt

_WHERE = "oracle 'council'"


@dataclass
class CouncilAnswer(Answer):
    """An answer with what each member that was asked said.

    Attributes:
        votes: The choice of each, or ``None``, by its number and a digest of its fingerprint; for a log of answers.
    """

    votes: dict[str, str | None] = field(default_factory=dict)


@dataclass
class _Ballot:
    """What the first members said to one question, in order, and how often the next one has failed."""

    answers: list[Answer] = field(default_factory=list)
    failures: int = 0


class CouncilOracle:
    """Asks several oracles.

    A member that fails is no member that abstains: the question is asked again, but only of those that have not
    answered it, and fails where a member has failed after all its own retries. A fatal error stops the run.

    Args:
        members: Names, tables ``{"name": ..., **settings}`` or oracles: two or more, for a cascade the cheapest first.
        mode: ``"vote"``: all are asked; what has the most weight is the answer and its share of the weight the
            confidence; a tie abstains. ``"cascade"``: the next one is asked only where all before it abstained or were
            less confident than ``threshold``; the last one that chose counts. One that states no confidence is sure.
        weights: Of the members in a vote, not negative; ``None`` = all equal; ``"estimated"`` = from ``votes``.
        votes: A log of answers (``clusterllm cluster --log``) of a council of the same members in the same order.
        threshold: The confidence in [0, 1] from which on a member of a cascade is believed.

    Attributes:
        members: The oracles.
        reliability: How often each member is right by the estimate, in (0, 1); ``None`` where none was made.

    Raises:
        ClusterLLMError: If a setting has no meaning, or a member cannot be made.
        MissingExtraError: If a member needs an extra.
        DataError: If ``votes`` cannot be read or has too few.
    """

    def __init__(
        self,
        members: Sequence[str | Mapping[str, Any] | Oracle],
        mode: str = "vote",
        weights: Sequence[float] | str | None = None,
        votes: str | Path | None = None,
        threshold: float = 0.8,
    ) -> None:
        self.members = _made(members)
        _check(mode, weights, votes, threshold, len(self.members))
        self._mode = mode
        self._threshold = threshold
        self.reliability: list[float] | None = None
        if votes is not None:
            self.reliability = reliabilities(*read_ballots(votes, self._names))
        self._weights = [1.0] * len(self.members) if weights is None or votes is not None else _numbers(weights)
        self._kept: dict[str, _Ballot] = {}
        self._lock = threading.Lock()
        self._take_over()

    def _take_over(self) -> None:
        """Set what the session reads, so that no member gets more at once, or a minute, than it allows."""
        members = self.members
        self._retries = [int(optional(member, "max_retries", DEFAULT_MAX_RETRIES)) for member in members]
        self.max_retries = sum(self._retries)  # each member's own are counted here
        self.batch_size = min(int(optional(member, "batch_size", 1)) for member in members)
        self.concurrency = min(int(optional(member, "concurrency", 1)) for member in members)
        self.requests_per_minute = _least(members, "requests_per_minute")
        self.tokens_per_minute = _least(members, "tokens_per_minute")
        self.uses_indices = any(optional(member, "uses_indices", False) for member in members)
        self.raise_on_failure = any(optional(member, "raise_on_failure", False) for member in members)
        self.note = "; ".join(dict.fromkeys(note for member in members if (note := optional(member, "note")))) or None
        self._writer: Any = next((member for member in members if has_methods(member, "describe")), None)
        able = {
            "worst_case": all(has_methods(member, "worst_case") for member in members),
            "expected": self._mode == "vote" and all(has_methods(member, "expected") for member in members),
            "expected_of": has_methods(self._writer, "expected_of"),
            "describe": self._writer is not None,
            "worst_case_of": has_methods(self._writer, "worst_case_of"),
        }
        for method, can in able.items():
            if not can:
                setattr(self, method, None)  # see has_methods

    @property
    def fingerprint(self) -> str:
        """All members, the mode, and the weights or the threshold."""
        if self._mode == "cascade":
            by = f"t{self._threshold}"
        else:
            by = f"r{self.reliability}" if self.reliability else f"w{self._weights}"
        return f"council:{self._mode}:{by}:{json.dumps([member.fingerprint for member in self.members])}"

    @cached_property
    def _names(self) -> list[str]:
        """A short name for each member by which its votes are logged; a fingerprint may be long."""
        digests = [hashlib.sha256(member.fingerprint.encode()).hexdigest()[:8] for member in self.members]
        return [f"{number}:{digest}" for number, digest in enumerate(digests, start=1)]

    def check(self) -> None:
        """Let each member say whether it can be asked at all.

        Raises:
            OracleError: If one cannot.
        """
        for member in self._having("check"):
            member.check()

    def prepare(self, texts: Sequence[str], embeddings: Vectors) -> None:
        """Hand texts, shape (n_texts,), and their vectors, shape (n_texts, dim), to the members that want them."""
        for member in self._having("prepare"):
            member.prepare(texts, embeddings)

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Ask the members for each question, one after the other.

        Raises:
            OracleError: If a member fails; what the others said is kept for the next attempt.
        """
        opened = [(question, self._taken(question)) for question in questions]
        failure: OracleError | None = None
        try:
            for number in range(len(self.members)):
                self._ask(number, [pair for pair in opened if self._needs(pair[1], number)])
        except OracleError as error:
            failure = error
        for place, (question, ballot) in enumerate(opened):
            if failure is not None and self._needs(ballot, len(ballot.answers)):
                self._keep(opened[place:])
                raise failure
            yield self._decided(question, ballot)

    def worst_case(self, question: Question) -> Usage:
        """Return the most that asking every member once takes; there only where each of them can say it."""
        return sum((member.worst_case(question) for member in self._having("worst_case")), Usage())

    def expected(self, question: Question) -> Usage:
        """Return about what asking every member once takes; not there in a cascade, which may ask one or all."""
        return sum((member.expected(question) for member in self._having("expected")), Usage())

    def expected_of(self, prompt: str) -> Usage:
        """Return about what a name takes, of the member that writes it."""
        usage: Usage = self._writer.expected_of(prompt)
        return usage

    def describe(self, texts: Sequence[str], instruction: str | None = None) -> Completion:
        """Ask the first member that can for a name for ``texts``, shape (n_texts,), by the perspective in words."""
        completion: Completion = named_by(self._writer.describe, texts, instruction)
        return completion

    def worst_case_of(self, prompt: str) -> Usage:
        """Return the most that a name takes, likewise."""
        usage: Usage = self._writer.worst_case_of(prompt)
        return usage

    def _having(self, method: str) -> list[Any]:
        return [member for member in self.members if has_methods(member, method)]

    def _needs(self, ballot: _Ballot, number: int) -> bool:
        """Return whether member ``number`` is the next one to ask."""
        if number != len(ballot.answers) or number == len(self.members):
            return False
        return self._mode == "vote" or number == 0 or self._is_unsure(ballot.answers[-1])

    def _is_unsure(self, answer: Answer) -> bool:
        return answer.choice is None or (answer.confidence is not None and answer.confidence < self._threshold)

    def _ask(self, number: int, asked: list[tuple[Question, _Ballot]]) -> None:
        """Add what a member says to each ballot."""
        if not asked:
            return
        ballot = asked[0][1]
        try:
            answers = iter(self.members[number].answer([question for question, _ in asked]))
            for question, ballot in asked:
                answer = next(answers, None)
                if answer is None:
                    raise OracleError(f"{_WHERE}, member {number + 1}: fewer answers than questions")
                ballot.answers.append(_admissible(answer, question))
                ballot.failures = 0
        except OracleError as error:
            if error.fatal or not error.retryable:
                raise
            ballot.failures += 1
            if ballot.failures <= self._retries[number]:
                raise
            ballot.failures = 0  # a later run may ask again
            raise OracleError(str(error)) from error

    def _decided(self, question: Question, ballot: _Ballot) -> CouncilAnswer:
        answers = ballot.answers
        choices = [answer.choice for answer in answers]
        usage = sum((answer.usage for answer in answers), Usage())
        votes = dict(zip(self._names, choices, strict=False))  # of a cascade, those of the members that were asked
        chosen, confidence = self._verdict(question, answers)
        error = None
        if chosen is None and any(choices):
            error = "no choice has the most weight"
        elif chosen is None:
            reason = next((answer.error for answer in answers if answer.error), None)
            error = "all members abstained" + (f": {reason}" if reason else "")
        return CouncilAnswer(chosen, confidence, usage, error, votes=votes)

    def _verdict(self, question: Question, answers: list[Answer]) -> tuple[str | None, float | None]:
        """Return the choice, ``None`` in a tie or where nobody chose, and its confidence."""
        if self._mode == "cascade":
            last = next((answer for answer in reversed(answers) if answer.choice is not None), Answer(None))
            return last.choice, last.confidence
        weights = self._weights
        if self.reliability:
            weights = [log_odds(right, len(question.choices)) for right in self.reliability]
        choice, share = winner([answer.choice for answer in answers], weights)
        return choice, None if choice is None else share

    def _key(self, question: Question) -> str:
        return question.canonical(with_indices=self.uses_indices)

    def _taken(self, question: Question) -> _Ballot:
        """Return what is kept of an earlier attempt; it belongs to this one now."""
        with self._lock:
            return self._kept.pop(self._key(question), None) or _Ballot()

    def _keep(self, opened: list[tuple[Question, _Ballot]]) -> None:
        with self._lock:
            self._kept |= {self._key(question): ballot for question, ballot in opened}
            while len(self._kept) > MOST_KEPT:
                del self._kept[next(iter(self._kept))]  # the oldest


def _made(members: Any) -> list[Oracle]:
    """Return the members, those that are given by name or as a table made by the plugins of this environment."""
    if not isinstance(members, list | tuple):
        raise ClusterLLMError(f"{_WHERE}: members must be a list of oracles, not {type(members).__name__}")
    if len(members) < 2:
        raise ClusterLLMError(f"{_WHERE}: members must be two oracles or more, not {len(members)}")
    refuse_keys({"members": members}, _WHERE)
    plugins = Plugins(discover=any(isinstance(member, str | Mapping) for member in members))
    made = []
    for number, member in enumerate(members, start=1):
        try:
            made.append(plugins.oracle(member))
        except MissingExtraError:
            raise
        except ClusterLLMError as error:
            raise PluginError(f"{_WHERE}, member {number}: {error}") from error
    return made


def _check(mode: str, weights: Any, votes: Any, threshold: Any, n_members: int) -> None:
    if mode not in MODES:
        raise ClusterLLMError(f"{_WHERE}: mode is one of {', '.join(MODES)}, not {mode!r}")
    if not _is_number(threshold) or not 0 <= threshold <= 1:
        raise ClusterLLMError(f"{_WHERE}: threshold must be in [0, 1], not {threshold!r}")
    if mode == "cascade" and (weights is not None or votes is not None):
        raise ClusterLLMError(f"{_WHERE}: weights and votes are for mode 'vote', a cascade has none")
    if (weights == ESTIMATED) != (votes is not None):
        raise ClusterLLMError(
            f"{_WHERE}: weights = {ESTIMATED!r} and votes go together: run once with equal weights and --log FILE, "
            "and give that file as votes"
        )
    if weights == ESTIMATED:
        if n_members < 3:
            raise ClusterLLMError(f"{_WHERE}: where two members differ nothing says who is right; give weights")
    elif weights is not None:
        is_list = isinstance(weights, list | tuple) and all(_is_number(weight) and weight >= 0 for weight in weights)
        if not is_list or len(weights) != n_members or not any(weights):
            raise ClusterLLMError(
                f"{_WHERE}: weights must be {n_members} numbers of at least 0, not all 0, or {ESTIMATED!r}, "
                f"not {weights!r}"
            )


def _numbers(weights: Any) -> list[float]:
    return [float(weight) for weight in weights]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _least(members: Sequence[Oracle], limit: str) -> float | None:
    """Return the smallest of the limits that members have."""
    return min((value for member in members if (value := optional(member, limit))), default=None)


def _admissible(answer: Answer, question: Question) -> Answer:
    """Return an answer whose choice is one of the question's, or None."""
    if answer.choice is None or answer.choice in question.choices:
        return answer
    return Answer(None, usage=answer.usage, error="not an admissible choice")
