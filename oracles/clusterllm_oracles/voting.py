"""Votes of several oracles: which choice wins, and how reliable each voter is, estimated without labels.

A *ballot* is what each voter said to one question, shape (n_voters,), ``None`` = abstained. The estimate is the
one-coin model of Dawid and Skene (1979): a voter is right with a probability of its own, and where it is wrong, any
other choice is as likely. Expectation and maximisation take turns, from the majority on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from clusterllm_plugins.errors import DataError
from clusterllm_plugins.recording import read_lines

Ballot = Sequence[str | None]

FEWEST_BALLOTS = 100  # chosen
_START = 0.75  # how often a voter is right before anything is known: above chance, or right and wrong could swap
# Votes that this counts for. Measured on 576 sets of 100 to 500 ballots of three or five simulated voters: with 4 the
# weights were now and then worse than equal ones, by up to 23 points, with 30 once, by 6, and mostly better.
_PRIOR = 30.0
_ROUNDS = 200
_SETTLED = 1e-6


def winner(ballot: Ballot, weights: Sequence[float]) -> tuple[str | None, float]:
    """Return the choice with the largest weight, and its share of the weight of all voters, in [0, 1].

    Weight that abstained supports nothing, but counts in the whole. ``(None, 0.0)`` where nobody with a weight chose,
    and in a tie: it says nothing about which of the choices is right.
    """
    sums: dict[str, float] = {}
    for vote, weight in zip(ballot, weights, strict=True):
        if vote is not None and weight > 0:
            sums[vote] = sums.get(vote, 0.0) + weight
    if not sums:
        return None, 0.0
    best = max(sums, key=sums.__getitem__)
    if sum(math.isclose(total, sums[best]) for total in sums.values()) > 1:
        return None, 0.0
    return best, min(1.0, sums[best] / sum(weights))


def log_odds(reliability: float, n_choices: int) -> float:
    """Return the weight of a vote: the logarithm of how much likelier it makes its choice; 0 for chance or worse."""
    return max(0.0, math.log(reliability * (n_choices - 1) / (1 - reliability)))


def reliabilities(ballots: Sequence[Ballot], sizes: Sequence[int]) -> list[float]:
    """Return how often each voter is right, in (0, 1), to three digits.

    Args:
        ballots: Shape (n_questions, n_voters).
        sizes: How many choices each question has, shape (n_questions,).
    """
    right = [_START] * len(ballots[0])
    for _ in range(_ROUNDS):
        before = right
        hits, counts = [_PRIOR * _START] * len(right), [_PRIOR] * len(right)
        for ballot, size in zip(ballots, sizes, strict=True):
            beliefs = _beliefs(ballot, size, before)
            for voter, vote in enumerate(ballot):
                if vote is not None:
                    hits[voter] += beliefs[vote]
                    counts[voter] += 1
        right = [hit / count for hit, count in zip(hits, counts, strict=True)]
        if max(abs(new - old) for new, old in zip(right, before, strict=True)) < _SETTLED:
            break
    return [min(0.999, max(0.001, round(value, 3))) for value in right]


def _beliefs(ballot: Ballot, size: int, right: Sequence[float]) -> dict[str, float]:
    """Return how probable each choice is that somebody voted for."""
    odds: dict[str, float] = {}
    for vote, probability in zip(ballot, right, strict=True):
        if vote is not None:
            odds[vote] = odds.get(vote, 1.0) * probability * (size - 1) / (1 - probability)
    total = sum(odds.values()) + max(0, size - len(odds))
    return {vote: value / total for vote, value in odds.items()}


def read_ballots(path: str | Path, voters: Sequence[str]) -> tuple[list[Ballot], list[int]]:
    """Return the ballots of these voters in a log of answers, and how many choices each question had.

    Lines of others, and those that not all of the voters were asked for, are left out.

    Raises:
        DataError: If the file cannot be read, or has too few ballots.
    """
    ballots: list[Ballot] = []
    sizes = []
    for votes, size in _recorded(Path(path)):
        if set(votes) == set(voters):
            ballots.append([votes[voter] for voter in voters])
            sizes.append(size)
    if len(ballots) < FEWEST_BALLOTS:
        raise DataError(
            f"oracle 'council': {path} has {len(ballots)} ballots of these members in this order, an estimate takes "
            f"{FEWEST_BALLOTS}; write it by a run with mode 'vote', these members and --log"
        )
    return ballots, sizes


def _recorded(path: Path) -> Iterator[tuple[dict[str, str | None], int]]:
    """Yield the votes of each line that has some, by voter, and how many choices there were."""
    try:
        lines = read_lines(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise DataError(f"oracle 'council': cannot read {path} ({reason})") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            votes, size = dict(record.get("votes") or {}), len(record["choices"] or ())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"oracle 'council': {path}, line {number}: no line of a log of answers") from error
        if votes:
            yield votes, size
