"""What a fit would ask and take, before anything is spent."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from clusterllm_plugins.asking import Session
from clusterllm_plugins.corpus import Corpus
from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.fitting import FitSettings, granularity_questions, perspective_questions
from clusterllm_plugins.guided.planning import shape_for, tokens_of
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.protocols import Oracle, Vectors, has_methods
from clusterllm_plugins.questions import Answer, Completion, OracleError, Question, Usage, choice_question
from clusterllm_plugins.redaction import Redaction
from clusterllm_plugins.store import AnswerStore

log = logging.getLogger(__name__)


def quote_paper(
    corpus: Corpus, vectors: Vectors, oracle: Oracle | None, plugins: Plugins, settings: FitSettings
) -> dict[str, Any]:
    """Return the questions of ``method="paper"`` and upper bounds of what they take.

    The questions of the first iteration are those that a fit asks. The later ones and the pairs are asked in
    the refined space, which is not known yet: those of the plain space stand in for them, as many and of the
    same kind.

    Args:
        corpus: The texts.
        vectors: Their plain vectors, shape (n_texts, dim).
        oracle: Whose worst case counts; ``None`` or one without: tokens stay unknown.
        plugins: Know prices.
        settings: Of the fit.
    """
    perspective = [
        question
        for iteration in range(settings.iterations)
        for question in perspective_questions(corpus, vectors, settings, iteration)
    ]
    is_open = settings.low != settings.high
    pairs = granularity_questions(corpus, vectors, settings)[1] if is_open else []
    quote: dict[str, Any] = {
        "questions": {"perspective": len(perspective), "granularity": len(pairs)},
        "exact": settings.iterations == 1,
        "input_tokens_at_most": None,
        "output_tokens_at_most": None,
        "cost_at_most": None,
    }
    if oracle is not None and has_methods(oracle, "worst_case"):
        total = _worst_case([*perspective, *pairs], oracle, plugins)
        quote["input_tokens_at_most"] = total.input_tokens
        quote["output_tokens_at_most"] = total.output_tokens
        quote["cost_at_most"] = total.cost
    return quote


def quote_auto(
    corpus: Corpus, oracle: Oracle | None, plugins: Plugins, settings: FitSettings, max_tokens: int | None
) -> dict[str, Any]:
    """Return bounds of what ``method="auto"`` asks, which decides as it goes, and an estimate.

    The bounds are never passed: as many questions as may be asked, each of the longest texts. The estimate takes
    texts of mean length.

    Args:
        corpus: The texts.
        oracle: Whose worst case counts; ``None`` or one without: tokens stay unknown.
        plugins: Know prices.
        settings: Of the fit.
        max_tokens: The cap, by which the size of questions is chosen.
    """
    is_open = settings.low != settings.high
    counts = {
        "perspective": settings.max_questions,
        "granularity": settings.max_granularity_questions if is_open else 0,
    }
    texts = [corpus.texts[position] for position in corpus.distinct]
    shape = shape_for(texts, settings.max_questions, max_tokens)
    quote: dict[str, Any] = {
        "questions": counts,
        "exact": False,
        "input_tokens_estimated": round(
            sum(
                counts[kind] * tokens_of(texts, candidates, shape.exemplars)
                for kind, candidates in (("perspective", shape.candidates), ("granularity", shape.piece_candidates))
            )
        ),
        "input_tokens_at_most": None,
        "output_tokens_at_most": None,
        "cost_at_most": None,
    }
    if oracle is not None and has_methods(oracle, "worst_case") and len(texts) > 2:
        total = Usage()
        longest = sorted(corpus.distinct.tolist(), key=lambda position: -len(corpus.texts[position].encode()))
        for kind, candidates in (("perspective", shape.candidates), ("granularity", shape.piece_candidates)):
            question = _widest(corpus, longest, candidates, shape.exemplars, settings.instruction)
            each = _worst_case([question], oracle, plugins)
            cost = None if each.cost is None else each.cost * counts[kind]
            number = counts[kind]
            total += Usage(each.input_tokens * number, each.output_tokens * number, number, cost)
        quote["input_tokens_at_most"] = total.input_tokens
        quote["output_tokens_at_most"] = total.output_tokens
        quote["cost_at_most"] = total.cost
    return quote


def first_questions(
    fit: Callable[[Session], object], oracle: Oracle, redaction: Redaction, most: int
) -> list[Question]:
    """Return the first questions that a fit asks, at most ``most``, as an oracle would get them; nobody is asked.

    Later questions may hang on the answers: here all abstain.

    Args:
        fit: Runs the fit with a session.
        oracle: Who would be asked.
        redaction: What is taken out of each question.
        most: How many are wanted.
    """
    spy = _Spy(oracle, most)
    # No plugin sees this session: it is no run. What it warns of says nothing about one either.
    with AnswerStore() as store, warnings.catch_warnings():
        warnings.simplefilter("ignore", ClusterLLMWarning)
        try:
            if most > 0:
                fit(Session(spy, plugins=Plugins(discover=False), store=store, redaction=redaction))
        except _EnoughError:
            pass
    return spy.seen


class _EnoughError(OracleError):
    """As many questions as wanted were seen."""


class _Spy:
    """Stands for an oracle, keeps what it is asked, and abstains."""

    fingerprint = "nobody"

    def __init__(self, oracle: Oracle, most: int) -> None:
        self.seen: list[Question] = []
        self._most = most
        if not has_methods(oracle, "describe"):  # else questions are kept back for names
            self.describe = None  # type: ignore[assignment, method-assign]

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        for question in questions:
            self.seen.append(question)
            if len(self.seen) >= self._most:
                raise _EnoughError("enough questions were seen", fatal=True)
            yield Answer(None)

    def describe(self, texts: Sequence[str]) -> Completion:
        return Completion("")


def _widest(corpus: Corpus, longest: list[int], candidates: int, exemplars: int, instruction: str | None) -> Question:
    """Return a question as long as any can be: the longest texts, over and over where there are few."""
    shown = [longest[place % len(longest)] for place in range(candidates * exemplars)]
    groups = [shown[start : start + exemplars] for start in range(0, len(shown), exemplars)]
    return choice_question(corpus.texts, longest[0], groups, none=True, instruction=instruction)


def _worst_case(questions: list[Question], oracle: Oracle, plugins: Plugins) -> Usage:
    worst: list[Usage] = [oracle.worst_case(question) for question in questions]  # type: ignore[attr-defined]
    try:
        return sum((_priced(usage, oracle, plugins) for usage in worst), Usage())
    except Exception as error:
        # As in a session: a plugin that cannot price does not stop the work.
        log.warning("price_usage failed with %s: %s; the cost is unknown", type(error).__name__, error)
        return sum(worst, Usage())


def _priced(usage: Usage, oracle: Oracle, plugins: Plugins) -> Usage:
    if usage.cost is not None:
        return usage
    return replace(usage, cost=plugins.hook.price_usage(usage=usage, oracle=oracle))
