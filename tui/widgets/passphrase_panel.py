"""Panels that take a passphrase: to open the keys, and to make them.

The passphrase goes from the field into one command, whose repr leaves it out, and to the hub. It
stands in no message, no fact and no result of a screen. A panel's result is the command's id.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Footer, Input, Static

from tui.commands import Command, MakeKeys, Unlock
from tui.state.rows import Tone, say
from tui.state.start import market_fault, passphrase_fault
from tui.widgets.panels import Panel
from tui.widgets.secret_input import SecretInput

if TYPE_CHECKING:
    from tui.app import BlindhostApp


class PassphrasePanel(ModalScreen[str]):
    """What both panels share."""

    DEFAULT_CSS = """
    PassphrasePanel { align: center middle; }
    PassphrasePanel > Vertical { width: 76; max-width: 96%; height: auto; border: round $primary;
        padding: 0 1; background: $surface; }
    PassphrasePanel Static { height: auto; }
    PassphrasePanel SecretInput { background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "close", "Close")]

    def post(self, command: Command) -> None:
        """To the hub, and away."""
        cast("BlindhostApp", self.app).hub.post(command)
        self.dismiss(command.id)

    def fault(self, words: str) -> None:
        """Say what is wrong; never what was typed."""
        self.query_one("#fault", Panel).say([say(words, Tone.BAD)] if words else [])

    def action_close(self) -> None:
        """Nothing was done."""
        self.query_one(SecretInput).action_clear()
        self.dismiss("")


class UnlockPanel(PassphrasePanel):
    """Open the keystore."""

    def compose(self) -> ComposeResult:
        """A sentence and a field."""
        with Vertical():
            yield Static(
                Content("Passphrase of the keys in this home. It is used once, and kept nowhere."),
                markup=False,
            )
            yield SecretInput(id="passphrase")
            yield Panel(id="fault")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The field has the keys."""
        self.query_one(SecretInput).focus()

    @on(SecretInput.Entered)
    def _entered(self, message: SecretInput.Entered) -> None:
        if not message.field.filled:
            self.fault("nothing was typed")
            return
        self.post(Unlock(id=secrets.token_hex(16), passphrase=message.field.take()))


class MakeKeysPanel(PassphrasePanel):
    """Make this home's keys, and pin its market."""

    def __init__(self, *, market_url: str = "", market_identity: str = "") -> None:
        super().__init__()
        self._url, self._identity = market_url, market_identity
        self._first = ""

    def compose(self) -> ComposeResult:
        """Market, its key, a passphrase twice."""
        with Vertical():
            yield Static(Content("Market: address, as in your invite"), markup=False)
            yield Input(self._url, id="url", placeholder="https://market.example")
            yield Static(Content("Market: its key, 64 hex digits, as in your invite"), markup=False)
            yield Input(self._identity, id="identity", placeholder="5f1c…")
            yield Static(
                Content("A passphrase of your own: nobody can give it back to you"),
                markup=False,
                id="label",
            )
            yield SecretInput(id="passphrase")
            yield Panel(id="fault")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """The first field that is empty has the keys."""
        empty = [each for each in self.query(Input) if not each.value]
        (empty[0] if empty else self.query_one(SecretInput)).focus()

    @on(Input.Submitted)
    def _next(self) -> None:
        self.focus_next()

    @on(SecretInput.Entered)
    def _entered(self, message: SecretInput.Entered) -> None:
        """(1) Address and key are well formed. (2) The first time, it is long enough. (3) The
        second time, it is the same.
        """
        url = self.query_one("#url", Input).value.strip()
        identity = self.query_one("#identity", Input).value.strip().lower()
        typed = message.field.take()
        label = self.query_one("#label", Static)
        if words := market_fault(url, identity):  # (1)
            self.fault(words)
        elif not self._first:  # (2)
            words = passphrase_fault(typed)
            self.fault(words)
            if not words:
                self._first = typed
                label.update(Content("The same passphrase once more"))
        elif not hmac.compare_digest(self._first.encode(), typed.encode()):  # (3)
            self._first = ""
            label.update(Content("A passphrase of your own: nobody can give it back to you"))
            self.fault("the two differ: begin again")
        else:
            self._first = ""
            self.post(
                MakeKeys(
                    id=secrets.token_hex(16),
                    passphrase=typed,
                    market_url=url,
                    market_identity=identity,
                )
            )

    def action_close(self) -> None:
        """Nothing was done."""
        self._first = ""
        super().action_close()
