"""One job: who acts, how the loss goes, what it costs, what is safe, and what happened.

Widths decide how much of it stands side by side; at 80 columns stages are one line and numbers are
few. A job that is over is a page: what came of it, why, what to change, what it cost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widget import Widget

from tui.commands import CloseJob, FetchResult, Kind, Subject
from tui.facts import Fact, JobEvent
from tui.screens.gathering import Gathering, open_from_list
from tui.screens.job_lines import JobLinesScreen, What
from tui.screens.window import new_id
from tui.state import curve, job
from tui.state import job_words as words
from tui.state.job import State
from tui.state.lines import Line, clock, fit, flat, line, one
from tui.state.rows import Tone, Words, say
from tui.text import short
from tui.widgets.confirm import Confirm
from tui.widgets.line_view import Lines, LineView
from tui.widgets.loss_plot import LossPlot, PlotStyle
from tui.widgets.panels import TooSmall
from tui.widgets.path_panel import PathPanel
from tui.widgets.reading import Reading
from tui.widgets.stage_line import StageLine

WIDE_CELLS: int = 100
LABEL_CELLS: int = 11
NARROW_LABEL_CELLS: int = 6


class JobScreen(Gathering):
    """One job."""

    MODE = "jobs"
    HELP_TEXT = (
        "One job: stages, loss, money, what is safe if the host dies now. Arrows go from stage to "
        "stage and say who acts. `blindhost job events ID --follow` prints a line for each event."
    )
    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "trust", "Trust"),
        Binding("e", "events", "Events"),
        Binding("g", "get", "Get adapter"),
        Binding("c", "close", "Close job"),
        Binding("l", "log", "Log"),
        Binding("n", "chat", "Chat"),
        Binding("y", "copy", "Copy id"),
        Binding("escape", "back", "Back", show=False),
        Binding("z", "enlarge", "Enlarge", show=False),
        Binding("u", "cap", "Why the cap stays", show=False),
        Binding("s", "samples", "Why no samples", show=False),
        Binding("Y", "show_id", "Show the id to select", show=False),
        Binding("left", "stage(-1)", "Stage before", show=False),
        Binding("right", "stage(1)", "Next stage", show=False),
    ]
    DEFAULT_CSS = """
    JobScreen #head, JobScreen #note, JobScreen #explain, JobScreen #page, JobScreen #wait,
    JobScreen #sentence { padding: 0 1; }
    JobScreen StageLine { margin: 0 1; }
    JobScreen.-narrow StageLine { height: 1; }
    JobScreen #explain { background: $surface; max-height: 6; }
    JobScreen #middle { height: 2fr; }
    JobScreen #numbers { width: 48; padding: 0 1; }
    JobScreen.-narrow #numbers { width: 42; }
    JobScreen #wait { height: 2fr; }
    JobScreen #events { height: 1fr; border-top: solid $panel; padding: 0 1; }
    JobScreen.-short #events { height: 5; }
    JobScreen.-large-plot #events, JobScreen.-large-plot #numbers { display: none; }
    JobScreen.-large-events #middle, JobScreen.-large-events #sentence,
    JobScreen.-large-events #page, JobScreen.-large-events #wait { display: none; }
    JobScreen.-large-events #events { height: 1fr; }
    """

    def __init__(self, of: str) -> None:
        super().__init__()
        self.state = State(job=of)
        self._since: int | None = None
        self._can: tuple[bool, ...] = ()

    def body(self) -> Iterable[Widget]:
        """Head, stages, page or plot beside numbers, a sentence, the last events."""
        with Vertical(classes="room"):
            yield Lines(id="head")
            yield Lines(id="note")
            yield StageLine(id="stages")
            yield Lines(id="explain")
            yield Lines(id="page")
            yield Lines(id="wait")
            with Horizontal(id="middle"):
                yield LossPlot(id="plot")
                yield Lines(id="numbers")
            yield Lines(id="sentence")
            yield LineView(self._event_line, follow=True, id="events")
        yield TooSmall()

    @property
    def subject(self) -> Subject:
        """The one job."""
        return Subject(kind=Kind.JOB, of=self.state.job)

    def on_screen_resume(self) -> None:
        """Seen; from now on seconds of waiting count."""
        if self._since is None:
            self._since = self.now
        super().on_screen_resume()

    def open_link(self, word: str) -> None:
        """Another job, by the beginning of its id."""
        if not self.state.job.startswith(word.lower()):
            open_from_list(self.blindhost, word)

    def take(self, fact: Fact, now: int) -> None:
        """Apply a fact."""
        said = self.state.said
        self.state = job.apply(self.state, fact, now)
        if self.state.said and self.state.said != said:
            self.notify(self.state.said, markup=False)

    # --- drawing ----------------------------------------------------------------------------------

    def draw(self) -> None:
        """All parts; each draws again only where a word differs."""
        state, now = self.state, self.now
        cells = max(20, self.size.width - 2)
        narrow = self.size.width < WIDE_CELLS
        self._say("head", [words.header(state, cells)])
        self._say("note", self._notes())
        self.query_one(StageLine).show(state.stages)
        self._draw_explained()
        page = words.page(state)
        self._say("page", page)
        draws = job.trains(state)
        self._say("wait", [] if page or draws else words.waiting(state, self.since, now))
        self.query_one("#middle").display = draws or bool(page)
        plot = self.query_one(LossPlot)
        plot.display = draws
        plot.show(state.curve, job.marks(state), self._plot_style())
        numbers = words.numbers(state, now, narrow=narrow)
        label_cells = NARROW_LABEL_CELLS if narrow else LABEL_CELLS
        said = [_number(label, value, label_cells) for label, value in numbers]
        self._say("numbers", said)
        self._say("sentence", self._sentence(narrow=narrow))
        self.query_one("#events", LineView).show(state.events)
        small = [flat(words.header(state, 58)), *(flat(each) for each in said)]
        self.query_one(TooSmall).say(small)
        self._offer_keys()

    @property
    def since(self) -> int:
        """When somebody first looked."""
        return self.now if self._since is None else self._since

    def _say(self, name: str, lines: Iterable[Line]) -> None:
        self.query_one(f"#{name}", Lines).say(tuple(lines))

    def _notes(self) -> list[Line]:
        found = []
        if not self.online and self.state.heard_at is not None:
            at = clock(self.state.heard_at, self.zone)
            found.append(
                one(f"OFFLINE: last heard {at}; what stands here is as of then", Tone.WARN)
            )
        failure = self.state.failure
        if failure is not None and failure.as_of >= (self.state.heard_at or 0):
            found.append(one(f"not read: {failure.words} ({failure.code}); old below", Tone.BAD))
        return found

    def _sentence(self, *, narrow: bool) -> list[Line]:
        text = curve.sentence(self.state.curve)
        if not text:
            return []
        found = [one(text) if narrow else line(text, say(f"   {words.ONLY_YOU}", Tone.FAINT))]
        if not narrow and not self.state.ended:
            found += [one(each, Tone.WARN) for each in words.resumed(self.state)]
        return found

    def _plot_style(self) -> PlotStyle:
        if self.blindhost.plain:
            return PlotStyle.WORDS
        if self.blindhost.theme.startswith("ansi"):
            return PlotStyle.BLOCKS
        return PlotStyle(getattr(self.blindhost, "plot", PlotStyle.BRAILLE))

    def _event_line(self, event: JobEvent) -> Line:
        return words.event_line(event, self.zone)

    def _draw_explained(self) -> None:
        name = self.query_one(StageLine).cursor
        self._say("explain", words.explain(self.state, name, self.now) if name else [])

    def plain(self) -> Iterable[str]:
        """The same in lines."""
        return words.plain(self.state, self.since, self.now, self.zone, online=self.online)

    # --- keys that can do something ---------------------------------------------------------------

    def _offer_keys(self) -> None:
        can = tuple(self._may(each) for each in ("get", "close", "chat"))
        if can != self._can:
            self._can = can
            self.refresh_bindings()

    def _may(self, action: str) -> bool:
        head = self.state.head
        if head is None:
            return False
        if action == "get":
            return head.state == "succeeded" and head.kind != "serve"
        if action == "close":
            return not self.state.ended
        return (head.kind == "serve" and not self.state.ended) or head.state == "succeeded"

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that can do nothing now are not offered."""
        if action in {"get", "close", "chat"}:
            return self._may(action)
        return super().check_action(action, parameters)

    # --- what a person does -----------------------------------------------------------------------

    def action_back(self) -> None:
        """Out of what is enlarged, off the stages; then to the list."""
        if self.has_class("-large-plot") or self.has_class("-large-events"):
            self.remove_class("-large-plot", "-large-events")
        elif self.focused is not None:
            self.set_focus(None)
        else:
            self.dismiss(None)

    def action_trust(self) -> None:
        """Who opened what, on what evidence."""
        self.blindhost.open(("trust", self.state.job))

    def action_events(self) -> None:
        """All events, with a search."""
        self.app.push_screen(JobLinesScreen(self.state, What.EVENTS))

    @on(LineView.Chosen, "#events")
    def _event_chosen(self) -> None:
        self.action_events()

    def action_log(self) -> None:
        """What the enclave sealed to this buyer, opened here."""
        self.app.push_screen(JobLinesScreen(self.state, What.LOG))

    def action_get(self) -> None:
        """Write the adapter into a folder."""
        self.app.push_screen(
            PathPanel(
                "The adapter is opened on this machine and written into this folder, in the "
                "clear. It opens only if all custodians agree.",
                f"adapter-{self.state.job[:12]}",
            ),
            self._get_into,
        )

    def _get_into(self, path: str | None) -> None:
        if path:
            name = new_id()
            self.state = job.asking(self.state, name)
            self.ask(FetchResult(id=name, job=self.state.job, path=path))

    def action_chat(self) -> None:
        """Speak to what this job serves; of an adapter: how it is served."""
        head = self.state.head
        if head is not None and head.kind == "serve":
            self.blindhost.open(("chat", self.state.job))
        else:
            self._read("chat with the adapter", [one(words.SERVE_WORDS)])

    def action_cap(self) -> None:
        """Why no key raises the cap."""
        self._read("the cap", [one(words.CAP_WORDS)])

    def action_samples(self) -> None:
        """Why no samples are shown; what is known instead."""
        self._read("samples", [one(words.SAMPLES_WORDS), *words.page(self.state)])

    def action_close(self) -> None:
        """End the job for good, after a question."""
        self.app.push_screen(
            Confirm(words.close_sentence(self.state), yes="Close it", no="Keep it"),
            self._close_answered,
        )

    def _close_answered(self, yes: bool | None) -> None:  # noqa: FBT001 - a panel's answer
        if yes:
            name = new_id()
            self.state = job.asking(self.state, name)
            self.ask(CloseJob(id=name, job=self.state.job))
            self.notify(f"closing {short(self.state.job)}", markup=False)

    def action_copy(self) -> None:
        """The job's whole id."""
        self.blindhost.copy(self.state.job, what="the job's id")

    def action_show_id(self) -> None:
        """The id alone on a line."""
        self._read("the job's id", [one(self.state.job)])

    def _read(self, title: str, lines: Iterable[Line]) -> None:
        shown: list[Words] = [flat(each) for each in lines]
        self.app.push_screen(Reading(title, shown))

    def action_enlarge(self) -> None:
        """The events, or the plot, alone; again: all."""
        on_events = self.focused is self.query_one("#events")
        name = "-large-events" if on_events else "-large-plot"
        other = "-large-plot" if on_events else "-large-events"
        self.remove_class(other)
        self.toggle_class(name)

    def action_stage(self, by: int) -> None:
        """To a stage, and what is said of it."""
        stages = self.query_one(StageLine)
        if self.focused is stages:
            stages.action_step(by)
        else:
            stages.focus()

    @on(StageLine.Moved)
    def _on_stage(self) -> None:
        self._draw_explained()


def _number(label: str, value: str, cells: int) -> Line:
    tone = Tone.STRONG if label in {"step", "cost"} else Tone.PLAIN
    return line(say(fit(label, cells), Tone.FAINT), say(value, tone))
