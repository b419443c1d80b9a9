"""What does each part of ``method="auto"`` earn? The same fit with one part taken out or replaced.

    python3 dev.py bench ablation
    python3 dev.py bench ablation --sets banking77 --arms "no cuts"

A part is taken out by replacing a constant or a function of ``clusterllm_plugins.guided`` while a fit runs. The oracle
is *simulated* (profile "measured"); the complete method's figures are those of ``bench gain``.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import DATA, HERE, Results, table, write_section
from gain import CURVE_SETS, FILE, Key, average, data_of, fit_key, means_row, plain_of, run_fit
from numpy.typing import NDArray

from clusterllm_plugins.guided import fit, planning, reassign
from clusterllm_plugins.guided.checks import CoreChecks, Duel
from clusterllm_plugins.guided.evidence import Asked
from clusterllm_plugins.guided.pieces import Pieces, Query
from clusterllm_plugins.guided.planning import Shape
from clusterllm_plugins.guided.reassign import Reassignment

Change = tuple[Any, str, Any]  # of what, its name, what stands there instead


@contextmanager
def replaced(changes: Sequence[Change]) -> Iterator[None]:
    """Replace attributes of modules or classes, and put back what was there.

    Raises:
        AttributeError: If there is none of this name: an ablation that changes nothing would look like a part that
            earns nothing.
    """
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)
        yield


def no_cut(self: Pieces, count: int, doubted: Iterable[Asked] = ()) -> int:
    """Cut nothing."""
    return 0


def no_doubt_cut(self: Pieces, count: int, doubted: Iterable[Asked] = ()) -> int:
    """Cut only for places that merging left free, not where texts fit nothing."""
    answers = list(doubted)
    return 0 if answers else SPLIT(self, count)


def random_pieces(self: Pieces) -> NDArray[np.float64]:
    """Return a random order of all pieces that can still be asked about, each worth asking."""
    effect = EXPECTED_EFFECT(self)
    drawn = np.random.default_rng([self.seed, len(self.answered)]).random(len(effect))
    return np.where(effect > 0, fit.WORTH + 1 + drawn, 0.0)


def random_texts(self: Reassignment, count: int) -> list[Query]:
    """Return questions about random texts instead of those between two clusters."""

    def no_margins(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.random.default_rng(len(self.answered)).random(len(probabilities))

    with replaced([(reassign, "margins", no_margins)]):
        return QUESTIONS(self, count)


def ask_no_text(self: Reassignment, ask: Any, count: int, rounds: int) -> list[Asked]:
    """Ask about no text, but learn from what was answered about clusters."""
    for _ in range(rounds):
        self.learn()
    return []


def trusted(*_: Any) -> CoreChecks:
    """Take any oracle for one that understands the texts, without asking."""
    return CoreChecks(picked=1, p_value=0.0)


def no_duel(*_: Any) -> Duel:
    """Compare no clusterings."""
    return Duel(refined=0, plain=0, p_value=1.0)


SPLIT: Callable[..., int] = Pieces.split
EXPECTED_EFFECT: Callable[[Pieces], NDArray[np.float64]] = Pieces.expected_effect
QUESTIONS: Callable[[Reassignment, int], list[Query]] = Reassignment._questions
ARMS: dict[str, Sequence[Change]] = {
    "no questions about clusters": [(fit, "WORTH", math.inf)],
    "no questions about texts": [(Reassignment, "ask", ask_no_text)],
    "no cuts": [(Pieces, "split", no_cut)],
    "no cuts by doubt": [(Pieces, "split", no_doubt_cut)],
    "a quarter about clusters at most": [(fit, "_PIECES_SHARE", 0.25)],
    "pieces in random order": [(Pieces, "expected_effect", random_pieces)],
    "texts in random order": [(Reassignment, "_questions", random_texts)],
    "one round of texts": [(fit, "_ROUNDS", (1, 1))],
    "every row teaches": [(reassign, "SURE_SHARE", 1.0)],
    "six candidates of three": [(planning, "SHAPES", (Shape(6, 6, 3),))],
    "no checks of the oracle": [(fit, "core_checks", trusted), (fit, "duel", no_duel), (fit, "MOST_DUELS", 0)],
}


def run_arm(name: str, folder: Path, gains: Results, key: Key, changes: Sequence[Change]) -> dict[str, Any]:
    """Fit with the changes made."""
    data = data_of(name, folder)
    plain = plain_of(gains, data)
    with replaced(changes):
        return run_fit(data, plain, key)


def arm_key(name: str, arm: str) -> Key:
    """Return the key of an arm's run."""
    return fit_key(name, "auto", "measured") | {"part": "ablation", "arm": arm}


def report(results: Results, gains: Results) -> str:
    """Return the section of RESULTS.md."""
    rows = []
    full = {name: gains.find(**fit_key(name, "auto", "measured")) for name in CURVE_SETS}
    for arm in ("complete", *ARMS):
        found = full if arm == "complete" else {name: results.find(**arm_key(name, arm)) for name in CURVE_SETS}
        cells = [f"{run['gain_acc']:+.1f} ({run['asked']})" if run else "–" for run in found.values()]
        mean = means_row([[average([run] if run else [], "gain_acc") for run in found.values()]])
        # Only sets that both have: else the difference would be one of sets.
        pairs = [(run, full[name]) for name, run in found.items()]
        lost = [run["gain_acc"] - whole["gain_acc"] for run, whole in pairs if run and whole]
        rows.append([arm, *cells, *mean, f"{np.mean(lost):+.1f}" if lost and arm != "complete" else "–"])
    header = ["what is changed", *CURVE_SETS, "mean", "against the complete method"]
    return "\n\n".join(
        [
            '## What each part of `method="auto"` earns',
            "`python3 dev.py bench ablation` (embedder minilm, true number of clusters given, 1,024 questions, one "
            "seed). **The oracle is simulated** (profile `measured`). ACC gain in points over plain k-means, in "
            "brackets the questions asked; the complete method is that of `bench gain`, seed 0. A "
            "difference within the spread of seeds there says nothing.",
            table(header, rows),
        ]
    )


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", choices=CURVE_SETS, default=list(CURVE_SETS), help="names of data sets")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="what to change")
    parser.add_argument("--table", action="store_true", help="only write the table")
    arguments = parser.parse_args()
    results, gains = Results(HERE / "results" / "ablation.jsonl"), Results(FILE)
    names: Sequence[str] = () if arguments.table else arguments.sets
    try:
        for name in names:  # the complete method first, to compare with
            key = fit_key(name, "auto", "measured")
            gains.ensure(partial(run_arm, name, arguments.data, gains, key, ()), **key)
        for arm in arguments.arms:
            for name in names:
                key = arm_key(name, arm)
                results.ensure(partial(run_arm, name, arguments.data, gains, key, ARMS[arm]), **key)
    finally:
        write_section("ablation", report(results, gains))


if __name__ == "__main__":
    main()
