"""What a person watches: steps with their times, a bar while something is long, a table at the end.

Everything goes to stderr, so that ``--json`` keeps stdout for its one object. On no terminal each
step is a line, and progress is a line at most every `QUIET_SECONDS`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import IO, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

QUIET_SECONDS: Final = 10.0


class Display:
    """Steps and progress on stderr."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._said = 0.0

    @contextlib.contextmanager
    def step(self, number: int, text: str) -> Iterator[None]:
        """One step: its text while it runs, its time once done."""
        started = time.monotonic()
        if not self.console.is_terminal:
            self.console.print(f"[{number}] {text} …", markup=False)
        try:
            with self.busy(text):
                yield
        except BaseException:
            self.console.print(f"[{number}] {text}: failed", markup=False)
            raise
        self.console.print(f"[{number}] {text}: {time.monotonic() - started:.1f} s", markup=False)

    @contextlib.contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """A spinner while something unmeasured goes on."""
        if not self.console.is_terminal:
            yield
            return
        with self._bar:
            task = self._bar.add_task(text, total=None, detail="")
            try:
                yield
            finally:
                self._bar.remove_task(task)

    def progress(self, text: str, *, done: int, total: int, detail: str) -> None:
        """How far something measured is."""
        if self.console.is_terminal:
            for task in self._bar.task_ids:
                self._bar.update(
                    task, description=text, completed=done, total=max(1, total), detail=detail
                )
        elif time.monotonic() - self._said > QUIET_SECONDS:
            self._said = time.monotonic()
            self.console.print(f"    {text} {done}/{total} {detail}", soft_wrap=True)

    def write_to(self, file: IO[str]) -> None:
        """From now on as lines into a file: the terminal is somebody else's."""
        self.console = Console(file=file, highlight=False)

    def note(self, text: str) -> None:
        """A line that stays."""
        self.console.print(f"    {text}")

    def table(self, title: str, rows: Mapping[str, object]) -> None:
        """Names and values."""
        table = Table(title=title, show_header=False, title_justify="left")
        table.add_column()
        table.add_column(justify="right")
        for name, value in rows.items():
            table.add_row(name, str(value))
        self.console.print(table)
