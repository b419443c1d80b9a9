"""How do time and memory grow with the number of texts, and is anything lost by it?

    python3 dev.py bench scale --largest 1000000

Vectors are mixtures of Gaussians whose truth is known, in groups of five that lie near each other, other ones for each
size (ACC tells nothing across sizes); they are written to a file and memory-mapped. Texts are made up of words that a
category uses more than others. Embedding is not measured. Each fit runs in a process of its own, whose largest resident
memory the operating system tells; the pages of the mapped file that were read count in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, Results, table, write_section
from numpy.typing import NDArray

from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.metrics import accuracy
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.vectors import kmeans_of_few, nearest, normalise

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
FULL_SIZE = 100_000  # at which k-means of all vectors is run beside
DIM = 384
N_CLUSTERS = 200
PER_GROUP = 5  # categories that lie near each other
INNER = 32  # dimensions in which the categories differ
NOISE = 0.18  # k-means misses a fifth of the categories or so, as on real texts; the truth's own means give 96 points
QUESTIONS = 256
SYLLABLES = ("ba", "ko", "mi", "ru", "te", "la", "so", "ni", "du", "ga", "pe", "vo")
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "given": ("nobody asked, 200 clusters", {"n_clusters": N_CLUSTERS}),
    "open": ("nobody asked, number open", {"n_clusters": "auto"}),
    "asked": (f"auto, {QUESTIONS} questions, 200 clusters", {"n_clusters": N_CLUSTERS, "max_questions": QUESTIONS}),
    "asked-open": (
        f"auto, {QUESTIONS} questions, number open",
        {"n_clusters": "auto", "max_questions": QUESTIONS // 2, "max_granularity_questions": QUESTIONS // 2},
    ),
    "paper": (
        f"paper, {QUESTIONS} questions, number open",
        {
            "n_clusters": "auto",
            "method": "paper",
            "max_questions": QUESTIONS // 2,
            "max_granularity_questions": QUESTIONS // 2,
        },
    ),
}


def write_mixture(folder: Path, n: int) -> None:
    """Write ``vectors.npy``, shape (n, DIM), and ``labels.npy``, shape (n,)."""
    rng = np.random.default_rng(n)
    basis = np.linalg.qr(rng.normal(size=(DIM, INNER)))[0].T
    groups = _unit(rng.normal(size=(N_CLUSTERS // PER_GROUP, INNER)))
    own = 0.9 * rng.normal(size=(N_CLUSTERS, INNER)) / np.sqrt(INNER)
    centres = _unit(np.repeat(groups, PER_GROUP, axis=0) + own)
    shares = rng.lognormal(0, 0.5, size=N_CLUSTERS)
    labels = rng.choice(N_CLUSTERS, size=n, p=shares / shares.sum())
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float32, (n, DIM))
    for start in range(0, n, 50_000):
        some = labels[start : start + 50_000]
        inner = centres[some] + NOISE * rng.normal(size=(len(some), INNER))
        vectors[start : start + len(some)] = inner @ basis + 0.02 * rng.normal(size=(len(some), DIM))
    np.save(folder / "labels.npy", labels)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def made_up(labels: Labels) -> list[str]:
    """Return a text for each label: two words of its own, five that all share, and a number."""
    rng = np.random.default_rng(0)
    own, shared = rng.integers(20, size=(len(labels), 2)), rng.integers(500, size=(len(labels), 5))
    words = [[_word(7919 * label + place) for place in range(20)] for label in range(N_CLUSTERS)]
    common = [_word(90_001 + 13 * place) for place in range(500)]
    return [
        " ".join([words[label][one], *(common[place] for place in places), words[label][other], str(number)])
        for number, (label, (one, other), places) in enumerate(
            zip(labels.tolist(), own.tolist(), shared.tolist(), strict=True)
        )
    ]


def _word(number: int) -> str:
    return "".join(SYLLABLES[number // 12**place % 12] for place in range(5))


def read(folder: Path) -> tuple[Vectors, Labels, list[str]]:
    """Return the mapped vectors, labels and texts."""
    labels = np.load(folder / "labels.npy")
    return np.load(folder / "vectors.npy", mmap_mode="r"), labels, made_up(labels)


def megabytes() -> float:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


def fit(folder: Path, arm: str) -> dict[str, Any]:
    """Fit and predict in this process, and return what it took."""
    vectors, labels, texts = read(folder)
    settings = dict(ARMS[arm][1])
    if "max_questions" in settings:
        settings["oracle"] = {"name": "simulated", "labels": labels.tolist()}
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClusterLLMWarning)
        model = ClusterLLM(progress=False, **settings).fit(texts, embeddings=vectors)
    seconds = time.perf_counter() - start
    peak = megabytes()
    start = time.perf_counter()
    predicted = model.predict(texts, embeddings=vectors)
    rate = len(texts) / (time.perf_counter() - start)
    return {
        "seconds": round(seconds, 1),
        "peak": round(peak),
        "acc": round(100 * accuracy(labels, model.labels_), 2),
        "n_clusters": model.n_clusters_,
        "predicted_a_second": round(rate),
        "peak_with_predict": round(megabytes()),
        "predicted_otherwise": int((predicted != model.labels_).sum()),
    }


def full(folder: Path) -> dict[str, Any]:
    """Run k-means of all vectors with ten starts, and return what it took."""
    vectors, labels, _ = read(folder)
    unit = normalise(vectors)
    start = time.perf_counter()
    centroids = kmeans_of_few(unit, N_CLUSTERS, 0)
    seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 1), "acc": round(100 * accuracy(labels, nearest(unit, centroids)), 2)}


def in_process(folder: Path, what: str) -> dict[str, Any]:
    """Return the result of :func:`fit` or :func:`full` in a process of its own."""
    command = [sys.executable, __file__, "--child", what, "--folder", str(folder)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def exponent(sizes: list[int], values: list[float]) -> float:
    """Return the slope of the values against the sizes, both in logarithms, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def section(results: Results, sizes: list[int], arms: list[str]) -> str:
    """Return the text and the table of RESULTS.md."""
    rows, slopes = [], []
    for arm in arms:
        runs = [run for n in sizes if (run := results.find(n=n, arm=arm)) is not None]
        for run in runs:
            figures = [run[name] for name in ("n", "seconds", "peak", "n_clusters", "acc", "predicted_a_second")]
            rows.append([ARMS[arm][0], *figures])
        if len(runs) > 1:
            made = [run["n"] for run in runs]
            times = exponent(made, [run["seconds"] for run in runs])
            peaks = exponent(made, [run["peak"] for run in runs])
            slopes.append([ARMS[arm][0], f"{times:.2f}", f"{peaks:.2f}"])
    header = ["fit", "texts", "seconds", "peak MB", "clusters", "ACC", "predicted a second"]
    text = (
        "## Scale\n\n"
        f"`python3 dev.py bench scale --largest {max(sizes)}` (mixtures of {N_CLUSTERS} Gaussians in {DIM} "
        f"dimensions, memory-mapped; {platform.machine()}, {os.cpu_count()} cores; one run each, in a process of its "
        "own; peak: the largest resident memory up to the end of the fit, the interpreter, the texts and the pages of "
        "the mapped file included). **The oracle is simulated** (profile `measured`).\n\n" + table(header, rows)
    )
    if slopes:
        text += "\n\nExponents against the number of texts, by least squares on logarithms:\n\n"
        text += table(["fit", "of seconds", "of peak MB"], slopes)
    beside = results.find(n=FULL_SIZE, arm="full k-means")
    ours = results.find(n=FULL_SIZE, arm="given")
    if beside and ours:
        text += (
            f"\n\nk-means of all {FULL_SIZE} vectors with ten starts: {beside['seconds']} s, ACC {beside['acc']}; "
            f"the fit above: {ours['seconds']} s, ACC {ours['acc']}."
        )
    return text


def main() -> None:
    """Run every size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--dry", action="store_true", help=f"print the table, do not write it to {RESULTS.name}")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        made = full(arguments.folder) if arguments.child == "full" else fit(arguments.folder, arguments.child)
        print(json.dumps(made))
        return
    sizes = [n for n in SIZES if n <= arguments.largest] or [arguments.largest]
    results = Results(Path(__file__).parent / "results" / "scale.jsonl")
    for n in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_mixture(folder, n)
            for arm in arguments.arms:
                results.ensure(lambda folder=folder, arm=arm: in_process(folder, arm), n=n, arm=arm)
            if n == FULL_SIZE and "given" in arguments.arms:
                results.ensure(lambda folder=folder: in_process(folder, "full"), n=n, arm="full k-means")
    text = section(results, sizes, arguments.arms)
    print(text)
    if not arguments.dry:
        write_section("scale", text)


if __name__ == "__main__":
    main()
