"""The paper's experiment: what do its questions earn, and how much of it is the answers' merit?

    python3 dev.py bench paper                        # everything, resumable; hours
    python3 dev.py bench paper --refine adapter       # the grid with the linear map; half an hour
    python3 dev.py bench paper --table                # only write the tables again

Beside the paper's method stand its ablation (random triplets) and two controls: random answers, and the embedder's
own preference, which asks nobody. The oracle is *simulated* (profile "measured"), but for the recorded answers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, DATA_SETS, HERE, DataSet, Results, load, measured, score, table, write_section
from numpy.typing import NDArray

from clusterllm_oracles.simulated import SimulatedOracle
from clusterllm_plugins import Answer, Plugins, Question, load_answers
from clusterllm_plugins.hierarchy import cut, ward_tree
from clusterllm_plugins.protocols import Vectors
from clusterllm_plugins.questions import triplet_question
from clusterllm_plugins.refinement import train_adapter, triplets_of
from clusterllm_plugins.sampling import entropy_triplets, random_triplets
from clusterllm_plugins.vectors import normalise

BUDGETS = (256, 512, 1024, 2048)
# (sampling, answers): the paper's method, its ablation, and two controls.
ARMS = (("entropy", "measured"), ("random", "measured"), ("entropy", "random"), ("entropy", "embedder"))
ARM_NAMES = {
    ARMS[0]: "paper",
    ARMS[1]: "random triplets",
    ARMS[2]: "random answers",
    ARMS[3]: "the embedder's own answers",
}
FINETUNED_IN_FULL = ("banking77", "massive_intent")
# What an earlier trial of the same experiment gave (fine-tuned, one seed, another implementation).
EARLIER = {
    "banking77": 3.0,
    "clinc": 0.7,
    "mtop_domain": 3.7,
    "go_emotion": 0.2,
    "stackexchange": 4.9,
    "few_rel_nat": 4.6,
    "massive_intent": 0.7,
    "few_event": 2.3,
}
RECORDED = "recorded/banking77_triplets_gpt-4o-mini.jsonl"


def ask(data: DataSet, triplets: NDArray[np.int64], answers: str) -> tuple[list[Question], list[Answer]]:
    """Return the questions and the answers of one arm."""
    questions = [triplet_question(data.texts, int(a), int(b), int(c)) for a, b, c in triplets]
    if answers == "random":
        return questions, [Answer(str(c)) for c in np.random.default_rng(1).integers(1, 3, len(questions))]
    if answers == "embedder":
        unit = normalise(data.vectors)
        first, second = ((unit[triplets[:, 0]] * unit[triplets[:, c]]).sum(axis=1) for c in (1, 2))
        return questions, [Answer("1" if closer else "2") for closer in first >= second]
    oracle = SimulatedOracle([str(label) for label in data.labels])
    oracle.prepare(data.texts, data.vectors)
    return questions, list(oracle.answer(questions))


def refine(data: DataSet, triplets: NDArray[np.int64], how: str) -> Vectors:
    """Return refined vectors by the linear map or by fine-tuning."""
    if how == "adapter":
        return data.vectors @ train_adapter(data.vectors, triplets, seed=0)
    embedder: Any = Plugins().embedder("minilm")
    tuned: Vectors = embedder.finetune(data.texts, triplets, seed=0).embed(data.texts)
    return tuned


@cache
def sample(name: str, sampling: str, folder: Path) -> NDArray[np.int64]:
    """Return the triplets of the largest budget; those of a smaller one are its beginning."""
    data = load(name, folder)
    if sampling == "entropy":
        return entropy_triplets(data.vectors, max(BUDGETS), 0)
    return random_triplets(len(data.texts), max(BUDGETS), 0)


def run_arm(data: DataSet, folder: Path, key: dict[str, Any]) -> dict[str, Any]:
    """Sample, ask, refine, cluster."""
    start = time.perf_counter()
    triplets = sample(data.name, key["sampling"], folder)[: key["questions"]]
    questions, replies = ask(data, triplets, key["answers"])
    vectors = refine(data, triplets_of(questions, replies), key["how"])
    return score(data, vectors) | {"seconds": round(time.perf_counter() - start)}


def run_recorded(data: DataSet, folder: Path, how: str) -> dict[str, Any]:
    """Refine by gpt-4o-mini's recorded answers."""
    in_file_order = [data.texts[place] for place in data.place]
    known = load_answers(folder / RECORDED, in_file_order)
    triplets = data.place[triplets_of([q for q, _ in known], [a for _, a in known])]
    return score(data, refine(data, triplets, how))


