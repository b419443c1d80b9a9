"""Which k-means for many vectors: ours from samples and starts of several sizes, mini-batches, faiss.

    python3 dev.py bench kmeans

The vectors are a mixture of scale.py. Seconds are of the processor, on one thread, so that other programs on the
machine count little. faiss is measured where it is installed (``pip install faiss-cpu``); the package does not use it.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
from common import Results, table, write_section
from scale import DIM, N_CLUSTERS, write_mixture
from threadpoolctl import threadpool_limits

from clusterllm_plugins import lloyd
from clusterllm_plugins.metrics import accuracy
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.vectors import SAMPLED_ABOVE, nearest, normalise

SIZE = 100_000
SEEDS = range(4)

KMeans = Callable[[Vectors, int], Vectors]  # from vectors and a seed to centroids


def ours(n_sampled: int, starts: int) -> KMeans:
    """Return our k-means with so many starts on a sample of so many rows."""

    def run(vectors: Vectors, seed: int) -> Vectors:
        with patch.object(lloyd, "STARTS", starts):
            return lloyd.kmeans_of_many(vectors, N_CLUSTERS, seed, n_sampled)

    return run


def mini_batches(vectors: Vectors, seed: int) -> Vectors:
    """Return the centroids of scikit-learn's MiniBatchKMeans with its defaults."""
    from sklearn.cluster import MiniBatchKMeans

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(MiniBatchKMeans(N_CLUSTERS, random_state=seed).fit(vectors).cluster_centers_)


def by_faiss(redone: int) -> KMeans:
    """Return the k-means of faiss with its defaults and so many starts."""

    def run(vectors: Vectors, seed: int) -> Vectors:
        import faiss

        faiss.omp_set_num_threads(1)
        model = faiss.Kmeans(DIM, N_CLUSTERS, seed=seed, nredo=redone)
        model.train(vectors)
        return np.asarray(model.centroids)

    return run


def contestants() -> dict[str, KMeans]:
    """Return what is compared, by name; the first is what the package does."""
    made: dict[str, KMeans] = {
        f"ours: {lloyd.STARTS} starts on {n} rows": ours(n, lloyd.STARTS) for n in (SAMPLED_ABOVE, 10_000, 5_000)
    }
    made[f"3 starts on {SAMPLED_ABOVE} rows"] = ours(SAMPLED_ABOVE, 3)
    made["scikit-learn's MiniBatchKMeans"] = mini_batches
    if importlib.util.find_spec("faiss") is not None:
        made |= {"faiss, 1 start": by_faiss(1), "faiss, 3 starts": by_faiss(3)}
    return made


def measured(vectors: Vectors, truth: Labels, run: KMeans, seed: int) -> dict[str, float]:
    """Return the seconds, the mean squared distance to the own centroid, and ACC in percent."""
    start = time.process_time()
    centroids = run(vectors, seed)
    seconds = time.process_time() - start
    labels = nearest(vectors, centroids)
    return {
        "seconds": round(seconds, 2),
        "distance": float(((vectors - centroids[labels]) ** 2).sum(axis=1).mean()),
        "acc": round(100 * accuracy(truth, labels), 2),
    }


def main() -> None:
    """Measure what is not known yet and write the table."""
    results = Results(Path(__file__).parent / "results" / "kmeans.jsonl")
    with tempfile.TemporaryDirectory() as name, threadpool_limits(1):
        write_mixture(Path(name), SIZE)
        vectors = normalise(np.load(Path(name) / "vectors.npy"))
        truth = np.load(Path(name) / "labels.npy")
        for seed in SEEDS:
            for method, run in contestants().items():
                results.ensure(lambda run=run, seed=seed: measured(vectors, truth, run, seed), method=method, seed=seed)
    rows = []
    for method in dict.fromkeys(run["method"] for run in results.runs):
        runs = [run for run in results.runs if run["method"] == method]
        seconds = np.median([run["seconds"] for run in runs])
        distances = [run["distance"] for run in runs]
        accuracies = [run["acc"] for run in runs]
        rows.append(
            [
                method,
                f"{seconds:.1f}",
                f"{np.mean(distances):.5f} ({min(distances):.5f} to {max(distances):.5f})",
                f"{np.mean(accuracies):.2f} ({min(accuracies):.2f} to {max(accuracies):.2f})",
            ]
        )
    text = (
        f"## k-means of many vectors\n\n`python3 dev.py bench kmeans` ({SIZE} vectors of a mixture of {N_CLUSTERS} "
        f"Gaussians in {DIM} dimensions, {len(SEEDS)} seeds; seconds of the processor on one thread, the median; mean "
        "squared distance to the own centroid and ACC, means, lowest and highest).\n\n"
    )
    write_section("kmeans", text + table(["method", "seconds", "distance", "ACC"], rows))


if __name__ == "__main__":
    main()
