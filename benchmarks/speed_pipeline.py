"""The paper's whole pipeline, each part timed: this package's way against the published code's way of doing it.

A part of speed.py. The reference's way is re-created here from what is known of it, in our own words: one request after
the other with a sleep of a second after each, training in batches of four (plain_training.py),
``SentenceTransformer.encode`` with defaults, scikit-learn's Ward, and a hierarchy whose assignment is copied at every
merge. Both sides ask a server on the loopback that answers after 200 ms: it is *simulated* (simulated_server.py).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from common import DataSet, Results, table
from hierarchy_with_copies import copied_hierarchy
from numpy.typing import NDArray
from plain_training import train_plainly
from simulated_server import simulated_server
from sklearn.cluster import AgglomerativeClustering, KMeans
from timing import processor

from clusterllm_embedders.finetuning import Training
from clusterllm_embedders.minilm import MiniLMEmbedder
from clusterllm_oracles.openai import OpenAIOracle
from clusterllm_plugins import ClusterLLM, estimator, fitting, sampling
from clusterllm_plugins.asking import Session
from clusterllm_plugins.errors import ClusterLLMWarning
from clusterllm_plugins.granularity import MOST_CLUSTERS, f_beta
from clusterllm_plugins.metrics import accuracy
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.questions import Answer, Question, pair_question, triplet_question
from clusterllm_plugins.refinement import triplets_of
from clusterllm_plugins.sampling import FIRST_CLUSTERS, entropy_triplets
from clusterllm_plugins.space import Space
from clusterllm_plugins.vectors import normalise

DELAY = 0.2  # seconds to each answer
SLEEP = 1.0  # the reference's, after each answer
QUESTIONS = 1024
PAIRS = MOST_CLUSTERS - 1  # one a merge
CONCURRENCY = 16
EPOCHS = Training().epochs  # on both sides; the paper's 15 are for another model
EMBED, SAMPLE, ASK, TRAIN = "embed", "first clustering and sampling", "ask triplets", "fine-tune"
AGAIN, TREE, PAIR, CHOOSE, CLUSTER = "embed again", "hierarchy", "ask pairs", "choose K", "k-means"
STEPS = (EMBED, SAMPLE, ASK, TRAIN, AGAIN, TREE, PAIR, CHOOSE, CLUSTER)


class Clock:
    """The seconds of each step."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STEPS, 0.0)
        self._start = time.perf_counter()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count what is done inside as ``name``."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start
        print(f"  {name}: {self.seconds[name]:.1f} s", flush=True)

    def timed(self, function: Callable[..., Any], *names: str) -> Callable[..., Any]:
        """Return ``function`` with its calls counted as ``names``, in turn."""
        order = iter(names)

        def wrapper(*arguments: Any, **more: Any) -> Any:
            with self.step(next(order)):
                return function(*arguments, **more)

        return wrapper

    def total(self) -> float:
        """Return the seconds since the beginning."""
        return time.perf_counter() - self._start


def oracle_at(url: str) -> OpenAIOracle:
    """Return an oracle for a server without a key."""
    return OpenAIOracle(model="simulated", base_url=url, api_key_env=None, concurrency=CONCURRENCY)


def warm_embedder(texts: Sequence[str]) -> MiniLMEmbedder:
    """Return the embedder with its weights loaded: that is nobody's part."""
    embedder = MiniLMEmbedder(device="cpu")
    embedder.embed(texts[:8])
    return embedder


# Ours


def ours(data: DataSet, url: str) -> dict[str, Any]:
    """Fit as a user would; the steps are timed by wrapping the functions that do them."""
    embedder = warm_embedder(data.texts)
    model = ClusterLLM(
        embedder=embedder,
        oracle=oracle_at(url),
        method="paper",
        max_questions=QUESTIONS,
        max_granularity_questions=PAIRS,
        progress=False,
    )
    clock = Clock()
    wrapped: list[tuple[Any, str, tuple[str, ...]]] = [
        (estimator, "embed_corpus", (EMBED,)),
        (fitting, "entropy_triplets", (SAMPLE,)),
        (Session, "ask", (ASK, PAIR)),
        (Space, "refined", (TRAIN,)),
        (fitting, "embed_corpus", (AGAIN,)),
        (fitting, "build_hierarchy", (TREE,)),
        (fitting, "choose_by_pairs", (CHOOSE,)),
        (fitting, "kmeans", (CLUSTER,)),
    ]
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", ClusterLLMWarning)
        for owner, name, steps in wrapped:
            stack.enter_context(patch.object(owner, name, clock.timed(getattr(owner, name), *steps)))
        model.fit(data.texts)
    return outcome(data, clock, len(model.answers_), model.labels_)


def outcome(data: DataSet, clock: Clock, asked: int, labels: Labels) -> dict[str, Any]:
    """Return the row of one side."""
    return {
        "seconds": {name: round(seconds, 3) for name, seconds in clock.seconds.items()},
        "total": round(clock.total(), 2),
        "questions": asked,
        "n_clusters": len(np.unique(labels)),
        "acc": round(100 * accuracy(data.labels, labels), 2),
        "machine": processor(),
    }


# The reference's way


