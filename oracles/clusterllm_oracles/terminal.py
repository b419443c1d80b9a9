"""Texts on a terminal and key presses from it, for the oracle ``human``.

In: lines to show. Out: what was pressed. Nothing that a text holds can steer the terminal, progress bars are moved out
of the way, and the terminal's settings are changed only while a key is awaited.
"""

from __future__ import annotations

import importlib
import os
import re
import select
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Any, Protocol, TextIO

from tqdm import tqdm

from clusterllm_plugins.questions import OracleError

if sys.platform != "win32":
    import termios

WIDEST = 100  # columns: longer lines are hard to read
NARROWEST = 20
USUAL_WIDTH = 80  # where the terminal does not say
SEQUENCE_WAIT = 0.05  # seconds at most between the bytes of one arrow or function key

_JOINERS = "\u200c\u200d"  # of Persian and Indic letters, and of emoji: the only format characters that are shown
_UNSAFE = ("Cc", "Cf", "Cs", "Zl", "Zp")
_SEQUENCE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|[^\[O])", re.DOTALL)
_ENTER, _BACKSPACE = "\r\n", "\x08\x7f"
_INTERRUPT = "\x03"  # Ctrl-C
_POSIX_END, _WINDOWS_END = "\x04", "\x1a"  # Ctrl-D, Ctrl-Z


def escaped(text: str) -> str:
    """Return ``text`` with control and format characters and lone surrogates as escapes (``x1b`` after a backslash)."""
    return "".join(char if _is_safe(char) else char.encode("unicode_escape").decode("ascii") for char in text)


def _is_safe(char: str) -> bool:
    return char in _JOINERS or unicodedata.category(char) not in _UNSAFE


