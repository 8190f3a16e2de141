"""Trust: who opened a job's data, on what evidence, and what nobody checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.widget import Widget

from tui.commands import Export, Kind, Subject, Verify
from tui.facts import CheckLine, Fact, JobHead
from tui.screens.gathering import Gathering
from tui.screens.window import new_id
from tui.state import jobs, trust
from tui.state import trust_words as words
from tui.state.lines import Line, flat, one
from tui.state.rows import Row, Tone, say
from tui.widgets.checks import COLUMNS, CheckTable, FoundWanted
from tui.widgets.line_view import Lines
from tui.widgets.panels import TooSmall
from tui.widgets.path_panel import PathPanel
from tui.widgets.reading import Reading
from tui.widgets.virtual_table import VirtualTable

ID_CHARACTERS: int = 64
"""Of a whole job id."""


class TrustScreen(Gathering):
    """One job's evidence."""

    MODE = "trust"
    HELP_TEXT = (
        "What was checked before keys were released: what failed first, then what nobody checked. "
        "A custodian's entry is its own word; verdicts here are this machine's computation."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "verify", "Verify again"),
        Binding("f", "only_open", "Only not passed"),
        Binding("tab", "page", "Releases"),
        Binding("d", "compare", "Compare"),
        Binding("x", "export", "Export"),
        Binding("y", "copy", "Copy found"),
        Binding("g", "groups", "All groups", show=False),
        Binding("p", "generation(-1)", "Generation before", show=False),
        Binding("n", "generation(1)", "Next generation", show=False),
        Binding("Y", "repeat", "Show the command that repeats it", show=False),
        Binding("o", "other", "Another job", show=False),
        Binding("escape", "back", "Back to the checks", show=False),
    ]
    DEFAULT_CSS = """
    TrustScreen #head, TrustScreen #notes { padding: 0 1; }
    TrustScreen #middle { height: 1fr; }
    TrustScreen #side { width: 60; border-left: solid $panel; padding: 0 1; }
    TrustScreen.-usual #side { width: 40; }
    TrustScreen.-narrow #side { display: none; width: 1fr; border: none; }
    TrustScreen.-narrow.-releases #side { display: block; }
    TrustScreen.-narrow.-releases #checks { display: none; }
    """

    def __init__(self) -> None:
        super().__init__()
        self.state = trust.State()
        self.jobs = jobs.State()
        self._since: int | None = None
        self._rows: tuple[tuple[Row, CheckLine | None], ...] = ()
        self._folds = False
        """A person folded or opened a group: it stays as it was put."""

    def body(self) -> Iterable[Widget]:
        """Headline, checks over the strip, releases beside them."""
        with Vertical(classes="room"):
            yield Lines(id="head")
            yield Lines(id="notes")
            with Horizontal(id="middle"):
                yield CheckTable(COLUMNS, id="checks")
                with VerticalScroll(id="side"):
                    yield Lines(id="releases")
            yield FoundWanted(id="strip")
        yield TooSmall()

    def on_mount(self) -> None:
        """The checks have the keys."""
        super().on_mount()
        self.table.focus()

    @property
    def table(self) -> CheckTable:
        """The checks."""
        return self.query_one(CheckTable)

    @property
    def subject(self) -> Subject:
        """A job's evidence; while none is chosen, the jobs."""
        if self.state.job:
            return Subject(kind=Kind.TRUST, of=self.state.job)
        return Subject(kind=Kind.JOBS)

    def on_screen_resume(self) -> None:
        """Seen; from now on seconds of waiting count."""
        if self._since is None:
            self._since = self.now
        super().on_screen_resume()

    @property
    def since(self) -> int:
        """When somebody first looked at this job."""
        return self.now if self._since is None else self._since

    # --- facts ------------------------------------------------------------------------------------

    def take(self, fact: Fact, now: int) -> None:
        """Apply a fact."""
        self.state = trust.apply(self.state, fact, now)
        if isinstance(fact, JobHead):
            self.jobs = jobs.apply(self.jobs, fact, now)

    def open_link(self, word: str) -> None:
        """The job whose id begins so."""
        self.jobs = dataclasses.replace(self.jobs, wanted=word)
        if len(word) == ID_CHARACTERS:
            self._choose(word)
        else:
            self.state = trust.State(only_open=self.state.only_open)
        if self._seen:
            self.look()
        self.redraw()

    def _choose_known(self) -> None:
        """Of the jobs that are known: what a link names, else the first of the list."""
        if self.state.job:
            return
        if self.jobs.wanted:
            ids = jobs.found(self.jobs, self.jobs.wanted)
            if len(ids) == 1:
                self._choose(ids[0])
        elif listed := jobs.listed(self.jobs):
            self._choose(listed[0].id)

    def _choose(self, job: str) -> None:
        self.jobs = dataclasses.replace(self.jobs, wanted="")
        self.state = trust.choose(self.state, job)
        self._since = self.now
        if self._seen:
            self.look()

    # --- drawing ----------------------------------------------------------------------------------

    def draw(self) -> None:
        """All parts; each draws again only where a word differs."""
        self._choose_known()  # here, where all that came together was taken
        state, now = self.state, self.now
        cells = max(20, self.size.width - 2)
        head = words.head(state, self.since, now, cells) if state.job else self._no_job()
        self.query_one("#head", Lines).say(head)
        self.query_one("#notes", Lines).say(words.tab_words(state, online=self.online, now=now))
        self.query_one(TooSmall).say([flat(each) for each in head])
        if not self._folds:
            room = self.table.size.height - 1
            self.state = state = trust.unfold_where_it_fits(state, room)
        self._rows = trust.rows(state)
        self.table.show(len(self._rows), self._row, stamp=self._rows)
        self.query_one(FoundWanted).show(self.check)
        self.query_one("#releases", Lines).say(words.side(state, now, self.zone))

    def _no_job(self) -> list[Line]:
        """None is chosen: which are known, or that none is."""
        if found := jobs.link_words(self.jobs):
            return [one(found, Tone.WARN)]
        said = jobs.summary(self.jobs, self.since, self.now, online=self.online)
        return [(each,) for each in said]

    def _row(self, index: int) -> Row | None:
        return self._rows[index][0] if index < len(self._rows) else None

    @property
    def check(self) -> CheckLine | None:
        """The check under the cursor."""
        at = self.table.cursor
        return self._rows[at][1] if at < len(self._rows) else None

    def plain(self) -> Iterable[str]:
        """The same in lines."""
        if not self.state.job:
            return [flat(each).text for each in self._no_job()]
        return words.plain(self.state, self.since, self.now, self.zone, online=self.online)

    @on(VirtualTable.RowHighlighted)
    def _moved(self) -> None:
        self.query_one(FoundWanted).show(self.check)

    # --- what a person does -----------------------------------------------------------------------

    @on(VirtualTable.RowSelected)
    def _selected(self, message: VirtualTable.RowSelected) -> None:
        check, shown = self.check, self.state.shown
        if check is None:
            self._folds = True
            self.state = trust.turn(self.state, message.key)
            self.redraw()
        elif shown is not None:
            lines = words.explain(check, shown, self.state.job)
            self.app.push_screen(Reading(f"check {check.id}", lines))

    def action_verify(self) -> None:
        """Make all checks again, now, on this machine, from the evidence that is stored."""
        shown = self.state.shown
        if shown is None:
            self.notify("there is no evidence to verify yet", markup=False)
            return
        name = new_id()
        self.state = trust.asking(self.state, name, "verifying again, now, on this machine")
        self.ask(Verify(id=name, job=self.state.job, generation=shown.generation))
        self.redraw()

    def action_only_open(self) -> None:
        """What did not pass, alone; again: all."""
        self.state = dataclasses.replace(self.state, only_open=not self.state.only_open)
        self.redraw()

    def action_groups(self) -> None:
        """Open all groups, or fold them."""
        self._folds = True
        self.state = trust.turn_all(self.state)
        self.redraw()

    def action_generation(self, by: int) -> None:
        """The generation before, or after."""
        self.state = trust.step_generation(self.state, by)
        self.redraw()

    def action_page(self) -> None:
        """Releases, where there is no room for them beside the checks."""
        self.toggle_class("-releases")
        side = self.query_one("#side")
        (self.table if self.focused is side else side).focus()

    def action_back(self) -> None:
        """The checks again."""
        self.remove_class("-releases")
        self.table.focus()

    def action_compare(self) -> None:
        """A generation beside the one before, and the custodians beside each other."""
        self.app.push_screen(Reading("compare", words.compare(self.state)))

    def action_export(self) -> None:
        """Write a transcript that opens offline."""
        shown = self.state.shown
        if shown is None:
            self.notify("there is no evidence to export yet", markup=False)
            return
        sentence = (
            "Evidence, endorsements, policy, result and release entry in one file. It opens "
            "offline: blindhost trust verify FILE. No key stands in it."
        )
        path = f"transcript-{self.state.job[:12]}-{shown.generation}.json"
        self.app.push_screen(PathPanel(sentence, path), self._export_to)

    def _export_to(self, path: str | None) -> None:
        shown = self.state.shown
        if path and shown is not None:
            name = new_id()
            self.state = trust.asking(self.state, name, f"writing {path}")
            self.ask(Export(id=name, job=self.state.job, generation=shown.generation, path=path))
            self.redraw()

    def action_copy(self) -> None:
        """What the check under the cursor found."""
        if self.check is not None:
            self.blindhost.copy(self.check.found, what=f"found by {self.check.id}")
        elif self.state.job:
            self.blindhost.copy(self.state.job, what="the job's id")

    def action_repeat(self) -> None:
        """The command that repeats it, and the values, alone on their lines."""
        shown = self.state.shown
        if shown is None:
            return
        lines = [say("to repeat it:", Tone.FAINT)]
        lines.append(say(words.repeat_line(self.state.job, shown.generation)))
        if self.check is not None:
            lines += [say("found", Tone.FAINT), say(self.check.found)]
            lines += [say("wanted", Tone.FAINT), say(self.check.wanted)]
        self.app.push_screen(Reading("select by Shift+drag", lines))

    def action_other(self) -> None:
        """Choose another job: on the list, `t` comes back here."""
        self.blindhost.action_go("jobs")
