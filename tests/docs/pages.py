"""Runs the very commands that a page of docs/ shows, in a shell of the party whose page it is.

- A block fenced as ``sh`` is run, one fenced otherwise is not. Blocks stand under headings and are
  asked for by them, so a test reads like the story that the pages tell.
- A party's shell lives as long as its terminal would: variables and background jobs stay. It has an
  environment of its own, and is told only what its page says that others tell it.
- The first command that fails ends its block, and the test, with what was printed.
- `close` ends everything below every shell, and no other process.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from demo.parties import descendants

DOCS: Final = Path(__file__).parents[2] / "docs"
BLOCK_SECONDS: Final = 240.0
STOP_SECONDS: Final = 15.0
TAIL: Final = 3000

_SECTION: Final = re.compile(r"^## (.+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections(page: str) -> dict[str, str]:
    """Heading → the commands under it, in the page's order; headings without any are left out."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = {name: "".join(_BLOCK.findall(body)) for name, body in _SECTION.findall(text)}
    return {name: commands for name, commands in found.items() if commands}


class PageError(AssertionError):
    """A command of a page failed; the text says where, and what was printed."""


class Terminal:
    """One party's shell."""

    def __init__(self, folder: Path, page: str, told: dict[str, str]) -> None:
        """`told`: the variables that the page says one has."""
        self.page, self.ran = page, list[str]()
        self._folder = folder / f".{Path(page).stem}"
        self._folder.mkdir(mode=0o700)
        self._count = 0
        self.output = self._folder / "output"
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",
            "LANG": "C.UTF-8",
            "HOME": str(self._folder),
            **told,
        }
        with self.output.open("ab") as file:
            self._shell = subprocess.Popen(
                ["bash", "--noprofile", "--norc"],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,
            )
        self.run("set -euo pipefail")

    def tell(self, **values: str) -> None:
        """What another party says: the page names these variables."""
        self.run("".join(f"{name}='{value}'\n" for name, value in values.items()))

    def section(self, heading: str, page: str | None = None) -> str:
        """Run all commands under a heading of the own page, or of another; what they printed."""
        page = page or self.page
        assert heading in sections(page), f"{page} has no {heading!r}"
        self.ran.append(heading)
        return self.run(sections(page)[heading], f"{page}, {heading}")

    def run(self, commands: str, where: str = "") -> str:
        """Run commands to their end in this shell. Raises PageError, AssertionError."""
        self._count += 1
        script = self._folder / f"{self._count}.sh"
        done = self._folder / f"{self._count}.done"
        script.write_text(commands, encoding="utf-8")
        before = self.output.stat().st_size
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"source '{script}' < /dev/null\n: > '{done}'\n".encode())
        self._shell.stdin.flush()
        deadline = time.monotonic() + BLOCK_SECONDS
        while not done.exists():
            said = self.output.read_bytes()[before:].decode("utf-8", "replace")[-TAIL:]
            if (status := self._shell.poll()) is not None and not done.exists():
                raise PageError(f"{where}: ended with {status}: {said}")
            if time.monotonic() > deadline:
                raise PageError(f"{where}: no end within {BLOCK_SECONDS:.0f} s: {said}")
            time.sleep(0.02)
        return self.output.read_bytes()[before:].decode("utf-8", "replace")

    def value(self, name: str) -> str:
        """A variable of the shell, as its page would have one tell others."""
        path = self._folder / "value"
        self.run(f"printf %s \"${name}\" > '{path}'")
        return path.read_text(encoding="utf-8")

    def close(self) -> None:
        """End the shell and all that it started: first politely.

        A shell that ended by itself has left its daemons to the system: they are in its session.
        """
        below = {*descendants(self._shell.pid), *self._session()}
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self._shell.kill()
        self._shell.wait(STOP_SECONDS)
        if self._shell.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._shell.stdin.close()
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in below):
            time.sleep(0.05)
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _session(self) -> set[int]:
        """Processes of the shell's own session, but for the shell."""
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self._shell.pid:
                with contextlib.suppress(OSError):
                    if os.getsid(int(entry.name)) == self._shell.pid:
                        found.add(int(entry.name))
        return found
