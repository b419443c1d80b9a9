"""What a fit would ask and take, before anything is spent."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from clusterllm_plugins.asking import Session
from clusterllm_plugins.corpus import Corpus
from clusterllm_plugins.describing import Asked, Description, told
from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.fitting import FitSettings, granularity_questions, perspective_questions
from clusterllm_plugins.guided.checks import CHECK_CANDIDATES, MOST_DUELS
from clusterllm_plugins.guided.fit import DUEL_SHARE, NAMED_BY, names_wanted
from clusterllm_plugins.guided.planning import Shape, shape_for
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.prompts import render_description
from clusterllm_plugins.protocols import Embedder, Oracle, Vectors, has_methods
from clusterllm_plugins.questions import Answer, Completion, OracleError, Question, Usage, choice_question
from clusterllm_plugins.redaction import Redaction
from clusterllm_plugins.store import AnswerStore

log = logging.getLogger(__name__)

_SAMPLES = 40  # random questions that stand for all of a stage
_CLUSTERS_SHARE = 0.3  # of the questions are about whole clusters where the number is given; chosen, not fitted

Items = list[tuple[float, Asked]]  # how many, and of what


def quote_paper(
    corpus: Corpus, vectors: Vectors, oracle: Oracle | None, plugins: Plugins, settings: FitSettings
) -> dict[str, Any]:
    """Return the questions of ``method="paper"``, what they are expected to take, and upper bounds of that.

    The questions of the first iteration are those that a fit asks. The later ones and the pairs are asked in
    the refined space, which is not known yet: those of the plain space stand in for them, as many and of the
    same kind. Names are not asked for.

    Args:
        corpus: The texts.
        vectors: Their plain vectors, shape (n_texts, dim).
        oracle: Who is asked; ``None`` or one that cannot say what a question takes: tokens stay unknown.
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
    questions = [*perspective, *pairs]
    counts = {"perspective": len(perspective), "granularity": len(pairs), "names": 0}
    expected = _total([(1, question) for question in questions], "expected", oracle, plugins)
    most = _total([(1, question) for question in questions], "worst_case", oracle, plugins)
    return _quote(counts, expected, most, exact=settings.iterations == 1)


def quote_auto(
    corpus: Corpus,
    oracle: Oracle | None,
    plugins: Plugins,
    settings: FitSettings,
    max_tokens: int | None,
    max_cost: float | None = None,
) -> dict[str, Any]:
    """Return bounds of what ``method="auto"`` asks, which decides as it goes, and what that is expected to take.

    The bounds are never passed by a fit in which nothing fails: as many questions as may be asked, each of the
    longest texts. What is expected is that as many are asked, of random texts, as large as they are in each stage.

    Args:
        corpus: The texts.
        oracle: Who is asked; ``None`` or one that cannot say what a question takes: tokens stay unknown.
        plugins: Know prices.
        settings: Of the fit.
        max_tokens: The cap, by which the size of questions is chosen.
        max_cost: The cap in US dollars.
    """
    is_open = settings.low != settings.high
    can_name = oracle is not None and has_methods(oracle, "describe")
    names = min(names_wanted(settings), settings.max_questions) if can_name else 0
    counts = {
        "perspective": settings.max_questions - names,
        "granularity": settings.max_granularity_questions if is_open else 0,
        "names": names,
    }
    if len(corpus.distinct) < 3:
        return _quote(counts, None, None, exact=False)
    texts = [corpus.texts[position] for position in corpus.distinct]
    shape = shape_for(texts, settings.max_questions, max_tokens)
    expected = _total(_typical(corpus, shape, counts, settings), "expected", oracle, plugins)
    most = _total(_widest(corpus, shape, counts, settings), "worst_case", oracle, plugins)
    return _quote(counts, _capped(expected, max_tokens, max_cost), _capped(most, max_tokens, max_cost), exact=False)


def quote_embedding(corpus: Corpus, embedder: Embedder) -> dict[str, Any]:
    """Return under ``embedding`` what embedding the texts takes, where the embedder says so, else nothing."""
    if not has_methods(embedder, "expected", "worst_case"):
        return {}
    texts = [corpus.texts[position] for position in corpus.distinct]
    expected, most = (getattr(embedder, name)(texts) for name in ("expected", "worst_case"))
    quote = {"input_tokens": expected.input_tokens, "cost": expected.cost}
    return {"embedding": quote | {"input_tokens_at_most": most.input_tokens, "cost_at_most": most.cost}}


def _quote(counts: dict[str, int], expected: Usage | None, most: Usage | None, *, exact: bool) -> dict[str, Any]:
    quote: dict[str, Any] = {"questions": counts, "exact": exact}
    for usage, suffix in ((expected, ""), (most, "_at_most")):
        for name in ("input_tokens", "output_tokens", "cost"):
            quote[name + suffix] = None if usage is None else getattr(usage, name)
    return quote


