"""Clustering the same vectors: this package against what one would take instead. A part of speed.py.

BERTopic's usual pipeline needs two packages that nothing else here does; without them it is left out, and a line says
so: ``.venv/bin/python -m pip install umap-learn hdbscan``.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, DataSet, Results, load, table
from hierarchy_with_copies import copied_hierarchy
from scale import N_CLUSTERS, made_up, write_mixture
from timing import REPEATS, forget_peak, in_turn, peak_kib, processor, spread

from clusterllm_plugins import ClusterLLM
from clusterllm_plugins.hierarchy import DIRECT_LIMIT, cut, ward_tree
from clusterllm_plugins.metrics import accuracy
from clusterllm_plugins.protocols import Labels
from clusterllm_plugins.vectors import kmeans, normalise

MIXTURE = "mixture"
N_MIXTURE = 20_000
N_SAMPLED = 5000  # of the mixture, where k-means starts on a sample
N_WARM = 500  # texts that are clustered first: what imports and compiling take is not counted
MIXTURE_REPEATS = 3

Cluster = Callable[[DataSet, int], Labels]  # the vectors' lengths are 1; the number of clusters


# The contestants; the first of a group is what the others are compared with.


def sklearn_kmeans(n_init: int | str) -> Cluster:
    """Return scikit-learn's k-means."""

    def run(data: DataSet, n_clusters: int) -> Labels:
        from sklearn.cluster import KMeans

        labels: Labels = KMeans(n_clusters, n_init=n_init, random_state=0).fit_predict(data.vectors)
        return labels

    return run


def minibatch(data: DataSet, n_clusters: int) -> Labels:
    """Run scikit-learn's MiniBatchKMeans with its defaults."""
    from sklearn.cluster import MiniBatchKMeans

    labels: Labels = MiniBatchKMeans(n_clusters, random_state=0).fit_predict(data.vectors)
    return labels


def bertopic_way(data: DataSet, n_clusters: int) -> Labels:
    """Run UMAP and HDBSCAN with BERTopic's settings; it finds the number of clusters by itself."""
    from hdbscan import HDBSCAN
    from umap import UMAP

    reduced = UMAP(n_neighbors=15, n_components=5, min_dist=0.0, metric="cosine").fit_transform(data.vectors)
    clusterer = HDBSCAN(min_cluster_size=10, cluster_selection_method="eom", prediction_data=True)
    labels: Labels = clusterer.fit_predict(reduced)
    return labels


def our_kmeans(data: DataSet, n_clusters: int) -> Labels:
    """Run the k-means that a fit ends with."""
    return kmeans(data.vectors, n_clusters, 0)[0]


def our_sampled_kmeans(data: DataSet, n_clusters: int) -> Labels:
    """Run what a fit ends with above 20,000 texts, started on fewer."""
    return kmeans(data.vectors, n_clusters, 0, N_SAMPLED)[0]


def our_fit(data: DataSet, n_clusters: int) -> Labels:
    """Fit as a user would who asks nobody; the names of the clusters are part of it."""
    return ClusterLLM(n_clusters=n_clusters, progress=False).fit_predict(data.texts, embeddings=data.vectors)


def with_copies(data: DataSet, n_clusters: int) -> Labels:
    """Build the hierarchy in the reference's way."""
    return copied_hierarchy(data.vectors)[len(data.vectors) - n_clusters]


def scipy_ward(data: DataSet, n_clusters: int) -> Labels:
    """Build scipy's tree and cut it."""
    from scipy.cluster.hierarchy import fcluster, linkage

    labels: Labels = fcluster(linkage(data.vectors, "ward"), n_clusters, "maxclust")
    return labels


def our_ward(data: DataSet, n_clusters: int) -> Labels:
    """Build our tree and cut it."""
    return cut(ward_tree(data.vectors), n_clusters)


OURS, SAMPLED = "ours: `vectors.kmeans`", f"ours: `vectors.kmeans`, started on {N_SAMPLED} texts"
BERTOPIC = "UMAP and HDBSCAN, as BERTopic"
FLAT: dict[str, Cluster] = {
    "scikit-learn KMeans, `n_init=10`": sklearn_kmeans(10),
    'scikit-learn KMeans, `n_init="auto"`': sklearn_kmeans("auto"),
    "scikit-learn MiniBatchKMeans": minibatch,
    BERTOPIC: bertopic_way,
    OURS: our_kmeans,
    SAMPLED: our_sampled_kmeans,
    "ours: `ClusterLLM.fit`, nobody asked": our_fit,
}
TREES: dict[str, Cluster] = {
    "Ward, the reference's way: a copy at every merge": with_copies,
    "Ward, scipy's `linkage`": scipy_ward,
    "Ward, ours: `ward_tree`": our_ward,
}


