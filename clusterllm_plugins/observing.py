"""The plugins' hooks as one session calls them: where one fails, that is logged once and the work goes on."""

from __future__ import annotations

import logging
import threading
from typing import Any

from clusterllm_plugins.describing import Asked
from clusterllm_plugins.keys import without_keys
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.protocols import Oracle
from clusterllm_plugins.questions import Answer, Question, Usage

log = logging.getLogger(__name__)


class Hooks:
    """Calls hooks about one oracle, from any thread.

    Args:
        plugins: Whose hooks.
        oracle: Who is asked.
    """

    def __init__(self, plugins: Plugins, oracle: Oracle) -> None:
        self._hook = plugins.hook
        self._oracle = oracle
        self._reported: set[str] = set()
        self._lock = threading.Lock()

    def recall(self, question: Question) -> object:
        """Return what a plugin knows as the answer to ``question``, unchecked, or None."""
        try:
            return self._hook.recall_answer(question=question, oracle=self._oracle)
        except Exception as error:
            self._report_once("recall_answer", error)
            return None

    def price(self, usage: Usage) -> float | None:
        """Return the US dollars of ``usage``, or None where no plugin knows them."""
        try:
            price = self._hook.price_usage(usage=usage, oracle=self._oracle)
        except Exception as error:
            self._report_once("price_usage", error)
            return None
        return None if price is None else float(price)

    def received(self, question: Question, answer: Answer) -> None:
        """Tell of an answer that was just paid for."""
        self._tell("answer_received", question=question, answer=answer)

    def given(self, question: Asked, answer: Answer, source: str, attempts: int = 0, seconds: float = 0.0) -> None:
        """Tell of any answer; the arguments are those of the hook ``answer_given``."""
        self._tell("answer_given", question=question, answer=answer, source=source, attempts=attempts, seconds=seconds)

    def _tell(self, hook: str, **arguments: Any) -> None:
        arguments["oracle"] = self._oracle
        for implementation in getattr(self._hook, hook).get_hookimpls():
            try:
                implementation.function(*(arguments[name] for name in implementation.argnames))
            except Exception as error:
                self._report_once(f"{hook} of plugin {implementation.plugin_name!r}", error)

    def _report_once(self, what: str, error: Exception) -> None:
        with self._lock:
            new = what not in self._reported
            self._reported.add(what)
        if new:
            reason = without_keys(str(error))
            log.warning("%s failed with %s: %s; the work goes on", what, type(error).__name__, reason)
