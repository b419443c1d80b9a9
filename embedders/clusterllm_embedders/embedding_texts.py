"""Texts as an embeddings endpoint takes them: valid, not too long, and in requests that keep to its limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from clusterllm_embedders.arriving import valid
from clusterllm_plugins.tokens import estimate_tokens

MOST_INPUTS = 2048  # a request, as OpenAI limits it
REQUEST_TOKENS = 300_000  # likewise
INPUT_TOKENS = 8192  # an input, likewise
ADDED_TOKENS = 4  # that a model may put around a text

_STEP = 64  # characters that are counted together
_MARGIN = 1.1  # of an estimate of tokens


@dataclass(frozen=True)
class Input:
    """A text as it is sent.

    Attributes:
        position: Of the text among those that are embedded.
        text: Never empty.
        tokens: An upper bound: no tokenizer that starts from bytes makes more than one of each.
    """

    position: int
    text: str
    tokens: int


def inputs_of(texts: Sequence[str], limit: int | None) -> list[Input]:
    """Return what is sent for texts; none is for a blank one. ``limit`` are the tokens after which a text is cut."""
    sent = ((position, sendable(text, limit)) for position, text in enumerate(texts) if text.strip())
    return [Input(position, text, len(text.encode()) + ADDED_TOKENS) for position, text in sent]


def requests_of(inputs: Sequence[Input], most: int) -> list[list[Input]]:
    """Return the inputs in order, in requests of at most ``most`` that keep to the limits."""
    return list(_requests(inputs, min(most, MOST_INPUTS)))


def _requests(inputs: Sequence[Input], most: int) -> Iterator[list[Input]]:
    request: list[Input] = []
    tokens = 0
    for one in inputs:
        if request and (len(request) == most or tokens + one.tokens > REQUEST_TOKENS):
            yield request
            request, tokens = [], 0
        request.append(one)
        tokens += one.tokens
    if request:
        yield request


def sendable(text: str, limit: int | None) -> str:
    """Return ``text`` with lone surrogates, which no UTF-8 has, as question marks, and cut after ``limit`` tokens.

    Tokens are counted without the model's tokenizer, so that the same text is cut at the same place everywhere: with
    a tenth more than they are estimated to be, and of characters beyond ASCII each byte.
    """
    whole = valid(text)
    if limit is None or len(whole.encode()) <= limit:
        return whole
    tokens = 0.0
    for start in range(0, len(whole), _STEP):
        tokens += _counted(whole[start : start + _STEP])
        if tokens > limit:
            return whole[:start] or whole[: max(1, limit // 4)]
    return whole


def _counted(text: str) -> float:
    plain = text.encode("ascii", errors="ignore").decode()
    return _MARGIN * estimate_tokens(plain) + len(text.encode()) - len(plain)
