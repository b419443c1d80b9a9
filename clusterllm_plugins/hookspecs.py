"""The whole plugin contract: the hooks that a plugin may implement.

A plugin is a module, named by an entry point of the group ``clusterllm``, whose functions carry
``@hookimpl``::

    from clusterllm_plugins import hookimpl

    @hookimpl
    def register_oracles(register):
        register("acme", "clusterllm_acme.oracle:AcmeOracle")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import pluggy

from clusterllm_plugins.describing import Asked
from clusterllm_plugins.protocols import Oracle
from clusterllm_plugins.questions import Answer, Question, Usage

PROJECT = "clusterllm"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

Factory = Callable[..., Any] | str


class Register(Protocol):
    """Adds one component under a name."""

    def __call__(self, name: str, factory: Factory) -> None:
        """Register ``factory`` as ``name``.

        Args:
            name: What users write in a config; an error where it is taken.
            factory: A callable, or ``"package.module:Class"``, which is imported only when it is used and so
                keeps discovery cheap. Its parameters are the component's settings.
        """


@hookspec
def register_oracles(register: Register) -> None:
    """Add oracles: ``register(name, factory)``; the factory returns an :class:`Oracle`."""


@hookspec
def register_embedders(register: Register) -> None:
    """Add embedders: ``register(name, factory)``; the factory returns an :class:`Embedder`."""


@hookspec
def register_redactors(register: Register) -> None:
    """Add redactors: ``register(name, factory)``; the factory returns a callable from str to str.

    Redactors run in the order of the user's setting and fail closed: where one raises, nothing is sent.
    """


@hookspec(firstresult=True)
def recall_answer(question: Question, oracle: Oracle) -> Answer | None:
    """Return an answer that is already known for the (redacted) question, or None; the first one counts."""


@hookspec
def answer_received(question: Question, answer: Answer, oracle: Oracle) -> None:
    """Observe an answer that was just paid for; an error here is logged once and the work goes on."""


@hookspec
def answer_given(question: Asked, answer: Answer, oracle: Oracle, source: str, attempts: int, seconds: float) -> None:
    """Observe every answer that a session gives, paid for or not; an error here is logged once and the work goes on.

    Args:
        question: What was asked, redacted: a :class:`Question`, or a :class:`Description`, whose answer is a name.
        answer: The answer, or the abstention that stands for none.
        oracle: Who was to be asked.
        source: ``"asked"``, ``"recalled"`` (from the store or a plugin), ``"known"`` (given by the user),
            ``"failed"`` (in all attempts) or ``"refused"`` (by a cap).
        attempts: How often the oracle was asked for it now.
        seconds: How long the last attempt took.
    """


@hookspec(firstresult=True)
def price_usage(usage: Usage, oracle: Oracle) -> float | None:
    """Return what ``usage`` costs in US dollars, or None where unknown; the first one counts."""
