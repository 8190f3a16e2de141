"""The panel before what can't be taken back: its effect in one sentence; No unless one says yes.

    ask_first(
        self.app,
        Confirm("Close job jobb_…: its steps are paid, 4.1579 cr come back.", yes="Close it"),
        self._close,  # called after a Yes, and not otherwise
    )
    Confirm(sentence, yes="Raise it", typed="6.0000")          # yes acts once this was typed
    Confirm(sentence, yes="Rotate", lines=(say("…"), …))       # more to read before; it scrolls

No letter answers it: the cursor stands on No, and Escape is No.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Footer, Input, Static

from tui.state.rows import Words, say
from tui.text import clean
from tui.widgets.panels import Panel

SENTENCE_CHARACTERS_MAX = 600


class Confirm(ModalScreen[bool]):
    """Asks once. Dismissed with True only by its Yes."""

    DEFAULT_CSS = """
    Confirm { align: center middle; }
    Confirm > Vertical { width: 76; max-width: 96%; height: auto; max-height: 90%;
        border: round $warning; padding: 0 1; background: $surface; }
    Confirm #sentence { height: auto; text-style: bold; margin-bottom: 1; }
    Confirm #more { height: auto; max-height: 12; margin-bottom: 1; }
    Confirm #buttons { height: 1; }
    Confirm Button { margin-right: 2; }
    Confirm Footer { dock: bottom; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "no", "No"),
        Binding("left,up", "app.focus_previous", show=False),
        Binding("right,down", "app.focus_next", show=False),
    ]

    def __init__(
        self,
        sentence: str,
        *,
        yes: str = "Yes",
        no: str = "No",
        typed: str = "",
        lines: Sequence[Words] = (),
    ) -> None:
        super().__init__()
        self._sentence = clean(sentence, limit=SENTENCE_CHARACTERS_MAX, keep="\n")
        self._yes, self._no, self._typed, self._lines = yes, no, typed, tuple(lines)

    def compose(self) -> ComposeResult:
        """The sentence, what there is to read, the amount to type, No and Yes."""
        with Vertical():
            yield Static(Content(self._sentence), markup=False, id="sentence")
            if self._lines:
                with VerticalScroll(id="more"):
                    yield Panel(id="lines")
            if self._typed:
                yield Static(
                    Content(f"To go on, type {self._typed} here:"), markup=False, id="wanted"
                )
                yield Input(id="typed", select_on_focus=False)
                yield Panel(id="fault")
            with Horizontal(id="buttons"):
                yield Button(Content(self._no), id="no")
                yield Button(Content(self._yes), id="yes")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The cursor stands on No."""
        if self._lines:
            self.query_one("#lines", Panel).say(self._lines)
        self.query_one("#no", Button).focus()

    @on(Button.Pressed, "#no")
    def action_no(self) -> None:
        """Nothing happens."""
        self.dismiss(result=False)

    @on(Button.Pressed, "#yes")
    def _said_yes(self) -> None:
        """(1) What had to be typed was typed. (2) It is yes."""
        if self._typed:  # (1)
            got = self.query_one("#typed", Input).value.strip()
            if got != self._typed:
                fault = f"wanted {self._typed}, got {clean(got, limit=40) or 'nothing'}"
                self.query_one("#fault", Panel).say([say(fault)])
                self.query_one("#typed", Input).focus()
                return
        self.dismiss(result=True)  # (2)

    @on(Input.Submitted, "#typed")
    def _typed_and_entered(self) -> None:
        # Enter after the amount goes to the buttons, and not through them.
        self.query_one("#yes", Button).focus()


def ask_first(app: App[object], panel: Confirm, act: Callable[[], None]) -> None:
    """Show the panel; `act` only if it is answered with Yes."""

    def answered(yes: bool | None) -> None:  # noqa: FBT001 - a screen's result comes so
        if yes is True:
            act()

    app.push_screen(panel, answered)
