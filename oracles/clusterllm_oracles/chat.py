"""What is asked of a chat model: the same by HTTP (oracle ``openai``) and in files (oracle ``batch``)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from clusterllm_plugins.prompts import PROMPT_VERSION


@dataclass(frozen=True)
class ChatSettings:
    """Everything besides the prompt that could change a reply.

    Attributes:
        model: The model's name at the endpoint.
        base_url: The endpoint; ``None`` = OpenAI's own. See :func:`endpoint`.
        temperature: ``None`` = not sent.
        max_output_tokens: The most tokens of a reply.
    """

    model: str
    base_url: str | None
    temperature: float | None
    max_output_tokens: int

    @property
    def fingerprint(self) -> str:
        """What stored answers are found by, whichever way they came."""
        return (
            f"openai:{self.base_url or 'openai'}:{self.model}:t{self.temperature}:m{self.max_output_tokens}"
            f":p{PROMPT_VERSION}"
        )

    def body(self, prompt: str) -> dict[str, Any]:
        """Return the body of a request."""
        # OpenAI's newer models know only the second name of the limit, other servers only the first.
        limit = "max_tokens" if self.base_url else "max_completion_tokens"
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            limit: self.max_output_tokens,
        }
        if self.temperature is not None:
            body["temperature"] = self.temperature
        return body


def endpoint(base_url: str | None) -> str | None:
    """Return the endpoint that is meant: the one given, else that of ``OPENAI_BASE_URL``, which the library reads."""
    return base_url or os.environ.get("OPENAI_BASE_URL")
