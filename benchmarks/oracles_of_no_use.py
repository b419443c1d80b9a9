"""Three oracles that are of no use: always wrong, random, and always the first choice.

With them ``bench gain`` measures what a bad oracle costs: at best nothing, where the method sees through it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from clusterllm_oracles.simulated import SimulatedOracle
from clusterllm_plugins import Answer, Question
from clusterllm_plugins.questions import NONE


def rng_of(question: Question, seed: int) -> np.random.Generator:
    """Return a source of randomness that is a function of the question and a seed, so that runs can be repeated."""
    text = json.dumps([seed, question.kind, question.indices])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


class WrongOracle:
    """Always picks a wrong candidate, any of them; of a pair it says the wrong word.

    Args:
        labels: A label per text; to be always wrong takes knowing them.
        seed: Of the pick.
    """

    uses_indices = True

    def __init__(self, labels: Sequence[Any], seed: int = 0) -> None:
        self._judge = SimulatedOracle(labels)
        self._seed = seed
        self.fingerprint = f"wrong:s{seed}:{self._judge.fingerprint}"

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Answer each question wrongly, or with "none", which is wrong too, where every candidate is right."""
        for question in questions:
            right = self._judge.right_choices(question)
            wrong = [choice for choice in question.choices if choice not in (*right, NONE)]
            others = [choice for choice in question.choices if choice not in right]
            yield Answer(str(rng_of(question, self._seed).choice(wrong or others or question.choices)))


class RandomOracle:
    """Picks any admissible choice, "none" as often as each other.

    Args:
        seed: Of the pick.
    """

    uses_indices = True

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.fingerprint = f"random:s{seed}"

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Answer each question at random."""
        for question in questions:
            yield Answer(str(rng_of(question, self._seed).choice(question.choices)))


class FirstOracle:
    """Always picks what is shown first: "1", or "yes" of a pair."""

    uses_indices = True
    fingerprint = "first"

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Answer each question with its first choice."""
        for question in questions:
            yield Answer(question.choices[0])
