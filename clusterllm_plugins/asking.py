"""The asking session: it owns threads, retries, caps, redaction and the store.

In: questions, or groups of texts to be named. Out: one answer or name each, in order. An answer is looked for
among the known ones, in the plugins' caches and in the store before the oracle is asked; each new one is committed
before its thread takes another question. Oracles only turn a question into an answer.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from clusterllm_plugins.budget import Budget, QuestionCap
from clusterllm_plugins.circuit import PATIENCE, Circuit
from clusterllm_plugins.describing import Asked, Description, at_once, replies, states_worst_case, told, worst_case
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.keys import shows_key, without_keys
from clusterllm_plugins.observing import Hooks
from clusterllm_plugins.pacing import DEFAULT_MAX_RETRIES, Pacer, backoff
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.progress import Bar
from clusterllm_plugins.protocols import Oracle, Vectors, has_methods, optional
from clusterllm_plugins.questions import NOT_ASKED, Answer, OracleError, Question, Usage
from clusterllm_plugins.redaction import Redaction
from clusterllm_plugins.stopping import Stop
from clusterllm_plugins.store import AnswerStore
from clusterllm_plugins.workers import work_off

# What is replayed of a cap's refusal, in full: an oracle's own words may hold a text.
_BY_A_CAP = re.compile(
    rf"{NOT_ASKED}: (?:the cap of [\d.e+-]+ (?:tokens|US dollars) is reached|\d+ calls in a row failed"
    r"|what it may take is unknown, and there is a cap)"
)
GIVE_UP_AFTER = 20  # calls that failed in a row: the rest would fail too


@dataclass
class Tally:
    """Where the answers of a session came from."""

    asked: int = 0
    recalled: int = 0
    known: int = 0
    abstained: int = 0
    failed: int = 0
    refused: int = 0  # not asked since a cap was reached

    def to_dict(self) -> dict[str, int]:
        """Return the counts by name."""
        return dict(vars(self))


class _StoppedError(OracleError):
    """Another thread's error stopped the run."""


@dataclass
class _Work:
    """What must be asked once, a question or a description, and where its answer goes."""

    question: Asked
    places: list[int] = field(default_factory=list)
    source: str = "refused"  # what became of it, for observers
    attempts: int = 0
    seconds: float = 0.0  # of the last attempt


