"""``simulated``: answers from known labels with a set error profile. For tests and benchmarks only.

Figures that come from it are those of a simulated oracle and must say so. Labels reach nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clusterllm_plugins.errors import ClusterLLMError, DataError
from clusterllm_plugins.protocols import Vectors
from clusterllm_plugins.questions import NONE, Answer, OracleError, Question
from clusterllm_plugins.vectors import normalise

PROFILES = ("measured", "uniform")

# What real models answered on Banking77: triplets by gpt-4o-mini, the rest by a large instruction-tuned model.
# Each row: the probability of a right answer up to this margin (right minus best wrong cosine).
TRIPLET_BY_MARGIN = ((-0.15, 0.60), (-0.05, 0.68), (0.05, 0.84), (np.inf, 0.91))
CHOICE_BY_MARGIN = ((-0.1, 0.71), (0.0, 0.79), (0.1, 0.88), (np.inf, 0.94))
TRIPLET_NEARER = 0.64  # takes the nearer one where neither is right
NONE_RIGHTLY = 0.54  # says "none" where no group is right
NONE_WRONGLY = 0.36  # says "none" where it misses a right group
RANK_WEIGHTS = (42, 22, 12, 12, 4, 7)  # of wrong groups, the nearest first; the last repeats
YES_IF_SAME = 0.96
YES_IF_DIFFERENT = ((0.3, 0.05), (0.5, 0.09), (np.inf, 0.15))  # by cosine


class SimulatedOracle:
    """Answers from labels.

    Args:
        labels: A label per text, or the path of a JSON list or of JSONL with a field ``label``.
        profile: ``"measured"`` errs as real models were measured to (needs ``prepare``); ``"uniform"`` is right with
            probability ``accuracy`` where a choice is right (any of them where several are), and picks any admissible
            choice at random where none is.
        accuracy: Of the profile ``"uniform"``.
        seed: Answers are a function of seed, indices and kind; a repeat gets the first answer.
    """

    uses_indices = True
    batch_size = 256
    note = "the oracle is simulated from known labels: no figure here is a real model's"

    def __init__(
        self,
        labels: Sequence[Any] | str | Path,
        profile: str = "measured",
        accuracy: float = 0.8,
        seed: int = 0,
    ) -> None:
        if profile not in PROFILES:
            raise ClusterLLMError(f"oracle 'simulated': profile is one of {', '.join(PROFILES)}, not {profile!r}")
        if not 0 <= accuracy <= 1:
            raise ClusterLLMError(f"oracle 'simulated': accuracy must be in [0, 1], not {accuracy}")
        self._labels = _read_labels(labels) if isinstance(labels, str | Path) else list(labels)
        self._profile = profile
        self._accuracy = accuracy
        self._seed = seed
        self._vectors: Vectors | None = None

    @property
    def fingerprint(self) -> str:
        """Profile, seed and a digest of the labels."""
        digest = hashlib.sha256(json.dumps([str(label) for label in self._labels]).encode()).hexdigest()[:12]
        accuracy = f":{self._accuracy}" if self._profile == "uniform" else ""
        return f"simulated:{self._profile}{accuracy}:s{self._seed}:{digest}"

    def prepare(self, texts: Sequence[str], embeddings: Vectors) -> None:
        """Take the plain vectors, whose margins decide how hard a question is."""
        if len(texts) != len(self._labels):
            raise OracleError(f"oracle 'simulated' has {len(self._labels)} labels for {len(texts)} texts", fatal=True)
        self._vectors = embeddings

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Answer each question by the profile."""
        for question in questions:
            rng = self._rng(question)
            pick = self._uniform if self._profile == "uniform" else self._measured
            yield Answer(pick(question, rng))

    def _rng(self, question: Question) -> np.random.Generator:
        text = json.dumps([self._seed, question.kind, question.indices])
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))

    def right_choices(self, question: Question) -> list[str]:
        """Return the choices that are right by the labels, without ``"none"``."""
        label = self._labels[question.anchor_index]
        if question.kind == "pair":
            return ["yes" if self._labels[question.group_indices[0][0]] == label else "no"]
        return [
            str(number)
            for number, group in enumerate(question.group_indices, start=1)
            if Counter(self._labels[index] for index in group).most_common(1)[0][0] == label
        ]

    def _uniform(self, question: Question, rng: np.random.Generator) -> str:
        right = self.right_choices(question)
        if not right and NONE in question.choices:
            right = [NONE]
        if not right:
            return str(rng.choice(question.choices))
        wrong = [choice for choice in question.choices if choice not in right]
        return str(rng.choice(right if rng.random() < self._accuracy or not wrong else wrong))

    def _measured(self, question: Question, rng: np.random.Generator) -> str:
        if self._vectors is None:
            raise OracleError("oracle 'simulated': the profile 'measured' needs prepare(texts, embeddings)", fatal=True)
        anchor = normalise(self._vectors[[question.anchor_index]])[0]
        cosines = {
            str(number): float((normalise(self._vectors[list(group)]) @ anchor).mean())
            for number, group in enumerate(question.group_indices, start=1)
        }
        right = self.right_choices(question)
        if question.kind == "pair":
            yes = YES_IF_SAME if right == ["yes"] else _by_margin(YES_IF_DIFFERENT, cosines["1"])
            return "yes" if rng.random() < yes else "no"
        is_triplet = NONE not in question.choices and [len(g) for g in question.group_indices] == [1, 1]
        return (
            _measured_triplet(cosines, right, rng)
            if is_triplet
            else _measured_choice(cosines, right, rng, none=NONE in question.choices)
        )


def _measured_triplet(cosines: dict[str, float], right: list[str], rng: np.random.Generator) -> str:
    nearer, farther = sorted(cosines, key=lambda choice: -cosines[choice])
    if len(right) != 1:
        # Where both are right, either is; where none is, the nearer one attracts.
        return str(rng.choice(right)) if right else (nearer if rng.random() < TRIPLET_NEARER else farther)
    wrong = farther if right[0] == nearer else nearer
    hit = rng.random() < _by_margin(TRIPLET_BY_MARGIN, cosines[right[0]] - cosines[wrong])
    return right[0] if hit else wrong


def _measured_choice(cosines: dict[str, float], right: list[str], rng: np.random.Generator, *, none: bool) -> str:
    wrong = sorted((choice for choice in cosines if choice not in right), key=lambda c: -cosines[c])
    if right:
        best = max(right, key=cosines.__getitem__)
        margin = cosines[best] - cosines[wrong[0]] if wrong else np.inf
        if not wrong or rng.random() < _by_margin(CHOICE_BY_MARGIN, margin):
            return best
    if none and rng.random() < (NONE_WRONGLY if right else NONE_RIGHTLY):
        return NONE
    weights = np.array([RANK_WEIGHTS[min(rank, len(RANK_WEIGHTS) - 1)] for rank in range(len(wrong))], float)
    return str(rng.choice(wrong, p=weights / weights.sum()))


def _by_margin(table: tuple[tuple[float, float], ...], margin: float) -> float:
    """Return the probability in the first row whose bound is not below ``margin``."""
    return next(probability for bound, probability in table if margin <= bound)


def _read_labels(path: str | Path) -> list[Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
        if text.lstrip().startswith("["):
            labels = list(json.loads(text))
        else:
            labels = [json.loads(line)["label"] for line in text.split("\n") if line.strip()]
        if not labels:
            raise ValueError("it is empty")
        return labels
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"oracle 'simulated': {path} is neither a JSON list of labels nor JSONL with a field 'label' ({error})"
        ) from error
