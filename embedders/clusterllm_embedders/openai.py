"""``openai``: any endpoint that speaks OpenAI's embeddings, also a local server without a key."""

from __future__ import annotations

import base64
import binascii
import importlib.util
import json
import os
import re
import threading
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clusterllm_embedders.arriving import finished, in_order, keep_rest
from clusterllm_embedders.embedding_texts import INPUT_TOKENS, MOST_INPUTS, Input, inputs_of, requests_of
from clusterllm_embedders.prices import price_of
from clusterllm_plugins.calling import Caller, Limits
from clusterllm_plugins.circuit import PATIENCE
from clusterllm_plugins.endpoints import endpoint, key_in, key_variable
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning, MissingExtraError
from clusterllm_plugins.failures import oracle_error, trouble
from clusterllm_plugins.keys import without_keys
from clusterllm_plugins.plugins import refuse_keys
from clusterllm_plugins.protocols import Keep, Vectors
from clusterllm_plugins.questions import OracleError, Usage
from clusterllm_plugins.tokens import estimate_tokens

if TYPE_CHECKING:
    from openai import OpenAI

_WHERE = "embedder 'openai'"
FORMATS = ("base64", "float")
_TOO_LONG = re.compile(r"context length|too (?:long|large|many)|max\w* .*tokens|tokens .*max", re.IGNORECASE)


