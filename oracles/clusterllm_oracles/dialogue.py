"""A prompt and a reply as the tokens that a local model reads, by its tokenizer and its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clusterllm_oracles.scoring import Scorable, scorable

# What some chat templates would do otherwise: show today's date, or let the model think aloud.
_TEMPLATE_SETTINGS = {"date_string": "1 January 2025", "enable_thinking": False}


class Dialogue:
    """Turns prompts into tokens.

    Args:
        tokenizer: One of transformers; without a chat template a reply stands behind ``"Answer:"``, as a model that
            only continues texts needs it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        template = tokenizer.chat_template
        marks = [token for token in tokenizer.added_tokens_decoder.values() if len(token.content.strip()) > 1]
        self._marks = sorted(
            (
                mark.content
                for mark in marks
                if mark.special or (mark.content in str(template or "") and not mark.content.isalnum())
            ),
            key=len,
            reverse=True,  # one may be a part of another
        )
        self.overhead = len(self.open("").prompt)

    def split(self, prompt: str, replies: Sequence[str]) -> Scorable:
        """Return the tokens of ``prompt`` and of each of ``replies``, as they would stand in a dialogue.

        Raises:
            ValueError: If the tokenizer cannot tell two replies apart.
        """
        shown, tokenizer = self.plain(prompt), self.tokenizer
        if tokenizer.chat_template:
            texts = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": shown}, {"role": "assistant", "content": reply}],
                    tokenize=False,
                    **_TEMPLATE_SETTINGS,
                )
                for reply in replies
            ]
        else:
            texts = [f"{shown}\n\nAnswer: {reply}\n" for reply in replies]
        # A template writes the special tokens itself.
        wholes = tokenizer(texts, add_special_tokens=not tokenizer.chat_template, verbose=False)["input_ids"]
        return scorable(wholes, tokenizer.eos_token_id)

    def open(self, prompt: str) -> Scorable:
        """Return ``prompt`` as the start of a dialogue, for a reply that is free."""
        return self.split(prompt, ("A", "B"))

    def plain(self, prompt: str) -> str:
        """Return ``prompt`` with the tokenizer's marks broken up: in a text such a mark could end our turn."""
        for mark in self._marks:
            prompt = prompt.replace(mark, f"{mark[0]} {mark[1:]}")
        return prompt
