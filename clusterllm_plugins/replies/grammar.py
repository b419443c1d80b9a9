"""The grammar of a sentence that names a choice.

In: a sentence in lower case (:mod:`clusterllm_plugins.replies.plain`). Out: its claims. A claim is what introduces a
choice (perhaps nothing), a choice, and what may follow one: nothing, a reason, or a verdict such as "fits best". An
alternative ("or 2"), a part of a number ("2.5", "1-2") and any other word ("2 texts") make it none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from clusterllm_plugins.questions import NONE

Manner = Literal["alone", "reasoned", "stated"]


@dataclass(frozen=True)
class Claim:
    """A choice that a sentence names.

    Attributes:
        value: ``"1"``, ``"2"``, ..., ``"none"``, ``"yes"`` or ``"no"``, admissible or not; empty where the answer is
            announced and then not to be told from what follows.
        manner: ``"alone"``: nothing else stands there; ``"reasoned"``: a reason follows; ``"stated"``: it is said to
            be the answer.
        rest: What follows it in its sentence.
        final: Whether it is announced as the answer, and nothing follows.
        item: Whether it looks like the number of an item in a list.
        heading: Whether that is by a full stop, a bracket or the like.
    """

    value: str
    manner: Manner
    rest: str
    final: bool = False
    item: bool = False
    heading: bool = False


@dataclass(frozen=True)
class Named:
    """A choice at some place of a sentence.

    Attributes:
        value: As that of a claim.
        end: Where it ends.
        weak: Whether it is an ordinary word, too, and so none where anything but "because" follows.
    """

    value: str
    end: int
    weak: bool = False


Finder = Callable[[str, int], Named | None]


def _words(words: str) -> str:
    """Return a pattern of any of ``words``, which are separated by bars."""
    return "(?:" + "|".join(word.strip().replace(" ", r"\s") for word in words.split("|")) + ")"


# Choices.

_CARDINALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_SHORT_ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th")
_NUMBERS = {word: str(n) for words in (_CARDINALS, _ORDINALS, _SHORT_ORDINALS) for n, word in enumerate(words, start=1)}

_GROUP = "choice|option|group|cluster|category|candidate|number|text|opción|gruppe|groupe|grupo|nummer"
_NOUN = r"(?:(?:candidate\s)?" + _words(_GROUP + r"|no\.?|nr\.?|\#") + r"(?:\sof\stexts)?)"
_OPEN, _CLOSE = r"[(\[{<\"']{0,3}", r"(?:[\]}>\"']|\)(?!\s\w)){0,3}"
# Not a part of a decimal number, a date, a time, a range, a sum, a share or a longer word.
_WHOLE = r"(?![\w%°]|['.,:]\w|\s?[-/&+=<>\u00d7^~\u2044]+\s?\w{0,2}\d|-\w|\s?[/&+|]|[\u0300-\u036f])"
_NUMBER = re.compile(
    rf"(?P<the>the\s)?(?:(?P<noun>{_NOUN}[\s:]?\s?)?{_OPEN}(?P<digits>\d{{1,3}})"
    rf"|(?P<group>(?:candidate\s)?(?:{_words(_GROUP)})\s)?{_OPEN}(?P<word>{'|'.join(_CARDINALS)})){_WHOLE}{_CLOSE}"
)
_ORDINAL = re.compile(
    rf"{_OPEN}(?P<the>the\s)?(?P<number>{'|'.join((*_ORDINALS, *_SHORT_ORDINALS))})"
    rf"(?P<noun>\s(?:{_NOUN}|one))?{_WHOLE}{_CLOSE}"
)
_OF_THEM = (
    r"(?:\sof\s(?:them|these|those|the)(?:\s(?:above|two|three|four|five|six|given|listed|candidate|other))*"
    r"(?:\s(?:groups?|texts|options|candidates|choices|categories|clusters))?)?"
)
_FITS = (
    r"(?:\s(?:really|quite|clearly|is|are|a|it|well))*\s(?:fits?|match(?:es)?|appl(?:y|ies)|suitable)"
    r"(?:\s(?:it|well|the\squery))*"
)
_NO_NUMBER = re.compile(
    rf"{_OPEN}(?:(?:none|neither){_OF_THEM}(?:\s(?:one|group|text|option))?(?:{_FITS})?|no\smatch(?:es)?"
    rf"|(?:nothing|not\sany{_OF_THEM}|no\s(?:{_NOUN}|one)){_FITS}"
    rf"|no\s(?:suitable|matching|fitting)\s(?:{_NOUN}|one)"
    rf"|keine[rs]?|aucune?|ningun[oa]|nessun[oa]){_WHOLE}{_CLOSE}"
)
_WORD = r"(?![\w/&+|]|['-]\w|\s[/&+|]|[.:]\d)"
_YES = re.compile(rf"{_OPEN}(?:yes|yeah|yep|yup|y|true|ja|oui|sí|si|sim|да|是的?|はい){_WORD}{_CLOSE}")
_NO = re.compile(rf"{_OPEN}(?:no|nope|n|false|nein|non|não|нет|不是|否|いいえ){_WORD}{_CLOSE}")


def number_at(sentence: str, start: int) -> Named | None:
    """Return the group, or that there is none, that stands at ``start``."""
    if found := _NO_NUMBER.match(sentence, start):
        return Named(NONE, found.end())
    if found := _NUMBER.match(sentence, start):
        has_noun = bool(found["noun"] or found["group"])
        if found["the"] and not has_noun:
            return None  # "the two"
        value = found["digits"] or _NUMBERS[found["word"]]
        return Named(value, found.end(), weak=not found["digits"] and not has_noun)
    if found := _ORDINAL.match(sentence, start):
        return Named(_NUMBERS[found["number"]], found.end(), weak=not (found["the"] or found["noun"]))
    return None


def verdict_at(sentence: str, start: int) -> Named | None:
    """Return the yes or no that stands at ``start``."""
    for value, pattern in (("yes", _YES), ("no", _NO)):
        if found := pattern.match(sentence, start):
            return Named(value, found.end())
    return None


# What stands before a choice.

_ANSWER = _words(
    "answer|choice|reply|response|verdict|conclusion|decision|result|same category|best match|best fit|closest match"
    "|antwort|réponse|respuesta|resposta|risposta|ответ|答案|回答"
)
_OPENERS = (
    r"(?:"
    + _words(
        "but|so|thus|therefore|hence|then|overall|clearly|sure|certainly|okay|ok|well|and|probably|likely|most likely"
        "|definitely|in conclusion|in summary|i think that|i think|i believe that|i believe"
        "|i would say that|i would say|i'd say that|i'd say"
        "|which means that|which means|this means that|this means|that means"
    )
    + r"[,:.!]?\s)*"
)
_LABEL = (
    rf"(?:the\s|my\s)?(?:final\s|correct\s|best\s|right\s)?(?:{_ANSWER}|{_words(_GROUP)})"
    r"(?:\s(?:is|would\sbe|should\sbe|ist|est|es)(?=[\s:])\s?:?|是|\s?(?::|=|->|→|-(?=\s)))\s?"
)
_CHOOSE = r"i(?:'d|'ll|\swould|\swill)?\s(?:choose|pick|select|answer|go\swith|go\sfor|vote\sfor|say)\s"
_BELONGS = (
    r"(?:(?:the|this)\s(?:query|text|message|sentence|statement)|it|this)(?:\stext)?(?:\s\"\")?"
    r"(?:\s(?:clearly|best|most|likely|probably|therefore|thus|also))*"
    r"\s(?:belongs|fits|goes|matches|aligns|corresponds"
    r"|is(?:\s(?:most|more|best|clearly|semantically))*\s(?:similar|close|closer|closest|related|like|a\smatch))"
    r"(?:\s(?:best|better|most|more|closely|well|likely))*(?:\s(?:with|to|in|into|under|for))?\s"
)
_STATING = re.compile(rf"{_OPENERS}(?:{_LABEL}|{_CHOOSE}|{_BELONGS})")
_ANSWERING = re.compile(rf"(?:the\s|my\s)?(?:final\s|correct\s)?{_ANSWER}\b")
_OPENING = re.compile(_OPENERS)
_LABEL_ALONE = re.compile(rf"(?:the\s|my\s)?(?:final\s|correct\s)?{_ANSWER}(?:\sis)?\s?:?")
_CLAUSE = re.compile(r"^\(?\d{1,3}[.:)]\s|[,;:]\s|\(|\s-+\s|\s(?=(?:so|therefore|thus|hence)\s)")
# A sentence that weighs, or tells what others say, states nothing after such a word.
_WEIGHED = re.compile(
    r"\b(?:if|unless|whether|suppos\w+|assum\w+|otherwise|perhaps|maybe"
    r"|says?|said|claim\w*|tells?|told|asks?|ignore|pretend|wrong|incorrect|false)\b"
)

# What follows it.

_END = re.compile(r"[\s.!,;:。]*$")
_GAP = re.compile(r"[\s.!,;:。]*")
_BECAUSE = re.compile(
    r",?\s(?:because|since|due\sto|given|based\son"
    r"|as(?=\s(?:it|its|the|they|this|that|these|both|there|text|group|query)\b))\s"
)
_HEADING = r"\s?[.:;)!]\s|\s-+\s"
_REASON = re.compile(
    rf"{_HEADING}|{_BECAUSE.pattern}|,?\s(?:rather\sthan|instead\sof|better\sthan|more\sclosely\sthan)\s"
    r"|,\s(?=(?:not|both|they|the\squery|the\stwo)\b)|\s?\((?=[^()]*\)?[\s.!]*$)"
)
_VERDICT_REASON = re.compile(
    rf"{_HEADING}|,?\s?\(|,\s|{_BECAUSE.pattern}|\s(?=(?:they|these|both|the\stwo|the\stexts)\s)"
)
# A choice behind which one of these stands is talked about, not chosen.
_DESCRIBES = re.compile(
    r"(?:not|no|is|isn't|was|has|do|does|doesn't|don't|talks?|mentions?|about|describes?|refers?|deals?|concerns?"
    r"|unrelated|irrelevant|wrong|incorrect|different|unlikely)\b"
)
_NOT = re.compile(r"not\s(?:(?:with|to|in|into)\s)?")
_HEADING_MARK = re.compile(rf"{_HEADING}|\s?[.:)]$|\s?\(")
_ITEM_HEAD = re.compile(rf"{_HEADING_MARK.pattern}|{_BECAUSE.pattern}")
_OTHERWISE = re.compile(
    r"(?:or|and|but|though|although|however|except|if|unless|maybe|perhaps|possibly|also|too|wait|yet|vs|versus"
    r"|oder|ou|through|to)\b|no,"
)
_ABOUT = re.compile(r"\s(?!or\b|and\b)\w")
_VERDICT = re.compile(
    r"\s(?:is|seems|looks|would\sbe|fits|matches|works)(?:\s(?:to|be|the|a|more|most|much|clearly))*"
    r"\s(?:best|better|closest|closer|correct|right|similar|answer|match|fit|choice)"
    r"(?:\s(?:match|fit|answer|choice|option|one))?"
    r"(?=[\s.!]*$|,?\s(?:because|since|as|than|with|for|to|here)\s)|\s(?:fits|matches)[\s.!]*$"
)

# Whole statements.

_NO_GROUP = re.compile(
    rf"{_OPENERS}(?:the\s|this\s)?(?:query|text|it|this)\s(?:does\snot|doesn't)(?:\s\w+)?\s(?:belong|fit|match)"
    r"(?:\s(?:with|to|in|into|well))*\s(?:any|either)(?:\sof(?:\s\w+){1,3}|\s\w+)?(?=[\s.!]*$)"
)
_TEXTS = (
    r"(?:(?:the|these|both)(?:\stwo)?\s(?:texts|sentences|messages)|they|both|these)"
    r"(?:\sboth)?(?:\s(?:clearly|likely|probably))?"
)
_IN = r"(?:belong\s(?:to|in)|are\s(?:in|of|from)|fall\s(?:into|under))"
_SAME = re.compile(rf"{_OPENERS}{_TEXTS}\s(?:{_IN}|share)\s(?:the\ssame|one)\scategory(?=[\s.!,;]|$)")
_DIFFERENT = re.compile(
    rf"{_OPENERS}{_TEXTS}\s(?:{_IN}\s(?:two\s)?different\scategories|(?:do\snot|don't)\s(?:belong\s(?:to|in)|share)"
    r"\sthe\ssame\scategory|(?:are\snot|aren't)\s(?:in|of|from)\sthe\ssame\scategory)(?=[\s.!,;]|$)"
)
_SAYS_DIFFERENT = re.compile(
    r"(?:\bnot|n't)(?:\s\w+){0,3}\ssame\b|\b(?:are|is)\s(?:\w+\s)?different\b"
    r"|\bdifferent\s(?:categor|topic|subject|thing)|\bunrelated\b"
)
_DENIES = re.compile(r"\b(?:not|different|neither|nor|rather|only)\b|n't\b")


def opening_claim(sentence: str, find: Finder) -> Claim | None:
    """Return the choice with which a sentence begins."""
    named = find(sentence, _end_of(_OPENING, sentence))
    if named is None or sentence.endswith("?"):
        return None
    manner = _manner(sentence, named, find)
    if manner is None:
        return None
    is_item, is_heading = (bool(head.match(sentence, named.end)) for head in (_ITEM_HEAD, _HEADING_MARK))
    return Claim(named.value, manner, sentence[named.end :], item=is_item, heading=is_heading)


def stated_claims(sentence: str, find: Finder) -> Iterator[Claim]:
    """Yield what the clauses of a sentence say to be the answer; a question states nothing."""
    if sentence.endswith("?"):
        return
    for start in _clauses(sentence):
        if _WEIGHED.search(sentence, 0, start):
            return
        claim = _stated_at(sentence, start, find)
        if claim is not None:
            yield claim


def items(sentence: str, find: Finder) -> set[str]:
    """Return the choices that head the clauses of a sentence as the items of a list."""
    named = (find(sentence, start) for start in _clauses(sentence))
    return {item.value for item in named if item is not None and _ITEM_HEAD.match(sentence, item.end)}


def is_label(line: str) -> bool:
    """Return whether a line announces that the answer follows."""
    return _LABEL_ALONE.fullmatch(line) is not None


def contradicts(value: str, sentence: str) -> bool:
    """Return whether a sentence says "same" of what was answered by no, or the reverse."""
    if value == "yes":
        return _SAYS_DIFFERENT.search(sentence) is not None
    return value == "no" and "same" in sentence and not _DENIES.search(sentence)


def _stated_at(sentence: str, start: int, find: Finder) -> Claim | None:
    for value, pattern in ((NONE, _NO_GROUP),) if find is number_at else (("yes", _SAME), ("no", _DIFFERENT)):
        if whole := pattern.match(sentence, start):
            return Claim(value, "stated", sentence[whole.end() :])
    stating = _STATING.match(sentence, start)
    named = find(sentence, stating.end() if stating else _end_of(_OPENING, sentence, start))
    if named is None:
        return None
    manner, rest = _manner(sentence, named, find), sentence[named.end :]
    is_answer = _ANSWERING.match(sentence, _end_of(_OPENING, sentence, start)) is not None
    if stating and is_answer and manner is None:
        return Claim("", "stated", rest)  # "Answer: 1 or 2"
    if manner is None or not (stating or manner == "stated"):
        return None
    return Claim(named.value, "stated", rest, final=is_answer and manner == "alone")


def _manner(sentence: str, named: Named, find: Finder) -> Manner | None:
    """Return how a choice is named, judged by what follows it; None where that makes it none."""
    end = named.end
    while (again := find(sentence, _end_of(_GAP, sentence, end))) and again.value == named.value:
        end = again.end  # "2 2", "no, no"
    if _END.match(sentence, end):
        return "alone"
    if find is number_at and _VERDICT.match(sentence, named.end):
        return "stated"
    reason = _reason(sentence, named, find, end)
    return "reasoned" if reason and not _is_alternative(sentence, reason, named, find) else None


def _reason(sentence: str, named: Named, find: Finder, end: int) -> re.Match[str] | None:
    """Return what leads from a choice, which ends at ``end``, to a reason for it; None where there is none."""
    if find is verdict_at:
        return _VERDICT_REASON.match(sentence, end)
    reason = (_BECAUSE if named.weak else _REASON).match(sentence, end)
    if reason is None or _BECAUSE.match(sentence, end):
        return reason
    denied = _NOT.match(sentence, reason.end())
    if denied and find(sentence, denied.end()):
        return reason  # "2, not 1"
    return None if _DESCRIBES.match(sentence, reason.end()) else reason


def _is_alternative(sentence: str, reason: re.Match[str], named: Named, find: Finder) -> bool:
    """Return whether another choice follows in place of a reason; a sentence about another text is one."""
    if _BECAUSE.match(sentence, reason.start()):
        return False
    start = _end_of(_GAP, sentence, reason.end())
    if goes_otherwise(sentence[start:]):
        return True
    other = find(sentence, start)
    if other is None:
        return sentence[start : start + 1].isdigit()  # "No. 1"
    about = _ABOUT.match(sentence, other.end) and sentence[start].isalpha() and "," not in reason[0]
    return other.value != named.value and not about


def goes_otherwise(sentence: str) -> bool:
    """Return whether a sentence goes on from a choice to another one: ``"or 2"``, ``"but ..."``."""
    return _OTHERWISE.match(sentence) is not None


def _clauses(sentence: str) -> list[int]:
    """Return where the clauses of a sentence begin."""
    return [0, *(clause.end() for clause in _CLAUSE.finditer(sentence))]


def _end_of(pattern: re.Pattern[str], sentence: str, start: int = 0) -> int:
    found = pattern.match(sentence, start)
    return found.end() if found else start
