"""The part ``training`` of speed.py: fine-tuning, against the plain loop that one would write without this package.

The plain loop takes steps of 4 triplets (paper, section 3.1) in fp32: anchors, chosen and rejected texts go through the
model one after the other, each padded to its longest, tokenized at every step (plain_training.py).
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DataSet, Results, table
from numpy.typing import NDArray
from plain_training import train_plainly
from timing import REPEATS, peak_kib, spread

from clusterllm_embedders.finetuning import Training, triplet_loss
from clusterllm_embedders.gradients import Gradients
from clusterllm_embedders.minilm import MiniLMEmbedder
from clusterllm_embedders.precision import resolve_precision
from clusterllm_embedders.token_table import TokenTable

WHOLE = 1024  # triplets
SOME = 64  # that are timed several times
LARGE = 256  # triplets of a large step
PLAIN, OURS, SAME = "plain loop, batch 4, fp32", "ours, batch 16", "ours, batch 4, fp32"

Triplets = NDArray[np.int64]


def triplets_by_label(data: DataSet, n: int) -> Triplets:
    """Return random triplets whose chosen text has the anchor's label and whose rejected has not, shape (n, 3)."""
    rng = np.random.default_rng(0)
    triplets = []
    while len(triplets) < n:
        anchor = int(rng.integers(len(data.texts)))
        same = np.flatnonzero(data.labels == data.labels[anchor])
        other = np.flatnonzero(data.labels != data.labels[anchor])
        chosen = int(rng.choice(same))
        if chosen != anchor:
            triplets.append([anchor, chosen, int(rng.choice(other))])
    return np.array(triplets)


def plain_loss(model: Any, texts: list[str], batch: Triplets, temperature: float = 0.05) -> Any:
    """Return the loss of a batch in the plain way."""
    columns = []
    for column in batch.T:
        features = model.preprocess([texts[position] for position in column.tolist()])
        columns.append(model(features)["sentence_embedding"])
    return triplet_loss(*columns, temperature)


def contestants(texts: list[str]) -> dict[str, Callable[[Triplets], Any]]:
    """Return what trains for one epoch on given triplets, by name."""
    low, full = MiniLMEmbedder(device="cpu"), MiniLMEmbedder(device="cpu", precision="fp32")
    return {
        PLAIN: lambda triplets: train_plainly(full.model, texts, triplets, epochs=1),
        OURS: lambda triplets: low.finetune(texts, triplets, training=Training(epochs=1)),
        SAME: lambda triplets: full.finetune(texts, triplets, training=Training(epochs=1, batch_size=4)),
    }


