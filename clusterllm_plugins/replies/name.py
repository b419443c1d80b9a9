"""How a reply is read where a name is wanted."""

from __future__ import annotations

import re
import unicodedata

from clusterllm_plugins.replies.thinking import without_thinking
from clusterllm_plugins.shortening import shorten

MAX_NAME_CHARACTERS = 60
MAX_NAME_WORDS = 5  # that are asked for
MAX_LINE_CHARACTERS = 500  # that are read of a line

_MARKS = " \"'`“”„\u2018\u2019«»「」『』*_"  # quotation marks, and what Markdown puts around a word
_COLONS = (":", "\uff1a")
_QUOTED = re.compile(r'["“«„「『](.+?)["”»“」』]')
_BULLET = re.compile(r"\A(?:[-*•>#]+|\d+[.)])\s+")
# "Name:", "Name of the group:", "Topic 3:", "Sure, here is a name:", and the word for a name in other languages.
_LABEL = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|here)\b[^:\uff1a]*"
    r"|(?:(?:an?|the|short|suggested|proposed|group|cluster|category|topic)\s+)*"
    r"(?:name|label|title|topic|theme|category|cluster|group|answer|nombre|nom|nome|naam|navn|namn|nazwa|titel|titre"
    r"|título|title|isim|ad|название|имя|名称|名前)(?:\s+(?:of|for)\b[^:\uff1a]*|\s+\d+)?)[\s*_]*[:\uff1a]",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"i\W?m sorry|i am sorry|sorry[,.!]|sorry but|unfortunately|as an ai\b|i(?:\W?m| am) (?:unable|not able)"
    r"|i (?:cannot|can\W?t|can not|won\W?t|will not|do not|don\W?t)"
    r" (?:assist|help|provide|give|determine|identify|name|comply|know|have)\b"
    r"|(?:n/a|none|null|unknown|unnamed|no name)$",
    re.IGNORECASE,
)


def parse_name(reply: str) -> str | None:
    """Return the name that a reply gives, or None where it gives none.

    It is the first line that is neither a label such as ``"Name:"`` nor an announcement, without quotation marks,
    Markdown and a final full stop, and at most :data:`MAX_NAME_CHARACTERS` long. A refusal names nothing.
    """
    plain = "".join(map(_shown, without_thinking(reply)))
    lines = [" ".join(line[:MAX_LINE_CHARACTERS].split()) for line in plain.split("\n")]
    # What ends in a colon announces the name, unless nothing follows.
    for line in sorted(lines, key=lambda line: line.rstrip(_MARKS).endswith(_COLONS)):
        name = _bare(line)
        if _REFUSAL.match(name):
            return None
        if any(char.isalnum() for char in name):
            return name
    return None


def _bare(line: str) -> str:
    """Return the name in a line, without what stands around it; empty where nothing else stands there."""
    before = None
    while line != before:
        before = line
        line = _LABEL.sub("", _BULLET.sub("", line.lstrip(_MARKS)))
    if len(line.split()) > MAX_NAME_WORDS and (quoted := _QUOTED.search(line)):
        line = quoted[1]  # 'I would call this group "Lost cards".'
    if len(line) > MAX_NAME_CHARACTERS:
        whole_words = line[: MAX_NAME_CHARACTERS + 1].rpartition(" ")[0]
        line = whole_words or shorten(line, MAX_NAME_CHARACTERS)
    return line.lstrip(_MARKS).rstrip(_MARKS + ".。,;" + "".join(_COLONS))


def _shown(char: str) -> str:
    """Return what of a character may reach terminals and files with a name: none that acts and cannot be seen."""
    kind = unicodedata.category(char)
    if kind in ("Cc", "Cs", "Zl", "Zp"):
        return "\n" if char == "\n" else " "
    return "" if kind == "Cf" else char
