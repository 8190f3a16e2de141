"""A real pseudo-terminal with the real command in it, read by pyte."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence

import pyte

WAIT_SECONDS = 90.0


class Terminal:
    """One run of a command, ``python -m tui`` by itself. `raw` is all that reached the terminal."""

    def __init__(self, arguments: Sequence[str], *, columns: int = 100, rows: int = 30) -> None:
        self.start([sys.executable, "-m", "tui", *arguments], columns=columns, rows=rows)

    def start(self, command: Sequence[str], *, columns: int, rows: int) -> None:
        self.screen = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self._size(columns, rows)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "TERM": "xterm-256color",
            "LANG": "C.UTF-8",
            "COLORTERM": "truecolor",
        }
        self.process = subprocess.Popen(
            list(command),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )

    def _size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        self._size(columns, rows)
        self.screen.resize(rows, columns)
        os.kill(self.process.pid, signal.SIGWINCH)

    @property
    def words(self) -> str:
        return "\n".join(self.screen.display)

    def read(self, seconds: float) -> int:
        """Feed what comes within this time; how many bytes."""
        end, count = time.monotonic() + seconds, 0
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([self.master], [], [], left)
            if not ready:
                break
            try:
                data = os.read(self.master, 1 << 16)
            except OSError:
                break
            if not data:
                break
            self.raw += data
            self.stream.feed(data)
            count += len(data)
        return count

    def read_for(self, seconds: float) -> int:
        """The same, to the end of this time."""
        end, count = time.monotonic() + seconds, 0
        while (left := end - time.monotonic()) > 0:
            count += self.read(left)
        return count

    def until(self, *wanted: str, seconds: float = WAIT_SECONDS) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if all(each in self.words for each in wanted):
                return
            self.read(0.05)
            if self.process.poll() is not None and not self.read(0.05):
                break
        raise AssertionError(f"{wanted} never came (exit {self.process.poll()}):\n{self.words}")

    def until_true(self, holds: Callable[[], bool], seconds: float = WAIT_SECONDS) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if holds():
                return
            self.read(0.05)
        at = self.screen.cursor.y
        raise AssertionError(f"it never held; the cursor is on line {at} of\n{self.words}")

    def send(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def settings(self) -> list:
        return termios.tcgetattr(self._slave)

    def end(self) -> int:
        """Wait for its end, and return its status."""
        end = time.monotonic() + WAIT_SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            self.read(0.05)
        self.read(0.05)
        return self.process.wait(timeout=1)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self._slave)
