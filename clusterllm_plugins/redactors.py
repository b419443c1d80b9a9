"""The built-in redactors, registered through the same hook as a third party's.

In: a text. Out: the text with what was found replaced by a mark such as ``[email]``. Where a number may be someone's
or may not, it goes: a lost number costs a clustering nothing. What is clearly a date, a year, a time, a price or a
short number stays.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from clusterllm_plugins.errors import MissingExtraError, PluginError
from clusterllm_plugins.hookspecs import Register, hookimpl

if TYPE_CHECKING:
    from spacy.language import Language

# Between the digits of one number: blanks but for a line break, hyphens and dashes, dots, slashes, brackets, what
# other scripts have in place of these, and characters that are not seen.
_BETWEEN = (
    r" \t\u00a0\u1680\u2000-\u200f\u202f\u205f\u2060\u3000\ufe0f\ufeff\u00ad\u20e3\u2010-\u2015\u2043\u2212\ufe63\uff0d"
    r"./()_~\u00b7\u2022\u2027\u2219\u30fb\uff08\uff09\uff0e\uff3f-"
)
_NUMBER = rf"[+\uff0b(\uff08]{{0,2}}\d(?:[{_BETWEEN}]{{0,4}}\d)*+"
_BEFORE = rf"(?<!\d)(?<!\d[,{_BETWEEN}])"
_AFTER = rf"(?![,{_BETWEEN}]?\d)"
_YEAR = r"(?:19|20)\d\d"
_DAY, _MONTH = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])"
_AMOUNT = r"(?:\d{1,3}(?:[ .,'\u00a0\u202f]\d{3}){1,3}|\d{1,9})(?:[.,]\d{1,2})?"
_CURRENCY = r"[$€£¥₹%]|\b(?:EUR|USD|GBP|CHF|euros?|dollars?|pounds?)\b"
# What stays: times, dates, spans of years, amounts of money and shares, and amounts with cents.
_HARMLESS = "|".join(
    (
        r"(?<!\d)\d\d?:\d\d(?::\d\d)?(?!\d)",
        rf"{_BEFORE}{_YEAR}[-./]{_MONTH}[-./]{_DAY}(?:[ T]\d\d?(?=:\d\d))?{_AFTER}",
        rf"{_BEFORE}(?:{_DAY}[-./]{_MONTH}|{_MONTH}[-./]{_DAY})[-./]{_YEAR}(?:[ T]\d\d?(?=:\d\d))?{_AFTER}",
        rf"{_BEFORE}(?:{_DAY}[-./]{_MONTH}|{_MONTH}[-./]{_DAY})[-./]\d\d[ T]\d\d?(?=:\d\d){_AFTER}",
        rf"{_BEFORE}{_YEAR}\s?[-\u2013/]\s?{_YEAR}{_AFTER}",
        rf"(?:[$€£¥₹]|\b(?:EUR|USD|GBP|CHF))[ \u00a0]?{_AMOUNT}{_AFTER}",
        rf"{_BEFORE}{_AMOUNT}[ \u00a0]?(?:{_CURRENCY}){_AFTER}",
        rf"{_BEFORE}(?:\d{{1,3}}(?:\.\d{{3}})+,\d\d|\d{{1,6}}\.\d\d){_AFTER}",
    )
)
_DIGITS = re.compile(rf"(?P<kept>{_HARMLESS})|(?P<number>{_NUMBER})", re.IGNORECASE)

# A country, two digits, and groups that hold a digit or are the four letters of a bank.
_JOINT = r"[\s\u200b._\u2010-\u2015-]{0,2}"
_IBAN = re.compile(
    r"(?<![^\W_])[A-Z]{2}\d{2}"
    rf"(?:{_JOINT}(?:[A-Z]{{4}}(?={_JOINT}[A-Z]{{0,3}}\d)|(?=[A-Z]{{0,30}}\d)[A-Z0-9]{{1,30}}))+",
    re.IGNORECASE,
)

# A card that a line break cuts in two, which ends any other number.
_BROKEN_CARD = re.compile(r"(?<!\d)(?:\d{4}[\s-]{1,3}){3}\d{4}(?!\d)")

_OPEN, _SHUT = r"(?:[\[({<]\s?|[*-])", r"(?:\s?[\])}>]\s?|[*-] ?)"
_MARK = r"\[(?:phone|number)\]"  # where these were redacted first, one may be a part of an address
_UNSEEN = r"\u00ad\u200b-\u200f\u2060\ufeff"
_LOCAL = rf"[\w.!#$%&'*+/=?^`{{|}}~{_UNSEEN}-]"
_LABEL, _DOT = rf"(?:[\w{_UNSEEN}-]|{_MARK})++", r"[.\u3002\uff0e\uff61]"
_HOST = rf"(?:{_LABEL}(?:{_DOT}{_LABEL})*+|\[(?:{_MARK}|[\da-f.:]{{3,45}})\])"
_EMAIL = re.compile(
    rf"(?:\"[^\"\n]{{1,64}}\"|(?<!{_LOCAL})(?<!phone\])(?<!number\])(?:{_LOCAL}|{_MARK})++)"
    # Also name @ example.com, but not lunch @ noon.
    rf"(?:\\?[@\uff20\ufe6b]{_HOST}|\s?[@\uff20\ufe6b]\s?{_LABEL}(?:{_DOT}{_LABEL})*{_DOT}[^\W\d_][\w-]++)"
    rf"|(?<![\w.+-])[\w.+-]++(?:(?:%40|&\#0*64;|&\#x0*40;|&commat;){_HOST}"
    rf"|\s?{_OPEN}(?:at|@){_SHUT}[\w-]++(?:(?:\.|\s?{_OPEN}(?:dot|\.){_SHUT})[\w-]+)*+"
    r"| at [\w-]++(?:(?: dot |\.)[\w-]+)*? dot [a-z]{2,})",
    re.IGNORECASE,
)

# 1-800-FLOWERS, in capitals; and what stands after a number.
_LETTERS = r"(?=[\dA-Z-]*[A-Z]-?[A-Z]-?[A-Z])[\dA-Z](?:-?[\dA-Z]){5,9}(?![\w-])"
_FREE = r"8(?:0[08]|33|44|55|66|77|88)"
_LETTERED = re.compile(rf"(?<![\w-])(?:(?:\+?1[-. ]|0)\(?{_FREE}\)?[-. ]?|\({_FREE}\) ?|{_FREE}[-.]){_LETTERS}")
_EXTENSION = re.compile(r"(?<=\[phone\]),? ?(?:ext(?:n|ension)?\.?|x|durchwahl|\#) ?\d{1,6}(?![\d.])", re.IGNORECASE)

_LEAST_PHONE = 7  # digits, as of a local number
_LEAST_RUN = 7  # digits without a gap
_LEAST_GROUPED = 12  # digits with gaps: less may be a phone number, which is for the redactor of that name
_SOCIAL = re.compile(r"\d{3}\D\d{2}\D\d{4}")
_LEAST_IBAN = 15  # characters, of Norway's


@hookimpl
def register_redactors(register: Register) -> None:
    """Register each redactor; ``names`` and ``patterns`` have settings that must be given."""
    register("emails", emails)
    register("names", names)
    register("numbers", numbers)
    register("patterns", patterns)
    register("phones", phones)


def emails() -> Callable[[str], str]:
    """Return a redactor of e-mail addresses, also of those written with "(at)" or "at ... dot"."""

    def replaced(match: re.Match[str]) -> str:
        return "[email]" if any(map(str.isalpha, match[0])) else match[0]  # 2@5.00 is a price

    return lambda text: _EMAIL.sub(replaced, text)


def phones() -> Callable[[str], str]:
    """Return a redactor of phone numbers: seven digits or more, with or without gaps, and ``1-800-FLOWERS``.

    It cannot tell a phone number from another long one and takes both: also ISBNs, most IP addresses, ``1024-1048``.
    """

    def redact(text: str) -> str:
        text = _redacted(_LETTERED.sub("[phone]", text), "[phone]", lambda number: _count(number) >= _LEAST_PHONE)
        return _EXTENSION.sub("", text)

    return redact


def numbers() -> Callable[[str], str]:
    """Return a redactor of bank accounts (IBAN), cards, and runs of seven digits or more."""

    def is_long(number: str) -> bool:
        runs = re.findall(r"\d+", number)
        if max(map(len, runs)) >= _LEAST_RUN or _count(number) >= _LEAST_GROUPED:
            return True
        return _SOCIAL.fullmatch(number) is not None

    return lambda text: _redacted(text, "[number]", is_long)


def patterns(patterns: Sequence[str], replacement: str = "[redacted]") -> Callable[[str], str]:
    """Return a redactor of what regular expressions find.

    Args:
        patterns: In the syntax of Python's ``re``, applied in this order.
        replacement: What stands there instead, as it is.

    Raises:
        PluginError: If one is no regular expression, or finds nothing but an empty text.
    """
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise PluginError("redactor 'patterns': patterns takes a list of regular expressions")
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise PluginError(f"redactor 'patterns': {pattern!r} is no regular expression ({error})") from error
        if compiled[-1].search("") is not None:  # it would put the replacement between all characters
            raise PluginError(f"redactor 'patterns': {pattern!r} also finds the empty text")

    def redact(text: str) -> str:
        for expression in compiled:
            text = expression.sub(lambda _: replacement, text)
        return text

    return redact


def names(model: str, labels: Sequence[str] = ("PERSON", "PER")) -> Callable[[str], str]:
    """Return a redactor of what a spaCy model takes for names of persons; it misses some.

    The model is loaded here, not with the first text: the error of a redactor at work is not shown, since it may
    quote the text.

    Args:
        model: An installed pipeline, for example ``"en_core_web_sm"``, or a folder.
        labels: The kinds of entities that go.

    Raises:
        MissingExtraError: If spaCy is not installed.
        PluginError: If there is no such model, or it finds no entities.
    """
    if importlib.util.find_spec("spacy") is None:
        raise MissingExtraError("redactor 'names'", "spacy")
    if isinstance(labels, str):
        raise PluginError(f"redactor 'names': labels takes a list: write [{labels!r}]")
    nlp = _pipeline(model)
    wanted = frozenset(labels)

    def redact(text: str) -> str:
        for entity in reversed(nlp(text).ents):
            if entity.label_ in wanted:
                text = f"{text[: entity.start_char]}[name]{text[entity.end_char :]}"
        return text

    return redact


@lru_cache(maxsize=1)  # a model's `predict` makes its redactors anew
def _pipeline(model: str) -> Language:
    import spacy

    try:
        nlp = spacy.load(model)
    except (OSError, ValueError) as error:
        where = "no such folder" if Path(model).name != model else "install it, or give a folder"
        reason = where if isinstance(error, OSError) else " ".join(str(error).split())[:200]
        raise PluginError(f"redactor 'names': cannot load the spaCy model {model!r} ({reason})") from error
    if not {"ner", "entity_ruler"} & set(nlp.pipe_names):
        raise PluginError(f"redactor 'names': the spaCy model {model!r} finds no entities; take one with ner")
    return nlp


def _redacted(text: str, mark: str, goes: Callable[[str], bool]) -> str:
    """Return ``text`` without bank accounts and without the numbers that ``goes`` names."""

    def replaced(match: re.Match[str]) -> str:
        return match[0] if match["kept"] is not None or not goes(match["number"]) else mark

    # Accounts first, whoever is called: of one without its digits, letters and short ends would stay.
    return _DIGITS.sub(replaced, _BROKEN_CARD.sub(_card, _IBAN.sub(_account, text)))


def _card(match: re.Match[str]) -> str:
    """Return the mark for a number with a right check digit (Luhn 1954)."""
    digits = [int(char) for char in reversed(match[0]) if char.isdecimal()]
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[1::2]]
    return match[0] if (sum(digits[::2]) + sum(doubled)) % 10 else "[number]"


def _account(match: re.Match[str]) -> str:
    characters = sum(map(str.isalnum, match[0]))
    return "[number]" if characters >= _LEAST_IBAN and _count(match[0]) >= _LEAST_RUN else match[0]


def _count(number: str) -> int:
    return sum(map(str.isdigit, number))
