"""What all screens share: the top bar, the footer, and how facts get in and commands out.

A screen has a pure state module; here is the shell around it:

- `take(fact, now)` applies a fact to the screen's own state; `draw()` shows the state. A screen
  that nobody sees takes facts, and is drawn when it is seen again.
- `subject` is what it looks at, said to the hub when it is shown, and taken back when it is left.
- `ask(command)` posts; `new_id()` names what a person did, once.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer

from tui.commands import Command, Look, LookAway, Subject
from tui.facts import Fact
from tui.messages import Arrived
from tui.state.shared import Shared
from tui.widgets.top_bar import TopBar

if TYPE_CHECKING:
    from tui.app import BlindhostApp

TICK_SECONDS: float = 1.0
"""How often seconds that are shown count on."""


def new_id() -> str:
    """A name for something that a person did."""
    return secrets.token_hex(16)


class Window(Screen[None]):
    """A screen."""

    MODE: ClassVar[str] = ""
    """Which tab is lit."""
    HELP_TEXT: ClassVar[str] = ""
    """What this screen is for, in two sentences; stands on top of the help panel."""
    BINDINGS: ClassVar[list[BindingType]] = []

    def __init__(self) -> None:
        super().__init__()
        self._looks_at: Subject | None = None
        self._seen = self._due = False

    # --- for screens to fill ----------------------------------------------------------------------

    def body(self) -> Iterable[Widget]:
        """The widgets between top bar and footer."""
        raise NotImplementedError

    @property
    def subject(self) -> Subject | None:
        """What this screen looks at; None: what flows always is enough."""
        return None

    def take(self, fact: Fact, now: int) -> None:
        """Apply a fact to this screen's state."""

    def draw(self) -> None:
        """Show the state. Called after facts, each second, and when the screen is shown."""

    def plain(self) -> Iterable[str]:
        """The same in lines, for screen readers and tests. No boxes, no braille."""
        raise NotImplementedError

    # --- the shell --------------------------------------------------------------------------------

    @property
    def blindhost(self) -> BlindhostApp:
        """The app, typed."""
        return cast("BlindhostApp", self.app)

    @property
    def now(self) -> int:
        """Unix milliseconds."""
        return self.blindhost.clock()

    @property
    def zone(self) -> dt.tzinfo:
        """In which times of day are shown."""
        return self.blindhost.zone

    @property
    def shared(self) -> Shared:
        """Link, balance, setup."""
        return self.blindhost.shared

    def ask(self, command: Command) -> None:
        """Post a command."""
        self.blindhost.hub.post(command)

    def compose(self) -> ComposeResult:
        """Top bar, body, footer."""
        yield TopBar(self.MODE)
        yield from self.body()
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Seconds count on."""
        self.set_interval(TICK_SECONDS, self.redraw)

    def on_screen_resume(self) -> None:
        """Seen: look, and draw what came meanwhile."""
        self._seen = True
        self.look()
        self.redraw()

    def on_screen_suspend(self) -> None:
        """Left: look away."""
        self._seen = False
        self._look_away()

    def look(self) -> None:
        """Say what this screen looks at; called again when that changes."""
        wanted = self.subject
        if wanted == self._looks_at:
            return
        self._look_away()
        if wanted is not None:
            self.ask(Look(id=new_id(), subject=wanted))
        self._looks_at = wanted

    def _look_away(self) -> None:
        if self._looks_at is not None:
            self.ask(LookAway(id=new_id(), subject=self._looks_at))
        self._looks_at = None

    @on(Arrived)
    def _arrived(self, message: Arrived) -> None:
        self.take(message.fact, self.now)
        if self._seen:
            self.redraw()

    def redraw(self) -> None:
        """Draw soon, if somebody sees it: once for all that waits in line."""
        if self._seen and not self._due:
            self._due = True
            self.call_later(self._draw_due)

    def _draw_due(self) -> None:
        self._due = False
        if not self._seen:
            return
        self.query_one(TopBar).show(self.shared, self.now)
        self.draw()

    @on(TopBar.Chosen)
    def _tab_chosen(self, message: TopBar.Chosen) -> None:
        if message.mode == "help":
            self.blindhost.action_help()
        else:
            self.blindhost.action_go(message.mode)