def run_consistency(data: DataSet) -> dict[str, Any]:
    """Return how often the oracle says the same again, and with the candidates in the other order."""
    triplets = entropy_triplets(data.vectors, 1024, 0)
    oracle = SimulatedOracle([str(label) for label in data.labels])
    oracle.prepare(data.texts, data.vectors)
    one = [triplet_question(data.texts, int(a), int(b), int(c)) for a, b, c in triplets]
    other = [triplet_question(data.texts, int(a), int(c), int(b)) for a, b, c in triplets]
    first, again, swapped = (list(oracle.answer(questions)) for questions in (one, one, other))
    right = [oracle.right_choices(question) for question in one]
    decidable = np.array([len(choices) == 1 for choices in right])
    hits = np.array([a.choice in choices for a, choices in zip(first, right, strict=True)])
    return {
        "repeated": percent([a.choice == b.choice for a, b in zip(first, again, strict=True)]),
        # With the candidates exchanged, the same text is the other choice.
        "both_orders": percent([a.choice != b.choice for a, b in zip(first, swapped, strict=True)]),
        "first_chosen": percent([a.choice == "1" for a in first]),
        "decidable": percent(decidable),
        "right_where_decidable": percent(hits[decidable]),
    }


def percent(cases: Any) -> float:
    """Return the share of true cases in percent."""
    return round(100 * float(np.mean(cases)), 1)


def baselines(data: DataSet) -> Iterator[tuple[str, Any]]:
    """Yield what asks nobody: k-means, Ward's method, HDBSCAN."""
    from sklearn.cluster import HDBSCAN

    unit = normalise(data.vectors)
    yield "k-means", lambda: score(data, data.vectors)
    yield "ward", lambda: measured(data, [cut(ward_tree(unit), data.n_clusters)])
    yield "hdbscan", lambda: measured(data, [HDBSCAN(min_cluster_size=5, copy=True).fit_predict(unit)])


