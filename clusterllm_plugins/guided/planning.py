"""How large a question is, and who sees it: from rows to the session and back.

In: an anchor's row and the rows of each group's exemplars. Out: the answer, by rows. The groups are shown in a
random order (a function of seed and anchor), so that an oracle with a liking for a place tells nothing by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from clusterllm_plugins.asking import Session
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.corpus import Corpus
from clusterllm_plugins.guided.evidence import (
    NO_GROUP,
    PAIR_RELIABILITY,
    TRIPLET_RELIABILITY,
    Asked,
    asked,
)
from clusterllm_plugins.guided.pieces import Query
from clusterllm_plugins.protocols import Labels, Vectors
from clusterllm_plugins.questions import NONE, Answer, Question, choice_question
from clusterllm_plugins.recording import Known

# Questions are about a sample of more distinct texts than this; the classifier that learns from it draws the rest.
MOST_ROWS = 20_000
ROWS_PER_CLUSTER = 20  # in the sample at least, on average
_CHARACTERS_PER_TOKEN = 4  # of usual text; only to choose a shape, caps count what the oracle says
_FRAME_TOKENS = 60  # of a prompt without its texts


@dataclass(frozen=True)
class Shape:
    """How much a question shows.

    Attributes:
        candidates: Clusters among which a text chooses.
        piece_candidates: Pieces among which another piece's core text chooses.
        exemplars: Texts of each.
    """

    candidates: int
    piece_candidates: int
    exemplars: int


# From the most gain a question to the most gain a token; in trials about 1,000 to 280 tokens a question.
SHAPES = (Shape(20, 10, 4), Shape(12, 8, 3), Shape(8, 8, 3), Shape(6, 6, 2), Shape(4, 4, 1))


def shape_for(texts: Sequence[str], max_questions: int, max_tokens: int | None) -> Shape:
    """Return the largest shape whose questions, all of them, fit into the cap on tokens; else the smallest.

    Args:
        texts: What questions are made of.
        max_questions: How many may be asked.
        max_tokens: The cap, or ``None``.
    """
    if max_tokens is None:
        return SHAPES[0]
    for shape in SHAPES:
        if max_questions * tokens_of(texts, shape.candidates, shape.exemplars) <= max_tokens:
            return shape
    return SHAPES[-1]


def tokens_of(texts: Sequence[str], candidates: int, exemplars: int) -> float:
    """Return about how many tokens a question of texts of mean length takes."""
    each = sum(map(len, texts)) / max(len(texts), 1) / _CHARACTERS_PER_TOKEN
    return _FRAME_TOKENS + each * (1 + candidates * exemplars)


def rows_to_ask(corpus: Corpus, known: Known, n_clusters: int, seed: int) -> Corpus:
    """Return the part of a corpus that questions are about: of many texts a sample, with all that answers are about.

    Args:
        corpus: All texts.
        known: Answers already had.
        n_clusters: The most clusters.
        seed: Of the sample.
    """
    n_rows = len(corpus.distinct)
    wanted = max(MOST_ROWS, ROWS_PER_CLUSTER * n_clusters)
    if n_rows <= wanted:
        return corpus
    sample = np.random.default_rng(seed).choice(n_rows, wanted, replace=False)
    positions = [
        position
        for question, _ in known
        for position in (question.anchor_index, *(i for group in question.group_indices for i in group))
    ]
    answered = corpus.place[np.array(positions, dtype=np.int64)]
    return corpus.part(np.union1d(sample, answered[answered >= 0]))


@dataclass
class Asker:
    """Asks questions about rows within a cap.

    Attributes:
        corpus: Whose distinct texts the rows are.
        points: Vectors of the rows (see :class:`Frame`), shape (n_rows, dim).
        session: Asks.
        cap: How many distinct questions may be asked.
        instruction: The perspective in words.
        seed: Of the order in which groups are shown.
        places: (groups shown, place chosen) of every choice of a group, for the order bias.
        abstained: How many answers were none at all.
    """

    corpus: Corpus
    points: Vectors
    session: Session | None
    cap: QuestionCap
    instruction: str | None
    seed: int
    places: list[tuple[int, int]] = field(default_factory=list)
    abstained: int = 0
    count: int = 0
    _exhausted: bool = False

    @property
    def left(self) -> int:
        """How many questions may still be asked."""
        return 0 if self._exhausted else self.cap.left

    def __call__(self, questions: Sequence[Query], description: str = "asking about clusters") -> list[Asked | None]:
        """Ask which group each anchor belongs with, or none; ``None`` for what was not asked or not answered."""
        if self.session is None:
            return [None] * len(questions)
        positions = self.corpus.distinct
        orders, made = [], []
        for anchor, groups in questions:
            order = np.random.default_rng([self.seed, anchor, len(groups)]).permutation(len(groups))
            shown = [[int(positions[row]) for row in groups[number]] for number in order]
            orders.append(order)
            made.append(
                choice_question(
                    self.corpus.texts, int(positions[anchor]), shown, none=True, instruction=self.instruction
                )
            )
        answers = self.session.ask(made, self.cap, description)
        return [
            self._taken(anchor, groups, order, answer)
            for (anchor, groups), order, answer in zip(questions, orders, answers, strict=True)
        ]

    def _taken(self, anchor: int, groups: Sequence[Sequence[int]], order: np.ndarray, answer: Answer) -> Asked | None:
        if answer.refused:
            self._exhausted = True
            return None
        self.count += 1
        if answer.choice is None:
            self.abstained += 1
            return None
        if answer.choice == NONE:
            return asked(self.points, anchor, groups, NO_GROUP)
        place = int(answer.choice) - 1
        self.places.append((len(groups), place))
        return asked(self.points, anchor, groups, int(order[place]))


def known_by_rows(known: Known, corpus: Corpus, points: Vectors) -> list[Asked]:
    """Return known answers by rows, without abstentions and without those that an empty text leaves no choice."""
    found = []
    for question, answer in known:
        if answer.choice is not None and (taken := asked_by_places(question, answer, corpus.place, points)) is not None:
            found.append(taken)
    return found


def asked_by_places(question: Question, answer: Answer, place: Labels, points: Vectors) -> Asked | None:
    """Return an answered question by rows, or None where it is about a text that has none.

    Args:
        question: With the positions of texts.
        answer: Its answer, no abstention.
        place: The row of each position, -1 for none, shape (n_texts,).
        points: Vectors of the rows (see :class:`Frame`), shape (n_rows, dim).
    """
    anchor = int(place[question.anchor_index])
    groups = [[int(place[i]) for i in group if place[i] >= 0] for group in question.group_indices]
    if anchor < 0 or not all(groups):
        return None
    if question.kind == "pair":
        return asked(points, anchor, groups, 0 if answer.choice == "yes" else NO_GROUP, PAIR_RELIABILITY)
    choice = NO_GROUP if answer.choice == NONE else int(answer.choice or 0) - 1
    return asked(points, anchor, groups, choice, None if NONE in question.choices else TRIPLET_RELIABILITY)


def is_triplet(question: Question) -> bool:
    """Return whether a question is the paper's triplet: two groups of one exemplar, without "none"."""
    return (
        question.kind == "choice"
        and NONE not in question.choices
        and len(question.group_indices) == 2
        and all(len(group) == 1 for group in question.group_indices)
    )
