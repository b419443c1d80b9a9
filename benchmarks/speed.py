"""How fast are the parts that compute, against what one would do without this package?

    python3 dev.py bench speed --parts embedding

Each part is a function from the data sets to rows of figures; the contestants of a part run in turn, so that a busy
machine slows all of them. Figures are kept in results/speed.jsonl: delete that file to measure again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DATA, HERE, SEEDS, DataSet, Results, load, score, table, write_section
from speed_training import training

from clusterllm_embedders.minilm import MiniLMEmbedder
from clusterllm_embedders.precision import resolve_precision
from clusterllm_plugins.embedding import embed_texts
from clusterllm_plugins.protocols import Vectors

REPEATS = 5
SETS = ("banking77", "few_event")
N_TEXTS = 500  # that are timed; cosines and clusters are of all

Embed = Callable[[list[str]], Vectors]


def processor() -> str:
    """Return what the figures were measured on, in words."""
    names = {"AMX": "_is_amx_tile_supported", "AVX512-BF16": "_is_avx512_bf16_supported"}
    found = [name for name, check in names.items() if getattr(torch.cpu, check)()]
    return (
        f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {' and '.join(found) or 'no bf16 units'}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def in_turn(contestants: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
    """Return the seconds of each run of each contestant, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(REPEATS + 1):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def spread(values: list[float], form: str) -> str:
    """Return the median, and the lowest and the highest in brackets."""
    low, middle, high = (format(value, form) for value in (min(values), float(np.median(values)), max(values)))
    return f"{middle} ({low} to {high})"


# Embedding


def embedders() -> dict[str, Callable[[], Embed]]:
    """Return what makes each contestant; the first is what the others are compared with."""

    def plain() -> Embed:
        model = MiniLMEmbedder(device="cpu").model
        return lambda texts: model.encode(texts, show_progress_bar=False)

    def ours(**settings: Any) -> Callable[[], Embed]:
        def make() -> Embed:
            embedder = MiniLMEmbedder(**settings)
            return lambda texts: embed_texts(embedder, texts)

        return make

    made = {
        "`SentenceTransformer.encode`, defaults": plain,
        f"minilm, defaults ({resolve_precision('auto', 'cpu')})": ours(device="cpu"),
        "minilm, fp32": ours(device="cpu", precision="fp32"),
    }
    if importlib.util.find_spec("onnxruntime") is not None:
        made["minilm, onnx"] = ours(backend="onnx")
    return made


def measured_embedding(data: DataSet) -> dict[str, Any]:
    """Return a row of figures for each contestant."""
    contestants = {name: make() for name, make in embedders().items()}
    some = data.texts[:N_TEXTS]
    seconds = in_turn({name: (lambda embed=embed: embed(some)) for name, embed in contestants.items()})
    first, *_ = contestants
    reference, rows = None, {}
    for name, embed in contestants.items():
        vectors = embed(data.texts)
        reference = vectors if reference is None else reference
        rows[name] = {
            "texts_per_second": [len(some) / taken for taken in seconds[name]],
            "ratios": [slow / taken for slow, taken in zip(seconds[first], seconds[name], strict=True)],
            "cosine": float((vectors * reference).sum(axis=1).mean()),
            "acc": score(data, vectors)["acc"],
            "peak_mib": peak_memory(name, some),
        }
    return {"rows": rows, "machine": processor()}


def peak_memory(contestant: str, texts: list[str]) -> int:
    """Return the most memory, in MiB, of a process of its own that embeds ``texts``, beyond what imports take."""
    command = [sys.executable, __file__, "--peak-of", contestant]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def print_peak(contestant: str) -> None:
    """Embed the texts of the standard input and print the peak of memory."""
    make, texts = embedders()[contestant], json.load(sys.stdin)
    import sentence_transformers  # noqa: F401  # before the first reading: what it takes is everybody's

    before = peak_kib()
    make()(texts)
    print((peak_kib() - before) // 1024)


def peak_kib() -> int:
    """Return the most memory that this process has had; ``getrusage`` would count its parent's, too."""
    status = Path("/proc/self/status").read_text(encoding="ascii")  # Linux only
    return int(status.partition("VmHWM:")[2].split()[0])


def embedding(sets: dict[str, DataSet], results: Results) -> str:
    """Measure and describe the embedding of short and of longer texts."""
    rows, machine = [], ""
    for name, data in sets.items():
        found = results.ensure(lambda data=data: measured_embedding(data), part="embedding", data=name)
        machine = found["machine"]
        start = next(iter(found["rows"].values()))["acc"]
        for contestant, row in found["rows"].items():
            rate, ratio = spread(row["texts_per_second"], ".0f"), spread(row["ratios"], ".2f")
            accuracy = f"{row['acc']:.1f} ({row['acc'] - start:+.1f})"
            rows.append([name, contestant, rate, ratio, f"{row['cosine']:.5f}", accuracy, row["peak_mib"]])
    header = ["data set", "embedder", "texts a second", "times as fast", "mean cosine", "ACC", "memory, MiB"]
    return (
        f"### Embedding\n\n{N_TEXTS} texts, {REPEATS} runs in turn, medians (lowest to highest), on a machine that "
        f"others used too; cosine with the first row's vectors and ACC of k-means (mean of {len(SEEDS)} seeds) over "
        f"all texts; memory is what a process that embeds the {N_TEXTS} texts takes beyond its imports. {machine}.\n\n"
        + table(header, rows)
    )


PARTS = {"embedding": embedding, "training": training}


def main() -> None:
    """Measure the parts that were asked for and write what is known of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="names of data sets")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="what to measure")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print_peak(arguments.peak_of)
        return
    results = Results(HERE / "results" / "speed.jsonl")
    sets = {name: load(name, arguments.data) for name in arguments.sets}
    known = {run["part"] for run in results.runs}
    texts = [part(sets, results) for name, part in PARTS.items() if name in known or name in arguments.parts]
    command = f"`python3 dev.py bench speed --sets {' '.join(arguments.sets)}`"
    write_section("speed", "\n\n".join([f"## Speed\n\n{command} (minilm).", *texts]))


if __name__ == "__main__":
    main()
