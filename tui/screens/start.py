"""Start: from nothing to the first job. Reading is free; the limits stand before the payment."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Final

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import OptionList

from tui.facts import Fact
from tui.screens.window import Window
from tui.state import start
from tui.state.rows import say
from tui.state.start import StepName
from tui.widgets.market_panel import MarketPanel
from tui.widgets.panels import Panel, TooSmall
from tui.widgets.passphrase_panel import MakeKeysPanel, UnlockPanel
from tui.widgets.pick_list import PickList
from tui.widgets.reading import Reading

REHEARSAL: Final = (
    say("In the source tree, this runs all parties on this machine, on the simulated platform:"),
    say(""),
    say("make demo ARGS=--tui"),
    say(""),
    say("It costs nothing, and proves nothing about hardware: each screen says SIMULATED."),
)


class StepList(PickList):
    """The steps, one a line; Enter or a click does one."""

    DEFAULT_CSS = """
    StepList { margin: 1 0; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select", "Do it", key_display="⏎"),
    ]


class StartScreen(Window):
    """Five steps."""

    MODE = "start"
    HELP_TEXT = "Five steps to the first job. Enter does the one under the cursor."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new_job", "New job"),
        Binding("y", "copy", "Copy identity", show=False),
        Binding("Y", "show_id", "Show the identity to select", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.state = start.State()
        self._wanted: StepName | None = None
        """Asked for before this home was read: done once it is."""

    def body(self) -> Iterable[Widget]:
        """Headline, steps, news, limits."""
        with Vertical(classes="room"):
            yield Panel(id="headline")
            yield StepList(id="steps")
            yield Panel(id="news")
            yield Panel(id="limits")
        yield TooSmall()

    def on_mount(self) -> None:
        """The list has the keys."""
        super().on_mount()
        self.query_one("#limits", Panel).say(start.LIMITS)
        self.query_one(StepList).focus()

    def take(self, fact: Fact, now: int) -> None:
        """Apply a fact."""
        self.state = start.apply(self.state, fact, now)

    def draw(self) -> None:
        """Show the state."""
        shared, now = self.shared, self.now
        headline = start.headline(self.state, shared, now)
        self.query_one("#headline", Panel).say(headline)
        self.query_one(TooSmall).say(headline)
        width = min(110, max(40, self.size.width - 3))
        lines = [
            start.step_line(number, each, width)
            for number, each in enumerate(start.steps(shared, now), start=1)
        ]
        waiting = next((at for at, each in enumerate(lines) if each.text.startswith("!")), 0)
        self.query_one(StepList).show(lines, at=waiting)
        self.query_one("#news", Panel).say(start.news(self.state, shared, now))
        if self._wanted is not None and shared.setup is not None:
            wanted, self._wanted = self._wanted, None
            self.call_after_refresh(self._do_step, wanted)

    @on(OptionList.OptionSelected)
    def _do(self, event: OptionList.OptionSelected) -> None:
        steps = start.steps(self.shared, self.now)
        if event.option_index < len(steps):
            self._do_step(steps[event.option_index].name)

    def _do_step(self, name: StepName) -> None:
        setup = self.shared.setup
        match name:
            case StepName.KEYS | StepName.MARKET if setup is None:
                self._wanted = name
                self.notify("this home is still being read", markup=False)
            case StepName.KEYS | StepName.MARKET if setup is not None and setup.locked:
                self.app.push_screen(UnlockPanel(), self._asked("opening the keys"))
            case StepName.KEYS | StepName.MARKET if setup is not None and not setup.identity:
                panel = MakeKeysPanel(
                    market_url=setup.market_url, market_identity=setup.market_identity
                )
                self.app.push_screen(panel, self._asked("making keys"))
            case StepName.KEYS:
                self.blindhost.action_go("keys")
            case StepName.MONEY:
                self.blindhost.action_go("money")
            case StepName.MODEL | StepName.DATA:
                self._open_new_job(step=name.value)
            case StepName.LOOK if setup is None or not setup.market_url:
                self.app.push_screen(MarketPanel(), self._pinned)
            case StepName.REHEARSE:
                self.app.push_screen(Reading("Rehearse on this machine", REHEARSAL))
            case _:
                self.blindhost.action_go("offers")

    def _asked(self, words: str) -> Callable[[str | None], None]:
        def take(command: str | None) -> None:
            if command:  # empty: the panel was closed
                self.asked(command, words)

        return take

    def _pinned(self, command: str | None) -> None:
        if command:
            self.asked(command, start.PINNING)
            self.blindhost.action_go("offers")

    def asked(self, command: str, words: str) -> None:
        """A panel posted a command."""
        self.state = start.asked(self.state, command=command, words=words, now=self.now)
        self.redraw()

    def _open_new_job(self, *, step: str) -> None:
        from tui.screens.new_job import NewJobScreen

        self.app.push_screen(NewJobScreen(step=step))

    def action_new_job(self) -> None:
        """A new job."""
        self._open_new_job(step="model")

    def action_copy(self) -> None:
        """One's own identity, to give to others."""
        if self.shared.setup is not None and self.shared.setup.identity:
            self.blindhost.copy(self.shared.setup.identity, what="identity")

    def action_show_id(self) -> None:
        """The identity alone on its line."""
        if self.shared.setup is not None and self.shared.setup.identity:
            self.app.push_screen(Reading("your identity", [say(self.shared.setup.identity)]))

    def plain(self) -> Iterable[str]:
        """The same in lines."""
        return start.plain(self.state, self.shared, self.now)
