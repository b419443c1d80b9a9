"""Redaction: what must not leave the machine is taken out of every text before anything else sees it.

In: texts and the user's redactors, in their order. Out: redacted texts. It fails closed: where a redactor
raises or returns something else than a text, nothing goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.plugins import Redactor
from clusterllm_plugins.questions import Question


class RedactedText(str):
    """A text that redactors have passed: known by its type, as a raw text may read the same."""

    __slots__ = ()


class Redaction:
    """Applies redactors in their order; a text that they have passed passes a second time unchanged."""

    def __init__(self, redactors: Sequence[tuple[str, Redactor]] = ()) -> None:
        self._redactors = list(redactors)

    def text(self, text: str) -> str:
        """Return ``text`` with everything redacted.

        Raises:
            ClusterLLMError: If a redactor fails; the message never shows the text.
        """
        if not self._redactors or isinstance(text, RedactedText):
            return text
        for name, redactor in self._redactors:
            try:
                text = redactor(text)
            except Exception as error:
                # The error's own words might quote the text.
                raise ClusterLLMError(
                    f"redactor {name!r} failed with {type(error).__name__}: nothing was sent"
                ) from None
            if not isinstance(text, str):
                raise ClusterLLMError(
                    f"redactor {name!r} returned {type(text).__name__} instead of a text: nothing was sent"
                )
        return RedactedText(text)

    def question(self, question: Question) -> Question:
        """Return ``question`` with its texts and demonstrations redacted."""
        if not self._redactors:
            return question
        demonstrations = tuple(
            (self.text(left), self.text(right), verdict) for left, right, verdict in question.demonstrations
        )
        return replace(question, texts=self._nested(question.texts), demonstrations=demonstrations)

    def _nested(self, texts: Any) -> Any:
        if isinstance(texts, str):
            return self.text(texts)
        return tuple(self._nested(text) for text in texts)
