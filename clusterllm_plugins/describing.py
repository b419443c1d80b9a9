"""Names for groups of texts as something that a session asks for: a description beside the question.

A description takes the same way as a question (caps, retries, rate limits, store), so that the session has one way
only; what differs between the two stands here.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from clusterllm_plugins.keys import without_held_keys
from clusterllm_plugins.prompts import parse_name, render_description
from clusterllm_plugins.protocols import Oracle, has_methods, optional
from clusterllm_plugins.questions import Answer, Completion, Question, Usage


@dataclass(frozen=True)
class Description:
    """A (redacted) group of texts for which a name is wanted.

    The ``choice`` of its answer is the name, or None where the reply held none.

    Attributes:
        texts: The group, shape (n_texts,).
        instruction: The perspective in words, as far as it is told to the oracle.
    """

    texts: tuple[str, ...]
    instruction: str | None = None

    def canonical(self, *, with_indices: bool = False) -> str:
        """Return JSON that is equal for equal groups and equals no question's; there are no indices in it."""
        record: dict[str, Any] = {"kind": "description", "texts": self.texts}
        if self.instruction:  # else the key is that of names which were stored before there was one
            record["instruction"] = self.instruction
        return json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


Asked = Question | Description


def told(oracle: Oracle, instruction: str | None) -> str | None:
    """Return ``instruction`` where the naming method of ``oracle`` takes it, else None: names are asked without."""
    method = getattr(oracle, "describe_all" if has_methods(oracle, "describe_all") else "describe")
    return (instruction or None) if _takes_instruction(method) else None


def named_by(method: Callable[..., Any], what: Any, instruction: str | None) -> Any:
    """Return what a naming method gives for ``what``, told the perspective if there is one and it takes one."""
    return method(what, instruction=instruction) if instruction and _takes_instruction(method) else method(what)


def _takes_instruction(method: Callable[..., Any]) -> bool:
    return "instruction" in inspect.signature(method).parameters


def states_worst_case(oracle: Oracle, asked: Asked) -> bool:
    """Return whether ``oracle`` can say what asking takes at most."""
    return has_methods(oracle, "worst_case_of" if isinstance(asked, Description) else "worst_case")


def worst_case(oracle: Oracle, asked: Asked) -> Usage:
    """Return the most that one attempt takes, where ``oracle`` can say it."""
    capable: Any = oracle
    usage: Usage = (
        capable.worst_case_of(render_description(asked.texts, asked.instruction))
        if isinstance(asked, Description)
        else capable.worst_case(asked)
    )
    return usage


def at_once(oracle: Oracle, *, naming: bool) -> int:
    """Return how many questions, or groups to be named, ``oracle`` takes in one call."""
    together = not naming or has_methods(oracle, "describe_all")
    return max(1, int(optional(oracle, "batch_size", 1))) if together else 1


def replies(oracle: Oracle, asked: Sequence[Asked]) -> Iterable[Answer]:
    """Ask ``oracle``: one answer each, in order; all are questions, or all are descriptions."""
    descriptions = [item for item in asked if isinstance(item, Description)]
    if not descriptions:
        return oracle.answer(cast(Sequence[Question], asked))
    capable: Any = oracle
    perspective = descriptions[0].instruction  # all are of one session, which has one
    if has_methods(oracle, "describe_all"):
        return map(_named, named_by(capable.describe_all, [item.texts for item in descriptions], perspective))
    # One by one as they are taken, so that each is kept before the next is asked for.
    return (_named(named_by(capable.describe, item.texts, perspective)) for item in descriptions)


def _named(completion: object) -> Answer:
    """Return the name that an oracle wrote as an answer; one that cannot be read abstains."""
    if isinstance(completion, Answer):  # a name that was read before
        return completion
    if not isinstance(completion, Completion):
        return Answer(None, error=f"the oracle gave {type(completion).__name__} instead of a Completion")
    if completion.error:
        return Answer(None, usage=completion.usage, error=completion.error)
    text = without_held_keys(str(completion.text or ""))
    name = parse_name(text)
    error = None if name else f"unreadable reply: {text[:80]!r}"
    return Answer(name, completion.confidence, completion.usage, error)