class Session:
    """Asks one oracle.

    Args:
        oracle: Who is asked.
        plugins: Whose hooks recall, observe and price answers.
        store: Where answers are kept.
        redaction: What is taken out of each question before anything else sees it.
        known: Answers that are already had, by :func:`known_key`; they count against no cap.
        max_tokens: The most tokens that all attempts together may take.
        max_cost: The most US dollars that all attempts together may cost.
        progress: Whether to show progress bars.
        halt: Once it is set nothing more is asked, as after a fatal error.
        sleep: Waits so many seconds; by default until the run is stopped at most.
        clock: Tells the time in seconds; likewise.

    Attributes:
        tally: Where the answers to questions came from.
        naming: Where names came from, likewise.
        record: What was asked, recalled, or refused by a cap on tokens or money, questions and names, and the answers,
            in order.

    Raises:
        ClusterLLMError: If a cap cannot be kept since the oracle states no worst case or no price.
    """

    def __init__(
        self,
        oracle: Oracle,
        *,
        plugins: Plugins,
        store: AnswerStore,
        redaction: Redaction | None = None,
        known: Mapping[str, Answer] | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        progress: bool = False,
        halt: threading.Event | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.oracle = oracle
        self.tally = Tally()
        self.naming = Tally()
        self._hooks = Hooks(plugins, oracle)
        self._store = store
        self._redaction = redaction or Redaction()
        self._known = dict(known or {})
        self._budget = Budget(oracle, self._hooks.price, max_tokens, max_cost)
        self._progress = progress
        self._pacer = Pacer(optional(oracle, "requests_per_minute"), optional(oracle, "tokens_per_minute"), clock)
        self._failures_in_a_row = 0
        self._with_indices = bool(optional(oracle, "uses_indices", False))
        self._fingerprint = oracle.fingerprint
        self._lock = threading.Lock()
        self._stop = Stop(halt)
        self._sleep = sleep or self._stop.pause
        self._circuit = Circuit(self._stop, self._sleep, float(optional(oracle, "patience", PATIENCE)))
        self.record: list[tuple[Asked, Answer]] = []
        self._jitter = random.Random()
        self._clock = clock

    @property
    def usage(self) -> Usage:
        """What all new answers so far took."""
        return self._budget.usage

    @property
    def transcript(self) -> list[tuple[Question, Answer]]:
        """The questions that were asked or recalled, and their answers, in order."""
        return [(asked, answer) for asked, answer in self.record if isinstance(asked, Question) and not answer.refused]

    @property
    def counts(self) -> dict[str, int]:
        """The tally of questions, and how many ``names`` were asked for."""
        return self.tally.to_dict() | {"names": self.naming.asked}

    def prepare(self, texts: Sequence[str], embeddings: Vectors) -> None:
        """Hand the (redacted) texts and their plain vectors to an oracle that wants them."""
        if has_methods(self.oracle, "prepare"):
            self.oracle.prepare(texts, embeddings)  # type: ignore[attr-defined]

    def ask(self, questions: Sequence[Question], cap: QuestionCap, description: str = "asking") -> list[Answer]:
        """Return an answer for each question; one that the cap does not admit abstains with an error.

        Raises:
            OracleError: If the oracle says that no question can succeed.
            ClusterLLMError: If redaction or the store fails.
        """
        return self._answers([self._redaction.question(question) for question in questions], cap, description)

    def describe(
        self,
        groups: Sequence[Sequence[str]],
        cap: QuestionCap,
        description: str = "naming clusters",
        instruction: str | None = None,
    ) -> list[str | None]:
        """Return what the oracle calls each group of texts; None where it gives no name.

        That is so for an empty group, for an oracle that has no method ``describe`` or cannot say what one takes
        at most while a cap on tokens or money is set, where a cap is reached, and where the oracle fails or its
        reply cannot be read.

        Args:
            groups: Texts, all of which are shown, shape (n_groups, any).
            cap: Counts distinct groups as questions.
            description: What the progress bar says.
            instruction: The perspective in words; an oracle whose method does not take it names without.

        Raises:
            OracleError: If the oracle says that it cannot be asked at all.
            ClusterLLMError: If redaction or the store fails.
        """
        names: list[str | None] = [None] * len(groups)
        if has_methods(self.oracle, "describe"):
            redacted = [tuple(self._redaction.text(text) for text in group) for group in groups]
            places = [place for place, texts in enumerate(redacted) if texts]
            perspective = told(self.oracle, instruction)
            wanted = [Description(redacted[place], perspective) for place in places]
            answers = self._answers(wanted, cap, description)
            for place, answer in zip(places, answers, strict=True):
                names[place] = answer.choice
        return names

    def _answers(self, questions: Sequence[Asked], cap: QuestionCap, description: str) -> list[Answer]:
        """Return an answer for each of ``questions``, which are redacted: had already, or asked for."""
        answers: list[Answer | None] = [None] * len(questions)
        asked: dict[str, tuple[int, Asked]] = {}
        work: dict[str, _Work] = {}
        for place, question in enumerate(questions):
            tally = self._tally_of(question)
            key = question.canonical(with_indices=self._with_indices)
            if isinstance(question, Question) and (known := self._known.get(known_key(question))) is not None:
                tally.known += 1
                answers[place] = known
                self._hooks.given(question, known, "known")
            elif key in work:
                work[key].places.append(place)
            elif not cap.admit(key):
                tally.refused += 1
                refused = Answer(None, error=f"{NOT_ASKED}: the cap of {cap.limit} questions is reached")
                answers[place] = refused
                self._hooks.given(question, refused, "refused")
            else:
                asked.setdefault(key, (place, question))
                if (recalled := self._recall(question)) is not None:
                    tally.recalled += 1
                    answers[place] = recalled
                    self._hooks.given(question, recalled, "recalled")
                elif isinstance(question, Description) and not self._budget.can_bound(question):
                    # For questions this is an error, before the first one; a name is not worth losing a run.
                    tally.refused += 1
                    refused = Answer(None, error=f"{NOT_ASKED}: what it may take is unknown, and there is a cap")
                    answers[place] = refused
                    self._hooks.given(question, refused, "refused")
                else:
                    work[key] = _Work(question, [place])
        answered: list[tuple[_Work, Answer]] = []
        try:
            self._ask_all(list(work.values()), cap, description, answered)
        finally:  # also what was answered before an error
            for item, answer in answered:
                for place in item.places:
                    answers[place] = answer
            self.record += [(question, found) for place, question in asked.values() if (found := answers[place])]
        done = [answer for answer in answers if answer is not None]
        assert len(done) == len(questions)
        return done

    def _tally_of(self, question: Asked) -> Tally:
        return self.naming if isinstance(question, Description) else self.tally

    def _recall(self, question: Asked) -> Answer | None:
        """Return the answer that a plugin or the store has; what a plugin has must be a valid one."""
        if isinstance(question, Question):
            recalled = self._hooks.recall(question)
            if isinstance(recalled, Answer) and _checked(recalled, question) is recalled:
                return recalled
        return self._stored(question)

    def _stored(self, question: Asked) -> Answer | None:
        return self._store.get(self._fingerprint, question, with_indices=self._with_indices)

    def _answered_meanwhile(self, batch: list[_Work]) -> tuple[list[tuple[_Work, Answer]], list[_Work]]:
        """Return what another process on the same store has had since the run began, and what is left."""
        if self._store.path is None:
            return [], batch
        had: list[tuple[_Work, Answer]] = []
        left: list[_Work] = []
        for item in batch:
            if (answer := self._stored(item.question)) is None:
                left.append(item)
            else:
                item.source = "recalled"
                had.append((item, answer))
        with self._lock:
            self._tally_of(batch[0].question).recalled += len(had)
        return had, left

    def _ask_all(self, work: list[_Work], cap: QuestionCap, description: str, done: list[tuple[_Work, Answer]]) -> None:
        """Ask for all of ``work`` from the oracle's threads; on any error await what is in flight.

        The answers go to ``done`` as they come.
        """
        if not work:
            return
        naming = isinstance(work[0].question, Description)
        size = at_once(self.oracle, naming=naming)
        threads = max(1, int(optional(self.oracle, "concurrency", 1)))
        if threads > 1 and self._store.path is not None and not self._budget.capped:
            # Processes that share a store and ask in one order would all be at the same questions all the time.
            work = self._jitter.sample(work, len(work))
        batches = [work[start : start + size] for start in range(0, len(work), size)]
        self._stop.clear()
        before = cap.admitted - len(work)
        total = cap.limit if cap.in_rounds else cap.admitted
        with Bar(total, description, self._progress, unit="name" if naming else "question", done=before) as bar:

            def run(batch: list[_Work]) -> None:
                for item, answer in self._ask_batch(batch):
                    with self._lock:
                        done.append((item, answer))
                        bar.advance()
                        bar.note(self._so_far(self._tally_of(item.question)))
                    self._hooks.given(item.question, answer, item.source, item.attempts, item.seconds)

            errors = work_off(batches, run, threads, self._stop)
        if errors:
            # Threads that were stopped by another's error are not the reason.
            raise next((error for error in errors if not isinstance(error, _StoppedError)), errors[0])
        if len(done) < len(work):
            raise _StoppedError("stopped", fatal=True)  # from outside, between two questions

    def _so_far(self, tally: Tally) -> str:
        """Return what a progress bar says besides the number."""
        counts = {name: getattr(tally, name) for name in ("recalled", "abstained", "refused")}
        parts = [f"{count} {name}" for name, count in counts.items() if count]
        usage = self.usage
        if usage.tokens:
            parts.append(f"{usage.tokens:,} tokens")
        if usage.cost is not None:
            parts.append(f"${usage.cost:.4f}")
        return ", ".join(parts)

    def _ask_batch(self, batch: list[_Work]) -> Iterable[tuple[_Work, Answer]]:
        """Yield an answer for each question of a batch, asking again what failed in a retryable way."""
        left = list(batch)
        naming = isinstance(left[0].question, Description)
        retries = int(optional(self.oracle, "max_retries", DEFAULT_MAX_RETRIES))
        for attempt in range(retries + 1):
            with self._circuit.passage():
                elsewhere, left = self._answered_meanwhile(left)
                yield from elsewhere
                if not left:  # else there would be a wait for room, for nothing
                    return
                if naming and self._failures_in_a_row >= GIVE_UP_AFTER:
                    yield from self._refused(left, f"{NOT_ASKED}: {GIVE_UP_AFTER} calls in a row failed")
                    return
                with self._budget.reserved([item.question for item in left], self._stop) as (room, refused):
                    over, left = left[room:], left[:room]
                    yield from self._refused(over, refused)
                    if not left:
                        return
                    failure = yield from self._attempt(left, attempt + 1)
                    if failure is None:
                        return
                if failure.retryable and retries:
                    self._circuit.failed(failure)
            if not failure.retryable or attempt == retries:
                yield from self._failed(left, failure)
                return
            if not self._circuit.is_open:  # else that is what is waited for
                self._sleep(backoff(attempt, failure.retry_after, self._jitter))

    def _refused(self, over: list[_Work], reason: str) -> Iterable[tuple[_Work, Answer]]:
        """Yield abstentions for what a cap forbids."""
        for item in over:
            item.source = "refused"
            with self._lock:
                self._tally_of(item.question).refused += 1
            yield item, Answer(None, error=reason)

    def _attempt(self, left: list[_Work], number: int) -> Generator[tuple[_Work, Answer], None, OracleError | None]:
        """Ask for all of ``left`` once and yield the answers, taking each item from it; return what failed, if so."""
        self._pace([item.question for item in left])
        since = self._clock()
        try:
            for answer in self._call([item.question for item in left]):
                item = left.pop(0)
                item.source, item.attempts, item.seconds = "asked", number, self._clock() - since
                yield item, self._kept(item, answer)
                since = self._clock()
        except OracleError as error:
            if error.fatal:
                raise
            for item in left:
                item.source, item.attempts, item.seconds = "failed", number, self._clock() - since
            return error if left else None
        return None

    def _failed(self, left: list[_Work], failure: OracleError) -> Iterable[tuple[_Work, Answer]]:
        """Yield abstentions for what failed in all attempts.

        Raises:
            OracleError: If that ends the run.
        """
        naming = isinstance(left[0].question, Description)
        with self._lock:
            tally = self._tally_of(left[0].question)
            tally.failed += len(left)
            tally.abstained += len(left)
            self._failures_in_a_row += 1
            hopeless = self._failures_in_a_row >= GIVE_UP_AFTER
        reason = without_keys(str(failure))
        if optional(self.oracle, "raise_on_failure", False):
            raise OracleError(reason, fatal=True)
        if hopeless and not naming:  # a clustering without the oracle's names is worth more than none
            raise OracleError(f"{GIVE_UP_AFTER} calls in a row failed, the last with: {reason}", fatal=True)
        # Not stored: the next run asks again what failed on the way.
        yield from ((item, Answer(None, error=reason, failed=True)) for item in left)

    def _pace(self, questions: list[Asked]) -> None:
        """Wait until the oracle's rate limits allow these questions."""
        tokens = 0
        if self._pacer.needs_tokens and states_worst_case(self.oracle, questions[0]):
            tokens = sum(worst_case(self.oracle, question).tokens for question in questions)
        if (seconds := self._pacer.reserve(len(questions), tokens)) > 0:
            self._sleep(seconds)

    def _call(self, questions: list[Asked]) -> Iterable[Answer]:
        """Yield the oracle's answers, checked to be one valid answer for each question."""
        if self._stop:
            raise _StoppedError("stopped", fatal=True)
        try:
            answers = iter(replies(self.oracle, questions))
            for question in questions:
                answer = next(answers, None)
                if answer is None:
                    raise OracleError(f"the oracle gave fewer answers than the {len(questions)} questions")
                yield _checked(answer, question) if isinstance(question, Question) else answer
        except (OracleError, ClusterLLMError):
            raise
        except Exception as error:
            reason = without_keys(f"oracle {self._fingerprint!r} failed with {type(error).__name__}: {error}")
            cause = None if shows_key(error) else error
        else:
            return
        raise OracleError(reason, fatal=True) from cause

    def _keep(self, question: Asked, answer: Answer) -> Answer:
        """Price an answer, commit it, and tell the observers of questions."""
        if answer.usage.cost is None and (price := self._hooks.price(answer.usage)) is not None:
            answer = replace(answer, usage=replace(answer.usage, cost=price))
        if answer.error is not None:
            answer = replace(answer, error=without_keys(answer.error))
        self._store.put(self._fingerprint, question, answer, with_indices=self._with_indices)
        self._circuit.answered()
        self._budget.settle(question, answer.usage)
        if not states_worst_case(self.oracle, question):
            self._pacer.charge(answer.usage.tokens)
        with self._lock:
            self._failures_in_a_row = 0
            self._tally_of(question).asked += 1
            self._tally_of(question).abstained += answer.choice is None
        if isinstance(question, Question):
            self._hooks.received(question, answer)
        return answer

    def _kept(self, item: _Work, answer: Answer) -> Answer:
        """Keep an answer; what an oracle says it has none to is only counted, and the next run asks it again."""
        refused = bool(answer.refused and _BY_A_CAP.fullmatch(answer.error or ""))
        if not (answer.failed or refused):
            return self._keep(item.question, answer)
        item.source = "refused" if refused else "failed"
        self._budget.settle(item.question, answer.usage)
        tally = self._tally_of(item.question)
        with self._lock:
            if refused:
                tally.refused += 1
            else:
                tally.failed += 1
                tally.abstained += 1
        return answer


def known_key(question: Question) -> str:
    """Return what makes two questions the same wherever they come from: kind, indices and choices."""
    return f"{question.kind}{question.indices}{question.choices}{question.repeat}"


def _checked(answer: object, question: Question) -> Answer:
    """Return ``answer``, or an abstention where the oracle gave something that is no answer."""
    if not isinstance(answer, Answer):
        return Answer(None, error=f"the oracle gave {type(answer).__name__} instead of an Answer")
    if answer.choice is not None and answer.choice not in question.choices:
        return replace(
            answer, choice=None, error=f"not an admissible choice: {without_keys(str(answer.choice))[:40]!r}"
        )
    return answer