def wrapped(text: str, width: int) -> list[str]:
    """Break a text into lines of at most ``width`` columns, at spaces where there are any."""
    lines, line, used = [], "", 0
    for char in text:
        line, used = line + char, used + columns(char)
        if used > width:
            head, _, tail = line.rpartition(" ")
            if not head.strip():
                head, tail = line[:-1], char
            lines.append(head.rstrip())
            line, used = tail, columns(tail)
    return [*lines, line] if line or not lines else lines


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a wide character, none for a combining one."""
    return sum(_columns(char) for char in text)


def _columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


class Console(Protocol):
    """Where a person is asked."""

    @property
    def width(self) -> int:
        """Columns of a line."""

    @property
    def styled(self) -> bool:
        """Whether bold and dim text may be shown."""

    def show(self, text: str) -> None:
        """Show lines."""

    def read(self, *, number: bool) -> str | None:
        """Return what was pressed, or ``None`` at the end of the input.

        Args:
            number: Whether an answer may have several digits.

        Raises:
            KeyboardInterrupt: At Ctrl-C.
        """


class Lines:
    """Two text streams: a line is an answer.

    Args:
        source: Where answers come from.
        target: Where questions go.
    """

    width = USUAL_WIDTH
    styled = False

    def __init__(self, source: TextIO, target: TextIO) -> None:
        self._source = source
        self._target = target

    def show(self, text: str) -> None:
        """Write lines."""
        self._target.write(text + "\n")
        self._target.flush()

    def read(self, *, number: bool) -> str | None:
        """Return the next line without the space around it."""
        line = self._source.readline()
        return line.strip() if line else None


class Keys(Protocol):
    """A keyboard."""

    def held(self) -> AbstractContextManager[None]:
        """Drop what was pressed until now, and take key presses one by one, unechoed."""

    def next(self) -> str | None:
        """Return the next character, ``""`` for a key that is none, or ``None`` at the end of the input."""


class PosixKeys:
    """The keyboard of a terminal by its file descriptor.

    A process that is killed while a key is awaited cannot restore the settings; anything else does.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = ""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Drop what was pressed until now, and turn off line editing, echo and signals by keys.

        Without the last, Ctrl-C would interrupt the main thread, which then waits for the one that waits for a key.
        """
        self._pending = ""
        try:
            before = termios.tcgetattr(self._descriptor)
        except termios.error:  # the terminal is gone, which next() will tell
            yield
            return
        changed = [*before[:6], list(before[6])]
        changed[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN)
        changed[6][termios.VMIN], changed[6][termios.VTIME] = 1, 0
        try:
            termios.tcsetattr(self._descriptor, termios.TCSAFLUSH, changed)
            yield
        finally:
            with suppress(termios.error):
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)

    def next(self) -> str | None:
        """Return the next character; arrows and the like are passed over."""
        while self._pending or self._fill():
            if self._pending[0] != "\x1b":
                key, self._pending = self._pending[0], self._pending[1:]
                return None if key == _POSIX_END else key
            self._skip_sequence()
        return None

    def _fill(self) -> bool:
        try:
            data = os.read(self._descriptor, 1024)
        except OSError:  # how some systems tell that a terminal was closed
            return False
        self._pending += data.decode("utf-8", "replace")
        return bool(data)

    def _skip_sequence(self) -> None:
        """Drop what an arrow or function key sends: many of these sequences hold a digit or a letter."""
        while not (found := _SEQUENCE.match(self._pending)):
            if not select.select([self._descriptor], [], [], SEQUENCE_WAIT)[0] or not self._fill():
                break
        self._pending = self._pending[found.end() :] if found else ""


class WindowsKeys:
    """The keyboard of a console of Windows.

    Args:
        msvcrt: The module of that name, which exists there only.
    """

    def __init__(self, msvcrt: Any) -> None:
        self._msvcrt = msvcrt

    def held(self) -> AbstractContextManager[None]:
        """Drop what was pressed until now; ``getwch`` takes keys one by one anyway."""
        while self._msvcrt.kbhit():
            self._msvcrt.getwch()
        return nullcontext()

    def next(self) -> str | None:
        """Return the next character; arrows and function keys are two, and no character."""
        key: str = self._msvcrt.getwch()
        if key in ("\x00", "\xe0"):
            self._msvcrt.getwch()
            return ""
        return None if key == _WINDOWS_END else key


class Terminal:
    """A person at a terminal: one key press is an answer.

    A context manager as long as one answer is awaited. What was pressed before is dropped, so that nobody answers what
    they have not seen.

    Args:
        keys: What is pressed.
        target: Where questions are shown.
    """

    def __init__(self, keys: Keys, target: TextIO) -> None:
        self._keys = keys
        self._target = target
        self._held = ExitStack()

    @classmethod
    def open(cls) -> Terminal:
        """Return the terminal that this process is run at.

        Raises:
            OracleError: If the standard input, or both outputs, are no terminal.
        """
        # The error output first, as that is where bars are drawn and what is not redirected into a file.
        target = next((stream for stream in (sys.stderr, sys.stdout) if _is_terminal(stream)), None)
        if target is None or not _is_terminal(sys.stdin):
            raise OracleError(
                "oracle 'human': a person answers at a terminal, and there is none here; "
                "run this at a terminal, its input not redirected",
                fatal=True,
            )
        if sys.platform == "win32":
            return cls(WindowsKeys(importlib.import_module("msvcrt")), target)
        return cls(PosixKeys(sys.stdin.fileno()), target)

    def __enter__(self) -> Terminal:
        self._held.enter_context(self._keys.held())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    @property
    def width(self) -> int:
        """Columns of a line: those of the terminal within reason."""
        try:
            width = os.get_terminal_size(self._target.fileno()).columns
        except OSError:
            width = 0
        return max(NARROWEST, min(width or USUAL_WIDTH, WIDEST))

    @property
    def styled(self) -> bool:
        """Whether the terminal understands styles and the person wants them (https://no-color.org)."""
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb" or sys.platform == "win32"
        return not plain

    def show(self, text: str) -> None:
        """Write lines above the progress bar, where there is one."""
        encoding = self._target.encoding
        with tqdm.external_write_mode(self._target):
            self._target.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
            self._target.flush()

    def read(self, *, number: bool) -> str | None:
        """Return the key that was pressed; a number is ended by Enter."""
        key = self._key()
        if key is None or not (number and key.isdecimal()):
            return key
        with tqdm.external_write_mode(self._target):  # no bar is drawn into what is being typed
            return self._number(key)

    def _number(self, key: str | None) -> str | None:
        """Return the number that begins with a digit, or the other key that was pressed instead of Enter."""
        typed = ""
        while key is not None and (key == "" or key.isdecimal() or key in _BACKSPACE):
            if key.isdecimal():
                typed += key
                self._echo(key)
            elif typed and key:
                typed = typed[:-1]
                self._echo("\b \b")
            key = self._key()
        self._echo("\n")
        return typed if key is not None and key in _ENTER else key

    def _echo(self, text: str) -> None:
        self._target.write(text)
        self._target.flush()

    def _key(self) -> str | None:
        key = self._keys.next()
        if key == _INTERRUPT:
            raise KeyboardInterrupt
        return key


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False