def runs_of(data: DataSet, refinements: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the keys of the refined runs of a data set, the most telling first."""
    for how in refinements:
        full = how == "adapter" or data.name in FINETUNED_IN_FULL
        for budget in (1024, 512, 256, 2048):
            for sampling, answers in ARMS:
                if full or (budget == 1024 and (sampling, answers) == ARMS[0]):
                    yield {"how": how, "sampling": sampling, "answers": answers, "questions": budget}


def run(names: list[str], folder: Path, refinements: tuple[str, ...], results: Results) -> None:
    """Make every run that is not there yet, the cheap and most telling ones first."""
    sets = {name: load(name, folder) for name in names}
    for name, data in sets.items():
        for method, make in baselines(data):
            results.ensure(make, data=name, method=method)
        results.ensure(lambda data=data: run_consistency(data), data=name, method="consistency")
    keys = [(name, key) for name, data in sets.items() for key in runs_of(data, refinements)]
    # The paper's method on every set first, then its controls, then the other budgets.
    keys.sort(key=lambda pair: (pair[1]["questions"] != 1024, (pair[1]["sampling"], pair[1]["answers"]) != ARMS[0]))
    for name, key in keys:
        make = lambda data=sets[name], key=key: run_arm(data, folder, key)  # noqa: E731
        results.ensure(make, data=name, method="refined", **key)
    for how in refinements:
        if "banking77" in sets:
            make = lambda how=how: run_recorded(sets["banking77"], folder, how)  # noqa: E731
            results.ensure(make, data="banking77", method="recorded", how=how)


def gain(results: Results, name: str, **key: Any) -> str:
    """Return the gain of a run over plain k-means in points of ACC, signed, or a dash."""
    found, plain = results.find(data=name, **key), results.find(data=name, method="k-means")
    return f"{found['acc'] - plain['acc']:+.1f}" if found and plain else "–"


def report(results: Results) -> str:
    """Return the section of RESULTS.md."""
    return "\n\n".join(
        [
            "## The paper's experiment",
            "`python3 dev.py bench paper` (embedder minilm, true number of clusters given, k-means with "
            "`n_init=10`, texts shuffled, mean of seeds 0 to 4). **The oracle is simulated** (profile `measured`: "
            "it errs as real models were measured to), except where recorded answers are named. Figures are "
            "points; gains are ACC over plain k-means. Each refined run has one seed of sampling and training. "
            "A dash is a run that was not made.",
            "### Without questions",
            _baseline_table(results),
            "### 1,024 questions",
            _arm_table(results),
            "### Cost and quality",
            _curve_table(results),
            "### The simulated oracle's consistency, 1,024 triplets of entropy sampling",
            _consistency_table(results),
            _recorded_line(results),
        ]
    )


def _baseline_table(results: Results) -> str:
    rows = []
    for name in DATA_SETS:
        cells: list[Any] = [name]
        for method in ("k-means", "ward", "hdbscan"):
            found = results.find(data=name, method=method)
            cells.append(f"{found['acc']:.1f} / {found['nmi']:.1f} / {found['ari']:.1f}" if found else "–")
        rows.append(cells)
    return table(["data set (ACC / NMI / ARI)", "k-means", "Ward", "HDBSCAN, clusters of 5 or more"], rows)


def _arm_table(results: Results) -> str:
    columns = [("finetune", ARMS[0]), *(("adapter", arm) for arm in ARMS)]
    header = ["data set", "earlier trial, fine-tuned"] + [
        f"{ARM_NAMES[arm]}, {'fine-tuned' if how == 'finetune' else 'linear map'}" for how, arm in columns
    ]
    rows = []
    gains: list[list[float]] = [[] for _ in columns]
    for name in DATA_SETS:
        cells = [
            gain(results, name, method="refined", how=how, sampling=arm[0], answers=arm[1], questions=1024)
            for how, arm in columns
        ]
        for values, cell in zip(gains, cells, strict=True):
            values.extend([] if cell == "–" else [float(cell)])
        rows.append([name, f"{EARLIER[name]:+.1f}", *cells])
    means = [f"{np.mean(values):+.1f} ({len(values)} sets)" if values else "–" for values in gains]
    return table(header, [*rows, ["mean", f"{np.mean(list(EARLIER.values())):+.1f} (8 sets)", *means]])


def _curve_table(results: Results) -> str:
    rows = []
    for how in ("adapter", "finetune"):
        for name in DATA_SETS if how == "adapter" else FINETUNED_IN_FULL:
            for arm in ARMS:
                cells = [
                    gain(
                        results,
                        name,
                        method="refined",
                        how=how,
                        sampling=arm[0],
                        answers=arm[1],
                        questions=budget,
                    )
                    for budget in BUDGETS
                ]
                label = "fine-tuned" if how == "finetune" else "linear map"
                rows.append([name, label, ARM_NAMES[arm], *cells])
    return table(["data set", "refinement", "arm", *(f"{budget} questions" for budget in BUDGETS)], rows)


def _consistency_table(results: Results) -> str:
    fields = ("repeated", "both_orders", "first_chosen", "decidable", "right_where_decidable")
    rows = []
    for name in DATA_SETS:
        found = results.find(data=name, method="consistency")
        rows.append([name, *(f"{found[field]:.1f}" if found else "–" for field in fields)])
    header = ["data set (%)", "same when repeated (by construction)", "same in the other order"]
    return table([*header, "first one chosen", "exactly one right", "right of those"], rows)


def _recorded_line(results: Results) -> str:
    cells = ", ".join(
        f"{gain(results, 'banking77', method='recorded', how=how)} with {name}"
        for how, name in (("finetune", "fine-tuning"), ("adapter", "the linear map"))
    )
    return f"Recorded answers of gpt-4o-mini to 1,024 triplets about banking77 (not simulated): {cells}."


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", default=list(DATA_SETS), help="names of data sets")
    parser.add_argument("--refine", choices=["adapter", "finetune", "both"], default="both")
    parser.add_argument("--table", action="store_true", help="only write the tables")
    arguments = parser.parse_args()
    results = Results(HERE / "results" / "paper.jsonl")
    refinements = ("adapter", "finetune") if arguments.refine == "both" else (arguments.refine,)
    try:
        if not arguments.table:
            run(arguments.sets, arguments.data, refinements, results)
    finally:
        write_section("paper", report(results))


if __name__ == "__main__":
    main()
