"""Progress bars on steps that can take over two seconds: silent when not a terminal or when turned off."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from tqdm import tqdm


class Bar:
    """A progress bar as a context manager.

    Args:
        total: How many steps there are.
        description: What is being done.
        enabled: Whether to show it at all (it is never shown where the error output is no terminal).
        unit: What a step is.
        done: How many steps were done before.
    """

    def __init__(self, total: int, description: str, enabled: bool, unit: str = "step", done: int = 0) -> None:
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=description,
            unit=unit,
            disable=not (enabled and sys.stderr.isatty()),
            delay=0.5,
            dynamic_ncols=True,
        )

    @classmethod
    @contextmanager
    def at_work(cls, description: str, enabled: bool) -> Iterator[None]:
        """Show that a single step is being done whose inside cannot be watched."""
        with cls(1, description, enabled) as bar:
            bar._bar.refresh()
            yield
            bar.advance()

    def advance(self, steps: int = 1) -> None:
        """Show that some steps are done."""
        self._bar.update(steps)

    def note(self, text: str) -> None:
        """Show a text behind the numbers, with the next step that is drawn."""
        self._bar.set_postfix_str(text, refresh=False)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.clear()  # tqdm would leave one standing that was drawn before its delay
        self._bar.close()
