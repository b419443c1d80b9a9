"""Is what ``quote`` expects what a fit takes? Both by OpenAI's tokenizer, on the labelled data sets.

    python3 dev.py bench quote
    python3 dev.py bench quote --sets mtop_domain

The tokenizer is tiktoken's, with the file of o200k_base that the package litellm holds; where either is not installed
nothing is measured, and a line says so. The oracle is *simulated* (profile "measured"): its answers decide what is
asked next, its replies are counted as one token each. A chat's own tokens are counted as OpenAI states them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common import DATA, DATA_SETS, HERE, Results, load, table, write_section

from clusterllm_oracles.simulated import SimulatedOracle
from clusterllm_plugins import ClusterLLM, ClusterLLMWarning
from clusterllm_plugins.prompts import PromptedOracle, render
from clusterllm_plugins.questions import Answer, Completion, Question, Usage
from clusterllm_plugins.tokens import CHAT_TOKENS

METHODS = ("paper", "auto")
TOKENIZER = "o200k_base"
QUESTIONS = 1024


class Counted(PromptedOracle):
    """Answers as a simulated oracle does, and says what a real tokenizer counts.

    Args:
        labels: The true categories.
        count: The tokenizer.
    """

    uses_indices = True
    batch_size = 256

    def __init__(self, labels: Sequence[str], count: Callable[[str], int]) -> None:
        self._simulated = SimulatedOracle(labels)
        self._count = count
        self.fingerprint = f"counted:{self._simulated.fingerprint}"

    def prepare(self, texts: Sequence[str], embeddings: Any) -> None:
        """Hand on the vectors, by which answers err."""
        self._simulated.prepare(texts, embeddings)

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Answer, and count the tokens of each prompt."""
        for question, answer in zip(questions, self._simulated.answer(questions), strict=True):
            yield Answer(answer.choice, usage=self._usage(render(question)))

    def complete(self, prompt: str, choices: Sequence[str]) -> Completion:
        """Name a group by no words of its own."""
        return Completion("A group of texts", self._usage(prompt, 3))

    def _usage(self, prompt: str, written: int = 1) -> Usage:
        return Usage(self._count(prompt) + CHAT_TOKENS, written, 1)


def tokenizer() -> Callable[[str], int] | None:
    """Return what counts the tokens of a text, or None where the packages are not installed."""
    litellm = importlib.util.find_spec("litellm")
    if importlib.util.find_spec("tiktoken") is None or litellm is None or litellm.origin is None:
        return None
    os.environ["TIKTOKEN_CACHE_DIR"] = str(Path(litellm.origin).parent / "litellm_core_utils" / "tokenizers")
    import tiktoken

    encoding = tiktoken.get_encoding(TOKENIZER)
    return lambda text: len(encoding.encode(text, disallowed_special=()))


def run(name: str, folder: Path, method: str, count: Callable[[str], int]) -> dict[str, Any]:
    """Quote and fit, with the number of clusters open."""
    data = load(name, folder)
    settings: dict[str, Any] = {"method": method, "max_questions": QUESTIONS, "progress": False}
    model = ClusterLLM(oracle=Counted([str(label) for label in data.labels], count), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ClusterLLMWarning)
        quoted = model.quote(data.texts, embeddings=data.vectors)
        used = model.fit(data.texts, embeddings=data.vectors).usage_
    return {
        "questions": sum(quoted["questions"].values()),
        "asked": used.requests,
        "tokens": quoted["input_tokens"],
        "tokens_at_most": quoted["input_tokens_at_most"],
        "used": used.input_tokens,
    }


def report(results: Results) -> str:
    """Return the section of RESULTS.md."""
    rows = []
    for name in DATA_SETS:
        for method in METHODS:
            if found := results.find(data=name, method=method):
                tokens = [f"{found[key]:,}" for key in ("tokens", "used", "tokens_at_most")]
                ratio = f"{found['tokens'] / found['used']:.3f}"
                rows.append([name, method, found["questions"], found["asked"], *tokens, ratio])
    header = ["data set", "method", "questions quoted", "asked", "tokens quoted", "used", "at most", "quoted / used"]
    return "\n\n".join(
        [
            "## What a quote says against what is used",
            f"`python3 dev.py bench quote` (embedder minilm, number of clusters open, {QUESTIONS} questions at most "
            f"about perspective, 594 about granularity). Input tokens, used ones by tiktoken's {TOKENIZER}. **The "
            "oracle is simulated** (profile `measured`).",
            table(header, rows),
        ]
    )


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data sets")
    parser.add_argument("--sets", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="names of data sets")
    arguments = parser.parse_args()
    count = tokenizer()
    if count is None:
        print("skipped: the packages tiktoken and litellm (for its tokenizer files) are not installed")
        return
    results = Results(HERE / "results" / "quote.jsonl")
    try:
        for name in arguments.sets:
            if not (arguments.data / f"{name}.jsonl").exists():
                print(f"{name}: skipped, {arguments.data} does not hold it")
                continue
            for method in METHODS:
                results.ensure(
                    lambda name=name, method=method: run(name, arguments.data, method, count), data=name, method=method
                )
    finally:
        if results.runs:
            write_section("quote", report(results))


if __name__ == "__main__":
    main()
