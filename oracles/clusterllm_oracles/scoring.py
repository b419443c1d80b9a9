"""How likely a causal language model finds each of several replies to a prompt, in one forward pass.

In: tokens. Out: the log-probability of each reply, the sum over its tokens. Where the replies exclude each other as
tokens do (none begins with another), these sums can be compared whatever the lengths: they are the chances of the
branches of one tree. Where one begins with another, as "1" and "10" may, the end of the reply is scored with each;
without it the shorter one could never be the less likely.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any


@dataclass(frozen=True)
class Scorable:
    """A prompt and the replies that are weighed after it, as tokens.

    Attributes:
        prompt: The tokens before the reply.
        replies: The tokens of each reply, with its end where one begins with another.
    """

    prompt: list[int]
    replies: list[list[int]]

    @property
    def length(self) -> int:
        """How many tokens the prompt has with its longest reply."""
        return len(self.prompt) + max(map(len, self.replies))

    @property
    def contexts(self) -> list[list[int]]:
        """The rows that a model must read to score all replies: often the prompt alone.

        A reply's last token is not read but predicted, and what another row begins with needs none of its own.
        """
        rows: list[list[int]] = []
        for context in sorted((reply[:-1] for reply in self.replies), key=len, reverse=True):
            if not any(_begins(row, context) for row in rows):
                rows.append(context)
        return rows


def scorable(wholes: Sequence[list[int]], end: int | None) -> Scorable:
    """Return what is to be scored of dialogues that differ in the reply only.

    Working on whole dialogues leaves to the tokenizer and its chat template what stands around a reply, and a token
    that spans both counts to the reply.

    Args:
        wholes: The tokens of each dialogue, from its start to beyond the reply.
        end: The token that ends a text, in case nothing stands behind a reply; ``None`` = there is no such token.

    Raises:
        ValueError: If two replies have the same tokens.
    """
    prompt = _common_start(wholes)
    rests = [whole[len(prompt) :] for whole in wholes]
    behind = _common_start([rest[::-1] for rest in rests])[::-1]
    replies = [rest[: len(rest) - len(behind)] for rest in rests]
    if any(_begins(other, one) for one, other in permutations(replies, 2)):
        tail = behind[:1] or ([] if end is None else [end])
        replies = [reply + tail for reply in replies]
    if not all(replies) or len(set(map(tuple, replies))) < len(replies):
        raise ValueError("the tokenizer gives two choices the same tokens")
    return Scorable(prompt, replies)


def reply_scores(model: Any, asked: Sequence[Scorable]) -> list[list[float]]:
    """Return the log-probability of each reply, shape (n_asked, n_replies), by one forward pass.

    Rows are padded on the right: what a causal model makes of a token depends on nothing behind it, so that padding
    changes no score.

    Args:
        model: A causal language model of transformers.
        asked: What is scored.
    """
    import torch

    rows: list[list[int]] = []
    wanted: list[tuple[int, int, int]] = []  # (row, position, the token that is to follow)
    for item in asked:
        contexts, first = item.contexts, len(rows)
        rows += [item.prompt + context for context in contexts]
        for reply in item.replies:
            row = first + next(place for place, context in enumerate(contexts) if _begins(context, reply[:-1]))
            wanted += [(row, len(item.prompt) - 1 + place, token) for place, token in enumerate(reply)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    row_of, position_of, token_of = torch.tensor(wanted).T
    with torch.inference_mode():
        logits = _logits(model, ids, mask, row_of, position_of)
        chances = logits.float().log_softmax(-1).cpu().gather(1, token_of[:, None])[:, 0].tolist()
    following = iter(chances)
    return [[math.fsum(next(following) for _ in reply) for reply in item.replies] for item in asked]


def _logits(model: Any, ids: Any, mask: Any, row_of: Any, position_of: Any) -> Any:
    """Return the logits at the wanted places, shape (n_wanted, vocabulary)."""
    settings = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device), "use_cache": False}
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        # Those of all positions would take more memory than the model does.
        kept, position_of = position_of.unique(return_inverse=True)
        settings["logits_to_keep"] = kept.to(model.device)
    logits = model(**settings).logits
    return logits[row_of.to(logits.device), position_of.to(logits.device)]


def probabilities(scores: Sequence[float]) -> list[float]:
    """Return the softmax of log-probabilities: the chance of each reply if it must be one of them."""
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    return [weight / math.fsum(weights) for weight in weights]


def _common_start(rows: Sequence[list[int]]) -> list[int]:
    same = [len(set(column)) == 1 for column in zip(*rows, strict=False)]
    return rows[0][: same.index(False) if False in same else len(same)]


def _begins(longer: list[int], shorter: list[int]) -> bool:
    return longer[: len(shorter)] == shorter
