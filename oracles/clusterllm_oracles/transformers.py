"""``transformers``: a causal language model that runs here; it scores the choices instead of writing an answer.

The best-scored choice is the answer, and its share of all choices' probability the confidence.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import re
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from clusterllm_embedders.precision import check_precision
from clusterllm_oracles.local_model import LocalModel
from clusterllm_oracles.scoring import Scorable, probabilities, reply_scores
from clusterllm_plugins.errors import ClusterLLMError, ClusterLLMWarning, MissingExtraError
from clusterllm_plugins.prompts import (
    MAX_TEXT_CHARACTERS,
    NAME_TOKENS,
    PROMPT_VERSION,
    PromptedOracle,
    render,
    render_description,
)
from clusterllm_plugins.questions import Answer, Completion, OracleError, Question, Usage
from clusterllm_plugins.shortening import shorten

log = logging.getLogger(__name__)

SCORING_VERSION = "1"  # of what stands around a prompt, and of how a choice is scored

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory", re.IGNORECASE)


class TransformersOracle(PromptedOracle):
    """Asks a causal language model of transformers on this machine; nothing leaves it, and it costs no money.

    Args:
        model: A folder, or the name of a model on the hub; weights are read from safetensors only.
        device: ``"cpu"``, ``"cuda"``, ...; ``None`` takes a GPU where there is one, when it is first needed.
        precision: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 where the processor multiplies it natively.
        batch_size: Questions a forward pass; halved where so many do not fit into memory.
        max_length: The most tokens of a prompt and its answer; ``None`` = the model's own limit. Where a question is
            longer, its texts are cut to one length, as long as can be, with a warning.
        revision: The branch, tag or commit of a model on the hub.
        trust_remote_code: Whether a model may run code of its own.
        local_files_only: Whether nothing may be downloaded.
        max_output_tokens: The most tokens of a cluster's name, the only thing that is written.

    Raises:
        MissingExtraError: If torch or transformers is not installed.
        ClusterLLMError: If a setting has no meaning.
    """

    concurrency = 1

    def __init__(
        self,
        model: str | Path,
        device: str | None = None,
        precision: str = "auto",
        batch_size: int = 8,
        max_length: int | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        local_files_only: bool = False,
        max_output_tokens: int = 32,
    ) -> None:
        if any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")):
            raise MissingExtraError("oracle 'transformers'", "transformers")
        check_precision(precision)
        for name, value in (("batch_size", batch_size), ("max_length", max_length)):
            if value is not None and value < 1:
                raise ClusterLLMError(f"oracle 'transformers': {name} must be at least 1, not {value}")
        self.batch_size = batch_size
        self.max_length = max_length
        self.max_output_tokens = max_output_tokens
        self._where = f"oracle 'transformers' ({model})"
        self._local = LocalModel(
            str(model),
            self._where,
            device=device,
            precision=precision,
            revision=revision,
            trust_remote_code=trust_remote_code,
            local_files_only=local_files_only,
        )
        self._warned = False

    @property
    def fingerprint(self) -> str:  # type: ignore[override]  # a digest of many files is made when it is needed
        """The model (of a folder, a digest of its files) and whatever else changes an answer; loads no model."""
        limits = f"l{self.max_length}:m{self.max_output_tokens}"
        version = f"p{PROMPT_VERSION}.{SCORING_VERSION}"
        return f"transformers:{self._local.identity}:{self._local.precision}:{limits}:{version}"

    def check(self) -> None:
        """Raise :class:`OracleError` where the model is a folder that holds none."""
        self._local.check()

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Answer each question by its best-scored choice; so many of them as fit in one forward pass."""
        readings = [self._read_question(question) for question in questions]
        scores = self._scores([reading for reading in readings if reading is not None])
        for question, reading in zip(questions, readings, strict=True):
            if reading is None:
                yield Answer(None, error=self._too_long())
                continue
            chosen = _chosen(question.choices, reading, next(scores))
            error = None if chosen.text else "the model's scores are not numbers; try precision 'fp32'"
            yield Answer(chosen.text or None, chosen.confidence, chosen.usage, error)

    def complete(self, prompt: str, choices: Sequence[str]) -> Completion:
        """Return the best-scored of ``choices``, or, where there are none, what the model writes.

        Raises:
            OracleError: If the model fails, or the prompt is too long for it.
        """
        return self._completion(self._fitted(lambda characters: prompt, choices), choices)

    def describe(self, texts: Sequence[str], instruction: str | None = None) -> Completion:
        """Write a short name for what ``texts``, shape (n_texts,), have in common, by the perspective in words.

        Raises:
            OracleError: If the model fails, or the texts are too many for it.
        """

        def shown(characters: int) -> str:
            return render_description([_cut(text, characters) for text in texts], instruction)

        return self._completion(self._fitted(shown, ()), ())

    def worst_case(self, question: Question) -> Usage:
        """Return the most that an attempt takes; its answer counts as if it were written."""
        longest = max(len(choice.encode()) for choice in question.choices)
        return replace(self.worst_case_of(render(question)), output_tokens=longest + 1)  # and its end

    def worst_case_of(self, prompt: str) -> Usage:
        """Return an upper bound: a token is at least a byte, and what a chat adds is counted by the tokenizer.

        Raises:
            OracleError: If the tokenizer cannot be loaded.
        """
        dialogue = self._local.dialogue
        tokens = len(dialogue.plain(prompt).encode()) + dialogue.overhead
        return Usage(min(tokens, self._limit), self.max_output_tokens, 1, 0.0)

    def expected(self, question: Question) -> Usage:
        """Return what an attempt takes by the tokenizer, without the model; as answer the first choice is counted.

        Raises:
            OracleError: If the tokenizer cannot be loaded.
        """
        reading = self._read_question(question)
        if reading is None:  # it abstains
            return Usage(cost=0.0)
        return Usage(len(reading.prompt), len(reading.replies[0]), 1, 0.0)

    def expected_of(self, prompt: str, output_tokens: int = NAME_TOKENS) -> Usage:
        """Return what writing a name takes: the prompt by the tokenizer, the name by the usual length."""
        read = min(len(self._local.dialogue.open(prompt).prompt), self._limit)
        return Usage(read, min(output_tokens, self.max_output_tokens), 1, 0.0)

    @property
    def _limit(self) -> int:
        return self._local.limit if self.max_length is None else min(self.max_length, self._local.limit)

    def _read_question(self, question: Question) -> Scorable | None:
        return self._fitted(lambda characters: render(_cut_question(question, characters)), question.choices)

    def _fitted(self, render_at: Callable[[int], str], choices: Sequence[str]) -> Scorable | None:
        """Return the tokens of a prompt, its texts cut only as far as they must be; None where that is not enough.

        Args:
            render_at: Returns the prompt with each of its texts cut to so many characters.
            choices: What may follow; none = what the model writes.
        """
        dialogue = self._local.dialogue
        room = self._limit - (0 if choices else self.max_output_tokens)

        def read(characters: int) -> Scorable:
            prompt = render_at(characters)
            try:
                return dialogue.split(prompt, choices) if choices else dialogue.open(prompt)
            except Exception as error:  # a chat template may fail in any way
                raise self._local.fatal(error) from error

        whole = read(MAX_TEXT_CHARACTERS)
        if whole.length <= room:
            return whole
        most = bisect_right(range(1, MAX_TEXT_CHARACTERS), room, key=lambda characters: read(characters).length)
        if most == 0:
            return None
        self._warn_of_cut(most)
        return read(most)

    def _warn_of_cut(self, characters: int) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._where}: some questions are longer than {self._limit} tokens; "
                f"their texts are cut, the first one's to {characters} characters",
                ClusterLLMWarning,
                stacklevel=2,
            )

    def _too_long(self) -> str:
        return f"does not fit into {self._limit} tokens, however short its texts are cut"

    def _completion(self, reading: Scorable | None, choices: Sequence[str]) -> Completion:
        if reading is None:
            raise OracleError(f"{self._where}: the prompt {self._too_long()}; set max_length higher")
        return _chosen(choices, reading, next(self._scores([reading]))) if choices else self._written(reading)

    def _scores(self, readings: Sequence[Scorable]) -> Iterator[list[float]]:
        """Yield the scores of each one's choices; where a batch does not fit into memory, half of it is tried."""
        done = 0
        while done < len(readings):
            batch = readings[done : done + self.batch_size]
            scores = self._tried(partial(reply_scores, asked=batch))
            if scores is not None:
                yield from scores
                done += len(batch)
            elif len(batch) > 1:
                self.batch_size = len(batch) // 2
                log.warning("%s: out of memory; %d questions at once from now on", self._where, self.batch_size)
            else:
                raise self._out_of_memory(batch[0])

    def _written(self, reading: Scorable) -> Completion:
        """Return what the model writes, the likeliest token each time."""
        tokenizer = self._local.dialogue.tokenizer

        def write(model: Any) -> list[int]:
            import torch
            from transformers import GenerationConfig

            ids = torch.tensor([reading.prompt], device=model.device)
            end = model.generation_config.eos_token_id
            settings = GenerationConfig(  # type: ignore[no-untyped-call]
                max_new_tokens=self.max_output_tokens, do_sample=False, eos_token_id=end, pad_token_id=0
            )
            whole = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)[0]
            tokens: list[int] = whole[len(reading.prompt) :].tolist()
            return tokens

        tokens = self._tried(write)
        if tokens is None:
            raise self._out_of_memory(reading)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        return Completion(text, Usage(len(reading.prompt), len(tokens), 1, 0.0))

    def _tried(self, compute: Callable[[Any], Any]) -> Any:
        """Return what the model computes, or None where memory does not suffice."""
        import torch

        model = self._local.model
        try:
            return compute(model)
        except Exception as error:
            if not (isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or _NO_MEMORY.search(str(error))):
                raise self._local.fatal(error) from error
        # Beyond the except clause, where the error no longer holds what was computed.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _out_of_memory(self, reading: Scorable) -> OracleError:
        return OracleError(
            f"{self._where}: out of memory at a question of {reading.length} tokens on {self._local.device}; "
            "set max_length lower, take a smaller model or another device"
        )


def _chosen(choices: Sequence[str], reading: Scorable, scores: list[float]) -> Completion:
    """Return the best-scored choice, the first of equals; no text where the scores are not numbers."""
    chances = probabilities(scores)
    if not math.isfinite(sum(chances)):
        return Completion("", Usage(len(reading.prompt), 0, 1, 0.0))
    best = chances.index(max(chances))
    usage = Usage(len(reading.prompt), len(reading.replies[best]), 1, 0.0)
    return Completion(choices[best], usage, chances[best])


def _cut_question(question: Question, characters: int) -> Question:
    """Return the question with each of its texts cut to so many characters."""
    texts = tuple(
        _cut(part, characters) if isinstance(part, str) else tuple(_cut(text, characters) for text in part)
        for part in question.texts
    )
    shown = tuple(
        (_cut(left, characters), _cut(right, characters), verdict) for left, right, verdict in question.demonstrations
    )
    return replace(question, texts=texts, demonstrations=shown)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else shorten(text, characters - 1) + "…"
