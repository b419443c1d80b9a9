"""``spacy-llm``: any model of spacy-llm (``@llm_models``) as an oracle, also one that runs here.

In: a model, which takes prompts nested by doc and shard and gives replies nested alike, or the name of a registered
one. Out: an oracle. The session retries, so spacy-llm's own retries are left out.
"""

from __future__ import annotations

import copy
import difflib
import functools
import importlib.util
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from clusterllm_plugins.errors import ClusterLLMError, MissingExtraError, PluginError
from clusterllm_plugins.failures import oracle_error, trouble
from clusterllm_plugins.keys import without_held_keys, without_keys
from clusterllm_plugins.prompts import PROMPT_VERSION, PromptedOracle
from clusterllm_plugins.protocols import has_methods
from clusterllm_plugins.questions import Completion, OracleError

Model = Callable[[Iterable[Iterable[str]]], Iterable[Iterable[str]]]

_CHANGES_NO_ANSWER = {"max_tries", "interval", "max_request_time"}
_SECRET_NAME = re.compile(r"(key|token|secret|password|credentials?|authorization|headers?)$", re.IGNORECASE)

# Where a response has no text, spacy-llm gives its JSON in place of one; the numbers in there are no choices.
_RESPONSE = re.compile(r'\{.*"(choices|error|filters|finish_reason|generations|stop_reason|usage)" ?:', re.DOTALL)


class SpacyLLMOracle(PromptedOracle):
    """Asks a model of spacy-llm; one given by name is made when it is first used.

    Making some of spacy-llm's models by name contacts their provider, under no cap: OpenAI's asks OpenAI's own
    endpoint which models it has, wherever its ``endpoint`` points; most others send a prompt. For a server of one's
    own that speaks OpenAI's protocol, take the oracle ``openai`` with ``base_url``.

    A model that spacy-llm asks over HTTP is copied and asked once per attempt: its ``max_tries`` and ``interval`` have
    no effect. Any other callable keeps its own retries, on top of which come the session's.

    Args:
        model: The name of a registered model, for example ``"spacy.GPT-4.v3"``, or a model.
        config: The settings of a model given by name, for example ``{"name": "gpt-4o"}``.
        concurrency: Requests at once; ``None`` = 8 for a model that spacy-llm asks over HTTP, 1 for any other.
        max_retries: Attempts after the first one, made by the session.
        requests_per_minute: A limit for the session; ``None`` = none.
        tokens_per_minute: Likewise.
        max_output_tokens: The most tokens of a reply; set the model's own limit alike. spacy-llm does not say what a
            reply took, so each is charged the most that it can have taken.
        fingerprint: Stands for the model in the store. By default that is the name and settings of a model given by
            name; class, name, endpoint and settings of one that is asked over HTTP; only the name of any other
            callable, with the arguments of a partial. Needed where these are the same for two: two closures, two
            local models of one class, a function whose code changed.

    Raises:
        MissingExtraError: If a model is given by name and spacy-llm is not installed.
        ClusterLLMError: If ``model`` is no model, or one that is not given by name comes with settings.
    """

    def __init__(
        self,
        model: str | Model,
        config: Mapping[str, Any] | None = None,
        concurrency: int | None = None,
        max_retries: int = 5,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        max_output_tokens: int = 256,
        fingerprint: str | None = None,
    ) -> None:
        if isinstance(model, str):
            if importlib.util.find_spec("spacy_llm") is None:
                raise MissingExtraError("oracle 'spacy-llm'", "spacy-llm")
        elif not is_spacy_llm_model(model):
            raise ClusterLLMError(f"oracle 'spacy-llm': {_name(model)} is neither a model nor the name of one")
        elif config:
            raise ClusterLLMError("oracle 'spacy-llm': config is for a model given by name; set it where it is made")
        self.fingerprint = f"spacy-llm:{fingerprint or _described(model, config or {})}:p{PROMPT_VERSION}"
        self.model = model
        self.max_retries = max_retries
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.max_output_tokens = max_output_tokens
        self._settings = dict(config or {})
        self._concurrency = concurrency
        self._made: Any = None
        self._lock = threading.Lock()

    @property
    def concurrency(self) -> int:
        """Requests at once; where it was not set, a model given by name is made to see of which kind it is."""
        return self._concurrency or (8 if _is_rest(self._ready()) else 1)

    def check(self) -> None:
        """Make a model given by name; raise what :meth:`complete` would."""
        self._ready()

    def complete(self, prompt: str, choices: Sequence[str]) -> Completion:
        """Return the model's reply, charged at its worst case.

        Raises:
            PluginError: If no model is registered under the name.
            OracleError: If the model cannot be made, fails, or gives no text.
        """
        model = self._ready()
        failure: OracleError | None = None
        reply = None
        try:
            reply = _first_reply(model([[prompt]]))
        except (ClusterLLMError, OracleError):
            raise
        except Exception as error:
            failure = oracle_error(self._where(), error, secrets=self._secrets())
        if failure is not None:
            raise failure  # not above, where the model's error, which may quote the key, would be its context
        if reply is None:
            raise self._trouble("the model gave no text, or not nested by doc and prompt as [[text]]")
        if _is_rest(model) and _RESPONSE.match(reply):
            raise self._trouble(f"a response without a text: {reply}")
        return Completion(without_held_keys(reply, self._secrets()), self.worst_case_of(prompt))

    def _ready(self) -> Any:
        with self._lock:
            if self._made is None:
                made: Any = self._make(self.model) if isinstance(self.model, str) else self.model
                if _is_rest(made):
                    made = copy.copy(made)  # since the session retries, and others may use what was given
                    made.retry = lambda call_method, url, **arguments: call_method(url, **arguments)
                self._made = made
            return self._made

    def _make(self, name: str) -> Any:
        try:
            models: Any = importlib.import_module("spacy_llm.registry").registry.llm_models
            if name not in models:
                near = ", ".join(difflib.get_close_matches(name, models.get_all(), cutoff=0.4)) or "none"
                raise PluginError(
                    f"oracle 'spacy-llm': no model {name!r} in @llm_models, near ones: {near} "
                    "(a provider's own name of a model stands in config, as 'name')"
                )
            return models.get(name)(**self._settings)
        except ClusterLLMError:
            raise
        except Exception as error:
            reason = f"cannot be made ({type(error).__name__}: {error}); are its settings and its provider's key right?"
        raise self._trouble(reason, fatal=True)

    def _where(self) -> str:
        where = self.model if isinstance(self.model, str) else _name(self.model)
        if _is_rest(self._made):
            where += f", {self._made._name} at {self._made._endpoint}"
        return f"oracle 'spacy-llm' ({where})"

    def _secrets(self) -> list[str]:
        credentials = getattr(self._made, "_credentials", None)
        return list(map(str, credentials.values())) if isinstance(credentials, Mapping) else []

    def _trouble(self, reason: str, **kind: Any) -> OracleError:
        return trouble(self._where(), reason, secrets=self._secrets(), **kind)


