"""What is asked of a chat model: the same by HTTP (oracle ``openai``) and in files (oracle ``batch``)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from clusterllm_oracles.logprobs import listed_for
from clusterllm_oracles.prices import Prices
from clusterllm_oracles.replies import completion_of
from clusterllm_plugins.endpoints import endpoint
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.plugins import refuse_keys
from clusterllm_plugins.prompts import NAME_TOKENS, PROMPT_VERSION, PromptedOracle, render
from clusterllm_plugins.questions import Completion, Question, Usage

CONSTRAINTS = ("none", "schema", "choice", "grammar")
LIMITS = ("max_tokens", "max_completion_tokens")
LEAST_OUTPUT_TOKENS = 16  # of a reply that is a JSON object


@dataclass(frozen=True)
class ChatSettings:
    """Everything besides the prompt and its choices that is sent.

    Attributes:
        model: The model's name at the endpoint.
        base_url: The endpoint; ``None`` = OpenAI's own. See :func:`endpoint`.
        temperature: ``None`` = not sent.
        max_output_tokens: The most tokens of a reply.
        constrain: How the endpoint is made to reply with one of the choices, one of :data:`CONSTRAINTS`.
        logprobs: Whether log-probabilities are asked for; they change no reply.
        limit: The name of the parameter for ``max_output_tokens``, one of :data:`LIMITS`; ``None`` = as the endpoint
            is known to take it.

    Raises:
        ClusterLLMError: If one has no meaning.
    """

    model: str
    base_url: str | None
    temperature: float | None
    max_output_tokens: int
    constrain: str = "none"
    logprobs: bool = True
    limit: str | None = None

    def __post_init__(self) -> None:
        if self.constrain not in CONSTRAINTS:
            raise ClusterLLMError(f"constrain is one of {', '.join(CONSTRAINTS)}, not {self.constrain!r}")
        if self.limit not in (None, *LIMITS):
            raise ClusterLLMError(f"limit is {' or '.join(LIMITS)}, not {self.limit!r}")
        if self.constrain == "schema" and self.max_output_tokens < LEAST_OUTPUT_TOKENS:
            raise ClusterLLMError(
                f"constrain = 'schema' needs max_output_tokens of at least {LEAST_OUTPUT_TOKENS}, "
                f"not {self.max_output_tokens}: a reply is a JSON object"
            )

    @property
    def fingerprint(self) -> str:
        """What stored answers are found by, whichever way they came; what is not set is not in it."""
        constrained = "" if self.constrain == "none" else f":c{self.constrain}"
        limited = "" if self.limit in (None, self._usual_limit) else f":l{self.limit}"
        return (
            f"openai:{self.base_url or 'openai'}:{self.model}:t{self.temperature}:m{self.max_output_tokens}"
            f":p{PROMPT_VERSION}{constrained}{limited}"
        )

    def body(self, prompt: str, choices: Sequence[str] = (), *, logprobs: bool = True) -> dict[str, Any]:
        """Return the body of a request.

        Args:
            prompt: The whole prompt.
            choices: The admissible answers; none where the reply is free.
            logprobs: Whether the endpoint is known to give no log-probabilities, if False.
        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt}],
            self.limit or self._usual_limit: self.max_output_tokens,
        }
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if choices and logprobs and self.logprobs:
            body |= {"logprobs": True, "top_logprobs": listed_for(choices)}
        return body | self.constraint(choices)

    def constraint(self, choices: Sequence[str]) -> dict[str, Any]:
        """Return the parameter that admits no other reply than one of ``choices``; nothing where there are none."""
        if not choices or self.constrain == "none":
            return {}
        if self.constrain == "choice":  # of vLLM, where it took the place of guided_choice
            return {"structured_outputs": {"choice": list(choices)}}
        if self.constrain == "grammar":  # GBNF, of llama.cpp
            return {"grammar": "root ::= " + " | ".join(f'"{choice}"' for choice in choices)}
        schema = {
            "type": "object",
            "properties": {"choice": {"type": "string", "enum": list(choices)}},
            "required": ["choice"],
            "additionalProperties": False,
        }
        format_ = {"name": "answer", "strict": True, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": format_}}

    @property
    def _usual_limit(self) -> str:
        # OpenAI's newer models know only the second name of the limit, other servers only the first.
        return "max_tokens" if self.base_url else "max_completion_tokens"


class ChatOracle(PromptedOracle):
    """The base of the oracles that ask by :class:`ChatSettings`, however the requests travel."""

    def __init__(self, chat: ChatSettings, prices: Prices) -> None:
        self.fingerprint = chat.fingerprint
        self.model = chat.model
        self.base_url = chat.base_url
        self.temperature = chat.temperature
        self.max_output_tokens = chat.max_output_tokens
        self._chat = chat
        self._prices = prices

    def worst_case(self, question: Question) -> Usage:
        """Return the most that one attempt can take, with its price where prices are known."""
        return self._worst_case(render(question), question.choices)

    def worst_case_of(self, prompt: str) -> Usage:
        """Return the same of a prompt whose reply is free."""
        return self._worst_case(prompt, ())

    def expected_of(self, prompt: str, output_tokens: int = NAME_TOKENS) -> Usage:
        """Return about what one attempt takes, with its price where prices are known."""
        return super().expected_of(prompt, output_tokens).priced(*self._prices)

    def _worst_case(self, prompt: str, choices: Sequence[str]) -> Usage:
        usage = super().worst_case_of(prompt)
        # An endpoint may show the model what its reply is constrained to.
        shown = len(json.dumps(self._chat.constraint(choices)))
        return replace(usage, input_tokens=usage.input_tokens + shown).priced(*self._prices)

    def _completion_in(self, body: Mapping[str, Any], prompt: str, choices: Sequence[str]) -> Completion:
        """Return what the body of a response says; a server that does not count is taken to have used the most."""
        worst = self._worst_case(prompt, choices)
        return completion_of(body, choices, self._chat.constrain == "schema", worst, self._prices, self._secrets())

    def _secrets(self) -> list[str]:
        """Return the keys that it asks with."""
        return []

    def _refused(self, reason: str) -> Completion:
        """Return what stands for a reply to a request that will always be refused."""
        return Completion("", Usage(requests=1).priced(*self._prices), error=reason)


def chat_settings(
    where: str,
    model: str,
    base_url: str | None,
    temperature: float | Literal[""] | None,
    max_output_tokens: int,
    constrain: str,
    logprobs: bool,
    limit: str | None,
) -> ChatSettings:
    """Return the settings that an oracle was given; in a TOML file, which has no null, ``""`` stands for it.

    Raises:
        ClusterLLMError: If one has no meaning, or ``model`` or ``base_url`` holds a key; the message begins with
            ``where``.
    """
    base_url = endpoint(base_url)
    refuse_keys({"model": model, "base_url": base_url}, where)
    warmth = None if temperature == "" else temperature
    try:
        return ChatSettings(model, base_url, warmth, max_output_tokens, constrain, logprobs, limit or None)
    except ClusterLLMError as error:
        raise ClusterLLMError(f"{where}: {error}") from None
