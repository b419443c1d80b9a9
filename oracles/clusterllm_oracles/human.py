"""``human``: a person at the terminal answers."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

from clusterllm_oracles.terminal import Console, Lines, Terminal, escaped, wrapped
from clusterllm_plugins.errors import ClusterLLMError
from clusterllm_plugins.questions import NONE, Answer, OracleError, Question, Usage

LONGEST_SHOWN = 300  # characters of a text, unless it is asked for in full
LONGEST_EXEMPLAR = 100  # likewise where a group has several texts: eight groups of four would fill several screens
SKIPPED = "skipped"

_FREE = Usage(cost=0.0)
_SKIP, _UNDO, _FULL, _QUIT = "s", "u", "m", "q"
_BOLD, _DIM = "1", "2"


class HumanOracle:
    """Shows each question and takes a key press.

    An answer is handed on, and so stored, once the next question is answered or the batch has ended: until then ``u``
    takes it back. So one answer can be undone at a time, and not the last one of a batch. A killed process loses that
    one answer at most; ``q``, Ctrl-C and the end of the input hand it on first. A skipped question abstains: that is
    stored too, and the question not asked again.

    Args:
        person: Who answers; each person has answers of their own.

    Attributes:
        streams: Where answers are read from, a line each, and where questions are written to; ``None`` = the terminal.

    Raises:
        ClusterLLMError: If ``person`` is no name.
    """

    concurrency = 1
    batch_size = 50

    def __init__(self, person: str = "me") -> None:
        if not isinstance(person, str) or not person.strip():
            raise ClusterLLMError(f"oracle 'human': person must be a name, not {person!r}")
        self.fingerprint = f"human:{person}"
        self.streams: tuple[TextIO, TextIO] | None = None
        self._answered = 0

    def check(self) -> None:
        """See that there is somebody to ask.

        Raises:
            OracleError: If there is no terminal.
        """
        self._console()

    def worst_case(self, question: Question) -> Usage:
        """Return that a person takes neither tokens nor money."""
        return _FREE

    def answer(self, questions: Sequence[Question]) -> Iterator[Answer]:
        """Ask for each answer, and hand it on when the next one is given.

        Raises:
            OracleError: If the person quits or the input ends; no further question can succeed.
            KeyboardInterrupt: At Ctrl-C.
        """
        held: Answer | None = None
        undone: Answer | None = None
        place = 0
        while place < len(questions):
            try:
                answer = self._ask(questions[place], undone, can_undo=held is not None)
            except (Exception, KeyboardInterrupt):
                if held is not None:
                    yield held
                raise
            if answer is None:
                held, undone = None, held
                place -= 1
                self._answered -= 1
                continue
            if held is not None:
                yield held
            held, undone = answer, None
            place += 1
            self._answered += 1
        if held is not None:
            yield held

    def _console(self) -> AbstractContextManager[Console]:
        return nullcontext(Lines(*self.streams)) if self.streams else Terminal.open()

    def _ask(self, question: Question, undone: Answer | None, *, can_undo: bool) -> Answer | None:
        """Return the answer to a question, or ``None`` where the one before is to be asked again."""
        choices = _choices(question)
        full = False
        with self._console() as console:
            while True:
                console.show(self._page(question, console, undone, full=full, can_undo=can_undo))
                key = self._key(question, console, [*choices, _SKIP, _FULL, *([_UNDO] if can_undo else [])])
                if key == _UNDO:
                    return None
                full = key == _FULL
                if not full:
                    answer = Answer(choices.get(key), usage=_FREE, error=SKIPPED if key == _SKIP else None)
                    console.show(f"  answer: {_said(answer)}")
                    return answer

    def _key(self, question: Question, console: Console, admissible: Sequence[str]) -> str:
        """Return the first reply that is one of ``admissible``."""
        while True:
            reply = console.read(number=_takes_numbers(question))
            if reply is None:
                raise self._stopped("the input ended")
            key = _plain(reply)
            if key == _QUIT:
                raise self._stopped("you quit")
            if key in admissible:
                return key
            if key == _UNDO:
                console.show("  nothing to undo: earlier answers are stored")
            elif key:
                console.show(f"  {reply[:20]!r} is no answer here")

    def _stopped(self, how: str) -> OracleError:
        answers = f"{self._answered} answer{'' if self._answered == 1 else 's'}"
        return OracleError(
            f"oracle 'human': {how} after {answers}; run the same again, with the same store, to go on from there",
            fatal=True,
        )

    def _page(self, question: Question, console: Console, undone: Answer | None, *, full: bool, can_undo: bool) -> str:
        """Return all that is shown of a question."""
        page = _Page(console, full)
        page.add("", "")
        page.add("", f"[{self._answered} answered] {_heading(question)}")
        for left, right, verdict in question.demonstrations:
            page.add("  for example, ", f"{verdict}:", _DIM)
            page.add_text("    - ", left, _DIM)
            page.add_text("    - ", right, _DIM)
        page.add("", "")
        if question.kind == "pair":
            page.add_text("     ", question.groups[0][0], _BOLD)
        else:
            page.add_groups(question.groups)
        page.add("", "")
        page.add_text("     ", question.anchor, _BOLD)  # last: it stays in sight where the groups do not
        page.add("", "")
        if undone is not None:
            page.add("  ", f"undone: {_said(undone)}")
        page.add("  ", _help(question, can_undo=can_undo, cut=page.cut), _DIM)
        return "\n".join(page.lines)


class _Page:
    """Lines for a console, wrapped to its width.

    Attributes:
        lines: What was added so far.
        cut: Whether a text is shown in part only.
    """

    def __init__(self, console: Console, full: bool) -> None:
        self._width = console.width
        self._styled = console.styled
        self._full = full
        self.lines: list[str] = []
        self.cut = False

    def add_groups(self, groups: Sequence[Sequence[str]]) -> None:
        """Add numbered groups of texts, shape (n_groups, any)."""
        for number, group in enumerate(groups, start=1):
            label = f"{number:>3}. "
            bullet, longest = ("- ", LONGEST_EXEMPLAR) if len(group) > 1 else ("", LONGEST_SHOWN)
            for text in group:
                self.add_text(label + bullet, text, longest=longest)
                label = " " * len(label)

    def add_text(self, before: str, text: str, style: str = "", longest: int = LONGEST_SHOWN) -> None:
        """Add one of the user's texts, cut where it has more than ``longest`` characters."""
        if len(text) > longest and not self._full:
            text = text[: longest - 1] + "…"
            self.cut = True
        self.add(before, text, style)

    def add(self, before: str, text: str, style: str = "") -> None:
        """Add a text after ``before``, which its further lines are indented by."""
        for line in wrapped(escaped(text), self._width - len(before)):
            self.lines.append(before + (f"\x1b[{style}m{line}\x1b[0m" if style and self._styled and line else line))
            before = " " * len(before)


