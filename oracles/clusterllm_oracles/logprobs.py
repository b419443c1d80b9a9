"""The confidence in a chat model's choice, from the log-probabilities of the tokens of its reply.

In: the tokens of a reply, each with the likeliest ones at its place. Out: the probability of the choice that was
read, as a share of that of all the question's choices.

The tokens are followed from the one in which the choice begins. What else could have stood there counts to the choice
that it spells or begins ("no" begins "none"), whatever its case and what stands around it; what spells no choice is
left out. A choice that is not among the tokens listed can be no likelier than the least likely of them, and all such
choices together no likelier than all that is not listed: they count with the most that they can have, so that a short
list makes a confidence too low rather than too high. Where one choice begins with another ("1" and "10"), the next
token decides, if it is listed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

MOST_LISTED = 20  # by OpenAI's protocol
LEAST_LISTED = 5  # "yes" comes as "Yes", too; some endpoints list no more
_ROUNDING = 0.01  # by which a log-probability may pass 0
_SURPLUS = 1.05  # probabilities that are listed together: more are none


@dataclass(frozen=True)
class _Token:
    """A token of the reply, its probability, and the others that are listed at its place."""

    text: str
    chance: float
    others: list[tuple[str, float]]

    @property
    def rest(self) -> float:
        """What all tokens that are not listed have together."""
        return max(0.0, 1.0 - math.fsum([self.chance, *(chance for _, chance in self.others)]))

    @property
    def least(self) -> float:
        """The most that a token which is not listed can have; the reply's own is listed whatever it has."""
        return min((chance for _, chance in self.others), default=1.0)


def listed_for(choices: Sequence[str]) -> int:
    """Return how many of the likeliest tokens are of use to a question with these choices."""
    return min(MOST_LISTED, max(LEAST_LISTED, len(choices) + 2))


def confidence_of(
    content: Any, reply: str, choice: str, choices: Sequence[str], read: Callable[[str], str | None] | None = None
) -> float | None:
    """Return the confidence in ``choice``, in [0, 1]; None where the tokens do not say it.

    Args:
        content: The tokens as the endpoint gives them: ``token``, ``logprob`` and ``top_logprobs`` of each.
        reply: The text in which ``choice`` was read.
        choice: One of ``choices``.
        choices: All that the question admits.
        read: Reads a reply as that one was read; None = the choice stands where it stands first.
    """
    tokens = _tokens(content)
    if tokens is None or (place := _place(reply, choice, read)) is None:
        return None
    spelled = "".join(token.text for token in tokens)
    begin = spelled.rfind(reply)  # thoughts and marks may stand before it
    if begin < 0:
        return None
    before = begin + place
    first = 0
    while before >= len(tokens[first].text):
        before -= len(tokens[first].text)
        first += 1
    if _core(tokens[first].text[:before]):
        return None  # the choice is a part of a longer token: nothing is said about others in its place
    weights = _Weights(choice, choices)
    weights.follow(tokens[first:])
    return weights.share()


@dataclass
class _Weights:
    """The probability of each choice, as far as the tokens say it."""

    choice: str
    choices: Sequence[str]
    known: dict[str, float] = field(default_factory=dict)
    most: float = 0.0  # that a choice which is not listed can have
    rest: float = 0.0  # that all of them together can have

    def follow(self, tokens: Sequence[_Token]) -> None:
        """Follow the reply until it has spelled the choice, and to the token behind it."""
        word, path = "", 1.0
        for token in tokens:
            if len(word) >= len(self.choice):
                if word == self.choice:  # else its end stood in the same token
                    path -= self._longer(word, path, token)
                break
            for text, chance in token.others:
                self._add(self._meant(word + text if word else _core(text)), path * chance)
            self.most = max(self.most, path * token.least)
            self.rest += path * token.rest
            path *= token.chance
            word = (word + token.text if word else _core(token.text)).casefold()
        self._add(self.choice, path)

    def share(self) -> float | None:
        """Return the choice's share of the probability of all choices; None where there is nothing to share."""
        unseen = sum(choice not in self.known for choice in self.choices)
        total = math.fsum(self.known.values()) + min(unseen * self.most, self.rest)
        return min(1.0, self.known[self.choice] / total) if total > 0 else None

    def _longer(self, word: str, path: float, token: _Token) -> float:
        """Count what would have gone on to a longer choice, and return it."""
        longer = [
            (meant, path * chance) for text, chance in token.others if (meant := self._meant(word + text)) != word
        ]
        for meant, chance in longer:
            self._add(meant, chance)
        return math.fsum(chance for meant, chance in longer if meant is not None)

    def _add(self, choice: str | None, chance: float) -> None:
        if choice is not None:
            self.known[choice] = self.known.get(choice, 0.0) + chance

    def _meant(self, word: str) -> str | None:
        """Return the choice that a word is, or the only one that it begins."""
        word = word.casefold()
        whole = [choice for choice in self.choices if re.match(rf"{re.escape(choice)}(?![^\W_])", word)]
        begun = [choice for choice in self.choices if word and choice.startswith(word)]
        fitting = whole or begun
        return fitting[0] if len(fitting) == 1 else None


def _tokens(content: Any) -> list[_Token] | None:
    """Return the tokens of a reply; None where they are not as OpenAI's protocol has them."""
    try:
        tokens = [
            _Token(
                entry["token"],
                _chance(entry["logprob"]),
                [
                    (other["token"], _chance(other["logprob"]))
                    for other in entry.get("top_logprobs") or ()
                    if other["token"] != entry["token"]
                ],
            )
            for entry in content or ()
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    texts = [text for token in tokens for text in (token.text, *(text for text, _ in token.others))]
    if not tokens or not all(isinstance(text, str) for text in texts):
        return None
    sums = (token.chance + math.fsum(chance for _, chance in token.others) for token in tokens)
    return None if any(total > _SURPLUS for total in sums) else tokens


def _chance(logprob: float) -> float:
    if not logprob <= _ROUNDING:  # also for what is no number
        raise ValueError("no log-probability")
    return math.exp(logprob)


def _place(reply: str, choice: str, read: Callable[[str], str | None] | None) -> int | None:
    """Return where in a reply the choice stands: where the reply first reads as it does."""
    for match in re.finditer(rf"(?<![^\W_]){re.escape(choice)}(?![^\W_])", reply, re.IGNORECASE):
        if read is None or read(reply[: match.end()]) == choice:
            return match.start()
    return None


def _core(text: str) -> str:
    """Return a token without the white space, quotation marks and the like before its first letter or digit."""
    return re.sub(r"\A[\W_]+", "", text)
