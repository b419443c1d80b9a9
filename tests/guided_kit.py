"""Blobs, texts, oracles and askers that the tests of ``method="auto"`` share."""

import re
from collections import Counter

import numpy as np

from clusterllm_oracles.simulated import SimulatedOracle
from clusterllm_plugins import Answer, ClusterLLM, Completion, PromptedOracle
from clusterllm_plugins.guided.classifier import Frame
from clusterllm_plugins.guided.evidence import NO_GROUP, asked
from clusterllm_plugins.vectors import normalise


def texts_of(count):
    return [f"text {number}" for number in range(count)]


def make_blobs(sizes, spread=0.1, dim=8, seed=1):
    """Vectors around random unit vectors, and the category of each."""
    rng = np.random.default_rng(seed)
    centres = normalise(rng.normal(size=(len(sizes), dim)))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return (centres[labels] + spread * rng.normal(size=(len(labels), dim))).astype(np.float32), labels


def skewed(seed=1):
    """One large category, which k-means cuts, and small ones, which it lumps."""
    return make_blobs((200, 20, 20, 20, 20, 20), spread=0.3, dim=12, seed=seed)


def points_of(vectors):
    unit = normalise(vectors)
    return Frame.of(unit).points(unit)


def make_oracle(labels, accuracy=1.0, seed=0):
    return SimulatedOracle([int(label) for label in labels], "uniform", accuracy, seed)


class Counting(SimulatedOracle):
    """As ``make_oracle``, and keeps what it is asked."""

    batch_size = 1

    def __init__(self, labels, accuracy=1.0, concurrency=1):
        super().__init__([int(label) for label in labels], "uniform", accuracy)
        self.concurrency = concurrency
        self.asked = []

    def answer(self, questions):
        self.asked += questions
        return super().answer(questions)


class Useless:
    """Answers by ``reply``, a function of the question."""

    uses_indices = True
    batch_size = 64

    def __init__(self, name, reply):
        self.fingerprint = name
        self._reply = reply

    def answer(self, questions):
        for question in questions:
            yield Answer(self._reply(question))


def always(choice):
    return Useless(f"always {choice}", lambda question: choice)


def guessing():
    """A guess that is a function of the question, so that it does not hang on the order of asking."""

    def guess(question):
        seed = [question.anchor_index, *(row for group in question.group_indices for row in group)]
        return question.choices[int(np.random.default_rng(seed).integers(len(question.choices)))]

    return Useless("guessing", guess)


def wrong(labels):
    right = make_oracle(labels).right_choices
    return Useless("wrong", lambda q: next(choice for choice in q.choices if choice not in right(q)))


class Naming(PromptedOracle):
    """A scripted language model: answers by the numbers in made-up texts, and names groups by their category."""

    fingerprint = "naming"

    def __init__(self, labels):
        self._labels = labels
        self.prompts = {"question": 0, "name": 0}

    def complete(self, prompt, choices):
        if not choices:
            self.prompts["name"] += 1
            return Completion(f"Subject {self._category(prompt)}")
        self.prompts["question"] += 1
        category = self._category(re.search(r"^Query: .*$", prompt, re.MULTILINE)[0])
        for number, group in re.findall(r"^(\d+)\. (.*)$", prompt, re.MULTILINE):
            if self._category(group) == category:
                return Completion(number)
        return Completion("none")

    def _category(self, shown):
        numbers = [int(number) for number in re.findall(r'"text (\d+)"', shown)]
        return Counter(self._labels[number] for number in numbers).most_common(1)[0][0]


class Told:
    """Asks nobody: answers by labels of the rows, right with probability ``accuracy``."""

    def __init__(self, points, labels, limit=10_000, accuracy=1.0):
        self._points, self._labels, self._limit, self._accuracy = points, np.asarray(labels), limit, accuracy
        self._rng = np.random.default_rng(0)
        self.count = 0

    @property
    def left(self):
        return self._limit - self.count

    def __call__(self, questions, description=""):
        assert len(questions) <= self.left
        self.count += len(questions)
        return [asked(self._points, anchor, groups, self._choice(anchor, groups)) for anchor, groups in questions]

    def _choice(self, anchor, groups):
        fitting = [np.bincount(self._labels[list(group)]).argmax() == self._labels[anchor] for group in groups]
        right = fitting.index(True) if any(fitting) else NO_GROUP
        if self._rng.random() < self._accuracy:
            return right
        return int(self._rng.choice([choice for choice in range(NO_GROUP, len(groups)) if choice != right]))


def fit(vectors, oracle, n_clusters, max_questions=100, *, texts=None, answers=(), **settings):
    model = ClusterLLM(oracle=oracle, n_clusters=n_clusters, max_questions=max_questions, progress=False, **settings)
    return model.fit(texts or texts_of(len(vectors)), embeddings=vectors, answers=answers)
