"""``openai``: any endpoint that speaks OpenAI's chat completions, also a local server without a key."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import threading
import warnings
from asyncio import AbstractEventLoop
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

from clusterllm_oracles.chat import ChatOracle, chat_settings
from clusterllm_oracles.prices import prices_of
from clusterllm_oracles.refusals import REFUSING, advice_on, is_filtered, names_logprobs
from clusterllm_oracles.replies import failure_in, stated
from clusterllm_plugins.circuit import PATIENCE
from clusterllm_plugins.endpoints import key_in, key_variable
from clusterllm_plugins.errors import ClusterLLMWarning, MissingExtraError
from clusterllm_plugins.failures import kind_of, oracle_error, trouble
from clusterllm_plugins.keys import without_keys
from clusterllm_plugins.prompts import answer_of, render, render_description
from clusterllm_plugins.questions import Answer, Completion, OracleError, Question

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI


_WHERE = "oracle 'openai'"


@dataclass(frozen=True)
class _Asked:
    """A request: its prompt, the admissible replies, and its body."""

    prompt: str
    choices: Sequence[str]
    body: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """What the library is called with: it checks the names of those that it knows, and other servers have more."""
        known = ("model", "messages")
        extra = {name: value for name, value in self.body.items() if name not in known}
        return {name: self.body[name] for name in known} | {"extra_body": extra}


class OpenAIOracle(ChatOracle):
    """Asks a chat model; a client is made when it is first used, one for threads and one for each event loop.

    An endpoint that refuses log-probabilities is asked without them from then on. One that refuses a parameter on
    which the answers depend ends the run, with a line that says what to set.

    Args:
        model: The model's name at the endpoint.
        base_url: The endpoint, for example ``"http://localhost:11434/v1"``; ``None`` = OpenAI's own.
        api_key_env: The environment variable that holds the key; ``None`` or ``""`` for a server without one.
        concurrency: Requests at once.
        timeout: Seconds until a request counts as failed.
        max_retries: Attempts after the first one, made by the session.
        requests_per_minute: A limit for the session; ``None`` = none.
        tokens_per_minute: Likewise.
        temperature: 0 = the likeliest answer; ``None`` or ``""`` = not sent, for a model that takes none.
        max_output_tokens: The most tokens of a reply; a model that thinks aloud needs many.
        input_price: US dollars per million input tokens; ``None`` = the list price where OpenAI is asked (module
            ``prices``) and ``output_price`` is ``None``, too; else unknown.
        output_price: US dollars per million output tokens, likewise.
        logprobs: Whether log-probabilities are asked for where the reply is a choice; they give the answers a
            confidence, and change no answer.
        constrain: What keeps the endpoint from any other reply than one of the choices: ``"none"``; ``"schema"``, a
            JSON schema in OpenAI's ``response_format``; ``"choice"``, vLLM's ``structured_outputs``; ``"grammar"``,
            llama.cpp's. A server may ignore what it does not know.
        limit: The name of the parameter for ``max_output_tokens``: ``"max_tokens"`` or ``"max_completion_tokens"``;
            ``None`` = the second for OpenAI's own endpoint, the first for any other.
        patience: The seconds that the session pauses in all, where every request fails, before the run ends.

    Raises:
        MissingExtraError: If the openai library is not installed.
        ClusterLLMError: If ``api_key_env`` looks like a key, ``base_url`` or ``model`` holds one, or a setting has no
            meaning.
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
        temperature: float | Literal[""] | None = 0.0,
        max_output_tokens: int = 16,
        input_price: float | None = None,
        output_price: float | None = None,
        logprobs: bool = True,
        constrain: str = "none",
        limit: str | None = None,
        patience: float = PATIENCE,
    ) -> None:
        if importlib.util.find_spec("openai") is None:
            raise MissingExtraError("oracle 'openai'", "openai")
        api_key_env = key_variable(api_key_env, _WHERE)
        chat = chat_settings(_WHERE, model, base_url, temperature, max_output_tokens, constrain, logprobs, limit)
        super().__init__(chat, prices_of(model, chat.base_url, (input_price, output_price)))
        self._where = f"{_WHERE} ({model} at {self.base_url})" if self.base_url else f"{_WHERE} ({model})"
        self.concurrency = concurrency
        self.max_retries = max_retries
        self.patience = patience
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self._api_key_env = api_key_env
        self._timeout = timeout
        self._client: OpenAI | None = None
        self._clients: WeakKeyDictionary[AbstractEventLoop, AsyncOpenAI] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._gives_logprobs = True  # until it refuses
        self._accepts = False  # whether it has answered a question: then its parameters are not what it refuses

    def check(self) -> None:
        """Raise :class:`OracleError` where there is no key to ask with."""
        self._key()

    def complete(self, prompt: str, choices: Sequence[str]) -> Completion:
        """Return the model's reply; the library's own retries are off, since the session retries."""
        from openai import APIError

        asked, failure, reply = self._asked(prompt, choices), None, ""
        try:
            reply = self._connected().chat.completions.with_raw_response.create(**asked.arguments).text
        except APIError as error:
            failure = error
        # Not above, where the library's error, which may quote the key, would be the context of ours.
        return self._read(reply, asked) if failure is None else self._on_error(failure, asked)

    async def complete_async(self, prompt: str, choices: Sequence[str]) -> Completion:
        """Return the same from the running event loop."""
        asked, failure, reply = self._asked(prompt, choices), None, ""
        client = await self._connected_async()
        from openai import APIError  # which is loaded by now

        try:
            reply = (await client.chat.completions.with_raw_response.create(**asked.arguments)).text
        except APIError as error:
            failure = error
        return self._read(reply, asked) if failure is None else self._on_error(failure, asked)

    async def answer_async(self, questions: Sequence[Question]) -> list[Answer]:
        """Answer questions one after the other, as ``answer`` does; whoever wants more at once calls it at once."""
        return [
            answer_of(await self.complete_async(render(question), question.choices), question.choices)
            for question in questions
        ]

    async def describe_async(self, texts: Sequence[str], instruction: str | None = None) -> Completion:
        """Ask for a short name for what ``texts``, shape (n_texts,), have in common, as ``describe`` does."""
        return await self.complete_async(render_description(texts, instruction), ())

    def close(self) -> None:
        """Close the connections of the threads; the next request opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    async def close_async(self) -> None:
        """Close the connections of the running event loop, likewise."""
        with self._lock:
            client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()

    def _asked(self, prompt: str, choices: Sequence[str]) -> _Asked:
        return _Asked(prompt, choices, self._chat.body(prompt, choices, logprobs=self._gives_logprobs))

    def _connected(self) -> OpenAI:
        from openai import OpenAI

        with self._lock:
            if self._client is None:
                self._client = OpenAI(**self._connection())
            return self._client

    async def _connected_async(self) -> AsyncOpenAI:
        loop = asyncio.get_running_loop()
        if (client := self._clients.get(loop)) is not None:
            return client
        # On a thread: to load the library and certificates takes longer than a loop may be held up.
        return await asyncio.to_thread(self._connected_for, loop)

    def _connected_for(self, loop: AbstractEventLoop) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        with self._lock:
            if loop not in self._clients:
                self._clients[loop] = AsyncOpenAI(**self._connection())
            return self._clients[loop]

    def _connection(self) -> dict[str, Any]:
        return {"api_key": self._key(), "base_url": self.base_url, "timeout": self._timeout, "max_retries": 0}

    def _key(self) -> str:
        return key_in(self._api_key_env, _WHERE)

    def _read(self, reply: str, asked: _Asked) -> Completion:
        """Return what a response of status 200 says."""
        try:
            body = json.loads(reply)
        except ValueError:
            body = None
        if not isinstance(body, dict):  # some other server answered, or half of the reply is missing
            # Without the key before it is cut, or a part of it could stay.
            shown = without_keys(reply, self._secrets())[:80]
            raise self._trouble(f"not a chat completion: {shown!r}", retryable=True)
        if failure := failure_in(body):
            status, said = failure
            if (refused := self._settled(status or 0, said, asked)) is not None:
                return refused
            raise self._trouble(said, **(kind_of(status, said) if status else {"retryable": True}))
        if asked.choices:
            self._accepts = True
        return self._completion_in(body, asked.prompt, asked.choices)

    def _on_error(self, error: Any, asked: _Asked) -> Completion:
        """Return what stands for the reply to a question that is refused for good; any other error is raised as ours.

        Args:
            error: The library's.
            asked: What was asked.

        Raises:
            OracleError: A wrong key or model, an empty account and a refused parameter stop the run.
        """
        body = getattr(error, "body", None)
        said = stated(body) if body else str(error)
        if (refused := self._settled(getattr(error, "status_code", 0), said, asked)) is not None:
            return refused
        raise oracle_error(self._where, error, secrets=self._secrets()) from None

    def _settled(self, status: int, said: str, asked: _Asked) -> Completion | None:
        """Return the abstention of a question that a filter refused; raise where it is a parameter that is refused."""
        if status in (400, 403) and is_filtered(said):
            shown = without_keys(said, self._secrets())[:80]
            return self._refused(f"refused by the endpoint's content filter: {shown!r}")
        if status in REFUSING and "logprobs" in asked.body and names_logprobs(said):
            self._stop_logprobs()
            raise self._trouble(said, retryable=True, retry_after=0.0)
        if status in (400, 422) and not self._accepts and (advice := advice_on(said, asked.body)):
            raise self._trouble(f"{advice}: {said}", fatal=True)
        return None

    def _stop_logprobs(self) -> None:
        with self._lock:
            first, self._gives_logprobs = self._gives_logprobs, False
        if first:
            warnings.warn(
                f"{self._where}: the endpoint refuses log-probabilities, so the answers have no confidence "
                "(logprobs = false does not ask for them)",
                ClusterLLMWarning,
                stacklevel=2,
            )

    def _trouble(self, reason: str, **kind: Any) -> OracleError:
        return trouble(self._where, reason, secrets=self._secrets(), **kind)

    def _secrets(self) -> list[str]:
        return [os.environ.get(self._api_key_env, "")] if self._api_key_env else []
