"""The table of docs/replies.md, and replies as models write them, for the tests of reading."""

import json
import re
from pathlib import Path

ABSTAINS = "abstains"
TWO, SIX, PAIR = ("1", "2"), ("1", "2", "3", "4", "5", "6", "none"), ("yes", "no")
KINDS = {"Two groups: 1 or 2": TWO, "Six groups, or none of them": SIX, "Yes or no": PAIR}

PAGE = Path(__file__).parents[1] / "docs" / "replies.md"
_ROW = re.compile(r"\| `(\".*\")` \| (\w+) \| (\w+) \| (.+) \|")

# For each set of choices, what each choice looks like in the words of a model; {other} is another choice.
SAID = {
    "number": [
        "{choice}",
        "{choice}.",
        "({choice})",
        "**{choice}**",
        "Choice {choice}",
        "Answer: {choice}",
        "**Answer: {choice}**",
        "The answer is {choice}.",
        "Final answer: {choice}",
        "The query belongs with group {choice}.",
        "The query belongs with group {choice} because both are about a late parcel.",
        "{choice} because {other} is about kettles",
        "I would choose {choice}.",
        "Text {choice} is the best match.",
        '{{"answer": "{choice}"}}',
        "Text {other} is about mugs and text {choice} about lamps, as is the query.\n\nAnswer: {choice}",
        "The query is about lamps. So it belongs with group {choice}, not with group {other}.",
        "<think>It could be {other}, or {choice}.</think>\n{choice}",
        "{choice}\n\nBoth are about lamps that flicker.",
    ],
    "none": [
        "none",
        "None.",
        "None of them.",
        "None of the groups fits.",
        "Answer: none",
        "The query belongs with none of them.",
        "Group {other} is about mugs.\n\nNone",
        "no match",
    ],
    "verdict": [
        "{choice}",
        "{choice}.",
        "**{choice}**",
        "Answer: {choice}",
        "The answer is {choice}.",
        "{choice}, because of what both texts ask for.",
        "{choice}. Text A is about a lamp, text B about a light.",
        "I would say {choice}.",
        "Text A is about a lamp. Text B is about a light.\n\n{choice}",
        "<think>{other}? Rather not.</think>{choice}",
        '{{"answer": "{choice}"}}',
    ],
}
UNSAID = [
    "",
    "I'm sorry, but I can't help with that.",
    "It is hard to say.",
    "As an AI language model, I have no opinion.",
    "Please provide the texts.",
    "The query is about 2 lamps and 1 mug.",
    "Either 1 or 2 could be meant.",
    "yes and no",
    "Reply with the number only (1 or 2).",
    "Reply with yes or no only.",
    "1) The query is about a lamp.\n2) The first text is about a mug.",
]


def table():
    """Return the rows of the page: choices, reply, what a person reads, what is read (None = nothing)."""
    rows, choices = [], ()
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            choices = KINDS[line[3:]]
        elif found := _ROW.fullmatch(line):
            person, read = (None if cell == ABSTAINS else cell for cell in found.groups()[1:3])
            rows.append((choices, json.loads(found[1]), person, read))
    return rows


def said(choices):
    """Yield what models say, and the choice that each of them means."""
    for choice in choices:
        kind = "none" if choice == "none" else "number" if choices != PAIR else "verdict"
        other = next(other for other in choices if other not in (choice, "none"))
        for form in SAID[kind]:
            yield form.format(choice=choice.capitalize() if kind == "verdict" else choice, other=other), choice
