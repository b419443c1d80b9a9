"""What all components share: their parameters, and the components that are nested in them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Self

from haystack import default_from_dict, default_to_dict
from haystack.core.serialization import component_to_dict

from clusterllm_plugins.errors import ClusterLLMError


class WithParameters:
    """Holds the parameters of ``__init__`` as attributes, and writes them as YAML wants them.

    Attributes:
        nested_names: Which of them are components.
    """

    nested_names: tuple[str, ...] = ()
    _names: tuple[str, ...]

    def _keep(self, parameters: Mapping[str, Any]) -> None:
        """Keep the parameters; lists and dictionaries as copies, which their owner may change."""
        self._names = tuple(name for name in parameters if name not in ("self", "__class__"))
        for name in self._names:
            setattr(self, name, _plain(parameters[name]))

    @property
    def _parameters(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    @property
    def _nested(self) -> list[Any]:
        """The components that are nested in this one."""
        return [inner for name in self.nested_names if (inner := getattr(self, name)) is not None]

    def to_dict(self) -> dict[str, Any]:
        """Return the component as a dictionary, nested components included."""
        return default_to_dict(self, **{name: self._written(name, value) for name, value in self._parameters.items()})

    def _written(self, name: str, value: Any) -> Any:
        if name in self.nested_names and value is not None:
            return component_to_dict(value, name)
        return value.to_dict() if hasattr(value, "to_dict") else _plain(value)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Make a component of what :meth:`to_dict` returned."""
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Warm up what is nested; clients and models are made there."""
        for inner in self._nested:
            if hasattr(inner, "warm_up"):
                inner.warm_up()

    async def warm_up_async(self) -> None:
        """Warm up what is nested, on the event loop that serves it."""
        for inner in self._nested:
            if hasattr(inner, "warm_up_async"):
                await inner.warm_up_async()
            elif hasattr(inner, "warm_up"):
                inner.warm_up()

    def close(self) -> None:
        """Release what is nested."""
        for inner in self._nested:
            if hasattr(inner, "close"):
                inner.close()

    async def close_async(self) -> None:
        """Release what is nested, on the event loop that served it."""
        for inner in self._nested:
            if hasattr(inner, "close_async"):
                await inner.close_async()
            elif hasattr(inner, "close"):
                inner.close()


def check_one_of(component: str, **given: Any) -> None:
    """Raise :class:`ClusterLLMError` where more than one of these parameters is given."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ClusterLLMError(f"{component} takes {' or '.join(names)}, not both")


async def run_async_of(inner: Any, **inputs: Any) -> dict[str, Any]:
    """Run a nested component on the event loop, on a thread where it has no ``run_async``."""
    if callable(getattr(inner, "run_async", None)):
        result: dict[str, Any] = await inner.run_async(**inputs)
        return result
    return await asyncio.to_thread(inner.run, **inputs)


def _plain(value: Any) -> Any:
    """Return a copy of lists and dictionaries, in which tuples are lists, as YAML has none; anything else as it is."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value