def seconds_of(run: Callable[[], Any]) -> float:
    """Return how long it takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rates(texts: list[str], triplets: Triplets) -> dict[str, Any]:
    """Return the texts a second of each contestant: several runs in turn on some triplets, one on all."""
    made = contestants(texts)
    for run in made.values():
        run(triplets[:4])  # loads the model
    some: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(REPEATS):
        for name, run in made.items():
            some[name].append(3 * SOME / seconds_of(lambda run=run: run(triplets[:SOME])))
    whole = {name: 3 * len(triplets) / seconds_of(lambda name=name: made[name](triplets)) for name in (PLAIN, OURS)}
    return {"some": some, "whole": whole}


def greatest_difference(texts: list[str], triplets: Triplets, size: int = 4) -> float:
    """Return how far losses are from those of the plain loop, step by step, on equal batches without dropout, fp32.

    Both go from the same weights: a copy is trained by either, and each loss is that before the step.
    """
    one, other = (copy.deepcopy(MiniLMEmbedder(device="cpu", precision="fp32").model).eval() for _ in range(2))
    optimisers = [torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.0) for model in (one, other)]
    gradients = Gradients(other, TokenTable(other, texts), "fp32")
    differences = []
    for start in range(0, len(triplets), size):
        batch = triplets[start : start + size]
        loss = plain_loss(one, texts, batch)
        optimisers[0].zero_grad()
        loss.backward()
        rows, places = np.unique(batch, return_inverse=True)
        shaped = torch.from_numpy(places.reshape(batch.shape))
        ours = gradients.step(rows, lambda vectors, shaped=shaped: triplet_loss(*vectors[shaped].unbind(1), 0.05))
        for optimiser in optimisers:
            optimiser.step()
        differences.append(abs(float(loss.detach()) - ours))
    return max(differences)


def large_step(texts: list[str], triplets: Triplets, plain_tokens: int) -> float:
    """Return the seconds of a large step, by GradCache where ``plain_tokens`` is 0."""
    embedder = MiniLMEmbedder(device="cpu")
    model = embedder.model.train()
    rows, places = np.unique(triplets, return_inverse=True)
    shaped = torch.from_numpy(places.reshape(triplets.shape))
    gradients = Gradients(model, TokenTable(model, texts), embedder.precision, plain_tokens=plain_tokens)
    return seconds_of(lambda: gradients.step(rows, lambda vectors: triplet_loss(*vectors[shaped].unbind(1), 0.05)))


def in_own_process(what: str, texts: list[str], triplets: Triplets) -> dict[str, float]:
    """Return the seconds of a run in a process of its own, and the most memory, in MiB, beyond what imports take."""
    given = json.dumps([texts, triplets.tolist()])
    done = subprocess.run([sys.executable, __file__, what], input=given, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(data: DataSet) -> dict[str, Any]:
    """Return all figures of this part."""
    triplets = triplets_by_label(data, WHOLE)
    return {
        **rates(data.texts, triplets),
        "difference": greatest_difference(data.texts, triplets[:SOME]),
        "alone": {
            what: in_own_process(what, data.texts, triplets[:n])
            for what, n in ((PLAIN, SOME), (OURS, SOME), ("step", LARGE), ("step by GradCache", LARGE))
        },
        "precision": resolve_precision("auto", "cpu"),
        "threads": torch.get_num_threads(),
    }


def training(names: Sequence[str], get: Callable[[str], DataSet], folder: Path, results: Results) -> str:
    """Measure and describe fine-tuning."""
    del folder
    runs = [results.ensure(lambda name=name: measured(get(name)), part="training", data=name) for name in names]
    return "\n\n".join(["### Fine-tuning", *map(described, runs)])


def described(run: dict[str, Any]) -> str:
    """Return the table of one data set."""
    rows = []
    for contestant, found in run["some"].items():
        ratios = [ours / plain for ours, plain in zip(found, run["some"][PLAIN], strict=True)]
        whole = run["whole"].get(contestant)
        rows.append(
            [
                f"{contestant} ({run['precision']})" if contestant == OURS else contestant,
                spread(found, ".1f"),
                spread(ratios, ".2f"),
                "" if whole is None else f"{whole:.1f} ({whole / run['whole'][PLAIN]:.2f} times)",
                f"{run['alone'][contestant]['peak_mib']:.0f}" if contestant in run["alone"] else "",
            ]
        )
    header = [
        "training",
        f"texts a second, {SOME} triplets",
        "times as fast",
        f"texts a second, {WHOLE} triplets",
        "memory, MiB",
    ]
    plain, cached = run["alone"]["step"], run["alone"]["step by GradCache"]
    return (
        f"One epoch on random triplets of {run['data']} that a simulated oracle answers by label, "
        f"{run['threads']} threads; {REPEATS} runs in turn, medians (lowest to highest), and one on {WHOLE} triplets, "
        "on a machine that others used too. A triplet counts as three texts. Memory is the peak of a process of its "
        f"own beyond imports.\n\n{table(header, rows)}\n\n"
        f"At equal batches of 4, in fp32 without dropout, the losses of {SOME // 4} steps of training differ by at "
        f"most {run['difference']:.1e} from the plain loop's. A step of {LARGE} triplets takes "
        f"{plain['seconds']:.2f} s and {plain['peak_mib']:.0f} MiB plainly, "
        f"{cached['seconds']:.2f} s and {cached['peak_mib']:.0f} MiB by GradCache."
    )


def main() -> None:
    """Run one contestant and print what it took."""
    import sentence_transformers  # noqa: F401  # before the first reading: what it takes is everybody's

    what, (texts, listed) = sys.argv[1], json.load(sys.stdin)
    triplets = np.array(listed)
    before = peak_kib()
    if what in (PLAIN, OURS):
        seconds = seconds_of(lambda: contestants(texts)[what](triplets))
    else:
        seconds = large_step(texts, triplets, 0 if what == "step by GradCache" else 10**9)
    print(json.dumps({"seconds": seconds, "peak_mib": (peak_kib() - before) / 1024}))


if __name__ == "__main__":
    main()
