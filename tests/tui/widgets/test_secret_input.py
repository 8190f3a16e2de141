"""What is typed into the passphrase field stands nowhere."""

from __future__ import annotations

from textual.app import App, ComposeResult
from textual.widgets import Input

from tui.widgets.secret_input import SecretInput

CANARY = "canary-passphrase-7"


class Bench(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.messages = []

    def compose(self) -> ComposeResult:
        yield SecretInput()
        yield Input()

    def on_mount(self) -> None:
        self.field.focus()

    @property
    def field(self) -> SecretInput:
        return self.query_one(SecretInput)

    def on_secret_input_entered(self, message: SecretInput.Entered) -> None:
        self.messages.append(message)


async def test_a_passphrase_is_in_no_message_no_repr_and_not_on_the_screen():
    app = Bench()
    async with app.run_test() as pilot:
        await pilot.press(*CANARY, "enter")
        await pilot.pause()
        (message,) = app.messages
        shown = app.export_screenshot() + repr(message) + repr(app.field) + repr(vars(message))
        assert CANARY not in shown
        assert "typed" in app.export_screenshot()
        assert app.field.take() == CANARY
        assert app.field.take() == ""


async def test_it_is_cleared_when_it_is_left():
    app = Bench()
    async with app.run_test() as pilot:
        await pilot.press(*"secret", "tab")
        assert not app.field.filled
        app.field.focus()
        await pilot.press(*"ab", "backspace", "c")
        assert app.field.take() == "ac"
