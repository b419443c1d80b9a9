"""What is asked and what comes back.

A :class:`Question` is either a *choice* (an anchor text and two or more groups of exemplars: which group does
the anchor belong to?) or a *pair* (are these two of the same category?). The paper's triplet (section 3.1) is
a choice between two groups of one exemplar each, without "none". An :class:`Answer` picks one of the
question's choices or abstains.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

NONE = "none"
NOT_ASKED = "not asked"  # how the error of an answer begins that a cap forbade

Indices = tuple[int | tuple[int, ...], ...]
Texts = tuple[str | tuple[str, ...], ...]


@dataclass(frozen=True)
class Question:
    """One question about texts.

    Attributes:
        kind: ``"choice"`` or ``"pair"``.
        indices: Positions in the list of texts. Choice: ``(anchor, (a1, a2, ..), (b1, ..), ...)``; pair:
            ``(left, right)``.
        texts: The texts at ``indices``, in the same shape.
        choices: The admissible answers. Choice: ``"1"``, ``"2"``, ... in the order shown, and ``"none"`` last
            where none-of-them is admissible; pair: ``("yes", "no")``.
        instruction: The perspective in words, for example ``"in terms of the customer's intent"``.
        demonstrations: Worked examples ``(left, right, "yes" | "no")`` shown with a pair question.
        repeat: The n-th asking of the same question; a question of its own for store and caps.

    Raises:
        ValueError: If the parts do not fit together.
    """

    kind: Literal["choice", "pair"]
    indices: Indices
    texts: Texts
    choices: tuple[str, ...]
    instruction: str | None = None
    demonstrations: tuple[tuple[str, str, str], ...] = ()
    repeat: int = 0

    def __post_init__(self) -> None:
        for name in ("indices", "texts", "choices", "demonstrations"):
            object.__setattr__(self, name, _as_tuples(getattr(self, name)))
        if self.kind not in ("choice", "pair"):
            raise ValueError(f"a question's kind is 'choice' or 'pair', not {self.kind!r}")
        if _shape(self.indices) != _shape(self.texts):
            raise ValueError(f"indices {self.indices!r} and texts do not have the same shape")
        if self.kind == "pair":
            self._check_pair()
        else:
            self._check_choice()

    def _check_pair(self) -> None:
        if _shape(self.indices) != (1, 1):
            raise ValueError(f"a pair's indices are (left, right), not {self.indices!r}")
        if self.choices != ("yes", "no"):
            raise ValueError(f"a pair's choices are ('yes', 'no'), not {self.choices!r}")

    def _check_choice(self) -> None:
        shape = _shape(self.indices)
        groups = shape[1:]
        if len(groups) < 2 or shape[0] != 1 or not all(isinstance(g, tuple) and set(g) == {1} for g in groups):
            raise ValueError(f"a choice's indices are (anchor, (a1, ..), (b1, ..), ...), not {self.indices!r}")
        numbers = tuple(str(number) for number in range(1, len(groups) + 1))
        if self.choices not in (numbers, (*numbers, NONE)):
            raise ValueError(
                f"the choices of {len(groups)} groups are {numbers!r}, with 'none' last or without it, "
                f"not {self.choices!r}"
            )

    @property
    def anchor(self) -> str:
        """The anchor's text (of a pair: the left text)."""
        return cast(str, self.texts[0])

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The exemplars' texts, a tuple per candidate group (of a pair: the right text alone)."""
        return tuple(group if isinstance(group, tuple) else (group,) for group in self.texts[1:])

    @property
    def anchor_index(self) -> int:
        """The anchor's position (of a pair: the left text's)."""
        return cast(int, self.indices[0])

    @property
    def group_indices(self) -> tuple[tuple[int, ...], ...]:
        """The exemplars' positions, a tuple per candidate group (of a pair: the right text's alone)."""
        return tuple(group if isinstance(group, tuple) else (group,) for group in self.indices[1:])

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict with every field."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Question:
        """Make a question from what :meth:`to_dict` returned, also after a trip through JSON."""
        return cls(**{f.name: record[f.name] for f in fields(cls) if f.name in record})

    def canonical(self, *, with_indices: bool) -> str:
        """Return the question as JSON that is equal for equal questions: the store's key.

        Args:
            with_indices: Whether the same texts at other positions are another question.
        """
        record = self.to_dict()
        if not with_indices:
            del record["indices"]
        return json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def triplet_question(
    texts: Sequence[str], anchor: int, first: int, second: int, instruction: str | None = None
) -> Question:
    """Return the paper's triplet: does ``anchor`` go with ``first`` or with ``second``?"""
    return choice_question(texts, anchor, [[first], [second]], none=False, instruction=instruction)


