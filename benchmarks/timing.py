"""What the parts of speed.py share: contestants in turn, their spread, the peak of memory, the machine in words."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPEATS = 5


def processor() -> str:
    """Return what the figures were measured on, in words."""
    import torch

    names = {"AMX": "_is_amx_tile_supported", "AVX512-BF16": "_is_avx512_bf16_supported"}
    found = [name for name, check in names.items() if getattr(torch.cpu, check)()]
    return (
        f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {' and '.join(found) or 'no bf16 units'}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def in_turn(contestants: dict[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, list[float]]:
    """Return the seconds of each run of each contestant; the caller has warmed them up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float], form: str) -> str:
    """Return the median, and the lowest and the highest in brackets."""
    low, middle, high = (format(value, form) for value in (min(values), float(np.median(values)), max(values)))
    return f"{middle} ({low} to {high})"


def forget_peak() -> None:
    """Let :func:`peak_kib` start again from what this process has now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux only, as below


def peak_kib() -> int:
    """Return the most memory that this process has had; ``getrusage`` would count its parent's, too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")  # Linux only
    return int(status.partition("VmHWM:")[2].split()[0])
