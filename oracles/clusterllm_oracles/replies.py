"""What the body of a chat completion says, by HTTP or in a file: a reply, what it took, or why there is none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from clusterllm_oracles.logprobs import confidence_of
from clusterllm_oracles.prices import Prices
from clusterllm_plugins.keys import without_held_keys
from clusterllm_plugins.prompts import parse, parse_name
from clusterllm_plugins.questions import Completion, Usage

SHOWN = 80  # characters of a reply that cannot be read


def completion_of(
    body: Mapping[str, Any],
    choices: Sequence[str],
    in_json: bool,
    worst: Usage,
    prices: Prices,
    secrets: Sequence[str] = (),
) -> Completion:
    """Return the completion in the body of a response.

    Args:
        body: A chat completion.
        choices: The admissible answers; none where the reply is free.
        in_json: Whether a choice is to be the only property, ``choice``, of a JSON object.
        worst: What it took where the body does not say it.
        prices: US dollars per million input and output tokens, ``None`` where unknown.
        secrets: Keys, which a reply that says them back must not carry on.
    """
    usage = (_usage(body) or worst).priced(*prices)
    first = at(body, "choices", 0)
    text = without_held_keys(text_of(at(first, "message", "content")).strip(), secrets)
    strictly = in_json and bool(choices)
    if strictly:
        read = choice = choice_in_json(text, choices)
    else:
        choice = parse(text, choices) if choices else None
        read = choice if choices else parse_name(text)
    if read is None and (error := _reason(first, text, strictly, worst.output_tokens, secrets)):
        return Completion(text, usage, error=error)
    if choice is None:
        return Completion(text, usage)
    tokens = at(first, "logprobs", "content")
    reading = None if strictly else lambda reply: parse(reply, choices)
    confidence = confidence_of(tokens, text, choice, choices, reading)
    return Completion(choice if strictly else text, usage, confidence)


def choice_in_json(text: str, choices: Sequence[str]) -> str | None:
    """Return the choice in ``{"choice": ...}``; None where the text is anything else."""
    try:
        pairs = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    return next((choice for choice in choices if pairs == (("choice", choice),)), None)


def text_of(content: Any) -> str:
    """Return the text of a message, which some servers give in parts."""
    if isinstance(content, list):
        return "".join(text for part in content if isinstance(text := at(part, "text"), str))
    return content if isinstance(content, str) else ""


def failure_in(body: Any) -> tuple[int | None, str] | None:
    """Return the status and the reason of a failure that a body tells, though its own status says 200."""
    error = at(body, "error") or at(body, "choices", 0, "error")
    if not error:
        return None
    code = at(error, "code")
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else None, stated(error)


def stated(error: Any) -> str:
    """Return what the body of an error states, without what it repeats of the request."""
    error = at(error, "error") or error
    details = at(error, "detail") or at(error, "message", "detail")
    if isinstance(details, list):  # pydantic's
        return "; ".join(
            f"{at(detail, 'type')} {'.'.join(map(str, at(detail, 'loc') or ()))}: {at(detail, 'msg')}"
            for detail in details
        )
    if isinstance(error, Mapping):
        told = [error.get(name) for name in ("code", "param", "message", "detail")]
        told += [at(error, "innererror", "code"), at(error, "metadata", "raw")]
        return " ".join(" ".join(str(part).split()) for part in told if part) or str(dict(error))
    return " ".join(str(error).split())


def at(nested: Any, *path: str | int) -> Any:
    """Return what stands at ``path`` in objects and lists, or None."""
    for step in path:
        try:
            nested = nested[step]
        except (IndexError, KeyError, TypeError):
            return None
    return nested


def _usage(body: Any) -> Usage | None:
    read, written = at(body, "usage", "prompt_tokens"), at(body, "usage", "completion_tokens")
    return Usage(read, written, 1) if isinstance(read, int) and isinstance(written, int) else None


def _reason(first: Any, text: str, in_json: bool, limit: int, secrets: Sequence[str]) -> str | None:
    """Return why a reply holds no answer, where more can be said than that it cannot be read."""
    refusal, end = at(first, "message", "refusal"), at(first, "finish_reason")
    shown = f": {text[:SHOWN]!r}" if text else ""
    if not text and isinstance(refusal, str) and refusal.strip():
        refusal = without_held_keys(" ".join(refusal.split()), secrets)  # before it is cut, or a part could stay
        return f"the model refused: {refusal[:SHOWN]!r}"
    if end == "length":
        return f"no answer within max_output_tokens = {limit}; raise it, a model that thinks needs more{shown}"
    if end == "content_filter":
        return f"the endpoint's content filter cut the reply{shown}"
    return f"not the JSON object that was asked for{shown}" if in_json else None
