"""What can be done on the screen below: searchable; Enter does it."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen, Screen
from textual.widgets import Footer, Input, OptionList, Static
from textual.widgets.option_list import Option

ABOUT = (
    "The host can see sizes, times, prices. It can't see rows, prompts, answers, losses, weights.\n"
    "Not protected: a probe on the memory bus, side channels, what the model itself says.\n"
    "Shift+drag selects text by the terminal's own means; y copies, Y shows a value to select."
)

MOVING = frozenset(
    ("up", "down", "left", "right", "home", "end", "pageup", "pagedown", "ctrl+pageup",
     "ctrl+pagedown", "k", "j", "g", "G")
)  # fmt: skip
"""Keys of a list or table that every one of them has: they stand last."""


class HelpScreen(ModalScreen[None]):
    """Keys of one screen: its own first, what all have next, moving about last."""

    DEFAULT_CSS = """
    HelpScreen { align: center middle; }
    HelpScreen Vertical { width: 80%; max-width: 90; height: 80%; border: round $primary;
        padding: 0 1; background: $surface; }
    HelpScreen OptionList, HelpScreen OptionList:focus { height: 1fr; border: none; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,f1", "dismiss", "Close"),
        Binding("down", "list('down')", show=False),
        Binding("up", "list('up')", show=False),
    ]

    def __init__(self, of: Screen[object]) -> None:
        super().__init__()
        self._about = getattr(of, "HELP_TEXT", "") or ""
        self._keys = keys_of(of)

    def compose(self) -> ComposeResult:
        """A search field over a list."""
        with Vertical():
            yield Static(Content(f"{self._about}\n{ABOUT}".strip()), markup=False)
            yield Input(placeholder="search: what do you want to do?")
            yield OptionList(markup=False)
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Everything, first."""
        self._show("")

    @on(Input.Changed)
    def _search(self, event: Input.Changed) -> None:
        self._show(event.value)

    def _show(self, text: str) -> None:
        words = text.lower().split()
        lists = self.query_one(OptionList)
        lists.clear_options()
        for key, does, name in self._keys:
            if all(word in f"{key} {does}".lower() for word in words):
                lists.add_option(Option(Content(f"{key:<12} {does}"), id=name))
        if lists.option_count:
            lists.highlighted = 0

    def action_list(self, way: str) -> None:
        """Move in the list while typing goes on."""
        lists = self.query_one(OptionList)
        lists.action_cursor_down() if way == "down" else lists.action_cursor_up()

    @on(Input.Submitted)
    def _run_highlighted(self) -> None:
        lists = self.query_one(OptionList)
        if lists.highlighted is not None:
            self._run(lists.get_option_at_index(lists.highlighted).id)

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        self._run(event.option.id)

    def _run(self, key: str | None) -> None:
        self.dismiss(None)
        if key:
            self.app.call_after_refresh(self.app.simulate_key, key)


def keys_of(screen: Screen[object]) -> list[tuple[str, str, str]]:
    """How a key is shown, what it does, its name: the screen's own, its parts', all's, moving."""
    own, part, app, moving = [], [], [], []
    for active in screen.active_bindings.values():
        binding, node = active.binding, active.node
        if not binding.description or binding.system:
            continue
        line = (binding.key_display or binding.key, binding.description, binding.key)
        if binding.action.startswith(("app.focus", "screen.")):  # textual's, of every screen
            moving.append(line)
        elif node is screen:
            own.append(line)
        elif node is screen.app:
            app.append(line)
        elif type(node).__module__.startswith("tui") and binding.key not in MOVING:
            part.append(line)
        else:
            moving.append(line)
    return [*own, *part, *app, *moving]
