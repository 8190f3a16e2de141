"""``blindhost-tui``: modes, themes, the wall against hostile text, and one hub.

Rules:
- A crash prints where it was and what kind it was: no local variable and no error's message,
  because either may hold a passphrase or a prompt.
- No screen awaits the network: facts come from the hub, commands go to it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import signal
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Final

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.screen import Screen

from tui.clock import Clock
from tui.drafts import DraftsPort
from tui.facts import Fact
from tui.messages import Arrived
from tui.port import HubPort
from tui.screens.registry import MODES as SCREENS
from tui.screens.registry import open_link
from tui.state import shared
from tui.text import clean
from tui.themes import THEMES
from tui.wall import Wall

FRAMES_SHOWN_MAX: Final = 30
STARTED_SECONDS: Final = 1.0
"""After so long the first picture is drawn, and garbage may be collected."""


class BlindhostApp(App[None]):
    """The window."""

    CSS_PATH = "blindhost.tcss"
    TITLE = "blindhost"
    ENABLE_COMMAND_PALETTE = True
    COMMAND_PALETTE_BINDING = "ctrl+p"
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 - textual's own attribute
        (0, "-tiny"),
        (60, "-narrow"),
        (100, "-usual"),
        (140, "-wide"),
    ]
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012 - textual's own attribute
        (0, "-flat"),
        (16, "-short"),
        (30, "-tall"),
    ]
    MODES = dict(SCREENS)  # noqa: RUF012 - textual's own attribute
    DEFAULT_MODE = "start"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(str(number), f"go({name!r})", name.title(), show=False)
            for number, name in enumerate(SCREENS, start=1)
        ),
        Binding("question_mark,f1", "help", "Help", key_display="?"),
        Binding("ctrl+p,colon", "command_palette", "Commands", show=False),
        Binding("q", "leave", "Quit", show=False),
    ]

    def __init__(
        self,
        hub: HubPort,
        *,
        clock: Clock,
        zone: dt.tzinfo = dt.UTC,
        home: Path | None = None,
        drafts: DraftsPort | None = None,
        link: Sequence[str] = (),
        theme: str = "blindhost",
        plain: bool = False,
        plot: str = "braille",
        quiet: bool = False,
        signals: Sequence[signal.Signals] = (),
    ) -> None:
        self.hub, self.clock, self.zone, self.plain = hub, clock, zone, plain
        self.shared = shared.Shared()
        self.facts_seen, self.plot = 0, plot
        self._wall = Wall()
        self.home, self.drafts, self._signals = home, drafts, tuple(signals)
        self._link = tuple(link)
        if self._link and self._link[0] in SCREENS:  # else Start would be composed for nothing
            self.DEFAULT_MODE = self._link[0]  # type: ignore[misc]
        super().__init__()
        for each in THEMES:
            self.register_theme(each)
        self.theme = theme
        if quiet or plain:
            self.animation_level = "none"

    # --- facts ------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        """The hub begins; a deep link opens its screen; a signal ends it as `q` does."""
        for number in self._signals:
            asyncio.get_running_loop().add_signal_handler(number, self.exit)
        self.set_timer(STARTED_SECONDS, collect_garbage)
        self.hub.start(self.arrive)
        if self._link:
            open_link(self, self._link)

    async def on_unmount(self) -> None:
        """What runs, ends."""
        await self.hub.stop()

    def arrive(self, fact: Fact) -> None:
        """A fact, from the hub: to what all share, and to every screen that lives."""
        self.facts_seen += 1
        self.shared = shared.apply(self.shared, fact, self.clock())
        for screen in self._living():
            screen.post_message(Arrived(fact))

    def _living(self) -> list[Screen[object]]:
        return [screen for stack in self._screen_stacks.values() for screen in stack]

    # --- going about ------------------------------------------------------------------------------

    def action_go(self, mode: str) -> None:
        """To the screen of a tab, from whatever stands over this one."""
        if mode in self.MODES:
            self.switch_mode(mode)

    def open(self, link: Sequence[str]) -> None:
        """Open what a deep link names, e.g. ``("trust", job)``."""
        open_link(self, link)

    def action_help(self) -> None:
        """What can be done here, searchable; Enter does it."""
        from tui.screens.help import HelpScreen

        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen(self.screen))

    def action_leave(self) -> None:
        """Quit; a screen that would lose something asks first."""
        ask: Callable[[], bool] | None = getattr(self.screen, "asks_before_leaving", None)
        if ask is None or not ask():
            self.exit()

    def copy(self, value: str, *, what: str) -> None:
        """Send a value to the terminal's clipboard. Whether it arrives, no program can know."""
        self.copy_to_clipboard(clean(value, limit=4096))
        self.notify(f"{what} sent to the terminal's clipboard", markup=False)

    def get_system_commands(self, screen: Screen[object]) -> list[SystemCommand]:
        """Every tab; the screen's own actions; themes."""
        found = [
            SystemCommand(
                f"Go to {name.title()}", f"the screen {name}", _later(self.action_go, name)
            )
            for name in SCREENS
        ]
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.description and active.enabled and active.node is not self:
                found.append(
                    SystemCommand(
                        binding.description,
                        f"key {binding.key_display or binding.key}",
                        _later(self.simulate_key, binding.key),
                    )
                )
        found += [
            SystemCommand(f"Theme {name}", "change how it looks", _later(self._set_theme, name))
            for name in sorted(self.available_themes)
            if name.startswith(("blindhost", "ansi"))
        ]
        return found

    def _set_theme(self, name: str) -> None:
        self.theme = name

    # --- walls ------------------------------------------------------------------------------------

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Textual's, and the wall: one instance, because textual keys its cache by it."""
        return [*super().get_line_filters(), self._wall]

    def _fatal_error(self) -> None:
        """Say where and what kind; textual's own would print every local variable."""
        error = self._exception
        self.bell()
        self._exit_renderables.append(crash_words(error))
        self._close_messages_no_wait()


def collect_garbage() -> None:
    """Collect from now on, if `tui.__main__` put it off; what lives by now is looked at no more."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def crash_words(error: BaseException | None) -> str:
    """A crash in lines: places in files, and the class of each error. Never a value."""
    lines = ["blindhost-tui ended by a fault of its own. Where:"]
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__, limit=-FRAMES_SHOWN_MAX)
        lines += [f"  {each.filename}:{each.lineno} in {each.name}" for each in frames]
        lines.append(f"  {type(error).__module__}.{type(error).__qualname__}")
        error = error.__cause__ or error.__context__
    lines.append("No value of any variable is shown here: it may be pasted as it is.")
    return "\n".join(lines)


def _later(act: Callable[[str], object], value: str) -> Callable[[], None]:
    def run() -> None:
        act(value)

    return run
