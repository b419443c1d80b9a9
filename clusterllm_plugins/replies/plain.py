"""A reply as plain text for the grammar: lower case, ASCII digits, no Markdown, nothing that cannot be seen.

In: a reply. Out: its lines, and the sentences of a line. Quoted texts are left out: what stands in them is the data
of the question, and no answer to it.
"""

from __future__ import annotations

import re
import unicodedata

from clusterllm_plugins.replies.thinking import without_thinking

MAX_REPLY_CHARACTERS = 10_000  # that are read, from the end, thoughts not counted
MAX_SENTENCE_CHARACTERS = 500  # a longer sentence is read as far as that
QUOTED = '""'  # stands for a text in quotation marks
CUT = "\u2026"  # stands for what is not read; a text has none, as it is three full stops in its plain form

# Quotation marks, apostrophes and dashes of any kind to those of ASCII.
_ASCII = str.maketrans(
    {
        **dict.fromkeys("\u201c\u201d\u201e«»「」『』\u2033", '"'),
        **dict.fromkeys("\u2019\u2018\u201a\u00b4", "'"),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
    }
)
_SUPERSCRIPT = re.compile("[\u00b2\u00b3\u00b9\u2070-\u2079]")  # a footnote, or a power
_BOXED = re.compile(r"\\boxed ?\{(?:\\text ?\{)?([^{}\n]{1,40})\}{1,2}")
_TAGGED = re.compile(r"<(answer|final_answer|choice|result|output)>([^<>]{1,80})</\1>")
_TAG = re.compile(r"</?[a-z]{1,20} ?/?>|<\|[^|<>]{1,40}\|>")
_MARKDOWN = re.compile(r"[*`_]|\\[()\[\]]|\$(?=\d{1,2}\$)|(?<=\$\d)\$|(?<=\$\d\d)\$")
_RECORD = re.compile(r"\{([^{}]*)(?:\}|\Z)")
_FIELD = re.compile(r'"([^"\n]{1,40})"\s*:\s*("[^"\n]*"|[\w.+-]+)')
_LINE_HEAD = re.compile(r"(?:[#>•+]+|-+(?= |$))\s*")
_ECHO = ("reply with the number only", "reply with yes or no only")
_ECHO_END = re.compile(r' ?(?:\([^()\n]{0,200}\))?[."]*')
_QUOTED_TEXT = re.compile(r'"([^"\n]*)"')
_NO_TEXT = re.compile(r"[\w .():#-]{0,20}")  # too short for one: "2", "Answer: 2"
# "No. 2", "1. The kettle leaks" and "2.5" are one sentence.
_SENTENCE_END = re.compile(r"(?<!^\d)(?<!^\d\d)(?<!\bno)(?<!\bnr)[.!?]+['\")\]]* |。")


def plain_lines(reply: str) -> list[str]:
    """Return the lines of a reply, empty ones too, the first and the last one excepted."""
    text = without_thinking(reply)
    cut = len(text) > MAX_REPLY_CHARACTERS
    text = _unicode(text[-MAX_REPLY_CHARACTERS:]).replace('\\"', "'")
    text = _TAGGED.sub(r"\nanswer: \2\n", _BOXED.sub(r"\nanswer: \1\n", text))
    text = _RECORD.sub(_as_lines, _TAG.sub(" ", _without_echo(text)))
    text = _QUOTED_TEXT.sub(lambda found: f" {found[1]} " if _NO_TEXT.fullmatch(found[1]) else QUOTED, text)
    lines = [_line(line) for line in _MARKDOWN.sub(_unmarked, text).split("\n")]
    return "\n".join([CUT] * cut + lines).strip().splitlines()


def sentences(line: str) -> list[str]:
    """Return the sentences of a line, each at most :data:`MAX_SENTENCE_CHARACTERS` long."""
    ends = [found.end() for found in _SENTENCE_END.finditer(line)]
    parts = (line[start:end].strip() for start, end in zip([0, *ends], [*ends, len(line)], strict=True))
    longest = MAX_SENTENCE_CHARACTERS
    return [part if len(part) <= longest else f"{part[:longest]} {CUT}" for part in parts if part]


def _unicode(text: str) -> str:
    """Return a text with its compatibility characters, digits and quotation marks in their plain form."""
    lines = _SUPERSCRIPT.sub("^", text).replace("\r\n", "\n").replace("\r", "\n")
    plain = unicodedata.normalize("NFKC", lines).translate(_ASCII)
    return "".join(map(_seen, plain)).casefold()


def _seen(char: str) -> str:
    if char.isascii():
        return char if char >= " " or char == "\n" else " "
    kind = unicodedata.category(char)
    if kind == "Nd":
        return str(unicodedata.decimal(char))
    if kind in ("Zl", "Zp"):
        return "\n"
    # Format characters, and what makes an emoji of a digit.
    return "" if kind == "Cf" or char in "\ufe0e\ufe0f\u20e3" else char


def _without_echo(text: str) -> str:
    """Return what follows the prompt where a model repeats it: there stand candidates and verdicts of ours."""
    end = max(text.rfind(echo) + len(echo) if echo in text else 0 for echo in _ECHO)
    return _ECHO_END.sub("", text[end:], count=1).lstrip(",;: ") if end else text


def _as_lines(record: re.Match[str]) -> str:
    """Return a JSON record as lines ``name: value``."""
    fields = _FIELD.findall(record[1])
    return "\n".join(["", *(f"{name}: {value}" for name, value in fields), ""]) if fields else record[0]


def _unmarked(mark: re.Match[str]) -> str:
    return " " if mark[0] == "_" else ""  # "final_answer" is two words


def _line(line: str) -> str:
    """Return a line without the mark of a heading or bullet before it, its spaces one each."""
    line = " ".join(line.split())
    return _LINE_HEAD.sub("", line, count=1) if _LINE_HEAD.match(line) else line
