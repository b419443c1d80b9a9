"""What the benchmarks share: the data sets, cached vectors, resumable results, tables in RESULTS.md.

The data sets are not part of this repository: ``--data`` names the folder that holds them, a JSONL file each with
``text`` and ``label``. Labels are read by the simulated oracle and by the measures, never by the method.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterllm_plugins import Plugins
from clusterllm_plugins.embedding import embed_texts
from clusterllm_plugins.metrics import accuracy, ari, nmi
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.vectors import kmeans, normalise

HERE = Path(__file__).parent
DATA = HERE.parent.parent / "shared" / "data"
RESULTS = HERE / "RESULTS.md"
DATA_SETS = (
    "banking77",
    "clinc",
    "mtop_domain",
    "go_emotion",
    "stackexchange",
    "few_rel_nat",
    "massive_intent",
    "few_event",
)
SEEDS = range(5)  # of the final k-means; figures are means over them


@dataclass(frozen=True)
class DataSet:
    """A labelled data set in a shuffled order.

    Attributes:
        name: Of the file.
        texts: Shape (n,).
        labels: The true categories, shape (n,).
        order: The line of each text in the file, shape (n,).
        vectors: Of the embedder, shape (n, dim).
    """

    name: str
    texts: list[str]
    labels: NDArray[Any]
    order: NDArray[np.int64]
    vectors: Vectors

    @property
    def n_clusters(self) -> int:
        """The true number of categories."""
        return len(np.unique(self.labels))

    @property
    def place(self) -> NDArray[np.int64]:
        """The place in this order of each line of the file, for recorded indices."""
        return np.argsort(self.order)


def load(name: str, folder: Path, embedder: str = "minilm") -> DataSet:
    """Read a data set, shuffle it (some files are sorted by label), and embed it (cached on disk)."""
    records = [json.loads(line) for line in (folder / f"{name}.jsonl").open(encoding="utf-8")]
    order = np.random.default_rng(0).permutation(len(records))
    texts = [records[line]["text"] for line in order]
    labels = np.array([records[line]["label"] for line in order])
    cache = HERE / ".cache" / f"{name}-{embedder}.npy"
    if not cache.exists():
        cache.parent.mkdir(exist_ok=True)
        np.save(cache, embed_texts(Plugins().embedder(embedder), texts, progress=True))
    return DataSet(name, texts, labels, order, np.load(cache))


def score(data: DataSet, vectors: Vectors) -> dict[str, Any]:
    """Return ACC, NMI and ARI, in percent, of k-means with the true number of clusters: mean of five seeds."""
    unit = normalise(vectors)
    return measured(data, [kmeans(unit, data.n_clusters, seed)[0] for seed in SEEDS])


def measured(data: DataSet, runs: Sequence[Labels]) -> dict[str, Any]:
    """Return the measures of labels, in percent: means over runs, and the spread of ACC."""
    accuracies = [100 * accuracy(data.labels, labels) for labels in runs]
    return {
        "acc": round(float(np.mean(accuracies)), 2),
        "acc_low": round(min(accuracies), 2),
        "acc_high": round(max(accuracies), 2),
        "nmi": round(100 * float(np.mean([nmi(data.labels, labels) for labels in runs])), 2),
        "ari": round(100 * float(np.mean([ari(data.labels, labels) for labels in runs])), 2),
    }


class Results:
    """A JSONL file with a line per run; a run that is there is not made again.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(exist_ok=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.runs = [json.loads(line) for line in lines if line.endswith("}")]

    def find(self, **key: Any) -> dict[str, Any] | None:
        """Return the run of this key, or None."""
        return next((run for run in self.runs if all(run.get(k) == v for k, v in key.items())), None)

    def ensure(self, make: Callable[[], dict[str, Any]], **key: Any) -> dict[str, Any]:
        """Return the run of this key, made now and written at once where it is not there."""
        run = self.find(**key)
        if run is None:
            run = key | make()
            self.runs.append(run)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(run, ensure_ascii=False) + "\n")
            print(json.dumps(run, ensure_ascii=False), flush=True)
        return run


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def write_section(name: str, text: str) -> None:
    """Replace the section ``name`` of RESULTS.md, or add it."""
    begin, end = f"<!-- {name}: written by benchmarks/{name}.py -->", f"<!-- end of {name} -->"
    old = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    before, _, rest = old.partition(begin)
    after = rest.partition(end)[2] if rest else "\n"
    RESULTS.write_text(f"{before.rstrip()}\n\n{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")
