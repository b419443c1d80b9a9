"""Conformance checks that a plugin runs in its own tests.

Each raises ``AssertionError`` with one line that says what a component does not do::

    from clusterllm_plugins.testing import check_oracle

    def test_oracle(server):
        check_oracle(lambda: AcmeOracle(url=server.url))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from clusterllm_plugins.asking import Session
from clusterllm_plugins.budget import QuestionCap
from clusterllm_plugins.embedding import fit_if_needed
from clusterllm_plugins.plugins import Plugins
from clusterllm_plugins.protocols import Embedder, Oracle, has_methods, is_trainable, optional
from clusterllm_plugins.questions import Answer, Question, Usage, choice_question, pair_question, triplet_question
from clusterllm_plugins.store import AnswerStore

__all__ = ["TEXTS", "check_embedder", "check_oracle", "questions"]

TEXTS = [
    "Where is my parcel?",
    "My package has not arrived yet",
    "I cannot log in",
    "The password is not accepted",
    "Wo bleibt mein Paket?",
    "我的包裹在哪里",
    'A text with "quotation marks", a line\nbreak and 2 numbers: 1. and 2.',
]


def questions() -> list[Question]:
    """Return a triplet, a choice with "none", and a pair, about :data:`TEXTS`."""
    return [
        triplet_question(TEXTS, 0, 1, 2, "in terms of the customer's intent"),
        choice_question(TEXTS, 0, [[1, 4], [2, 3]], none=True),
        pair_question(TEXTS, 2, 3, demonstrations=[("a", "b", "no")]),
        triplet_question(TEXTS, 6, 5, 2),
    ]


def check_oracle(make: Callable[[], Oracle]) -> None:
    """Check that an oracle keeps the contract.

    Args:
        make: Makes an oracle anew; it must be able to answer (run a local server in the test).

    Raises:
        AssertionError: If it does not.
    """
    oracle = make()
    assert has_methods(oracle, "answer"), f"{type(oracle).__name__} has no method answer(questions)"
    assert isinstance(oracle.fingerprint, str), "fingerprint must be a str"
    assert oracle.fingerprint, "fingerprint must not be empty"
    assert make().fingerprint == oracle.fingerprint, "two oracles of the same settings must have one fingerprint"
    for name in ("batch_size", "concurrency"):
        assert int(optional(oracle, name, 1)) >= 1, f"{name} must be at least 1"
    if has_methods(oracle, "prepare"):
        oracle.prepare(TEXTS, np.eye(len(TEXTS), dtype=np.float32))  # type: ignore[attr-defined]
    _check_answers(oracle)
    if has_methods(oracle, "worst_case"):
        _check_worst_case(oracle)
    _check_session(oracle)


def _check_answers(oracle: Oracle) -> None:
    assert list(oracle.answer([])) == [], "no questions, no answers"
    size = int(optional(oracle, "batch_size", 1))
    asked = questions()
    for start in range(0, len(asked), size):
        batch = asked[start : start + size]
        answers = list(oracle.answer(batch))
        assert len(answers) == len(batch), f"{len(answers)} answers to {len(batch)} questions"
        for question, answer in zip(batch, answers, strict=True):
            assert isinstance(answer, Answer), f"an answer must be an Answer, not {type(answer).__name__}"
            assert answer.choice is None or answer.choice in question.choices, f"{answer.choice!r} is no choice"
            assert answer.confidence is None or 0 <= answer.confidence <= 1, "confidence must be in [0, 1]"
            assert isinstance(answer.usage, Usage), "usage must be a Usage"


def _check_worst_case(oracle: Oracle) -> None:
    for question in questions():
        worst: Usage = oracle.worst_case(question)  # type: ignore[attr-defined]
        (answer,) = oracle.answer([question])
        for name in ("input_tokens", "output_tokens"):
            used, most = getattr(answer.usage, name), getattr(worst, name)
            assert used <= most, f"{used} {name} used, worst_case said {most}"


def _check_session(oracle: Oracle) -> None:
    """Check that what an oracle said is recalled and not asked again."""
    plugins = Plugins(discover=False)
    with AnswerStore() as store:
        sessions = [Session(oracle, plugins=plugins, store=store) for _ in range(2)]
        first, second = (session.ask(questions(), QuestionCap(10)) for session in sessions)
        assert sessions[0].tally.failed == 0, f"questions failed: {[a.error for a in first if a.error]}"
        assert sessions[1].tally.asked == 0, "a second session asked again what was answered"
        assert [a.choice for a in first] == [a.choice for a in second], "recalled answers differ"


def check_embedder(make: Callable[..., Embedder]) -> None:
    """Check that an embedder keeps the contract.

    Args:
        make: Makes an embedder anew; for one with ``save`` it is also called with ``path=folder``.

    Raises:
        AssertionError: If it does not.
    """
    embedder = make()
    assert has_methods(embedder, "embed"), f"{type(embedder).__name__} has no method embed(texts)"
    fit_if_needed(embedder, TEXTS)
    assert isinstance(embedder.fingerprint, str), "fingerprint must be a str"
    assert embedder.fingerprint, "fingerprint must not be empty"
    vectors = embedder.embed(TEXTS)
    assert isinstance(vectors, np.ndarray), "embed must return an array"
    assert vectors.ndim == 2, f"vectors must have two dimensions, not {vectors.ndim}"
    assert vectors.dtype == np.float32, f"vectors must be float32, not {vectors.dtype}"
    assert len(vectors) == len(TEXTS), f"{len(vectors)} vectors for {len(TEXTS)} texts"
    assert np.isfinite(vectors).all(), "vectors must be finite"
    assert np.array_equal(vectors, embedder.embed(TEXTS)), "embedding the same texts twice must give the same"
    # Another place in the batch may change the last bits, not more.
    shuffled = embedder.embed(TEXTS[::-1])[::-1]
    assert np.allclose(vectors, shuffled, atol=1e-2), "a vector must not depend on the other texts"
    if has_methods(embedder, "save"):
        _check_saved(embedder, make)
    if is_trainable(embedder):
        _check_trainable(embedder)


def _check_saved(embedder: Embedder, make: Callable[..., Embedder]) -> None:
    with TemporaryDirectory() as folder:
        embedder.save(Path(folder))  # type: ignore[attr-defined]
        restored = make(path=folder)
        assert restored.fingerprint == embedder.fingerprint, "a restored embedder must have the same fingerprint"
        assert np.array_equal(restored.embed(TEXTS), embedder.embed(TEXTS)), "a restored embedder must embed equally"


def _check_trainable(embedder: Embedder) -> None:
    before = embedder.embed(TEXTS)
    triplets = np.array([[0, 1, 2], [2, 3, 0]], dtype=np.int64)
    tuned: Embedder = embedder.finetune(TEXTS, triplets, seed=0, progress=False)  # type: ignore[attr-defined]
    assert tuned is not embedder, "finetune must return a new embedder"
    assert np.array_equal(embedder.embed(TEXTS), before), "finetune must leave the old embedder as it is"
    assert tuned.fingerprint != embedder.fingerprint, "a fine-tuned embedder must have another fingerprint"
    assert not math.isclose(float(np.abs(tuned.embed(TEXTS) - before).max()), 0.0), "finetune changed nothing"
