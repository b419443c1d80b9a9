"""A person at a pseudo-terminal, for tests on systems that have one."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

PATIENCE = 60.0  # seconds: a slow machine loads its libraries before the first question
# The terminal becomes the controlling one, as at a shell: so Ctrl-C may be a signal, and closing it hangs up.
_RUN = "import fcntl, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{code}"
_COMMAND = "from clusterllm_plugins.cli import main\nmain()"


class Person:
    """Runs Python code, by default the command ``clusterllm``, at a pseudo-terminal and presses keys."""

    def __init__(self, *arguments, code=_COMMAND, columns=80, **environment):
        self.terminal, self._inside = pty.openpty()
        fcntl.ioctl(self._inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self._before = termios.tcgetattr(self._inside)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _RUN.format(code=code), *map(str, arguments)],
            stdin=self._inside,
            stdout=self._inside,
            stderr=self._inside,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "", "HF_HUB_OFFLINE": "1", **environment},
        )
        self._open = True
        self.screen = ""  # all that was written, as it was written
        self._seen = 0

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        self.hang_up()
        os.close(self._inside)

    def wait_for(self, text, patience=PATIENCE):
        """Wait until ``text`` is written after all that was waited for before; return what stands before it."""
        start = self._seen
        self._read_until(lambda: text in self.screen[start:], f"no {text!r}", patience)
        place = self.screen.index(text, start)
        self._seen = place + len(text)
        return self.screen[start:place]

    def question(self):
        """Wait for the next question; return what is shown of it."""
        return self.wait_for("q quit")

    def press(self, *keys):
        """Press a key at each of the next questions."""
        for key in keys:
            self.question()
            self.type(key)

    def type(self, keys):
        os.write(self.terminal, keys.encode())

    def hang_up(self):
        """Close the terminal's window."""
        if self._open:
            os.close(self.terminal)
        self._open = False

    def end(self):
        """Wait until the process ends; return its exit code and the lines that are left on the screen."""
        self._read_until(lambda: self.process.poll() is not None, "it goes on")
        while select.select([self.terminal], [], [], 0.1)[0]:
            self._read()
        return self.process.returncode, on_screen(self.screen)

    def settings_are_as_before(self):
        return termios.tcgetattr(self._inside) == self._before

    def _read_until(self, condition, complaint, patience=PATIENCE):
        deadline = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < deadline, f"{complaint} after {patience} s: {self.screen[-500:]!r}"
            if select.select([self.terminal], [], [], 0.05)[0]:
                self._read()

    def _read(self):
        # A character may be cut at the end: a later piece brings its rest.
        data = os.read(self.terminal, 65536)
        while select.select([self.terminal], [], [], 0.01)[0]:
            data += os.read(self.terminal, 65536)
        self.screen += data.decode("utf-8", "replace")


def on_screen(written):
    """Return the lines that a terminal shows, styles left out: a carriage return goes back and overwrites."""
    shown = []
    for line in re.sub(r"\x1b\[\d*m", "", written).split("\n"):
        cells = ""
        for part in line.split("\r"):
            cells = part + cells[len(part) :]
        shown.append(cells.rstrip())
    return shown
