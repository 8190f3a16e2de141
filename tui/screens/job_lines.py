"""Events of a job, or the log that its enclave sealed to you: full screen, with a search."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Input

from tui.commands import Kind, MoreEvents, Subject
from tui.facts import Fact, JobEvent, Progress
from tui.screens.gathering import Gathering, open_from_list
from tui.screens.window import new_id
from tui.state import job, job_words
from tui.state.job import State
from tui.state.lines import Line, one, text_of
from tui.state.rows import Tone, say
from tui.text import short
from tui.widgets.line_view import Lines, LineView
from tui.widgets.panels import TooSmall
from tui.widgets.reading import Reading


class What(enum.StrEnum):
    """Which lines."""

    EVENTS = "events"
    LOG = "log"


class JobLinesScreen(Gathering):
    """Lines of one job; the newest are followed until somebody looks at older ones."""

    MODE = "jobs"
    HELP_TEXT = (
        "Everything that happened to this job, or what its enclave sealed to you. / searches, "
        "n and N go from hit to hit, End follows what comes."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back"),
        Binding("slash", "search", "Search", key_display="/"),
        Binding("n", "hit(1)", "Next hit"),
        Binding("N", "hit(-1)", "Hit before", show=False),
        Binding("m", "more", "Older"),
        Binding("y", "copy", "Copy line"),
        Binding("g", "first", "First", show=False),
        Binding("G", "last", "Last", show=False),
    ]
    DEFAULT_CSS = """
    JobLinesScreen #status { padding: 0 1; }
    """

    def __init__(self, state: State, what: What) -> None:
        super().__init__()
        self.state, self.what = state, what

    def body(self) -> Iterable[Widget]:
        """What it is, the search, the lines."""
        with Vertical(classes="room"):
            yield Lines(id="status")
            yield Input(placeholder="search: a part of a line", id="find")
            yield LineView(self._line, text=_searched, cursor=True, follow=True, id="lines")
        yield TooSmall()

    def on_mount(self) -> None:
        """The lines have the keys."""
        super().on_mount()
        self.query_one("#find").display = False
        self.lines.focus()

    @property
    def lines(self) -> LineView:
        """The lines."""
        return self.query_one("#lines", LineView)

    @property
    def subject(self) -> Subject:
        """Whose lines they are."""
        return Subject(kind=Kind.JOB, of=self.state.job)

    def open_link(self, word: str) -> None:
        """Another job, by the beginning of its id."""
        if not self.state.job.startswith(word.lower()):
            open_from_list(self.blindhost, word)

    def take(self, fact: Fact, now: int) -> None:
        """Apply a fact."""
        self.state = job.apply(self.state, fact, now)

    @property
    def rows(self) -> tuple[JobEvent, ...] | tuple[Progress, ...]:
        """What is shown."""
        return self.state.events if self.what is What.EVENTS else self.state.records

    def _line(self, row: JobEvent | Progress) -> Line:
        if isinstance(row, JobEvent):
            return job_words.event_line(row, self.zone)
        return job_words.record_line(row)

    def draw(self) -> None:
        """Lines, and how many."""
        self.lines.show(self.rows)
        status = self._status()
        self.query_one("#status", Lines).say([one(status, Tone.STRONG)])
        self.query_one(TooSmall).say([say(status)])

    def _status(self) -> str:
        count = len(self.rows)
        name = "events" if self.what is What.EVENTS else "records, opened with your key"
        words = f"{count:,} {name} of job {short(self.state.job)}"
        if self.lines.needle:
            words += f"; {len(self.lines.hits):,} have {self.lines.needle!r}"
        if not count:
            words += ": none came yet"
        return words

    def plain(self) -> Iterable[str]:
        """The same in lines."""
        yield self._status()
        for row in self.rows:
            yield text_of(self._line(row))

    # --- what a person does -----------------------------------------------------------------------

    def action_back(self) -> None:
        """Out of the search; then back to the job."""
        field = self.query_one("#find", Input)
        if field.display:
            field.value = ""
            field.display = False
            self.lines.search("")
            self.lines.focus()
            self.redraw()
        else:
            self.dismiss(None)

    def action_search(self) -> None:
        """Look for a part of a line."""
        field = self.query_one("#find", Input)
        field.display = True
        field.focus()

    @on(Input.Changed, "#find")
    def _typed(self, event: Input.Changed) -> None:
        self.lines.search(event.value)
        self.redraw()

    @on(Input.Submitted, "#find")
    def _search_done(self) -> None:
        self.lines.focus()
        self.lines.go_to_hit(-1)

    def action_hit(self, way: int) -> None:
        """The next line that has it."""
        if self.lines.go_to_hit(way) is None:
            self.notify("no line has it; / searches", markup=False)

    def action_first(self) -> None:
        """The oldest line that is here."""
        self.lines.action_end(last=False)

    def action_last(self) -> None:
        """The newest; what comes is followed."""
        self.lines.action_end(last=True)

    def action_more(self) -> None:
        """Older events than those that are here."""
        if self.what is What.EVENTS and self.state.events and self.state.events[0].offset > 1:
            before = self.state.events[0].offset
            self.ask(MoreEvents(id=new_id(), job=self.state.job, before=before))

    def action_copy(self) -> None:
        """The line under the cursor."""
        if self.lines.row is not None:
            self.blindhost.copy(text_of(self._line(self.lines.row)), what="the line")

    @on(LineView.Chosen)
    def _chosen(self) -> None:
        row = self.lines.row
        if isinstance(row, JobEvent):
            lines = job_words.event_lines(row, self.zone)
        else:
            lines = [f"{each.name}: {getattr(row, each.name)}" for each in dataclasses.fields(row)]
        self.app.push_screen(Reading("one line", [say(each) for each in lines]))


def _searched(row: JobEvent | Progress) -> str:
    if isinstance(row, JobEvent):
        return f"{row.kind} {row.words}"
    return f"step {row.step} {row.loss} {row.words}"
