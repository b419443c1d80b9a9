"""How the reply to a question is read.

A reply claims a choice where it *opens* with it (``"2."``, ``"2 because ..."``, ``"No, they differ"``), *closes* with
it (its last line is a choice and nothing else), or *states* it (``"the query belongs with group 2"``).
All claims must agree, and none may be taken back after it; only a last line ``"Answer: 2"`` outweighs what stands
before. Anything else abstains: a wrongly read answer does harm, an abstention hardly any.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from clusterllm_plugins.replies.grammar import (
    Claim,
    Finder,
    contradicts,
    goes_otherwise,
    is_label,
    items,
    number_at,
    opening_claim,
    stated_claims,
    verdict_at,
)
from clusterllm_plugins.replies.plain import MAX_REPLY_CHARACTERS, plain_lines, sentences

__all__ = ["MAX_REPLY_CHARACTERS", "parse"]

# What takes a choice back, or shows that there was none.
_RETRACTED = re.compile(
    r"\b(?:wait|hmm+|hold on|scratch that|correction|sorry|on second thoughts?|on the other hand"
    r"|not (?:\w+ )?(?:sure|certain|clear)|unsure|uncertain|unclear|ambiguous|undecided|toss-?up|i don't know|no idea"
    r"|(?:hard|difficult|impossible) to (?:say|tell|decide|choose)|(?:i'm|i am) (?:unable|not able)"
    r"|(?:i|we) (?:can't|cannot|can not|couldn't|could not|won't|will not)"
    r"|(?:can't|cannot) (?:say|tell|decide|determine|choose|answer|help)"
    r"|(?:could|might|may) (?:also|as well|equally)|or (?:maybe|perhaps|possibly)|equally"
    r"|i can (?:help|do|assist|certainly|definitely)"
    r"|i understand|thanks?|please|happy to|glad to|feel free|go ahead|as an ai"
    r"|i mean|i meant|oops|er|uh|um"
    r"|not enough information|insufficient)\b"
    r"|\b(?:no|but|actually)[,:] (?:actually|rather|it's|it is)\b"
)
_BOTH_FIT = re.compile(r"\b(?:both|either|all)(?: \w+){0,2} (?:fits?|could|would|might|apply|possible|plausible)\b")
_COMPLETE = (".", "!", "?", ")", "]", '"')


def parse(reply: str, choices: Sequence[str]) -> str | None:
    """Return the choice that a reply names, or None where it names none or more than one.

    ``"Choice 1"``, ``"1."``, ``"(1)"``, ``"Answer: yes"``, ``"2 because ..."``, ``"The query belongs with group 2"``
    and a long reply whose last line is a choice are all read; docs/replies.md has more of both kinds.

    Args:
        reply: What the model wrote.
        choices: The admissible answers: those of a question.
    """
    lines = plain_lines(reply)
    value = _value(lines, verdict_at if "yes" in choices else number_at) if lines else None
    return value if value in choices else None


def _value(lines: list[str], find: Finder) -> str | None:
    parts = [sentence for line in lines for sentence in sentences(line)]
    closing = _closing(lines, find)
    if closing is not None and closing.final:
        return closing.value
    claims = [(0, opening_claim(parts[0], find)), (len(parts) - 1, closing)]
    claims += [(place, claim) for place, part in enumerate(parts) for claim in stated_claims(part, find)]
    made = [(place, claim) for place, claim in claims if claim is not None and not _is_of_list(claim, parts, find)]
    # What stands alone in the middle is too little for a claim, and enough to cast doubt on one.
    values = {claim.value for _, claim in made}
    doubts = {claim.value for part in parts if (claim := opening_claim(part, find)) and claim.manner == "alone"}
    if len(values) != 1 or not doubts <= values:
        return None
    return None if any(_is_taken_back(claim, parts[place + 1 :]) for place, claim in made) else values.pop()


def _closing(lines: list[str], find: Finder) -> Claim | None:
    """Return the choice that is the whole last line, if that line does not go on with the one before."""
    last, before = lines[-1], lines[-2] if len(lines) > 1 else ""
    if is_label(before):
        last, before = f"{before.rstrip(' :')}: {last}", ""
    if sentences(last) != [last] or not (before == "" or before.endswith((*_COMPLETE, ":"))):
        return None
    stated = next(stated_claims(last, find), None)
    if stated is not None and stated.final:
        return stated
    claim = opening_claim(last, find)
    return claim if claim is not None and claim.manner == "alone" else None


def _is_of_list(claim: Claim, parts: list[str], find: Finder) -> bool:
    """Return whether a claim is but the number of an item: there are others, or the first was cut short."""
    is_cut = claim.heading and claim.manner == "reasoned" and not parts[-1].endswith(_COMPLETE)
    is_first = is_cut and claim.value == "1"
    return is_first or (claim.item and len(set().union(*(items(part, find) for part in parts))) > 1)


def _is_taken_back(claim: Claim, later: list[str]) -> bool:
    """Return whether doubt, a refusal, a question or the opposite follows a claim."""
    if later and goes_otherwise(later[0]):
        return True
    said = [claim.rest, *later]
    doubts = (_RETRACTED,) if claim.value in ("yes", "no") else (_RETRACTED, _BOTH_FIT)
    return any(
        part.endswith("?") or contradicts(claim.value, part) or any(doubt.search(part) for doubt in doubts)
        for part in said
    )
