"""What a fit would ask and take, before anything is spent."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from clusterllm_plugins.corpus import Corpus
from clusterllm_plugins.fitting import FitSettings, granularity_questions, perspective_questions
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.protocols import Oracle, Vectors, has_methods
from clusterllm_plugins.questions import Question, Usage

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