def choice_question(
    texts: Sequence[str],
    anchor: int,
    groups: Sequence[Sequence[int]],
    *,
    none: bool,
    instruction: str | None = None,
) -> Question:
    """Return a choice between groups of exemplars.

    Args:
        texts: All texts; the positions below point into it.
        anchor: The position of the text in question.
        groups: The positions of each candidate group's exemplars, in the order shown.
        none: Whether "none of them" is admissible.
        instruction: The perspective in words.
    """
    numbers = tuple(str(number) for number in range(1, len(groups) + 1))
    return Question(
        kind="choice",
        indices=(anchor, *(tuple(group) for group in groups)),
        texts=(texts[anchor], *(tuple(texts[i] for i in group) for group in groups)),
        choices=(*numbers, NONE) if none else numbers,
        instruction=instruction,
    )


def pair_question(
    texts: Sequence[str],
    left: int,
    right: int,
    *,
    instruction: str | None = None,
    demonstrations: Sequence[tuple[str, str, str]] = (),
) -> Question:
    """Return the question whether ``left`` and ``right`` are of the same category (paper, section 3.2)."""
    return Question(
        kind="pair",
        indices=(left, right),
        texts=(texts[left], texts[right]),
        choices=("yes", "no"),
        instruction=instruction,
        demonstrations=tuple(demonstrations),
    )


@dataclass(frozen=True)
class Usage:
    """What answering took: tokens, requests, and US dollars where known (``None`` = unknown)."""

    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0
    cost: float | None = None

    def __add__(self, other: Usage) -> Usage:
        # The cost of a sum is known only where that of every part is which took anything.
        known = [part.cost for part in (self, other) if part.cost is not None]
        unknown = any(part.cost is None and (part.requests or part.tokens) for part in (self, other))
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.requests + other.requests,
            None if unknown or not known else sum(known),
        )

    def priced(self, per_input: float | None, per_output: float | None) -> Usage:
        """Return the same with its cost, at prices in US dollars per million tokens; as it is where one is unknown."""
        if per_input is None or per_output is None:
            return self
        cost = (self.input_tokens * per_input + self.output_tokens * per_output) / 1e6
        return Usage(self.input_tokens, self.output_tokens, self.requests, cost)

    @property
    def tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens


@dataclass
class Answer:
    """What an oracle said to one question.

    Attributes:
        choice: One of the question's choices, or ``None`` = abstained.
        confidence: The oracle's own, in [0, 1], or ``None``.
        usage: What this answer took.
        error: ``None``, or why the oracle abstained.
        failed: Whether this is no answer, since all attempts to get one failed: it is not kept, and the next run asks
            again.
    """

    choice: str | None
    confidence: float | None = None
    usage: Usage = field(default_factory=Usage)
    error: str | None = None
    failed: bool = False

    @property
    def refused(self) -> bool:
        """Whether a cap forbade to ask."""
        return self.choice is None and (self.error or "").startswith(NOT_ASKED)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able dict with every field; ``failed`` only where it is true."""
        record: dict[str, Any] = {
            "choice": self.choice,
            "confidence": self.confidence,
            "usage": {f.name: getattr(self.usage, f.name) for f in fields(self.usage)},
            "error": self.error,
        }
        return record | {"failed": True} if self.failed else record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Answer:
        """Make an answer from what :meth:`to_dict` returned."""
        usage = Usage(**record.get("usage", {}))
        failed = bool(record.get("failed", False))
        return cls(record["choice"], record.get("confidence"), usage, record.get("error"), failed)


@dataclass(frozen=True)
class Completion:
    """What a language model wrote: the text, what it took, and a confidence in [0, 1] where it has one.

    Where ``error`` says why there is no answer in it (a refusal, a reply that was cut short), the text is not read.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    confidence: float | None = None
    error: str | None = None


class OracleError(Exception):
    """An oracle's trouble.

    Args:
        message: One line: what, where, what to do.
        retryable: Whether the same question may succeed later.
        retry_after: Seconds to wait before that, where the provider says so.
        fatal: Whether no question can succeed (a wrong key or model); the run stops.

    Attributes:
        asked: Where it ended a fit, the questions and answers that the fit had by then.
        usage: Likewise, what these took.
        tally: Likewise, where they came from, by name.
    """

    def __init__(
        self, message: str, *, retryable: bool = False, retry_after: float | None = None, fatal: bool = False
    ) -> None:
        super().__init__(message)
        self.asked: list[tuple[Question, Answer]] = []
        self.usage = Usage()
        self.tally: dict[str, int] = {}
        self.retryable = retryable
        self.retry_after = retry_after
        self.fatal = fatal


def _as_tuples(value: Any) -> Any:
    """Return lists, also nested ones, as tuples (JSON has only lists; a frozen question must not change)."""
    if isinstance(value, list | tuple):
        return tuple(_as_tuples(item) for item in value)
    return value


def _shape(nested: Sequence[Any]) -> tuple[Any, ...]:
    """Return the nesting of ``nested``, with 1 for each leaf."""
    return tuple(_shape(item) if isinstance(item, tuple) else 1 for item in nested)