def is_spacy_llm_model(candidate: object) -> bool:
    """Return whether ``candidate`` is a callable such as spacy-llm's models, and neither an oracle nor a class."""
    return callable(candidate) and not isinstance(candidate, type) and not has_methods(candidate, "answer")


def _is_rest(model: object) -> bool:
    """Return whether spacy-llm asks ``model`` over HTTP, without importing spacy-llm."""
    return "spacy_llm.models.rest.base.REST" in [_name(cls) for cls in type(model).__mro__]


def _first_reply(replies: Iterable[Iterable[str]]) -> str | None:
    """Return the reply to the one prompt of the one doc, or None where none stands there."""
    of_doc = next(iter(replies), None)
    # A text in place of a list of texts would be read as its first character.
    reply = None if of_doc is None or isinstance(of_doc, str) else next(iter(of_doc), None)
    return reply if isinstance(reply, str) else None


def _described(model: Any, config: Mapping[str, Any]) -> str:
    """Return what tells a model from others, for the fingerprint."""
    if isinstance(model, str):
        return f"{model}:{_shown({name: config[name] for name in config if name not in _CHANGES_NO_ANSWER})}"
    if isinstance(model, functools.partial):
        return f"{_described(model.func, {})}:{_shown([model.args, model.keywords])}"
    if _is_rest(model):
        return f"{_name(model)}:{_shown([model._name, model._endpoint, model._config])}"
    return _name(model)


def _name(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _shown(settings: Any) -> str:
    """Return settings as JSON that shows no key; what JSON does not know is only named."""

    def masked(found: dict[str, Any]) -> dict[str, Any]:
        return {name: "***" if _SECRET_NAME.search(name) else value for name, value in found.items()}

    plain = json.loads(json.dumps(settings, default=_name, skipkeys=True), object_hook=masked)
    return without_keys(json.dumps(plain, sort_keys=True, ensure_ascii=False))
