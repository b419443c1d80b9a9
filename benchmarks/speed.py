"""How fast are the parts that compute, against what one would do without this package?

    python3 dev.py bench speed --parts embedding

Each part is a function from the data sets to its text; its contestants run in turn, so that a busy machine slows all
of them. Figures are kept in results/speed.jsonl: delete a line there to measure it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from common import DATA, HERE, SEEDS, DataSet, Results, load, score, table, write_section
from speed_clustering import clustering
from speed_pipeline import SIDES, pipeline
from speed_training import training
from timing import REPEATS, in_turn, peak_kib, processor, spread

from clusterllm_embedders.minilm import MiniLMEmbedder
from clusterllm_embedders.precision import resolve_precision
from clusterllm_plugins.embedding import embed_texts
from clusterllm_plugins.protocols import Vectors

N_TEXTS = 500  # that are timed; cosines and clusters are of all

Embed = Callable[[list[str]], Vectors]


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
    for embed in contestants.values():
        embed(some)  # which does not count
    seconds = in_turn({name: (lambda embed=embed: embed(some)) for name, embed in contestants.items()})
    first, *_ = contestants
    reference, rows = None, {}
    for name, embed in contestants.items():
        vectors = embed(data.texts)
        reference = vectors if reference is None else reference
        found = score(data, vectors)
        rows[name] = {
            "texts_per_second": [len(some) / taken for taken in seconds[name]],
            "ratios": [slow / taken for slow, taken in zip(seconds[first], seconds[name], strict=True)],
            "cosine": float((vectors * reference).sum(axis=1).mean()),
            **{key: found[key] for key in ("acc", "acc_low", "acc_high")},
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


def embedding(names: Sequence[str], get: Callable[[str], DataSet], folder: Path, results: Results) -> str:
    """Measure and describe the embedding of short and of longer texts."""
    rows, machine = [], ""
    for name in names:
        found = results.ensure(lambda name=name: measured_embedding(get(name)), part="embedding", data=name)
        machine = found["machine"]
        start = next(iter(found["rows"].values()))["acc"]
        for contestant, row in found["rows"].items():
            rate, ratio = spread(row["texts_per_second"], ".0f"), spread(row["ratios"], ".2f")
            accuracy = f"{row['acc']:.1f} ({row['acc_low']:.1f} to {row['acc_high']:.1f}), {row['acc'] - start:+.1f}"
            rows.append([name, contestant, rate, ratio, f"{row['cosine']:.5f}", accuracy, row["peak_mib"]])
    header = ["data set", "embedder", "texts a second", "times as fast", "mean cosine", "ACC", "memory, MiB"]
    return (
        f"### Embedding\n\n{N_TEXTS} texts, {REPEATS} runs in turn, medians (lowest to highest), on a machine that "
        f"others used too; cosine with the first row's vectors and ACC of k-means (mean of {len(SEEDS)} seeds, lowest "
        "to highest, and the difference to the first row) over all texts; memory is what a process that embeds the "
        f"{N_TEXTS} texts takes beyond its imports. {machine}.\n\n" + table(header, rows)
    )


# A part gets the names of data sets, what loads one, the folder that they lie in, and the results.
PARTS = {"embedding": embedding, "training": training, "clustering": clustering, "pipeline": pipeline}
SETS = {
    "embedding": ["banking77", "few_event"],
    "training": ["banking77"],
    "clustering": ["banking77", "clinc", "mixture"],
    "pipeline": ["clinc"],
}
ROWS = {"pipeline": len(SIDES)}  # of a data set, where that is not one


def main() -> None:
    """Measure the parts that were asked for and write what is known of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", help="names of data sets; by default each part's own")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS), help="what to measure")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print_peak(arguments.peak_of)
        return
    results = Results(HERE / "results" / "speed.jsonl")
    get = cache(lambda name: load(name, arguments.data))
    texts = []
    for part, measure in PARTS.items():
        asked = (arguments.sets or SETS[part]) if part in arguments.parts else []
        rows = Counter(run["data"] for run in results.runs if run["part"] == part)
        known = [name for name, count in rows.items() if count >= ROWS.get(part, 1)]
        names = list(dict.fromkeys([*known, *asked]))
        texts += [measure(names, get, arguments.data, results)] if names else []
    write_section("speed", "\n\n".join(["## Speed\n\n`python3 dev.py bench speed` (minilm).", *texts]))


if __name__ == "__main__":
    main()
