"""``openai``: any endpoint that speaks OpenAI's chat completions, also a local server without a key."""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clusterllm_oracles.chat import ChatSettings, endpoint
from clusterllm_oracles.failures import retry_after_of
from clusterllm_oracles.prices import prices_of
from clusterllm_plugins.errors import ClusterLLMError, MissingExtraError
from clusterllm_plugins.prompts import PromptedOracle
from clusterllm_plugins.questions import Completion, OracleError, Usage

if TYPE_CHECKING:
    from openai import OpenAI


class OpenAIOracle(PromptedOracle):
    """Asks a chat model; the client is made when it is first used.

    Args:
        model: The model's name at the endpoint.
        base_url: The endpoint, for example ``"http://localhost:11434/v1"``; ``None`` = OpenAI's own.
        api_key_env: The environment variable that holds the key; ``None`` or ``""`` for a server without one.
        concurrency: Requests at once.
        timeout: Seconds until a request counts as failed.
        max_retries: Attempts after the first one, made by the session.
        requests_per_minute: A limit for the session; ``None`` = none.
        tokens_per_minute: Likewise.
        temperature: 0 = the likeliest answer; ``None`` = not sent, for a model that takes none.
        max_output_tokens: The most tokens of a reply; a model that thinks aloud needs many.
        input_price: US dollars per million input tokens; ``None`` = the list price where OpenAI is asked (module
            ``prices``) and ``output_price`` is ``None``, too; else unknown.
        output_price: US dollars per million output tokens, likewise.

    Raises:
        MissingExtraError: If the openai library is not installed.
        ClusterLLMError: If ``api_key_env`` looks like a key.
    """

    def __init__(
        self,
        model: str = "gpt-4o-mini",
        base_url: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        concurrency: int = 8,
        timeout: float = 60.0,
        max_retries: int = 5,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        temperature: float | None = 0.0,
        max_output_tokens: int = 16,
        input_price: float | None = None,
        output_price: float | None = None,
    ) -> None:
        if importlib.util.find_spec("openai") is None:
            raise MissingExtraError("oracle 'openai'", "openai")
        api_key_env = api_key_env or None  # TOML has no null
        if api_key_env is not None and not api_key_env.isidentifier():
            # Never quoted: it may be the key itself.
            raise ClusterLLMError("oracle 'openai': api_key_env takes the name of an environment variable, not a key")
        base_url = endpoint(base_url)
        self._chat = ChatSettings(model, base_url, temperature, max_output_tokens)
        self.fingerprint = self._chat.fingerprint
        self._where = f"{model} at {base_url}" if base_url else model
        self.model = model
        self.base_url = base_url
        self.concurrency = concurrency
        self.max_retries = max_retries
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.temperature = temperature
        self.max_output_tokens = max_output_tokens
        self._api_key_env = api_key_env
        self._timeout = timeout
        self._prices = prices_of(model, base_url, (input_price, output_price))
        self._client: OpenAI | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise :class:`OracleError` where there is no key to ask with."""
        self._key()

    def complete(self, prompt: str, choices: Sequence[str]) -> Completion:
        """Return the model's reply; the library's own retries are off, since the session retries."""
        import openai
        from openai.types.chat import ChatCompletion

        try:
            reply = self._connected().chat.completions.create(**self._chat.body(prompt))
        except openai.APIError as error:
            raise self._translated(error) from None
        except ValueError as error:  # not JSON: some other server answered
            raise OracleError(f"oracle 'openai' ({self._where}): {error}", retryable=True) from error
        if not isinstance(reply, ChatCompletion):
            raise OracleError(f"oracle 'openai' ({self._where}): not a chat completion: {reply!r:.80}", retryable=True)
        used = reply.usage
        # A server that does not count is taken to have used the most.
        usage = Usage(used.prompt_tokens, used.completion_tokens, 1) if used else self.worst_case_of(prompt)
        text = (reply.choices[0].message.content or "") if reply.choices else ""
        return Completion(text, usage.priced(*self._prices))

    def worst_case_of(self, prompt: str) -> Usage:
        """Return the most that one attempt can take, with its price where prices are known."""
        return super().worst_case_of(prompt).priced(*self._prices)

    def _connected(self) -> OpenAI:
        from openai import OpenAI

        with self._lock:
            if self._client is None:
                self._client = OpenAI(api_key=self._key(), base_url=self.base_url, timeout=self._timeout, max_retries=0)
            return self._client

    def _key(self) -> str:
        if self._api_key_env is None:
            return "none"  # the library insists on a key, a server without keys ignores it
        key = os.environ.get(self._api_key_env, "").strip()
        if not key.isascii():
            raise OracleError(
                f"oracle 'openai': the environment variable {self._api_key_env} holds characters that no key has",
                fatal=True,
            )
        if not key:
            raise OracleError(
                f"oracle 'openai': the environment variable {self._api_key_env} holds no key; "
                'set it, or set api_key_env to "" for a server without one',
                fatal=True,
            )
        return key

    def _translated(self, error: Exception) -> OracleError:
        """Return the library's error as ours; a wrong key, model or an empty account stops the run."""
        import openai

        reason = str(error).strip().split("\n", 1)[0]
        if self._api_key_env is not None and (key := os.environ.get(self._api_key_env, "").strip()):
            reason = reason.replace(key, "***")  # before it is cut, or a part of the key could stay
        message = f"oracle 'openai' ({self._where}): {reason[:300]}"
        denied = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)
        exhausted = getattr(error, "code", None) == "insufficient_quota"
        if isinstance(error, denied) or exhausted:
            return OracleError(message, fatal=True)
        passing = (openai.RateLimitError, openai.APIConnectionError, openai.InternalServerError)
        if isinstance(error, passing) or getattr(error, "status_code", None) in (408, 409):
            return OracleError(message, retryable=True, retry_after=retry_after_of(error))
        return OracleError(message)
