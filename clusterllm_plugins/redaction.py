"""Redaction: what must not leave the machine is taken out of every text before anything else sees it.

In: texts and the user's redactors, in their order. Out: redacted texts. It fails closed: where a redactor
raises or returns something else than a text, nothing goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.plugins import Redactor
from clusterllm_plugins.questions import Question


class RedactedText(str):
    """A text that redactors have passed: known by its type, as a raw text may read the same.

    Attributes:
        by: The redaction whose redactors these were: others may take out more.
    """

    __slots__ = ("by",)
    by: Redaction

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Be a plain text to pickle and copy, which is redacted once more where it goes anywhere."""
        return str, (str(self),)


class Redaction:
    """Applies redactors in their order; a text that they have passed passes a second time unchanged."""

    def __init__(self, redactors: Sequence[tuple[str, Redactor]] = ()) -> None:
        self._redactors = list(redactors)

    def text(self, text: str) -> str:
        """Return ``text`` with everything redacted.

        Raises:
            ClusterLLMError: If a redactor fails; the message never shows the text.
        """
        if not self._redactors or getattr(text, "by", None) is self:
            return text
        for name, redactor in self._redactors:
            failure = None
            try:
                text = redactor(text)
            except Exception as error:
                failure = type(error).__name__
            if failure is not None:
                # Here, where the error is not its context: that one's own words might quote the text.
                raise ClusterLLMError(f"redactor {name!r} failed with {failure}: nothing was sent")
            if not isinstance(text, str):
                raise ClusterLLMError(
                    f"redactor {name!r} returned {type(text).__name__} instead of a text: nothing was sent"
                )
        redacted = RedactedText(text)
        redacted.by = self
        return redacted

    def question(self, question: Question) -> Question:
        """Return ``question`` with its texts and demonstrations redacted."""
        if not self._redactors:
            return question
        shown = tuple(self.demonstrations(question.demonstrations))
        return replace(question, texts=self._nested(question.texts), demonstrations=shown)

    def demonstrations(self, examples: Iterable[Sequence[str]]) -> list[tuple[str, str, str]]:
        """Return worked examples, (left, right, verdict) each, with their texts redacted."""
        return [(self.text(left), self.text(right), verdict) for left, right, verdict in examples]

    def _nested(self, texts: Any) -> Any:
        if isinstance(texts, str):
            return self.text(texts)
        return tuple(self._nested(text) for text in texts)
