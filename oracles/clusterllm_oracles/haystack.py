"""``haystack``: any ChatGenerator of Haystack as an oracle."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import inspect
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from clusterllm_oracles.loops import waited_for
from clusterllm_plugins.errors import ClusterLLMError, MissingExtraError
from clusterllm_plugins.failures import oracle_error
from clusterllm_plugins.keys import shows_key, without_held_keys, without_keys
from clusterllm_plugins.plugins import refuse_keys
from clusterllm_plugins.prompts import NAME_TOKENS, PROMPT_VERSION, PromptedOracle
from clusterllm_plugins.protocols import has_methods
from clusterllm_plugins.questions import Completion, OracleError, Usage

# Parameters of chat generators that change no answer.
_IRRELEVANT = {"api_key", "azure_ad_token", "http_client_kwargs", "max_retries", "streaming_callback", "timeout"}


class HaystackOracle(PromptedOracle):
    """Asks a chat generator, from as many threads as ``concurrency`` says.

    Args:
        chat_generator: A component with ``run(messages)``, or a serialized one:
            ``{"type": ..., "init_parameters": ...}``.
        concurrency: Calls at once.
        max_retries: Attempts after the first one, made by the session; set those of the generator to 0.
        requests_per_minute: A limit for the session; ``None`` = none.
        tokens_per_minute: Likewise.
        max_output_tokens: The most tokens of a reply, for the bounds of what a question can take; set the generator's
            own limit to it.
        input_price: US dollars per million input tokens; ``None`` = unknown.
        output_price: US dollars per million output tokens; ``None`` = unknown.
        raise_on_failure: Whether a question that fails for all its retries ends the run.

    Attributes:
        loop: The event loop on which ``run_async`` of the generator is called; ``None`` = ``run`` is called, on the
            session's thread.

    Raises:
        MissingExtraError: If haystack-ai is not installed.
        ClusterLLMError: If ``chat_generator`` is none.
    """

    def __init__(
        self,
        chat_generator: Any,
        concurrency: int = 3,
        max_retries: int = 5,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        max_output_tokens: int = 256,
        input_price: float | None = None,
        output_price: float | None = None,
        raise_on_failure: bool = False,
    ) -> None:
        if importlib.util.find_spec("haystack") is None:
            raise MissingExtraError("oracle 'haystack'", "haystack")
        self.chat_generator = _generator(chat_generator)
        self.concurrency = concurrency
        self.max_retries = max_retries
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.max_output_tokens = max_output_tokens
        self.loop: asyncio.AbstractEventLoop | None = None
        self._prices = (input_price, output_price)
        self.raise_on_failure = raise_on_failure
        self._where = f"oracle 'haystack' ({type(self.chat_generator).__name__})"
        self.fingerprint = f"haystack:{identity_of(self.chat_generator, _IRRELEVANT)}:p{PROMPT_VERSION}"

    def check(self) -> None:
        """Warm the generator up: it makes its client there, and says where its key is missing.

        Raises:
            OracleError: If it cannot.
        """
        if self.loop is None and has_methods(self.chat_generator, "warm_up"):
            try:
                self.chat_generator.warm_up()
                return
            except Exception as error:
                failure, cause = self._failure(error, fatal=True)
            raise failure from cause

    def complete(self, prompt: str, choices: Sequence[str]) -> Completion:
        """Return the generator's reply; none, or one without text, is an empty reply, which abstains."""
        from haystack.dataclasses import ChatMessage

        messages = [ChatMessage.from_user(prompt)]
        try:
            result = self._generate(messages)
            replies = result.get("replies") or []
            text = (replies[0].text if replies else None) or ""
            used = (replies[0].meta if replies else {}).get("usage") or {}
        except OracleError:
            raise
        except Exception as error:
            failure, cause = self._failure(error)
            text = None
        if text is None:
            raise failure from cause  # not above, where an error that quotes the key would be its context
        text = without_held_keys(text, secrets_of(self.chat_generator))
        return Completion(text, (_usage(used) or self.worst_case_of(prompt)).priced(*self._prices))

    def worst_case_of(self, prompt: str) -> Usage:
        """Return the most that one attempt can take, with its price where prices are known."""
        return super().worst_case_of(prompt).priced(*self._prices)

    def expected_of(self, prompt: str, output_tokens: int = NAME_TOKENS) -> Usage:
        """Return about what one attempt takes, with its price where prices are known."""
        return super().expected_of(prompt, output_tokens).priced(*self._prices)

    def _failure(self, error: Exception, *, fatal: bool = False) -> tuple[OracleError, Exception | None]:
        """Return an error of the generator as ours, and itself as its cause where it holds no key."""
        secrets = secrets_of(self.chat_generator)
        failure = oracle_error(self._where, error, secrets=secrets, fatal=fatal)
        return failure, None if shows_key(error, secrets) else error

    def _generate(self, messages: list[Any]) -> Mapping[str, Any]:
        run_async = getattr(self.chat_generator, "run_async", None)
        if self.loop is None or run_async is None:
            result: Mapping[str, Any] = self.chat_generator.run(messages=messages)
            return result
        reply: Mapping[str, Any] = waited_for(run_async(messages=messages), self.loop, self._where)
        return reply


def _generator(given: Any) -> Any:
    """Return a chat generator, made where it is given as its serialized form."""
    made = given
    if isinstance(given, Mapping):
        refuse_keys(given, "oracle 'haystack'")
        from haystack.utils import deserialize_chatgenerator_inplace

        holder = {"chat_generator": dict(given)}
        try:
            deserialize_chatgenerator_inplace(holder)
        except Exception as error:
            reason = without_keys(" ".join(str(error).split()))
            raise ClusterLLMError(f"oracle 'haystack': chat_generator cannot be made ({reason})") from error
        made = holder["chat_generator"]
    if not has_methods(made, "run"):
        raise ClusterLLMError(f"oracle 'haystack': chat_generator must be a ChatGenerator, not {type(made).__name__}")
    return made


def secrets_of(component: Any) -> list[str]:
    """Return the keys that a component holds, where it holds them as Haystack's do."""
    from haystack.utils import Secret

    held = [value for value in vars(component).values() if isinstance(value, Secret)]
    found = []
    for secret in held:
        with suppress(Exception):  # one that is not set
            found.append(str(secret.resolve_value() or ""))
    return found


def identity_of(component: Any, irrelevant: Collection[str]) -> str:
    """Return what tells a component from others: its class, model and a digest of its parameters, without secrets.

    Args:
        component: Of Haystack.
        irrelevant: Parameters that change nothing in what it gives, and those that hold keys.
    """
    kind = type(component)
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        parameters = dict(component.to_dict()["init_parameters"])
    except Exception:  # one that cannot be serialized, or holds a key as it is
        held = {key: getattr(component, key, None) for key in inspect.signature(kind.__init__).parameters}
        parameters = {key: value for key, value in held.items() if _is_plain(value)}
    kept = {key: value for key, value in parameters.items() if key not in irrelevant}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return f"{name}:{kept.get('model') or ''}:{digest}"


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _usage(used: Mapping[str, Any]) -> Usage | None:
    """Return what a reply says it took, by OpenAI's names or Anthropic's; ``None`` where it says nothing."""
    read = used.get("prompt_tokens", used.get("input_tokens"))
    written = used.get("completion_tokens", used.get("output_tokens"))
    if not isinstance(read, int) or not isinstance(written, int):
        return None
    return Usage(read, written, 1)
