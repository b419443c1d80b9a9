"""Discovery of plugins and resolution of components by name.

In: the entry points of the group ``clusterllm``, and specs such as ``"openai"`` or
``{"name": "openai", "model": ...}``. Out: oracles, embedders and redactors. Our own components come in
through the same entry points as a stranger's. There is no global state: a :class:`Plugins` object is all.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any

import pluggy

from clusterllm_plugins import hookspecs
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning, PluginError
from clusterllm_plugins.hookspecs import PROJECT, Factory
from clusterllm_plugins.keys import IN_ADDRESS, SECRET_NAME, SHAPE, held_keys, shows_key, without_keys
from clusterllm_plugins.protocols import (
    Embedder,
    Oracle,
    check_embedder_protocol,
    check_oracle_protocol,
)
from clusterllm_plugins.questions import OracleError

DISTRIBUTION = "clusterllm-plugins"
KINDS = ("oracle", "embedder", "redactor")

Redactor = Callable[[str], str]

_KEY = re.compile(rf"{SHAPE}|Bearer\s.*")


@dataclass(frozen=True)
class Registration:
    """A named factory and the plugin that registered it."""

    name: str
    factory: Factory
    plugin: str

    def load(self, kind: str) -> Callable[..., Any]:
        """Return the factory itself, imported where it is given as a dotted string."""
        if callable(self.factory):
            return self.factory
        module, _, attribute = self.factory.partition(":")
        try:
            loaded = getattr(importlib.import_module(module), attribute)
        except Exception as error:  # whatever a stranger's module does when it is imported
            raise PluginError(
                f"{kind} {self.name!r} of plugin {self.plugin!r}: cannot load {self.factory!r} ({error})"
            ) from error
        if not callable(loaded):
            raise PluginError(
                f"{kind} {self.name!r} of plugin {self.plugin!r}: cannot load {self.factory!r} (not callable)"
            )
        factory: Callable[..., Any] = loaded
        return factory


@dataclass
class BrokenPlugin:
    """A plugin that was skipped, and why."""

    name: str
    error: str


@dataclass
class Plugins:
    """All plugins of one environment.

    Args:
        discover: Whether to load the entry points. ``False`` finds nothing, for tests that register by hand.

    The environment variable ``CLUSTERLLM_LOAD_PLUGINS=a,b`` loads only these distributions or entry points
    besides the built-ins (empty: none); ``CLUSTERLLM_STRICT_PLUGINS=1`` raises where a plugin is broken.
    """

    discover: bool = True
    names: list[str] = field(default_factory=list, init=False)
    broken: list[BrokenPlugin] = field(default_factory=list, init=False)
    registrations: dict[str, dict[str, Registration]] = field(init=False)

    def __post_init__(self) -> None:
        self.registrations = {kind: {} for kind in KINDS}
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(hookspecs)
        if self.discover:
            from clusterllm_plugins import redactors  # here, as it needs the hook's marks only

            self.register(redactors, f"{DISTRIBUTION}:redactors")
            for entry_point in _entry_points():
                self._load(entry_point)

    @property
    def hook(self) -> pluggy.HookRelay:
        """The hooks of all registered plugins."""
        return self.manager.hook

    @property
    def oracles(self) -> Mapping[str, Registration]:
        """The registered oracles by name."""
        return self.registrations["oracle"]

    @property
    def embedders(self) -> Mapping[str, Registration]:
        """The registered embedders by name."""
        return self.registrations["embedder"]

    @property
    def redactors(self) -> Mapping[str, Registration]:
        """The registered redactors by name."""
        return self.registrations["redactor"]

    def _load(self, entry_point: EntryPoint) -> None:
        name = _plugin_name(entry_point)
        try:
            self.register(entry_point.load(), name)
        except (Exception, SystemExit) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            if os.environ.get("CLUSTERLLM_STRICT_PLUGINS") == "1":
                raise PluginError(f"plugin {name!r} is broken: {reason}") from error
            self.broken.append(BrokenPlugin(name, reason))
            warnings.warn(f"plugin {name!r} is skipped: {reason}", ClusterLLMWarning, stacklevel=4)

    def register(self, plugin: ModuleType | object, name: str) -> None:
        """Register a plugin and what it brings; on any error nothing of it stays.

        Raises:
            PluginError: If it misspells a hook or registers a name that is taken.
        """
        if self.manager.is_registered(plugin) or self.manager.has_plugin(name):
            raise PluginError(f"plugin {name!r} is already registered")
        try:
            self.manager.register(plugin, name)
            self.manager.check_pending()
            staged = {kind: self._collect(kind, plugin, name) for kind in KINDS}
        except BaseException as error:
            if self.manager.is_registered(plugin):
                self.manager.unregister(plugin)
            if isinstance(error, pluggy.PluginValidationError):
                raise PluginError(" ".join(str(error).split())) from error
            raise
        for kind, registrations in staged.items():
            self.registrations[kind].update(registrations)
        self.names.append(name)

    def _collect(self, kind: str, plugin: object, plugin_name: str) -> dict[str, Registration]:
        """Return what ``plugin`` alone registers as ``kind``."""
        collected: dict[str, Registration] = {}

        def register(name: str, factory: Factory) -> None:
            taken = self.registrations[kind].get(name) or collected.get(name)
            if taken:
                raise PluginError(f"{kind} {name!r} is already registered by plugin {taken.plugin!r}")
            if not callable(factory) and not (isinstance(factory, str) and ":" in factory):
                raise PluginError(
                    f"{kind} {name!r}: a factory is a callable or 'package.module:Class', not {factory!r}"
                )
            collected[name] = Registration(name, factory, plugin_name)

        others = [other for other in self.manager.get_plugins() if other is not plugin]
        self.manager.subset_hook_caller(f"register_{kind}s", others)(register=register)
        return collected

    def oracle(self, spec: str | Mapping[str, Any] | Oracle) -> Oracle:
        """Return the oracle of a name, of ``{"name": ..., **settings}``, or ``spec`` itself.

        Raises:
            PluginError: If the name or a setting is unknown, or what comes out is no oracle.
        """
        made = self._make("oracle", spec)
        check_oracle_protocol(made, _spec_name(spec))
        oracle: Oracle = made
        return oracle

    def embedder(self, spec: str | Mapping[str, Any] | Embedder) -> Embedder:
        """Return the embedder of a name, of ``{"name": ..., **settings}``, or ``spec`` itself.

        Raises:
            PluginError: If the name or a setting is unknown, or what comes out is no embedder.
        """
        made = self._make("embedder", spec)
        check_embedder_protocol(made, _spec_name(spec))
        embedder: Embedder = made
        return embedder

    def redactor(self, spec: str | Mapping[str, Any] | Redactor) -> Redactor:
        """Return the redactor of a name, of ``{"name": ..., **settings}``, or ``spec`` itself.

        Raises:
            PluginError: If the name or a setting is unknown, or what comes out cannot be called.
        """
        made = spec if callable(spec) else self._make("redactor", spec)
        if not callable(made):
            raise PluginError(f"redactor {_spec_name(spec)!r}: {type(made).__name__} cannot be called with a text")
        redactor: Redactor = made
        return redactor

    def _make(self, kind: str, spec: Any) -> Any:
        if isinstance(spec, str):
            settings: dict[str, Any] = {"name": spec}
        elif isinstance(spec, Mapping):
            settings = dict(spec)
        else:
            return spec
        name = settings.pop("name", None)
        if not isinstance(name, str):
            # Not the settings' values: one may be a key that stands in the wrong place.
            known = ", ".join(sorted(self.registrations[kind])) or "none"
            raise PluginError(
                f"{kind} with the settings {', '.join(dict(spec)) or 'none'} has no name; one of: {known}"
            )
        registration = self.registrations[kind].get(name)
        if registration is None:
            raise PluginError(self._unknown(kind, name))
        factory = registration.load(kind)
        refuse_keys(settings, f"{kind} {name!r}", by_name=False)
        _check_settings(factory, settings, f"{kind} {name!r}")  # before names count: it says which settings there are
        refuse_keys(settings, f"{kind} {name!r}")
        try:
            return factory(**settings)
        except (ClusterLLMError, OracleError):
            raise
        except Exception as error:
            given = ", ".join(settings) or "no settings"
            reason = without_keys(f"{type(error).__name__}: {error}")
            cause = None if shows_key(error) else error
        raise PluginError(f"{kind} {name!r}: cannot be made with {given} ({reason})") from cause

    def _unknown(self, kind: str, name: str) -> str:
        known = sorted(self.registrations[kind])
        message = f"unknown {kind} {name!r}"
        close = difflib.get_close_matches(name, known, n=1)
        if close:
            message += f"; did you mean {close[0]!r}?"
        message += f" (known: {', '.join(known) or 'none'})"
        if self.broken:
            message += "; broken plugins: " + ", ".join(f"{p.name} ({p.error})" for p in self.broken)
        return message


def describe_settings(factory: Callable[..., Any]) -> str:
    """Return a factory's settings with their defaults, as in its signature."""
    return ", ".join(map(_describe_parameter, _parameters(factory).values())) or "no settings"


