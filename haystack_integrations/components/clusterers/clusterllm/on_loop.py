"""An oracle that is asked on the event loop of a pipeline, by a fit that runs on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from clusterllm_oracles.loops import waited_for
from clusterllm_plugins.describing import named_by
from clusterllm_plugins.protocols import Oracle, Vectors, has_methods
from clusterllm_plugins.questions import Answer, Completion, Question, Usage

# What an oracle need not be able to do; describing may be there for threads, for loops, or not at all.
_OPTIONAL = ("check", "prepare", "worst_case", "worst_case_of", "describe_all")


class OnLoop:
    """Stands for an oracle that has ``answer_async``: each call awaits it on ``loop``.

    The session calls from as many threads as the oracle's ``concurrency`` says, so that as many requests run at once.

    Args:
        oracle: Who is asked.
        loop: Runs on another thread than those that call.
    """

    def __init__(self, oracle: Oracle, loop: asyncio.AbstractEventLoop) -> None:
        self._oracle: Any = oracle
        self._loop = loop
        self._where = f"oracle {type(oracle).__name__}"
        lacking = [method for method in _OPTIONAL if not has_methods(oracle, method)]
        if not has_methods(oracle, "describe") and not has_methods(oracle, "describe_async"):
            lacking.append("describe")
        for method in lacking:
            setattr(self, method, None)  # see has_methods

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the oracle: its fingerprint, limits, prices."""
        return getattr(self.__dict__["_oracle"], name)

    def answer(self, questions: Sequence[Question]) -> Iterable[Answer]:
        """Return the oracle's answers, one each, in order."""
        answers: Iterable[Answer] = waited_for(self._oracle.answer_async(questions), self._loop, self._where)
        return answers

    def describe(self, texts: Sequence[str], instruction: str | None = None) -> Completion:
        """Return what the oracle calls ``texts``, shape (n_texts,)."""
        completion: Completion
        if has_methods(self._oracle, "describe_async"):
            reply = named_by(self._oracle.describe_async, texts, instruction)
            completion = waited_for(reply, self._loop, self._where)
        else:
            completion = named_by(self._oracle.describe, texts, instruction)
        return completion

    def describe_all(self, groups: Sequence[Sequence[str]], instruction: str | None = None) -> Iterable[Completion]:
        """Return what the oracle calls each group of texts, on the thread that asks."""
        completions: Iterable[Completion] = named_by(self._oracle.describe_all, groups, instruction)
        return completions

    def check(self) -> None:
        """Let the oracle say whether it can be asked at all."""
        self._oracle.check()

    def prepare(self, texts: Sequence[str], embeddings: Vectors) -> None:
        """Hand texts, shape (n_texts,), and their vectors, shape (n_texts, dim), to the oracle."""
        self._oracle.prepare(texts, embeddings)

    def worst_case(self, question: Question) -> Usage:
        """Return the most that asking once takes."""
        usage: Usage = self._oracle.worst_case(question)
        return usage

    def worst_case_of(self, prompt: str) -> Usage:
        """Return the most that a name takes."""
        usage: Usage = self._oracle.worst_case_of(prompt)
        return usage

    async def close_async(self) -> None:
        """Close what the oracle has opened on the loop."""
        if has_methods(self._oracle, "close_async"):
            await self._oracle.close_async()
