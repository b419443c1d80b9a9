"""What a model wrote for itself, and what its server left standing around its reply, is taken away."""

from __future__ import annotations

import re

_MARK = re.compile(
    r"<(/)?(?:think|thinking|thought|thoughts|reasoning|analysis|scratchpad|reflection|seed:think)>"
    r"|\[(/)?think\]|◁(/)?think▷|<\|(?:begin|(end))_of_thought\|>",
    re.IGNORECASE,
)
_CHANNEL = "<|channel|>"
_FINAL = "<|channel|>final<|message|>"
_TURN_END = re.compile(r"<\|(?:im_end|eot_id|end|endoftext|return|end_of_text)\|>|</s>|<end_of_turn>")


def without_thinking(reply: str) -> str:
    """Return a reply without what a model thought aloud; without an end, that was cut short.

    An end without a beginning ends thoughts that began in the prompt, as some chat templates have it.
    """
    kept: list[str] = []
    start: int | None = 0  # of what is kept; None within thoughts
    for mark in _MARK.finditer(reply):
        if any(mark.groups()):  # it is an end
            if start is not None:
                kept.clear()
            start = mark.end()
        elif start is not None:
            kept.append(reply[start : mark.start()])
            start = None
    if start is not None:
        kept.append(reply[start:])
    return _own_turn("\n".join(kept)).strip()


def _own_turn(text: str) -> str:
    """Return the final message where there are several, and nothing of the turns that a model made up after its own."""
    if _CHANNEL in text:
        _, final, text = text.rpartition(_FINAL)
        text = text if final else ""
    return next((turn for turn in _TURN_END.split(text) if turn.strip()), "")