def _describe_parameter(parameter: inspect.Parameter) -> str:
    text, annotation = parameter.name, parameter.annotation
    if annotation is not parameter.empty:
        # Postponed annotations are strings, which inspect would show in quotation marks.
        text += f": {annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)}"
    return text if parameter.default is parameter.empty else f"{text} = {parameter.default!r}"


def _entry_points() -> Iterator[EntryPoint]:
    """Yield each entry point once: the built-ins first, or a stranger's could take their names."""
    wanted = os.environ.get("CLUSTERLLM_LOAD_PLUGINS")
    chosen = None if wanted is None else {_normal(name) for name in wanted.split(",") if name.strip()}
    found = {_plugin_name(ep): ep for ep in entry_points(group=PROJECT)}
    builtin = [name for name, ep in found.items() if _distribution(ep) == DISTRIBUTION]
    yield from (found[name] for name in sorted(builtin))
    for name in sorted(set(found) - set(builtin)):
        if chosen is None or chosen & set(map(_normal, (name, found[name].name, _distribution(found[name])))):
            yield found[name]


def _normal(name: str) -> str:
    """Return a distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _distribution(entry_point: EntryPoint) -> str:
    return entry_point.dist.name if entry_point.dist else "unknown"


def _plugin_name(entry_point: EntryPoint) -> str:
    """Return the distribution and, as one may bring several, the entry point: ``clusterllm-acme:acme``."""
    return f"{_distribution(entry_point)}:{entry_point.name}"


def _spec_name(spec: Any) -> str:
    if isinstance(spec, str):
        return spec
    return str(spec["name"]) if isinstance(spec, Mapping) else type(spec).__name__


def _parameters(factory: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return {
        name: parameter
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _takes_any(factory: Callable[..., Any]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())


def refuse_keys(settings: Mapping[str, Any], what: str, *, by_name: bool = True) -> None:
    """Raise :class:`PluginError` for a value that is, holds or looks like a key: settings are written to disk.

    Args:
        settings: Any, also nested ones.
        what: They are of.
        by_name: Whether whatever a setting such as ``api_key`` has is a key.
    """
    held = held_keys()
    for setting, value in settings.items():
        if isinstance(value, Mapping):
            refuse_keys(value, what, by_name=by_name)
        elif isinstance(value, list | tuple):
            for item in value:
                refuse_keys(item if isinstance(item, Mapping) else {setting: item}, what, by_name=by_name)
        elif isinstance(value, str) and IN_ADDRESS.search(value):
            raise PluginError(
                f"{what}: the address in the setting {setting!r} holds a user or a key; leave it out, put the key into "
                "an environment variable and give that one's name"
            )
        elif isinstance(value, str) and value.strip() and _is_key(str(setting), value.strip(), held, by_name):
            # Never quoted.
            raise PluginError(
                f"{what}: the setting {setting!r} looks like a key; put the key into an environment variable and "
                "give that one's name"
            )


def _is_key(setting: str, value: str, held: set[str], by_name: bool) -> bool:
    looks_like_one = _KEY.fullmatch(value) or (by_name and SECRET_NAME.fullmatch(setting))
    return bool(looks_like_one) or any(key in value for key in held)


def _check_settings(factory: Callable[..., Any], settings: Mapping[str, Any], what: str) -> None:
    parameters = _parameters(factory)
    signature = describe_settings(factory)
    unknown = [] if _takes_any(factory) else [name for name in settings if name not in parameters]
    if unknown:
        close = difflib.get_close_matches(unknown[0], list(parameters), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise PluginError(f"{what} has no setting {unknown[0]!r}{hint} (settings: {signature})")
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in settings]
    if missing:
        raise PluginError(f"{what} needs the setting {missing[0]!r} (settings: {signature})")