def _capped(usage: Usage | None, max_tokens: int | None, max_cost: float | None) -> Usage | None:
    """Return what is taken where a hard cap ends it."""
    if usage is None:
        return None
    limit = usage.tokens if max_tokens is None else max_tokens
    cost = usage.cost if usage.cost is None or max_cost is None else min(usage.cost, max_cost)
    return Usage(min(usage.input_tokens, limit), min(usage.output_tokens, limit), usage.requests, cost)


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


def _widest(corpus: Corpus, shape: Shape, counts: dict[str, int], settings: FitSettings) -> Items:
    """Return questions and names as long as any can be: the longest texts, over and over where there are few."""
    longest = sorted(corpus.distinct.tolist(), key=lambda position: -len(corpus.texts[position].encode()))

    def question(candidates: int) -> Question:
        shown = [longest[place % len(longest)] for place in range(candidates * shape.exemplars)]
        return _choice(corpus, longest[0], shown, shape.exemplars, settings)

    named = Description(tuple(corpus.texts[place] for place in longest[:NAMED_BY]), settings.instruction)
    # The checks show as many groups whatever the shape.
    return [
        (counts["perspective"], question(max(shape.candidates, shape.piece_candidates, CHECK_CANDIDATES))),
        (counts["granularity"], question(shape.piece_candidates)),
        (counts["names"], named),
    ]


def _typical(corpus: Corpus, shape: Shape, counts: dict[str, int], settings: FitSettings) -> Items:
    """Return random questions and names, as large as they are in each stage, each with how many it stands for."""
    rng = np.random.default_rng(0)
    asked, most = counts["perspective"], settings.high
    duels = min(MOST_DUELS, asked // DUEL_SHARE)
    about_clusters = int(_CLUSTERS_SHARE * asked) if settings.low == settings.high else 0
    sizes = [
        (asked - duels - about_clusters, min(shape.candidates, most)),
        (about_clusters, min(shape.piece_candidates, max(2, most - 1))),
        (duels, 2),
        (counts["granularity"], shape.piece_candidates),
    ]
    items: Items = []
    for number, candidates in sizes:
        for _ in range(_SAMPLES if number > 0 else 0):
            drawn = rng.choice(corpus.distinct, 1 + max(2, candidates) * shape.exemplars).tolist()
            items.append((number / _SAMPLES, _choice(corpus, drawn[0], drawn[1:], shape.exemplars, settings)))
    for _ in range(_SAMPLES if counts["names"] else 0):
        drawn = rng.choice(corpus.distinct, NAMED_BY).tolist()
        named = Description(tuple(corpus.texts[place] for place in drawn), settings.instruction)
        items.append((counts["names"] / _SAMPLES, named))
    return items


def _choice(corpus: Corpus, anchor: int, shown: list[int], exemplars: int, settings: FitSettings) -> Question:
    groups = [shown[start : start + exemplars] for start in range(0, len(shown), exemplars)]
    return choice_question(corpus.texts, anchor, groups, none=True, instruction=settings.instruction)


def _total(items: Items, method: str, oracle: Oracle | None, plugins: Plugins) -> Usage | None:
    """Return what all of ``items`` take by a method of ``oracle``, or None where it has none."""
    if oracle is None or not has_methods(oracle, method):
        return None
    capable: Any = oracle
    asked = [(number, item) for number, item in items if number > 0]
    if any(isinstance(item, Description) for _, item in asked) and not has_methods(oracle, f"{method}_of"):
        return None  # what a name takes is unknown
    parts = []
    for number, item in asked:
        if isinstance(item, Description):
            prompt = render_description(item.texts, told(oracle, item.instruction))
            parts.append((number, getattr(capable, f"{method}_of")(prompt)))
        else:
            parts.append((number, getattr(capable, method)(item)))
    try:
        return _sum([(number, _priced(usage, oracle, plugins)) for number, usage in parts])
    except Exception as error:
        # As in a session: a plugin that cannot price does not stop the work.
        log.warning("price_usage failed with %s: %s; the cost is unknown", type(error).__name__, error)
        return _sum(parts)


def _sum(parts: list[tuple[float, Usage]]) -> Usage:
    """Return the weighted sum, rounded up to whole tokens; the cost is known where that of each part is."""
    costs = [number * usage.cost for number, usage in parts if usage.cost is not None]

    def total(name: str) -> int:
        return math.ceil(math.fsum(number * getattr(usage, name) for number, usage in parts) - 1e-6)

    cost = math.fsum(costs) if parts and len(costs) == len(parts) else None
    return Usage(total("input_tokens"), total("output_tokens"), total("requests"), cost)


def _priced(usage: Usage, oracle: Oracle, plugins: Plugins) -> Usage:
    if usage.cost is not None:
        return usage
    return replace(usage, cost=plugins.hook.price_usage(usage=usage, oracle=oracle))