def reference(data: DataSet, url: str) -> dict[str, Any]:
    """Do the same work in the reference's way."""
    model, oracle, clock = warm_embedder(data.texts).model, oracle_at(url), Clock()
    with clock.step(EMBED):
        vectors = model.encode(data.texts, show_progress_bar=False)
    with clock.step(SAMPLE), patch.object(sampling, "first_clustering", _ward_of_sklearn):
        sampled = entropy_triplets(vectors, QUESTIONS, 0)
    with clock.step(ASK):
        questions = [triplet_question(data.texts, *map(int, triplet)) for triplet in sampled]
        triplets = triplets_of(questions, ask_in_turn(oracle, questions))
    with clock.step(TRAIN):
        model = train_plainly(model, data.texts, triplets, epochs=EPOCHS)
    with clock.step(AGAIN):
        vectors = normalise(model.encode(data.texts, show_progress_bar=False))
    with clock.step(TREE):
        assignments = copied_hierarchy(vectors)
    with clock.step(PAIR):
        pairs = [pair_question(data.texts, left, right) for left, right in pairs_of(assignments)]
        answers = ask_in_turn(oracle, pairs)
    with clock.step(CHOOSE):
        n_clusters = chosen(assignments, pairs, answers)
    with clock.step(CLUSTER):
        labels = KMeans(n_clusters, n_init=10, random_state=0).fit_predict(vectors)
    return outcome(data, clock, len(questions) + len(pairs), labels)


def _ward_of_sklearn(vectors: Vectors, seed: int, progress: bool) -> Labels:
    del seed, progress
    labels: Labels = AgglomerativeClustering(FIRST_CLUSTERS, linkage="ward").fit_predict(vectors)
    return labels


def ask_in_turn(oracle: OpenAIOracle, questions: Sequence[Question]) -> list[Answer]:
    """Ask one question after the other and sleep after each."""
    answers = []
    for question in questions:
        answers += oracle.answer([question])
        time.sleep(SLEEP)
    return answers


def pairs_of(assignments: list[NDArray[np.int64]]) -> list[tuple[int, int]]:
    """Return a random pair across the merge that takes k clusters to k - 1, for each k."""
    rng, n, pairs = np.random.default_rng(0), len(assignments[0]), []
    for k in range(2, MOST_CLUSTERS + 1):
        before, after = assignments[n - k], assignments[n - k + 1]
        sides = np.unique(before[before != after])
        left, right = (int(rng.choice(np.flatnonzero(before == side))) for side in sides)
        pairs.append((left, right))
    return pairs


def chosen(assignments: list[NDArray[np.int64]], pairs: list[Question], answers: list[Answer]) -> int:
    """Return the number of clusters whose assignment agrees best with the answers."""
    n = len(assignments[0])
    positions = np.array([pair.indices for pair in pairs])
    yes = np.array([answer.choice == "yes" for answer in answers])
    cuts = [assignments[n - k][positions] for k in range(2, MOST_CLUSTERS + 1)]
    scores = f_beta(np.array([cut[:, 0] == cut[:, 1] for cut in cuts]), yes)
    return 2 + int(scores.argmax())


# Both


SIDES = {"ours": ours, "reference": reference}


def pipeline(names: Sequence[str], get: Callable[[str], DataSet], folder: Path, results: Results) -> str:
    """Run and describe the whole pipeline of both sides."""
    texts = [
        "### The paper's whole pipeline",
        "`python3 dev.py bench speed --parts pipeline --sets clinc` (half an hour). A server on the loopback answers "
        f'after {1000 * DELAY:.0f} ms; **it is simulated** (profile `measured`). Ours: `ClusterLLM(method="paper")` '
        f"with `openai`, {CONCURRENCY} requests at once, the default training. The reference's way, re-created: one "
        f"request after the other and {SLEEP:.0f} s of sleep after each, training in fp32 with batches of 4, "
        "`SentenceTransformer.encode` with defaults, scikit-learn's Ward, an assignment copied at every merge. Both: "
        f"minilm, {QUESTIONS} triplets, {PAIRS} pairs, {EPOCHS} epochs (the paper's 15 are for Instructor-large), one "
        "run, on a machine that others used too.",
    ]
    for name in names:
        rows = {side: _ensured(side, name, get, folder, results) for side in SIDES}
        texts.append(described(name, rows))
    return "\n\n".join(texts)


def _ensured(side: str, name: str, get: Callable[[str], DataSet], folder: Path, results: Results) -> dict[str, Any]:
    def make() -> dict[str, Any]:
        data = get(name)
        with simulated_server(name, folder, DELAY) as url:
            return SIDES[side](data, url)

    return results.ensure(make, part="pipeline", data=name, side=side)


def described(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """Return the table of one data set."""
    both = [rows["ours"], rows["reference"]]
    lines = [[step, *(row["seconds"][step] for row in both)] for step in STEPS]
    lines.append(["the rest", *(max(0.0, row["total"] - sum(row["seconds"].values())) for row in both)])
    lines.append(["all", *(row["total"] for row in both)])
    cells = []
    for step, mine, theirs in lines:
        shares = [f"{seconds / row['total']:.1%}" for seconds, row in zip((mine, theirs), both, strict=True)]
        ratio = f"{theirs / mine:.1f}" if min(mine, theirs) >= 0.005 else "–"
        cells.append([step, f"{mine:.2f}", shares[0], f"{theirs:.2f}", shares[1], ratio])
    found = "; ".join(
        f"{side}: {row['questions']} questions, K = {row['n_clusters']}, ACC {row['acc']}" for side, row in rows.items()
    )
    slept = SLEEP * rows["reference"]["questions"]
    awake = (rows["reference"]["total"] - slept) / rows["ours"]["total"]
    header = [f"{name}: step", "ours, s", "share", "reference's way, s", "share", "times as fast"]
    found += f". Without the reference's {slept:.0f} s of sleep: {awake:.1f} times as fast. {both[0]['machine']}."
    return f"{table(header, cells)}\n\n{found}"
