"""Is bf16 faster than fp32 on this processor, and does it cost quality?

    python3 dev.py bench precision

The embedder decides by what the processor can do, never by a timing: this is where that rule is checked.
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import torch
from common import DATA, load, score, table, write_section

from clusterllm_embedders.minilm import MiniLMEmbedder
from clusterllm_embedders.precision import resolve_precision

REPEATS = 5
SETS = ("banking77", "few_event")
N_TEXTS = 1000


def capabilities() -> str:
    """Return what this processor multiplies natively, in words."""
    names = {"AMX": "_is_amx_tile_supported", "AVX512-BF16": "_is_avx512_bf16_supported"}
    found = [name for name, check in names.items() if getattr(torch.cpu, check)()]
    return f"{platform.machine()}, {torch.get_num_threads()} threads, {' and '.join(found) or 'no bf16 units'}"


def main() -> None:
    """Time both precisions in turn and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="names of data sets")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.sets:
        data = load(name, arguments.data)
        embedders = {precision: MiniLMEmbedder(device="cpu", precision=precision) for precision in ("fp32", "bf16")}
        seconds: dict[str, list[float]] = {precision: [] for precision in embedders}
        vectors = {precision: embedder.embed(data.texts) for precision, embedder in embedders.items()}
        for _ in range(REPEATS):
            for precision, embedder in embedders.items():
                start = time.perf_counter()
                embedder.embed(data.texts[:N_TEXTS])
                seconds[precision].append(time.perf_counter() - start)
        ratios = np.array(seconds["fp32"]) / np.array(seconds["bf16"])
        cosine = float((vectors["fp32"] * vectors["bf16"]).sum(axis=1).mean())
        rates = [f"{N_TEXTS / np.median(seconds[precision]):.0f}" for precision in embedders]
        accuracies = [f"{score(data, vectors[precision])['acc']:.1f}" for precision in embedders]
        speed = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
        rows.append([name, *rates, speed, f"{cosine:.5f}", *accuracies])
    header = ["data set", "fp32, texts a second", "bf16, texts a second", "ratio (lowest to highest)"]
    text = (
        "## Precision of embedding\n\n"
        f"`python3 dev.py bench precision --sets {' '.join(arguments.sets)}` "
        f"(minilm, {N_TEXTS} texts, {REPEATS} runs in turn, medians; "
        f"{capabilities()}). "
        f'The precision "auto" is {resolve_precision("auto", "cpu")} here.\n\n'
    )
    columns = [*header, "mean cosine", "ACC fp32", "ACC bf16"]
    write_section("precision", text + table(columns, rows))


if __name__ == "__main__":
    main()
