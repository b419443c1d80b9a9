"""How far is the limit? A classifier that learns from 1,024 random *true* labels, and predicts all.

    python3 dev.py bench limit

This is what as many answers carry that are never wrong and need no question; no clustering is expected to reach it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, DATA_SETS, HERE, DataSet, Results, table, write_section
from gain import FILE, SEEDS, USUAL, average, data_of, mean_of, means_row, measures, plain_of, spread_of
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from clusterllm_plugins.vectors import normalise


def run_limit(data: DataSet, plain: dict[str, Any], seed: int) -> dict[str, Any]:
    """Learn from true labels, predict all, measure."""
    start = time.perf_counter()
    unit = normalise(data.vectors)
    known = np.random.default_rng(seed).permutation(len(unit))[:USUAL]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=10, max_iter=200).fit(unit[known], data.labels[known])
    seconds = round(time.perf_counter() - start, 1)
    return measures(data, model.predict(unit), plain) | {"seconds": seconds}


def report(results: Results, gains: Results) -> str:
    """Return the section of RESULTS.md."""
    rows, columns = [], []
    for name in DATA_SETS:
        runs = [found for seed in SEEDS if (found := results.find(data=name, seed=seed))]
        plain = gains.find(data=name, method="k-means", embedder="minilm")
        start = f"{plain['acc']:.1f} / {plain['nmi']:.1f}" if plain else "–"
        end = f"{mean_of(runs, 'acc', '{:.1f}')} / {mean_of(runs, 'nmi', '{:.1f}')}"
        rows.append([name, start, end, spread_of(runs, "gain_acc"), spread_of(runs, "gain_nmi")])
        columns.append([average(runs, "gain_acc"), average(runs, "gain_nmi")])
    means = means_row([list(column) for column in zip(*columns, strict=True)])
    header = ["data set", "k-means, ACC / NMI", "limit, ACC / NMI", "ACC gain", "NMI gain"]
    return "\n\n".join(
        [
            "## The limit: 1,024 true labels",
            "`python3 dev.py bench limit` (embedder minilm): logistic regression (C = 10) on 1,024 random **true** "
            "labels, predictions for all texts, mean of three seeds (in brackets lowest and highest). No oracle, no "
            "questions: labels that are never wrong. Gains are points over plain k-means.",
            table(header, [*rows, ["mean", "", "", *means]]),
        ]
    )


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", default=list(DATA_SETS), help="names of data sets")
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    # Plain k-means is the same as in ``bench gain``: it is kept there.
    results, gains = Results(HERE / "results" / "limit.jsonl"), Results(FILE)
    try:
        for name in () if arguments.table else arguments.sets:
            data = data_of(name, arguments.data)
            plain = plain_of(gains, data)
            for seed in SEEDS:
                results.ensure(partial(run_limit, data, plain, seed), data=name, seed=seed, labels=USUAL)
    finally:
        write_section("limit", report(results, gains))


if __name__ == "__main__":
    main()
