"""A panel that names this home's market, for looking at offers: no keys are made by it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Button, Footer, Input, Static

from tui.commands import PinMarket
from tui.state.rows import Tone, say
from tui.state.start import market_fault
from tui.widgets.panels import Panel

if TYPE_CHECKING:
    from tui.app import BlindhostApp


class MarketPanel(ModalScreen[str]):
    """Address and key. Its result is the command's id; empty: it was closed."""

    DEFAULT_CSS = """
    MarketPanel { align: center middle; }
    MarketPanel > Vertical { width: 76; max-width: 96%; height: auto; border: round $primary;
        padding: 0 1; background: $surface; }
    MarketPanel Static { height: auto; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "Close")]

    def compose(self) -> ComposeResult:
        """Two fields, and what may be wrong with them."""
        with Vertical():
            yield Static(Content("Market: address, as in your invite"), markup=False)
            yield Input(id="url", placeholder="https://market.example")
            yield Static(Content("Market: its key, 64 hex digits, as in your invite"), markup=False)
            yield Input(id="identity", placeholder="5f1c…")
            yield Button(Content("Look at offers"), id="look")
            yield Panel(id="fault")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The first field has the keys."""
        self.query_one("#url", Input).focus()

    @on(Input.Submitted, "#url")
    def _next(self) -> None:
        self.query_one("#identity", Input).focus()

    @on(Input.Submitted, "#identity")
    @on(Button.Pressed, "#look")
    def _entered(self) -> None:
        """(1) Address and key are well formed. (2) The hub keeps them."""
        url = self.query_one("#url", Input).value.strip()
        identity = self.query_one("#identity", Input).value.strip().lower()
        if words := market_fault(url, identity):  # (1)
            self.query_one("#fault", Panel).say([say(words, Tone.BAD)])
            return
        command = PinMarket(id=secrets.token_hex(16), market_url=url, market_identity=identity)
        cast("BlindhostApp", self.app).hub.post(command)  # (2)
        self.dismiss(command.id)

    def action_close(self) -> None:
        """Nothing was done."""
        self.dismiss("")
