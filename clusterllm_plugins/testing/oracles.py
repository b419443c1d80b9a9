"""What every oracle must keep, whoever answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, cast

import numpy as np

from clusterllm_plugins.asking import Session
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.prompts import render_description
from clusterllm_plugins.protocols import Oracle, has_methods, optional
from clusterllm_plugins.questions import Answer, Completion, OracleError, Question, Usage
from clusterllm_plugins.store import AnswerStore
from clusterllm_plugins.testing.making import check_identity, check_keyless, contacting_nobody, made
from clusterllm_plugins.testing.samples import TEXTS, odd_questions, questions

MOST_THREADS = 4

_GROUPS = (TEXTS[:2], TEXTS[6:9])

Make = Callable[[], Oracle]


def check_oracle(make: Make, *, changed: Sequence[Make] = (), broken: Sequence[Make] = ()) -> None:
    """Check that an oracle keeps the contract.

    It is asked every question of :func:`questions` and :func:`odd_questions`, at once, one by one, by a session, and
    from several threads where it allows that.

    Args:
        make: Makes an oracle anew; it must be able to answer (run a local server in the test).
        changed: Each makes one with another setting that could change an answer.
        broken: Each makes one that nobody answers: a wrong address, no key, a server that fails.

    Raises:
        AssertionError: If it does not.
    """
    oracle = made(make, "an oracle")
    assert has_methods(oracle, "answer"), f"{type(oracle).__name__} has no method answer(questions)"
    _check_fingerprint(oracle, make, changed)
    _check_attributes(oracle)
    fingerprint = oracle.fingerprint
    _make_ready(oracle)
    _check_answers(oracle)
    _check_names(oracle)
    _check_threads(make, int(optional(oracle, "concurrency", 1)))
    _check_session(oracle)
    assert oracle.fingerprint == fingerprint, "fingerprint must not change while it answers"
    for make_broken in broken:
        _check_trouble(make_broken)


def _check_fingerprint(oracle: Oracle, make: Make, changed: Sequence[Make]) -> None:
    with contacting_nobody("reading a fingerprint"):
        fingerprint = oracle.fingerprint
        check_identity(fingerprint, make().fingerprint, "oracles")
        others = [make_changed().fingerprint for make_changed in changed]
    for place, other in enumerate(others):
        assert other != fingerprint, f"changed[{place}]: another setting must change the fingerprint"


def _check_attributes(oracle: Oracle) -> None:
    for name in ("batch_size", "concurrency"):
        assert int(optional(oracle, name, 1)) >= 1, f"{name} must be at least 1"
    assert int(optional(oracle, "max_retries", 0)) >= 0, "max_retries must be at least 0"
    for name in ("requests_per_minute", "tokens_per_minute"):
        limit = optional(oracle, name)
        assert limit is None or limit > 0, f"{name} must be positive, or None"
    note = optional(oracle, "note")
    assert note is None or isinstance(note, str), "note must be a str, or None"
    assert has_methods(oracle, "describe") or not has_methods(oracle, "describe_all"), "describe_all needs describe"


def _make_ready(oracle: Oracle) -> None:
    """Do what a fit does before the first question."""
    if has_methods(oracle, "check"):
        oracle.check()  # type: ignore[attr-defined]
    if has_methods(oracle, "prepare"):
        oracle.prepare(TEXTS, np.eye(len(TEXTS), dtype=np.float32))  # type: ignore[attr-defined]


def _check_answers(oracle: Oracle) -> None:
    """Ask everything in batches, then each question alone: within its worst case, where there is one."""
    assert list(oracle.answer([])) == [], "no questions, no answers"
    size = int(optional(oracle, "batch_size", 1))
    asked = [*questions(), *odd_questions()]
    for start in range(0, len(asked), size):
        _asked(oracle, asked[start : start + size])
    for question in asked:
        (answer,) = _asked(oracle, [question])
        if has_methods(oracle, "worst_case"):
            with contacting_nobody("worst_case"):
                worst = oracle.worst_case(question)  # type: ignore[attr-defined]
            _check_bound(answer.usage, worst, "worst_case")


def _asked(oracle: Oracle, batch: list[Question]) -> list[Answer]:
    answers = list(oracle.answer(batch))
    assert len(answers) == len(batch), f"{len(answers)} answers to {len(batch)} questions"
    for question, answer in zip(batch, answers, strict=True):
        assert isinstance(answer, Answer), f"an answer must be an Answer, not {type(answer).__name__}"
        assert answer.choice is None or answer.choice in question.choices, f"{answer.choice!r} is no choice"
        assert answer.choice is not None or answer.error, "an answer without a choice must say why, as its error"
        assert "\n" not in (answer.error or ""), f"an error must be one line, not {answer.error!r}"
        _check_said(answer)
    return answers


def _check_said(said: Answer | Completion) -> None:
    assert said.confidence is None or 0 <= said.confidence <= 1, "confidence must be in [0, 1]"
    _check_usage(said.usage)


def _check_usage(usage: object) -> None:
    assert isinstance(usage, Usage), "usage must be a Usage"
    for name in ("input_tokens", "output_tokens", "requests"):
        value = getattr(usage, name)
        assert isinstance(value, int) and value >= 0, f"{name} must be an int of at least 0, not {value!r}"  # noqa: PT018
    assert usage.cost is None or 0 <= usage.cost < math.inf, f"cost must be US dollars or None, not {usage.cost!r}"


def _check_bound(used: Usage, worst: object, method: str) -> None:
    _check_usage(worst)
    most = cast(Usage, worst)
    for name in ("input_tokens", "output_tokens"):
        count, bound = getattr(used, name), getattr(most, name)
        assert count <= bound, f"{count} {name} used, {method} said {bound}"
    if used.cost is not None and most.cost is not None:
        assert used.cost <= most.cost + 1e-12, f"{used.cost} US dollars spent, {method} said {most.cost}"


def _check_names(oracle: Oracle) -> None:
    if not has_methods(oracle, "describe"):
        return
    capable: Any = oracle
    for texts in _GROUPS:
        completion = capable.describe(texts)
        _check_completions([completion], 1)
        if has_methods(oracle, "worst_case_of"):
            with contacting_nobody("worst_case_of"):
                worst = capable.worst_case_of(render_description(texts))
            _check_bound(completion.usage, worst, "worst_case_of")
    if has_methods(oracle, "describe_all"):
        groups = _GROUPS[: int(optional(oracle, "batch_size", 1))]
        _check_completions(capable.describe_all(groups), len(groups))


def _check_completions(given: Iterable[object], count: int) -> None:
    completions = list(given)
    assert len(completions) == count, f"{len(completions)} names for {count} groups"
    for completion in completions:
        assert isinstance(completion, Completion), f"a name must be a Completion, not {type(completion).__name__}"
        assert isinstance(completion.text, str), "a Completion's text must be a str"
        _check_said(completion)


def _check_threads(make: Make, concurrency: int) -> None:
    """Ask an oracle that nobody has asked before from several threads, all at first together."""
    threads = min(concurrency, MOST_THREADS)
    if threads == 1:
        return
    oracle = make()
    _make_ready(oracle)
    together = Barrier(threads)

    def ask(shift: int) -> None:
        asked = [*questions()[shift:], *questions()[:shift]]
        together.wait()
        for question in asked:
            _asked(oracle, [question])

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(ask, shift) for shift in range(threads)]:
            done.result()


def _check_session(oracle: Oracle) -> None:
    """Check that what an oracle said is recalled and not asked again."""
    plugins = Plugins(discover=False)
    asked = [*questions(), *odd_questions()]
    with AnswerStore() as store:
        sessions = [Session(oracle, plugins=plugins, store=store) for _ in range(2)]
        first, second = (session.ask(asked, QuestionCap(len(asked))) for session in sessions)
        assert sessions[0].tally.failed == 0, f"questions failed: {[a.error for a in first if a.error]}"
        assert sessions[1].tally.asked == 0, "a second session asked again what was answered"
        assert [a.choice for a in first] == [a.choice for a in second], "recalled answers differ"


def _check_trouble(make: Make) -> None:
    """Check that nothing but an error of one line comes from an oracle that cannot be asked."""
    try:
        oracle = make()
        _make_ready(oracle)
        answers = list(oracle.answer(questions()[:1]))
    except (OracleError, ClusterLLMError) as error:
        message = str(error)
        assert message.strip(), "an error must say what went wrong"
        assert "\n" not in message, f"an error must be one line, not {message!r}"
        check_keyless(message, "an error must not show a key")
        sure = isinstance(error, OracleError) and error.fatal and error.retryable
        assert not sure, "an error is fatal or retryable, not both"
    except Exception as error:
        raise AssertionError(f"trouble must be an OracleError, not {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"an oracle that nobody answers must raise an OracleError, not answer {answers}")
