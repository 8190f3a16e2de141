"""All jobs of one's own. Enter opens one; a job that serves a model opens its chat."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar, Final

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Input

from tui.commands import Kind, Subject
from tui.facts import Fact, JobHead
from tui.screens.gathering import Gathering
from tui.state import jobs
from tui.state.job import ENDED
from tui.state.rows import Row, say
from tui.widgets.panels import Panel, TooSmall
from tui.widgets.reading import Reading
from tui.widgets.virtual_table import Column, VirtualTable

COLUMNS: Final = (
    Column(id="state", label="state", width=9),
    Column(id="name", label="name", width=18),
    Column(id="reason", label="waiting for", width=36, grows=True),
    Column(id="step", label="step", width=11, right=True, rank=1),
    Column(id="loss", label="loss", width=8, right=True, rank=4),
    Column(id="money", label="cost/cap", width=15, right=True, rank=2),
    Column(id="begun", label="begun", width=14, right=True, rank=5),
    Column(id="id", label="job", width=13, rank=6),
    Column(id="simulated", label="", width=9, rank=3),
)


class JobTable(VirtualTable):
    """Enter opens a job."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Open", key_display="⏎"),
    ]


class JobsScreen(Gathering):
    """The list of jobs."""

    MODE = "jobs"
    HELP_TEXT = (
        "Your jobs, and for whom each of them waits. Enter opens one; a job that serves a model "
        "opens its chat."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "New job"),
        Binding("slash", "filter", "Filter", key_display="/"),
        Binding("f", "states", "States"),
        Binding("t", "trust", "Trust"),
        Binding("y", "copy", "Copy id"),
        Binding("Y", "show_id", "Show the id to select", show=False),
        Binding("v", "view", "Open the job, not its chat", show=False),
        Binding("escape", "back", "Leave the filter", show=False),
    ]

    DEFAULT_CSS = """
    JobsScreen #strip { border-top: solid $panel; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.state = jobs.State()
        self._since: int | None = None
        self._rows: tuple[JobHead, ...] = ()

    def body(self) -> Iterable[Widget]:
        """Summary, filter, table."""
        with Vertical(classes="room"):
            yield Panel(id="summary")
            yield Input(placeholder="filter: parts of a name, an id or a state", id="filter")
            yield JobTable(COLUMNS, id="table")
            yield Panel(id="strip")
        yield TooSmall()

    def on_mount(self) -> None:
        """The table has the keys."""
        super().on_mount()
        self.query_one("#filter").display = False
        self.table.focus()

    @property
    def table(self) -> JobTable:
        """The table."""
        return self.query_one(JobTable)

    @property
    def subject(self) -> Subject:
        """All jobs."""
        return Subject(kind=Kind.JOBS)

    @property
    def head(self) -> JobHead | None:
        """The job under the cursor."""
        return self.state.heads.get(self.table.key_at(self.table.cursor))

    def on_screen_resume(self) -> None:
        """Seen; from now on seconds of waiting count."""
        if self._since is None:
            self._since = self.now
        super().on_screen_resume()

    @property
    def since(self) -> int:
        """When somebody first looked."""
        return self.now if self._since is None else self._since

    def take(self, fact: Fact, now: int) -> None:
        """Apply a fact."""
        self.state = jobs.apply(self.state, fact, now)

    def open_link(self, word: str) -> None:
        """Open the job whose id begins so."""
        self.state = dataclasses.replace(self.state, wanted=word)
        self.redraw()

    def _open_wanted(self) -> None:
        wanted = self.state.wanted
        ids = jobs.found(self.state, wanted) if wanted else ()
        if len(ids) == 1:
            self.state = dataclasses.replace(self.state, wanted="")
            self._open(ids[0])

    def draw(self) -> None:
        """Summary and table."""
        self._open_wanted()  # here, where all that came together was taken
        state, now = self.state, self.now
        summary = jobs.summary(state, self.since, now, online=self.online)
        self.query_one("#summary", Panel).say(summary)
        self.query_one(TooSmall).say(summary)
        self._rows = jobs.listed(state)
        # What the cells say of time changes by the minute at most.
        self.table.show(len(self._rows), self._row, stamp=(self._rows, now // 60_000))

        self._draw_strip()

    def _draw_strip(self) -> None:
        strip = self.query_one("#strip", Panel)
        strip.say(jobs.strip(self.head, self.now) if self._rows else [])

    @on(VirtualTable.RowHighlighted)
    def _moved(self) -> None:
        self._draw_strip()

    def _row(self, index: int) -> Row | None:
        return jobs.row_of(self._rows[index], self.now) if index < len(self._rows) else None

    def plain(self) -> Iterable[str]:
        """The same in lines."""
        return jobs.plain(self.state, self.since, self.now, online=self.online)

    # --- what a person does -----------------------------------------------------------------------

    @on(VirtualTable.RowSelected)
    def _selected(self, message: VirtualTable.RowSelected) -> None:
        head = self.state.heads.get(message.key)
        if head is not None and head.kind == "serve" and head.state not in ENDED:
            self.blindhost.open(("chat", head.id))
        else:
            self._open(message.key)

    def _open(self, job: str) -> None:
        from tui.screens.job import JobScreen

        screen = JobScreen(job)
        if (head := self.state.heads.get(job)) is not None:
            screen.take(head, self.now)
        self.app.push_screen(screen)

    def action_view(self) -> None:
        """The job, whatever it does."""
        if (head := self.head) is not None:
            self._open(head.id)

    def action_new(self) -> None:
        """A new job."""
        self.blindhost.open(("new",))

    def action_filter(self) -> None:
        """Show those with these words alone."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    @on(Input.Changed, "#filter")
    def _filtered(self, event: Input.Changed) -> None:
        self.state = dataclasses.replace(self.state, filter=event.value)
        self.redraw()

    @on(Input.Submitted, "#filter")
    def _filter_done(self) -> None:
        self.table.focus()

    def action_states(self) -> None:
        """All, not over, over, failed."""
        self.state = jobs.next_which(self.state)
        self.redraw()

    def action_back(self) -> None:
        """Show all again."""
        field = self.query_one("#filter", Input)
        field.value = ""
        field.display = False
        self.state = dataclasses.replace(self.state, filter="", wanted="")
        self.table.focus()
        self.redraw()

    def action_trust(self) -> None:
        """Who opened what of this job, on what evidence."""
        if (head := self.head) is not None:
            self.blindhost.open(("trust", head.id))

    def action_copy(self) -> None:
        """The job's whole id."""
        if (head := self.head) is not None:
            self.blindhost.copy(head.id, what="the job's id")

    def action_show_id(self) -> None:
        """The id alone on a line."""
        if (head := self.head) is not None:
            self.app.push_screen(Reading("the job's id", [say(head.id)]))
