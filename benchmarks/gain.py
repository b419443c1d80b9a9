"""What does a question earn? Methods, data sets, numbers of questions, oracles, embedders, and recorded answers.

    python3 dev.py bench gain                     # everything usual, resumable
    python3 dev.py bench gain --only auto         # one part: auto, recorded, paper, bad, curve, numbers, embedders
    python3 dev.py bench gain --embedder lsa      # another embedder's vectors only
    python3 dev.py bench gain --full              # every set, budget, oracle and seed
    python3 dev.py bench gain --table             # only write the tables again

The vectors are precomputed, so ``method="paper"`` learns its linear map; what it gains by fine-tuning is in ``bench
paper``. The oracle is *simulated*, but for the recorded answers. A seed decides both the fit and the oracle's errors.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, DATA_SETS, HERE, DataSet, Results, load, measured, score, table, write_section
from oracles_of_no_use import FirstOracle, RandomOracle, WrongOracle

from clusterllm_oracles.simulated import SimulatedOracle
from clusterllm_plugins import Answer, ClusterLLM, ClusterLLMWarning, Oracle, Plugins, Question, load_answers
from clusterllm_plugins.embedding import embed_texts, fit_if_needed
from clusterllm_plugins.hierarchy import cut, ward_tree
from clusterllm_plugins.metrics import ari, effective_number
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.questions import NONE, choice_question
from clusterllm_plugins.vectors import normalise

FILE = HERE / "results" / "gain.jsonl"
PICTURE = HERE / "results" / "gain.png"
METHODS = ("auto", "paper")
BUDGETS = (256, 512, 1024, 2048)
USUAL = 1024  # questions
SEEDS = (0, 1, 2)
FIVE = range(5)  # seeds of the fits by recorded answers, which cost no oracle
UNIFORM = ("uniform 0.7", "uniform 0.8", "uniform 0.9")
BAD = ("always wrong", "random", "always first")
NOBODY = "nobody"  # is asked: the plain clustering of the same seed
EMBEDDERS = ("lsa", "e5like")
EVERYWHERE = [("auto", "measured", 256), ("paper", "measured", 2048)]  # auto should be ahead with an eighth as many
CURVE_SETS = ("banking77", "clinc", "few_event", "massive_intent")
# (data set, answers, what is made of them, seeds)
RECORDED: tuple[tuple[str, str, str, Sequence[int]], ...] = (
    ("banking77", "banking77_choices_llm", "frozen", FIVE),
    ("banking77", "banking77_triplets_gpt-4o-mini", "frozen", FIVE),
    ("few_event", "few_event_clusters_llm", "frozen", FIVE),
    ("few_event", "few_event_clusters_llm", "merged", (0,)),
    ("massive_intent", "massive_intent_clusters_llm", "frozen", FIVE),
    ("massive_intent", "massive_intent_clusters_llm", "merged", (0,)),
    ("banking77", "banking77_triplets_gpt-4o-mini", "fine-tuned", (0,)),
)
CHARACTERS_PER_TOKEN = 4  # of usual English
FRAME_TOKENS = 60  # of a question without its texts
E5_MEAN_COSINE = 0.85
CUTS = np.unique(np.geomspace(2, 400, 40).round().astype(int))

Key = dict[str, Any]
Job = tuple[Key, Callable[[], dict[str, Any]]]
Asked = list[tuple[Question, Answer]]


@cache
def data_of(name: str, folder: Path, embedder: str = "minilm") -> DataSet:
    """Return a data set with the frozen vectors of an embedder: ``minilm``, ``lsa`` or ``e5like``."""
    data = load(name, folder)
    if embedder == "e5like":
        return replace(data, vectors=e5like(data.vectors))
    if embedder == "lsa":
        learnt = Plugins().embedder("lsa")
        fit_if_needed(learnt, data.texts)
        return replace(data, vectors=embed_texts(learnt, data.texts))
    return data


def e5like(vectors: Vectors) -> Vectors:
    """Return vectors whose cosines lie as close together as those of E5, in [0.7, 1].

    A common offset is added, x' = normalise(x + c m) with x of length 1 and m the direction of their mean. c is
    chosen (by bisection) so that the mean cosine of two texts is 0.85. This stands in for E5, of which it has the
    narrow range of cosines and nothing else: what depends on absolute distances shows here.
    """
    unit = normalise(vectors).astype(np.float64)
    direction = unit.mean(axis=0) / np.linalg.norm(unit.mean(axis=0))
    low, high = 0.0, 20.0
    for _ in range(40):
        middle = (low + high) / 2
        moved = normalise((unit + middle * direction).astype(np.float32))
        low, high = (middle, high) if mean_cosine(moved) < E5_MEAN_COSINE else (low, middle)
    return moved


def mean_cosine(unit: Vectors) -> float:
    """Return the mean cosine of two different rows of length 1."""
    n = len(unit)
    total = float((unit.astype(np.float64).sum(axis=0) ** 2).sum())
    return (total - n) / (n * (n - 1))


def oracle_of(name: str, data: DataSet, seed: int) -> Oracle | None:
    """Return an oracle by the name it has in the results."""
    if name == NOBODY:
        return None
    labels = [str(label) for label in data.labels]
    if name.startswith("uniform"):
        return SimulatedOracle(labels, "uniform", accuracy=float(name.split()[1]), seed=seed)
    if name == "always wrong":
        return WrongOracle(labels, seed)
    if name == "random":
        return RandomOracle(seed)
    return FirstOracle() if name == "always first" else SimulatedOracle(labels, name, seed=seed)


def plain_of(results: Results, data: DataSet, embedder: str = "minilm") -> dict[str, Any]:
    """Return what plain k-means reaches with the true number of clusters, the mean of five seeds; stored once."""
    return results.ensure(lambda: score(data, data.vectors), data=data.name, method="k-means", embedder=embedder)


def fitted(data: DataSet, model: ClusterLLM, answers: Asked | None = None, *, precomputed: bool = True) -> float:
    """Fit a model in place and return the seconds it took."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        # That the plain clustering was kept is in the results.
        warnings.simplefilter("ignore", ClusterLLMWarning)
        model.fit(data.texts, embeddings=data.vectors if precomputed else None, answers=answers or ())
    return round(time.perf_counter() - start, 1)