def has_bertopic_way() -> bool:
    """Return whether what BERTopic clusters with is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("umap", "hdbscan"))


def groups_for(n_texts: int) -> list[dict[str, Cluster]]:
    """Return the contestants that make sense for so many texts."""
    left_out = set() if has_bertopic_way() else {BERTOPIC}
    left_out |= {SAMPLED} if n_texts < N_MIXTURE else {OURS}
    flat = {name: run for name, run in FLAT.items() if name not in left_out}
    return [flat, TREES] if n_texts <= DIRECT_LIMIT else [flat]


# Measuring


def mixture() -> DataSet:
    """Return a mixture of Gaussians as in scale.py, with made-up texts."""
    with tempfile.TemporaryDirectory() as name:
        write_mixture(Path(name), N_MIXTURE)
        vectors, labels = np.load(Path(name) / "vectors.npy"), np.load(Path(name) / "labels.npy")
    return DataSet(MIXTURE, made_up(labels), labels, np.arange(N_MIXTURE), vectors)


def unit(data: DataSet) -> DataSet:
    """Return the data set with vectors of length 1."""
    return DataSet(data.name, data.texts, data.labels, data.order, normalise(data.vectors))


def measured_clustering(data: DataSet, folder: Path) -> dict[str, Any]:
    """Return a row of figures for each contestant."""
    data, rows = unit(data), {}
    for group in groups_for(len(data.texts)):
        for run in group.values():
            warm(run, data)
        labels: dict[str, Labels] = {}
        contestants = {name: _keeping(labels, name, run, data) for name, run in group.items()}
        seconds = in_turn(contestants, MIXTURE_REPEATS if data.name == MIXTURE else REPEATS)
        first, *_ = group
        for name in group:
            rows[name] = {
                "seconds": seconds[name],
                "ratios": [slow / taken for slow, taken in zip(seconds[first], seconds[name], strict=True)],
                "acc": round(100 * accuracy(data.labels, labels[name]), 2),
                "n_clusters": len(set(labels[name].tolist()) - {-1}),
                "noise": round(100 * float((labels[name] == -1).mean()), 1),
                "peak_mib": peak_memory(name, data.name, folder),
            }
    return {"rows": rows, "machine": processor(), "texts": len(data.texts), "categories": data.n_clusters}


def quietly_measured(data: DataSet, folder: Path) -> dict[str, Any]:
    """Return what :func:`measured_clustering` does, without warnings of UMAP and HDBSCAN, and ours of equal texts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return measured_clustering(data, folder)


def warm(run: Cluster, data: DataSet) -> None:
    """Cluster a few texts."""
    few = DataSet(data.name, data.texts[:N_WARM], data.labels[:N_WARM], data.order[:N_WARM], data.vectors[:N_WARM])
    run(few, 5)


def _keeping(labels: dict[str, Labels], name: str, run: Cluster, data: DataSet) -> Callable[[], None]:
    def kept() -> None:
        labels[name] = run(data, data.n_clusters)

    return kept


def peak_memory(contestant: str, data: str, folder: Path) -> int:
    """Return the most memory, in MiB, of a process of its own that clusters, beyond what few texts take."""
    command = [sys.executable, __file__, "--peak-of", contestant, "--set", data, "--data", str(folder)]
    return int(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])


def print_peak(contestant: str, data: DataSet) -> None:
    """Cluster and print the peak of memory."""
    run = (FLAT | TREES)[contestant]
    warm(run, data)
    forget_peak()  # of making or loading the data
    before = peak_kib()
    run(data, data.n_clusters)
    print((peak_kib() - before) // 1024)


def clustering(names: Sequence[str], get: Callable[[str], DataSet], folder: Path, results: Results) -> str:
    """Measure and describe k-means, density clustering and hierarchies on the same vectors."""
    rows, machine, missing = [], "", False
    for name in names:
        found = results.ensure(
            lambda name=name: quietly_measured(mixture() if name == MIXTURE else get(name), folder),
            part="clustering",
            data=name,
        )
        machine, missing = found["machine"], missing or BERTOPIC not in found["rows"]
        for contestant, row in found["rows"].items():
            noise = f" and {row['noise']}% noise" if row["noise"] else ""
            figures = [spread(row["seconds"], ".2f"), spread(row["ratios"], ".2f"), row["peak_mib"], row["acc"]]
            rows.append([f"{name} ({found['texts']}, {found['categories']})", contestant, *figures])
            rows[-1].append(f"{row['n_clusters']}{noise}")
    header = [
        "data set (texts, categories)",
        "clustering",
        "seconds",
        "times as fast",
        "memory, MiB",
        "ACC",
        "clusters",
    ]
    text = (
        f"### Clustering\n\n`python3 dev.py bench speed --parts clustering`. The same vectors of length 1; {REPEATS} "
        f"runs in turn ({MIXTURE_REPEATS} of the mixture), medians (lowest to highest), on a machine that others used "
        "too: compare within a data set. The true number of clusters is given to all but HDBSCAN, whose noise counts "
        "as a cluster of its own in ACC. Times as fast: as KMeans with ten starts, trees as the first tree. Memory: "
        f"the peak of a process of its own beyond what it has with the data, after {N_WARM} texts. UMAP compiles code "
        "when it first sees over 4,096 texts: its slowest run and its memory hold that. "
        f"`{MIXTURE}`: {N_CLUSTERS} Gaussians as in scale.py. {machine}.\n\n" + table(header, rows)
    )
    if missing:
        text += "\n\nBERTopic's way is missing where its packages were: `pip install umap-learn hdbscan`."
    return text


def main() -> None:
    """Print the peak of memory of one contestant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peak-of", required=True, choices=[*FLAT, *TREES])
    parser.add_argument("--set", required=True, help="name of a data set")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    arguments = parser.parse_args()
    data = mixture() if arguments.set == MIXTURE else load(arguments.set, arguments.data)
    warnings.simplefilter("ignore")
    print_peak(arguments.peak_of, unit(data))


if __name__ == "__main__":
    main()
