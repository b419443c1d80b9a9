"""The settings of a fit that can be checked before anything is done."""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import Any

import numpy as np

from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.granularity import MOST_CLUSTERS

METHODS = ("auto", "paper")


def check_settings(settings: dict[str, Any]) -> None:
    """Raise :class:`ClusterLLMError` for a setting of :class:`ClusterLLM` that has no meaning."""
    method = settings["method"]
    if method not in METHODS:
        close = difflib.get_close_matches(str(method), METHODS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ClusterLLMError(f"method must be one of {', '.join(METHODS)}, not {method!r}{hint}")
    for name, least in (("max_questions", 0), ("max_granularity_questions", 0), ("iterations", 1)):
        if not _is_int(settings[name]) or settings[name] < least:
            raise ClusterLLMError(f"{name} must be a whole number of at least {least}, not {settings[name]!r}")
    for name in ("max_cost", "max_tokens"):
        value = settings[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not (is_number and value >= 0):
            raise ClusterLLMError(f"{name} must be a number of at least 0 or None, not {value!r}")
    instruction = settings["instruction"]
    if instruction is not None and not isinstance(instruction, str):
        raise ClusterLLMError(f"instruction must be a text or None, not {instruction!r}")
    for name in ("store", "cache"):
        check_path(name, settings.get(name))  # some components have no cache
    check_redact(settings["redact"])
    _check_demonstrations(settings["demonstrations"], quoted=not settings["redact"])


def check_path(name: str, path: Any) -> None:
    """Raise :class:`ClusterLLMError` for what is neither a path nor None."""
    if path is not None and not isinstance(path, str | Path):
        raise ClusterLLMError(f"{name} must be a path or None, not {path!r}")


def check_redact(redact: Any) -> None:
    """Raise :class:`ClusterLLMError` for what is no list of redactors."""
    if not isinstance(redact, list | tuple):
        raise ClusterLLMError(f"redact must be a list of redactors, not {redact!r}")


def _check_demonstrations(demonstrations: Any, *, quoted: bool) -> None:
    """Check worked examples; what is to be redacted is not ``quoted`` in an error."""
    if not isinstance(demonstrations, list | tuple):
        shown = repr(demonstrations) if quoted else type(demonstrations).__name__
        raise ClusterLLMError(f"demonstrations must be a list, not {shown}")
    for number, example in enumerate(demonstrations):
        is_triple = isinstance(example, list | tuple) and len(example) == 3 and all(isinstance(x, str) for x in example)
        if not is_triple or example[2] not in ("yes", "no"):
            shown = f"not {_as_tuple(example)!r}" if quoted else f"which number {number} is not"
            raise ClusterLLMError(f"a demonstration is (left, right, 'yes' or 'no'), {shown}")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def cluster_range(n_clusters: Any, n_distinct: int) -> tuple[int, int]:
    """Return the smallest and the largest number of clusters that may come out.

    Raises:
        ClusterLLMError: If ``n_clusters`` is none of int, (low, high) and ``"auto"``, or asks for more clusters
            than there are distinct texts.
    """
    if n_clusters == "auto":
        return min(2, n_distinct), max(1, min(MOST_CLUSTERS, n_distinct - 1))
    if _is_int(n_clusters):
        low = high = int(n_clusters)
    elif isinstance(n_clusters, tuple | list) and len(n_clusters) == 2 and all(map(_is_int, n_clusters)):
        low, high = (int(bound) for bound in n_clusters)
    else:
        raise ClusterLLMError(f"n_clusters must be a whole number, (low, high) or 'auto', not {n_clusters!r}")
    if not 1 <= low <= high:
        raise ClusterLLMError(f"n_clusters must be at least 1, and low at most high, not {n_clusters!r}")
    if low > n_distinct:
        raise ClusterLLMError(
            f"cannot make {low} clusters out of {n_distinct} distinct text{'' if n_distinct == 1 else 's'}"
        )
    return low, min(high, n_distinct)


def seed_of(random_state: Any) -> int:
    """Return a seed: the whole number itself, or a draw from what numpy knows as a source of randomness.

    Raises:
        ClusterLLMError: If it is neither.
    """
    if _is_int(random_state):
        if random_state < 0:
            raise ClusterLLMError(f"random_state must be at least 0, not {random_state}")
        return int(random_state)
    if random_state is None or isinstance(random_state, np.random.Generator):
        return int(np.random.default_rng(random_state).integers(2**31))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    raise ClusterLLMError(f"random_state must be a whole number, a generator or None, not {random_state!r}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