def measures(data: DataSet, labels: Labels, plain: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return ACC, NMI and ARI in percent, and the gains over ``plain``."""
    found = measured(data, [labels])
    record = {name: found[name] for name in ("acc", "nmi", "ari")}
    if plain is not None:
        record |= {f"gain_{name}": round(found[name] - plain[name], 2) for name in ("acc", "nmi")}
    return record


def tokens_estimated(questions: Iterable[Question]) -> int:
    """Return about how many tokens the questions have: four characters each, and 60 a question beside the texts."""
    total = 0.0
    for question in questions:
        shown = len(question.anchor) + sum(len(text) for group in question.groups for text in group)
        total += shown / CHARACTERS_PER_TOKEN + FRAME_TOKENS
    return round(total)


def asked_of(model: ClusterLLM) -> Asked:
    """Return what a fit asked and was answered."""
    return list(zip(model.questions_, model.answers_, strict=True))


def accuracy_of(data: DataSet, asked: Asked) -> float | None:
    """Return the share of right answers, of the questions that have a right choice other than "none"."""
    judge = SimulatedOracle([str(label) for label in data.labels])
    hits = [answer.choice in right for question, answer in asked if (right := judge.right_choices(question))]
    return round(float(np.mean(hits)), 4) if hits else None


def about_texts(model: ClusterLLM) -> Asked:
    """Return what was asked about unsure texts: the estimated accuracy is of these, which are harder than others."""
    stages = model.report_.get("stages", {})
    first = stages.get("core checks", 0) + stages.get("clusters", 0)
    return asked_of(model)[first : first + stages.get("texts", 0)]


def run_fit(data: DataSet, plain: dict[str, Any], key: Key) -> dict[str, Any]:
    """Fit with the true number of clusters and measure."""
    model = ClusterLLM(
        oracle=oracle_of(key["oracle"], data, key["seed"]),
        n_clusters=data.n_clusters,
        method=key["method"],
        max_questions=key["questions"],
        progress=False,
        random_state=key["seed"],
    )
    seconds = fitted(data, model)
    return measures(data, model.labels_, plain) | {
        "asked": len(model.questions_),
        "tokens_estimated": tokens_estimated(model.questions_),
        "seconds": seconds,
        "kept_refined": model.report_.get("guard", {}).get("kept_refined"),
        "accuracy_estimated": model.report_.get("reliability", {}).get("accuracy"),
        "accuracy_true": accuracy_of(data, asked_of(model)),
        "accuracy_true_texts": accuracy_of(data, about_texts(model)),
    }


def run_open(data: DataSet, key: Key) -> dict[str, Any]:
    """Fit with an open number of clusters and measure how far it is from the effective one."""
    model = ClusterLLM(
        oracle=oracle_of(key["oracle"], data, key["seed"]),
        n_clusters="auto",
        method=key["method"],
        max_questions=key["questions"],
        progress=False,
        random_state=key["seed"],
    )
    seconds = fitted(data, model)
    effective = effective_number(data.labels)
    interval = model.report_.get("n_clusters_interval")
    return measures(data, model.labels_) | {
        "k": model.n_clusters_,
        "interval": list(interval) if interval else None,
        "effective": round(effective, 2),
        "log_error": round(abs(float(np.log(model.n_clusters_ / effective))), 4),
        "asked": len(model.questions_),
        "tokens_estimated": tokens_estimated(model.questions_),
        "seconds": seconds,
    }


def run_ward(data: DataSet) -> dict[str, Any]:
    """Return the best ARI of any plain Ward cut, by the labels, and its number: a bound, not a method."""
    tree = ward_tree(normalise(data.vectors))
    scores = {int(k): 100 * ari(data.labels, cut(tree, int(k))) for k in CUTS}
    best = max(scores, key=scores.__getitem__)
    return {"ari": round(scores[best], 2), "k": best}


def recorded_answers(data: DataSet, folder: Path, name: str) -> Asked:
    """Return recorded answers; their indices are in the order of the file and become those of the shuffled texts."""
    place = data.place
    in_file_order = [data.texts[position] for position in place]
    return [
        (
            choice_question(
                data.texts,
                int(place[question.anchor_index]),
                [[int(place[index]) for index in group] for group in question.group_indices],
                none=NONE in question.choices,
            ),
            answer,
        )
        for question, answer in load_answers(folder / "recorded" / f"{name}.jsonl", in_file_order)
    ]


def run_recorded(data: DataSet, folder: Path, plain: dict[str, Any], key: Key) -> dict[str, Any]:
    """Fit by recorded answers alone; nobody is asked."""
    answers = recorded_answers(data, folder, key["answers"])
    finetune = key["how"] == "fine-tuned"
    model = ClusterLLM(
        embedder="minilm" if finetune else "auto",
        n_clusters=data.n_clusters,
        method="auto",
        progress=False,
        random_state=key["seed"],
    )
    seconds = fitted(data, model, answers, precomputed=not finetune)
    return measures(data, model.labels_, plain) | {
        "answers_used": len(answers),
        "tokens_estimated": tokens_estimated(question for question, _ in answers),
        "seconds": seconds,
        "kept_refined": model.report_.get("guard", {}).get("kept_refined"),
    }


def partition_of(data: DataSet, folder: Path, answers: str) -> Labels:
    """Return the clustering that recorded questions about clusters were asked about, in the shuffled order."""
    path = folder / "recorded" / f"{answers.removesuffix('_llm')}_labels.json"
    return np.array(json.loads(path.read_text(encoding="utf-8")), dtype=np.int64)[data.order]


def run_merge(data: DataSet, folder: Path, plain: dict[str, Any], answers: str) -> dict[str, Any]:
    """Merge the partition that was asked about; measured before and after."""
    # Only this run needs it.
    from clusterllm_plugins import merge_clusters  # type: ignore[attr-defined, unused-ignore]

    start = time.perf_counter()
    partition = partition_of(data, folder, answers)
    known = recorded_answers(data, folder, answers)
    labels = merge_clusters(partition, data.vectors, known, n_clusters=(1, len(np.unique(partition))))
    seconds = round(time.perf_counter() - start, 1)
    return measures(data, labels, plain) | {
        "acc_before": measures(data, partition)["acc"],
        "k_before": len(np.unique(partition)),
        "k": len(np.unique(labels)),
        "answers_used": len(known),
        "seconds": seconds,
    }


@dataclass(frozen=True)
class Scope:
    """What is to be run.

    Attributes:
        names: Of the data sets.
        folder: Where they are.
        results: Where the runs go.
        full: Whether to make every run, not the usual selection.
        embedders: Whose vectors the part "embedders" uses.
    """

    names: Sequence[str]
    folder: Path
    results: Results
    full: bool
    embedders: Sequence[str]

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds of a run that usually has one."""
        return SEEDS if self.full else SEEDS[:1]

    def fit(
        self, name: str, method: str, oracle: str, questions: int = USUAL, seed: int = 0, embedder: str = "minilm"
    ) -> Job:
        """Return the run of a fit with the true number of clusters."""
        key = fit_key(name, method, oracle, questions, seed, embedder)

        def make() -> dict[str, Any]:
            data = data_of(name, self.folder, embedder)
            return run_fit(data, plain_of(self.results, data, embedder), key)

        return key, make


def fit_key(
    name: str, method: str, oracle: str, questions: int = USUAL, seed: int = 0, embedder: str = "minilm"
) -> Key:
    """Return the key of a fit with the true number of clusters."""
    return {
        "data": name,
        "method": method,
        "embedder": embedder,
        "oracle": oracle,
        "questions": questions,
        "seed": seed,
        "part": "gain",
    }


def auto_jobs(scope: Scope) -> Iterator[Job]:
    """Yield ``auto`` with the usual number of questions, every set, three seeds."""
    for seed in SEEDS:
        for name in scope.names:
            yield scope.fit(name, "auto", "measured", seed=seed)


def paper_jobs(scope: Scope) -> Iterator[Job]:
    """Yield ``paper`` with the usual number of questions on every set."""
    for seed in scope.seeds:
        for name in scope.names:
            yield scope.fit(name, "paper", "measured", seed=seed)


def bad_jobs(scope: Scope) -> Iterator[Job]:
    """Yield ``auto`` with oracles of no use on every set, and without any oracle to compare with."""
    for oracle in (NOBODY, *BAD):
        for name in scope.names:
            yield scope.fit(name, "auto", oracle)


def curve_jobs(scope: Scope) -> Iterator[Job]:
    """Yield both methods with other numbers of questions, and with other oracles."""
    cases = [("measured", questions) for questions in BUDGETS] + [(oracle, USUAL) for oracle in UNIFORM]
    if scope.full:
        cases += [(oracle, questions) for oracle in UNIFORM for questions in BUDGETS if questions != USUAL]
    for seed in scope.seeds:
        for oracle, questions in cases:
            for method in METHODS:
                for name in scope.names:
                    if scope.full or name in CURVE_SETS or (method, oracle, questions) in EVERYWHERE:
                        yield scope.fit(name, method, oracle, questions, seed)


def embedder_jobs(scope: Scope) -> Iterator[Job]:
    """Yield ``auto`` on the frozen vectors of other embedders on every set."""
    for embedder in scope.embedders:
        for name in scope.names:
            yield scope.fit(name, "auto", "measured", embedder=embedder)


def _with_data(make: Callable[[DataSet], dict[str, Any]], name: str, folder: Path) -> dict[str, Any]:
    """Read a data set only when a run needs it."""
    return make(data_of(name, folder))


def number_jobs(scope: Scope) -> Iterator[Job]:
    """Yield both methods with an open number of clusters, and the best Ward cut, on every set."""
    for name in scope.names:
        key: Key = {"part": "numbers", "data": name, "method": "ward"}
        yield key, partial(_with_data, run_ward, name, scope.folder)
    for method in METHODS:
        for name in scope.names:
            key = {"part": "numbers", "data": name, "method": method, "oracle": "measured"}
            key |= {"questions": USUAL, "seed": 0}
            yield key, partial(_with_data, partial(run_open, key=key), name, scope.folder)


def recorded_jobs(scope: Scope) -> Iterator[Job]:
    """Yield the fits by recorded answers."""

    def make(name: str, key: Key) -> dict[str, Any]:
        data = data_of(name, scope.folder)
        plain = plain_of(scope.results, data)
        if key["how"] == "merged":
            return run_merge(data, scope.folder, plain, key["answers"])
        return run_recorded(data, scope.folder, plain, key)

    for name, answers, how, seeds in RECORDED:
        for seed in seeds if name in scope.names else ():
            key: Key = {"part": "recorded", "data": name, "answers": answers, "how": how, "seed": seed}
            yield key, partial(make, name, key)


# The cheap and most telling parts first.
PARTS: dict[str, Callable[[Scope], Iterator[Job]]] = {
    "auto": auto_jobs,
    "recorded": recorded_jobs,
    "bad": bad_jobs,
    "paper": paper_jobs,
    "curve": curve_jobs,
    "numbers": number_jobs,
    "embedders": embedder_jobs,
}


def run(parts: Sequence[str], scope: Scope) -> None:
    """Make every run that is not there yet."""
    for part in parts:
        for key, make in PARTS[part](scope):
            scope.results.ensure(make, **key)


def found_runs(results: Results, name: str, method: str, oracle: str, questions: int = USUAL) -> list[dict[str, Any]]:
    """Return the runs of all seeds that were made."""
    keys = [fit_key(name, method, oracle, questions, seed) for seed in SEEDS]
    return [found for key in keys if (found := results.find(**key))]


def mean_of(runs: Sequence[dict[str, Any]], field: str, form: str = "{:+.1f}") -> str:
    """Return the mean of a field over runs, or a dash."""
    values = [run[field] for run in runs if run.get(field) is not None]
    return form.format(float(np.mean(values))) if values else "–"


def spread_of(runs: Sequence[dict[str, Any]], field: str) -> str:
    """Return the mean of a field and in brackets its lowest and highest."""
    values = [run[field] for run in runs if run.get(field) is not None]
    brackets = f" ({min(values):+.1f} to {max(values):+.1f})" if len(values) > 1 else ""
    return mean_of(runs, field) + brackets


def means_row(columns: Sequence[Sequence[float | None]], form: str = "{:+.1f}") -> list[str]:
    """Return the mean of each column with the number of sets, or a dash."""
    cells = []
    for column in columns:
        values = [value for value in column if value is not None]
        cells.append(f"{form.format(float(np.mean(values)))} ({len(values)} sets)" if values else "–")
    return cells


def average(runs: Sequence[dict[str, Any]], field: str) -> float | None:
    """Return the mean of a field over runs, or None."""
    values = [run[field] for run in runs if run.get(field) is not None]
    return float(np.mean(values)) if values else None


def report(results: Results) -> str:
    """Return the section of RESULTS.md."""
    picture = [f"![Gain in ACC against questions and against tokens](results/{PICTURE.name})"]
    return "\n\n".join(
        [
            "## What a question earns",
            "`python3 dev.py bench gain` (embedder minilm but where another is named, precomputed vectors, texts "
            "shuffled, true number of clusters given but in the last table). **The oracle is simulated** (profile "
            "`measured`: it errs as real models were measured to; `uniform`: right with the probability named), "
            "except under *Recorded answers*. Figures are points; gains are over plain k-means on the same vectors "
            "(mean of seeds 0 to 4). *paper* learns a linear map here; fine-tuned it stands under *The paper's "
            "experiment*. Tokens are estimated: four characters each, and 60 a question. A dash is a run that was not "
            "made.",
            "### 1,024 questions, simulated oracle `measured`",
            "`--only auto` (three seeds: mean, in brackets lowest and highest) and `--only paper` (one seed). The "
            "oracle's accuracy is that of questions with a right choice: as the fit estimated it from questions about "
            "unsure texts, in truth on these, and in truth on all.",
            _main_table(results),
            "### Simulated oracles of no use, 1,024 questions at most",
            "`--only bad`: `auto`, one seed. ACC against the same fit that asks nobody, the questions asked before it "
            "stopped, and which clustering was kept.",
            _bad_table(results),
            "### Cost and quality, simulated oracle",
            "`--only curve`: ACC gain, in brackets thousands of tokens; means over the seeds that were run (of `auto` "
            "at 1,024 questions with `measured` three, else one unless `--full`), here, in the picture and below.",
            _curve_table(results),
            *(picture if PICTURE.exists() else []),
            "`--only curve`: ACC gain by the simulated oracle's accuracy, 1,024 questions.",
            _uniform_table(results),
            "### Other vectors, 1,024 questions, simulated oracle `measured`",
            "`--embedder lsa`, `--embedder e5like` (minilm with a common offset, so that the mean cosine is 0.85 as "
            "E5's are high; it is not E5): `auto`, one seed. ACC of k-means and gain.",
            _embedder_table(results),
            "### Recorded answers of real models (not simulated)",
            "`--only recorded`: seeds 0 to 4 of the fit, mean, in brackets lowest and highest. *merged*: the "
            "clustering that was asked about, by `merge_clusters`; the number of clusters is then left to the answers.",
            _recorded_table(results),
            '### `n_clusters="auto"`, simulated oracle `measured`',
            "`--only numbers`: one seed, the default caps. The effective number is exp(entropy of the true sizes). "
            "The best Ward cut is chosen by the labels from 40 numbers between 2 and 400: a bound, not a method.",
            _number_table(results),
        ]
    )


def _main_table(results: Results) -> str:
    rows, columns = [], []
    for name in DATA_SETS:
        plain = results.find(data=name, method="k-means", embedder="minilm")
        auto, paper = (found_runs(results, name, method, "measured") for method in METHODS)
        kept = [run["kept_refined"] for run in auto]
        accuracies = (mean_of(auto, f"accuracy_{which}", "{:.2f}") for which in ("estimated", "true_texts", "true"))
        rows.append(
            [
                name,
                f"{plain['acc']:.1f} / {plain['nmi']:.1f} / {plain['ari']:.1f}" if plain else "–",
                mean_of(paper, "gain_acc"),
                spread_of(auto, "gain_acc"),
                mean_of(paper, "gain_nmi"),
                spread_of(auto, "gain_nmi"),
                mean_of(auto, "ari", "{:.1f}"),
                mean_of(auto, "asked", "{:.0f}"),
                f"{mean_of(paper, 'tokens_estimated', '{:,.0f}')} / {mean_of(auto, 'tokens_estimated', '{:,.0f}')}",
                mean_of(auto, "seconds", "{:.0f}"),
                f"{sum(map(bool, kept))} of {len(kept)}" if kept else "–",
                " / ".join(accuracies),
            ]
        )
        gains = [(paper, "gain_acc"), (auto, "gain_acc"), (paper, "gain_nmi"), (auto, "gain_nmi")]
        columns.append([average(runs, field) for runs, field in gains])
    header = ["data set", "k-means, ACC / NMI / ARI", "paper, ACC", "auto, ACC", "paper, NMI", "auto, NMI", "auto, ARI"]
    header += ["auto, asked", "tokens, paper / auto", "auto, seconds", "refined kept"]
    header += ["oracle's accuracy: estimated / true of these / true of all"]
    means = means_row([list(column) for column in zip(*columns, strict=True)])
    return table(header, [*rows, ["mean", "", *means, *[""] * 6]])


def _bad_table(results: Results) -> str:
    rows = []
    for name in DATA_SETS:
        cells = []
        # One seed of k-means differs from the mean of five: that is not the oracle's doing.
        unasked = results.find(**fit_key(name, "auto", NOBODY))
        for oracle in BAD:
            found = results.find(**fit_key(name, "auto", oracle))
            if found and unasked:
                kept = "**refined**" if found["kept_refined"] else "plain"
                cells.append(f"{found['acc'] - unasked['acc']:+.1f}, {found['asked']}, {kept}")
            else:
                cells.append("–")
        rows.append([name, *cells])
    return table(["data set", *BAD], rows)


def _curve_table(results: Results) -> str:
    rows = []
    for name in DATA_SETS:
        for method in METHODS:
            cells = []
            for questions in BUDGETS:
                runs = found_runs(results, name, method, "measured", questions)
                tokens = average(runs, "tokens_estimated")
                cells.append(f"{mean_of(runs, 'gain_acc')} ({(tokens or 0) / 1000:.0f}k)" if runs else "–")
            rows.append([name, method, *cells])
    return table(["data set", "method", *(f"{questions} questions" for questions in BUDGETS)], _made(rows))


def _uniform_table(results: Results) -> str:
    oracles = (*UNIFORM, "measured")
    rows = [
        [name, method, *(mean_of(found_runs(results, name, method, oracle), "gain_acc") for oracle in oracles)]
        for name in DATA_SETS
        for method in METHODS
    ]
    return table(["data set", "method", *oracles], _made(rows))


def _made(rows: Sequence[list[str]]) -> list[list[str]]:
    """Return the rows of sets that the part was run on: usually it is not run on all."""
    return [row for row in rows if set(row[2:]) != {"–"}]


def _embedder_table(results: Results) -> str:
    rows, columns = [], []
    for name in DATA_SETS:
        cells = []
        gains: list[float | None] = []
        for embedder in ("minilm", *EMBEDDERS):
            plain = results.find(data=name, method="k-means", embedder=embedder)
            found = results.find(**fit_key(name, "auto", "measured", embedder=embedder))
            gains.append(found["gain_acc"] if found else None)
            cells.append(f"{plain['acc']:.1f} {found['gain_acc']:+.1f}" if plain and found else "–")
        rows.append([name, *cells])
        columns.append(gains)
    means = means_row([list(column) for column in zip(*columns, strict=True)])
    return table(["data set", "minilm", *EMBEDDERS], [*rows, ["mean gain", *means]])


def _recorded_table(results: Results) -> str:
    rows = []
    for name, answers, how, seeds in RECORDED:
        keys = [{"part": "recorded", "data": name, "answers": answers, "how": how, "seed": seed} for seed in seeds]
        runs = [found for key in keys if (found := results.find(**key))]
        plain = results.find(data=name, method="k-means", embedder="minilm")
        start = f"{plain['acc']:.1f} / {plain['nmi']:.1f}" if plain else "–"
        clusters = ""
        if runs and how == "merged":
            start = f"{runs[0]['acc_before']:.1f} (what was asked about)"
            clusters = f"{runs[0]['k_before']} to {runs[0]['k']}"
        accs = [run["acc"] for run in runs]
        brackets = f" ({min(accs):.1f} to {max(accs):.1f})" if len(accs) > 1 else ""
        count = mean_of(runs, "answers_used", "{:.0f}")
        end = f"{mean_of(runs, 'acc', '{:.1f}')}{brackets} / {mean_of(runs, 'nmi', '{:.1f}')}"
        rows.append([f"`{answers}`", how, count, start, end, spread_of(runs, "gain_acc"), clusters])
    header = ["answers", "vectors", "questions", "start, ACC / NMI", "with the answers, ACC / NMI"]
    return table([*header, "ACC over k-means", "clusters"], rows)


def _number_table(results: Results) -> str:
    rows: list[list[Any]] = []
    columns = []
    for name in DATA_SETS:
        ward = results.find(part="numbers", data=name, method="ward")
        runs = [results.find(part="numbers", data=name, method=method) for method in METHODS]
        cells = [f"{ward['k']}, {ward['ari']:.1f}" if ward else "–"]
        numbers: list[float | None] = []
        for found in runs:
            interval = f" [{found['interval'][0]}, {found['interval'][1]}]" if found and found["interval"] else ""
            cells.append(f"{found['k']}{interval}" if found else "–")
            cells.append(f"{found['ari']:.1f}" if found else "–")
            cells.append(f"{found['asked']}" if found else "–")
            share = found["ari"] / ward["ari"] if found and ward else None
            numbers += [found["log_error"] if found else None, share]
        effective = next((f"{found['effective']:.0f}" for found in runs if found), "–")
        rows.append([name, effective, *cells])
        columns.append(numbers)
    errors = means_row([list(column) for column in zip(*columns, strict=True)], "{:.2f}")
    header = ["data set", "effective number", "best Ward cut: k, ARI"]
    header += [f"{method}, {what}" for method in METHODS for what in ("k [90% interval]", "ARI", "asked")]
    lines = [
        f"{method}: mean of |ln(k / effective)| {errors[2 * place]}, of ARI as a share of the best Ward cut's "
        f"{errors[2 * place + 1]}."
        for place, method in enumerate(METHODS)
    ]
    return table(header, rows) + "\n\n" + " ".join(lines)


def draw(results: Results) -> None:
    """Draw the curves, where matplotlib is installed and there are runs."""
    if importlib.util.find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed")
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), sharey=True)
    drawn = False
    for name, colour in zip(CURVE_SETS, ("C0", "C1", "C2", "C3"), strict=True):
        for method, style in zip(METHODS, ("-", "--"), strict=True):
            made = [found_runs(results, name, method, "measured", questions) for questions in BUDGETS]
            made = [runs for runs in made if runs]
            gains = [average(runs, "gain_acc") for runs in made]
            drawn |= bool(made)
            for panel, field in zip(panels, ("asked", "tokens_estimated"), strict=True):
                places = [average(runs, field) for runs in made]
                panel.plot(places, gains, style, color=colour, marker="o", ms=3, label=f"{name}, {method}")
    for panel, what in zip(panels, ("questions asked", "tokens (estimated)"), strict=True):
        panel.set_xscale("log")
        panel.set_xlabel(what)
        panel.axhline(0, color="grey", lw=0.5)
    panels[0].set_ylabel("gain in ACC over k-means, points")
    panels[0].legend(fontsize=7)
    figure.suptitle("Simulated oracle (profile measured)")
    figure.tight_layout()
    if drawn:
        figure.savefig(PICTURE, dpi=120)
    plt.close(figure)


def main() -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", default=list(DATA_SETS), help="names of data sets")
    parser.add_argument("--only", choices=list(PARTS), nargs="+", help="parts to run")
    parser.add_argument("--embedder", choices=EMBEDDERS, nargs="+", help="only the part 'embedders', with these")
    parser.add_argument("--full", action="store_true", help="every set, budget, oracle and seed")
    parser.add_argument("--table", action="store_true", help="only write the tables")
    arguments = parser.parse_args()
    results = Results(FILE)
    scope = Scope(arguments.sets, arguments.data, results, arguments.full, arguments.embedder or EMBEDDERS)
    parts = arguments.only or (["embedders"] if arguments.embedder else list(PARTS))
    try:
        if not arguments.table:
            run(parts, scope)
    finally:
        draw(results)
        write_section("gain", report(results))


if __name__ == "__main__":
    main()
