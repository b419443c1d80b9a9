"""Which numeric precision a model runs in: decided by what the processor can do, never by a timing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from clusterllm_plugins.errors import ClusterLLMError

PRECISIONS = ("auto", "fp32", "bf16")


def check_precision(precision: str) -> None:
    """Raise :class:`ClusterLLMError` for an unknown precision."""
    if precision not in PRECISIONS:
        raise ClusterLLMError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")


def resolve_precision(precision: str, device: str) -> str:
    """Return ``"fp32"`` or ``"bf16"`` for ``device``.

    On a CPU bf16 pays only where the processor multiplies it natively (AMX or AVX512-BF16); elsewhere it is
    emulated and *slower* than fp32. benchmarks/RESULTS.md has the figures.
    """
    if precision != "auto":
        return precision
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if kind == "cpu":
        # There is no public way to ask; a torch without these is taken not to have the units.
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return "bf16" if any(getattr(torch.cpu, check, _no)() for check in checks) else "fp32"
    return "fp32"


def autocast(precision: str, device: str) -> AbstractContextManager[Any]:
    """Return the context in which a model runs at ``precision``."""
    if precision == "fp32":
        return nullcontext()
    import torch

    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)


def _no() -> bool:
    return False