class OpenAIEmbedder:
    """Embeds texts at an endpoint, several requests at once; a client is made when it is first used.

    Texts go in requests of ``batch_size``, fewer where they are long, by the rules of asking: rate limits, retries
    with backoff, a circuit breaker where every request fails, and caps that reserve the worst case (a token a byte)
    of each attempt before it is sent. A vector is kept in the cache, where there is one, before its thread sends the
    next request. A blank text is not sent; its vector is zeros.

    Args:
        model: The model's name at the endpoint.
        dimensions: The size of a vector, for a model that can shorten it; ``None`` = the model's own.
        base_url: The endpoint, for example ``"http://localhost:11434/v1"``; ``None`` = OpenAI's own.
        api_key_env: The environment variable that holds the key; ``None`` or ``""`` for a server without one.
        batch_size: The most texts a request.
        concurrency: Requests at once.
        timeout: Seconds until a request counts as failed.
        max_retries: Attempts after the first one.
        requests_per_minute: A limit; ``None`` = none.
        tokens_per_minute: Likewise.
        max_tokens: The most tokens that all requests of this embedder together may take; ``None`` = no cap.
        max_cost: The most US dollars, likewise.
        input_price: US dollars per million tokens; ``None`` = the list price where OpenAI is asked (module
            ``prices``), else unknown.
        normalize: Whether vectors are scaled to length 1.
        encoding_format: How vectors travel: ``"base64"`` as the library has it, or ``"float"`` for a server that does
            not know it.
        max_length: Tokens after which a text is cut, with a warning: an endpoint refuses the whole request of one that
            is longer. They are counted without the model's tokenizer, and generously, so that a text may be cut a
            little too early; ``None`` or 0 = no text is cut.
        patience: The seconds that are paused in all, where every request fails, before it is given up.

    Raises:
        MissingExtraError: If the openai library is not installed.
        ClusterLLMError: If ``api_key_env`` looks like a key, ``base_url`` or ``model`` holds one, or a setting has no
            meaning.
    """

    def __init__(
        self,
        model: str = "text-embedding-3-small",
        dimensions: int | None = None,
        base_url: str | None = None,
        api_key_env: str | None = "OPENAI_API_KEY",
        batch_size: int = 128,
        concurrency: int = 8,
        timeout: float = 60.0,
        max_retries: int = 5,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        max_tokens: int | None = None,
        max_cost: float | None = None,
        input_price: float | None = None,
        normalize: bool = True,
        encoding_format: str = "base64",
        max_length: int | None = INPUT_TOKENS,
        patience: float = PATIENCE,
    ) -> None:
        if importlib.util.find_spec("openai") is None:
            raise MissingExtraError(_WHERE, "openai")
        self._api_key_env = key_variable(api_key_env, _WHERE)
        self.model = model
        self.base_url = endpoint(base_url)
        refuse_keys({"model": model, "base_url": self.base_url}, _WHERE)
        if encoding_format not in FORMATS:
            raise ClusterLLMError(f"{_WHERE}: encoding_format is one of {', '.join(FORMATS)}, not {encoding_format!r}")
        if not 1 <= batch_size <= MOST_INPUTS:
            raise ClusterLLMError(f"{_WHERE}: batch_size must be from 1 to {MOST_INPUTS}, not {batch_size}")
        if dimensions is not None and dimensions < 1:
            raise ClusterLLMError(f"{_WHERE}: dimensions must be at least 1 or None, not {dimensions}")
        if max_length is not None and max_length < 0:
            raise ClusterLLMError(f"{_WHERE}: max_length must be at least 1 or None, not {max_length}")
        self.dimensions = dimensions
        self.batch_size = batch_size
        self.normalize = normalize
        self.max_length = max_length or None
        self._format = encoding_format
        self._timeout = timeout
        self._price = price_of(model, self.base_url, input_price)
        if max_cost is not None and self._price is None:
            raise ClusterLLMError(
                f"{_WHERE}: max_cost needs a price, and that of {model!r} is unknown here: set input_price, "
                "or cap max_tokens instead"
            )
        limits = Limits(
            concurrency, max_retries, requests_per_minute, tokens_per_minute, max_tokens, max_cost, patience
        )
        self._where = f"{_WHERE} ({model} at {self.base_url})" if self.base_url else f"{_WHERE} ({model})"
        self._caller: Caller[Input] = Caller(self._where, limits, lambda one: self._priced(one.tokens, 0))
        self._client: OpenAI | None = None
        self._width = dimensions
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """Everything that could change a vector."""
        return (
            f"openai-embeddings:{self.base_url or 'openai'}:{self.model}:d{self.dimensions}:n{self.normalize}"
            f":l{self.max_length}{'' if self._format == 'base64' else f':{self._format}'}"
        )

    @property
    def usage(self) -> Usage:
        """What all requests so far took."""
        return self._caller.usage

    def expected(self, texts: Sequence[str]) -> Usage:
        """Return about what embedding ``texts`` takes."""
        inputs = inputs_of(texts, self.max_length)
        tokens = sum(estimate_tokens(one.text) for one in inputs)
        return self._priced(tokens, len(requests_of(inputs, self.batch_size)))

    def worst_case(self, texts: Sequence[str]) -> Usage:
        """Return the most that embedding ``texts`` takes, if no request fails."""
        inputs = inputs_of(texts, self.max_length)
        return self._priced(sum(one.tokens for one in inputs), len(requests_of(inputs, self.batch_size)))

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return one vector per text, float32, shape (n_texts, dim).

        Raises:
            ClusterLLMError: If a request fails for good or a cap is reached; what else was paid for is lost here, and
                kept by ``embed_texts`` with a cache.
        """
        return in_order(self.embed_each, texts, self._width)

    def embed_each(self, texts: Sequence[str], keep: Keep) -> None:
        """Call ``keep`` with the positions and vectors of each request as soon as they are there.

        Raises:
            ClusterLLMError: If a request fails for good or a cap is reached.
        """
        inputs = inputs_of(texts, self.max_length)
        self._warn_of_cut(texts, inputs)

        def call(items: Sequence[Input]) -> Usage:
            vectors, usage = self._requested(items)
            keep([item.position for item in items], vectors)
            return usage

        self._caller.make(requests_of(inputs, self.batch_size), call)
        keep_rest(keep, len(texts), [one.position for one in inputs], self._width, self._where)

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _warn_of_cut(self, texts: Sequence[str], inputs: Sequence[Input]) -> None:
        if self.max_length and any(len(one.text) < len(texts[one.position]) for one in inputs):
            warnings.warn(
                f"texts that are longer than max_length = {self.max_length} tokens are cut there",
                ClusterLLMWarning,
                stacklevel=2,
            )

    def _priced(self, tokens: int, requests: int) -> Usage:
        return Usage(tokens, 0, requests).priced(self._price, 0.0)

    def _requested(self, items: Sequence[Input]) -> tuple[Vectors, Usage]:
        """Return the vectors of one request, shape (n_items, dim), and what it took."""
        from openai import APIError

        arguments: dict[str, Any] = {
            "model": self.model,
            "input": [item.text for item in items],
            "encoding_format": self._format,
        }
        if self.dimensions is not None:
            arguments["dimensions"] = self.dimensions
        client, failure, reply = self._connected(), None, ""
        try:
            reply = client.embeddings.with_raw_response.create(**arguments).text
        except APIError as error:
            failure = self._failure(error)
        if failure is not None:
            raise failure  # not above, where the library's error, which may quote the key, would be its context
        return self._read(reply, items)

    def _failure(self, error: Any) -> OracleError:
        failure = oracle_error(self._where, error, secrets=self._secrets())
        if getattr(error, "status_code", 0) in (400, 413, 422) and _TOO_LONG.search(str(error)):
            return self._trouble(f"set max_length or batch_size lower: {error}")
        return failure

    def _connected(self) -> OpenAI:
        from openai import OpenAI

        with self._lock:
            if self._client is None:
                # The library's retries are off, as we retry.
                key = key_in(self._api_key_env, _WHERE)
                self._client = OpenAI(api_key=key, base_url=self.base_url, timeout=self._timeout, max_retries=0)
            return self._client

    def _read(self, reply: str, items: Sequence[Input]) -> tuple[Vectors, Usage]:
        """Return what a response of status 200 says, in the order of ``items``, checked."""
        try:
            body = json.loads(reply)
            listed = sorted(body["data"], key=lambda one: one["index"])
            places = [one["index"] for one in listed]
            rows = [_vector(one["embedding"]) for one in listed]
        except (ValueError, KeyError, TypeError, binascii.Error):  # some other server answered, or a half is missing
            # Without the key before it is cut, or a part of it could stay.
            shown = without_keys(reply, self._secrets())[:80]
            raise self._trouble(f"no embeddings: {shown!r}", retryable=True) from None
        if places != list(range(len(items))):
            raise self._trouble(f"{len(rows)} vectors for {len(items)} texts, or not of these", retryable=True)
        sizes = {row.shape for row in rows}
        if len(sizes) > 1 or not all(len(shape) == 1 and shape[0] for shape in sizes):
            raise self._trouble(f"vectors of the shapes {sorted(map(str, sizes))}", retryable=True)
        vectors = np.stack(rows)
        if not np.isfinite(vectors).all():
            raise self._trouble("a vector is not finite", retryable=True)
        self._check_width(vectors.shape[1])
        return finished(vectors, self.normalize), self._taken(body, items)

    def _check_width(self, width: int) -> None:
        with self._lock:
            known = self._width = self._width or width
        if known != width:
            advice = "; the model cannot shorten vectors: leave dimensions out" if self.dimensions else ""
            raise self._trouble(f"vectors of size {width}, not {known}{advice}", fatal=True)

    def _taken(self, body: dict[str, Any], items: Sequence[Input]) -> Usage:
        """Return what a response says that it took; a server that does not count is taken to have used the most."""
        used = body.get("usage")
        tokens = used.get("prompt_tokens", used.get("total_tokens")) if isinstance(used, dict) else None
        if not isinstance(tokens, int) or tokens < 0:
            tokens = sum(item.tokens for item in items)
        return self._priced(tokens, 1)

    def _trouble(self, reason: str, **kind: Any) -> OracleError:
        return trouble(self._where, reason, secrets=self._secrets(), **kind)

    def _secrets(self) -> list[str]:
        return [os.environ.get(self._api_key_env, "")] if self._api_key_env else []


def _vector(encoded: Any) -> Vectors:
    """Return a vector as it travelled, in either format: many a server sends numbers in any case."""
    if isinstance(encoded, str):
        return np.frombuffer(base64.b64decode(encoded, validate=True), dtype="<f4").astype(np.float32)
    return np.array(encoded, dtype=np.float32)