def _heading(question: Question) -> str:
    perspective = f" {question.instruction.strip()}" if question.instruction else ""
    if question.kind == "pair":
        return f"Do these two texts belong to the same category{perspective}?"
    single = all(len(group) == 1 for group in question.groups)
    return f"Which {'text' if single else 'group of texts'} does the last one belong with{perspective}?"


def _help(question: Question, *, can_undo: bool, cut: bool) -> str:
    if question.kind == "pair":
        keys = ["y yes", "n no"]
    else:
        count = len(question.groups)
        keys = [f"1-{count} and Enter" if _takes_numbers(question) else f"1-{count}"]
        keys += ["n none of them"] if NONE in question.choices else []
    keys.append(f"{_SKIP} skip")
    if can_undo:
        keys.append(f"{_UNDO} undo")
    if cut:
        keys.append(f"{_FULL} in full")
    return ", ".join([*keys, f"{_QUIT} quit"])


def _takes_numbers(question: Question) -> bool:
    return len(question.groups) > 9


def _choices(question: Question) -> dict[str, str]:
    """Return the choices by what is pressed or written for them."""
    letters = {choice[0]: choice for choice in question.choices if not choice.isdecimal()}
    return {choice: choice for choice in question.choices} | letters


def _plain(reply: str) -> str:
    """Return a reply in small letters, with digits of any script as ours."""
    return "".join(str(unicodedata.decimal(char, char)) for char in reply.strip().lower())


def _said(answer: Answer) -> str:
    return answer.choice or SKIPPED
