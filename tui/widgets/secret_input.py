"""A field for a passphrase. What is typed stands in no message, no repr, and nowhere on the screen.

    @on(SecretInput.Entered)
    def _entered(self, message):
        secret = self.query_one(SecretInput).take()     # once; the field is empty afterwards

- It is no `Input`: whose value travels in messages, is kept for undo, and is drawn by suggestions.
- It is cleared when it is left, when it is taken, and by Escape.
- It shows one sign however much is typed: a length is a hint, too.
"""

from __future__ import annotations

from typing import ClassVar, Final

from textual.app import RenderResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.events import Blur, Key, Paste
from textual.message import Message
from textual.widget import Widget

CHARACTERS_MAX: Final = 1024


class SecretInput(Widget, can_focus=True):
    """Takes keys, shows that there are some."""

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    SecretInput { height: 1; padding: 0 1; background: $surface; color: $foreground; }
    SecretInput:focus { background: $panel; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "enter", "Go on", key_display="⏎"),
        Binding("backspace", "delete", show=False),
        Binding("ctrl+u", "clear", show=False),
    ]

    class Entered(Message):
        """Enter was pressed. What was typed is taken from the field, and not carried here."""

        def __init__(self, field: SecretInput) -> None:
            super().__init__()
            self.field = field

        @property
        def control(self) -> SecretInput:
            """The field."""
            return self.field

    def __init__(self, *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._typed: list[str] = []

    def take(self) -> str:
        """What was typed, once: the field is empty afterwards."""
        typed = "".join(self._typed)
        self.action_clear()
        return typed

    @property
    def filled(self) -> bool:
        """Something was typed."""
        return bool(self._typed)

    def check_consume_key(self, key: str, character: str | None) -> bool:  # noqa: ARG002
        """Letters and digits are for this field."""
        return character is not None and character.isprintable()

    def on_key(self, event: Key) -> None:
        """One more character."""
        if event.is_printable and event.character is not None:
            event.stop()
            event.prevent_default()
            self._add(event.character)

    def on_paste(self, event: Paste) -> None:
        """The first line of it."""
        event.stop()
        for line in event.text.splitlines()[:1]:
            self._add(line)

    def _add(self, text: str) -> None:
        room = CHARACTERS_MAX - len(self._typed)
        self._typed.extend(each for each in text[: max(0, room)] if each.isprintable())
        self.refresh()

    def on_blur(self, _: Blur) -> None:
        """Left: cleared."""
        self.action_clear()

    def action_enter(self) -> None:
        """Say that it is there to take."""
        self.post_message(self.Entered(self))

    def action_delete(self) -> None:
        """Take the last character back."""
        if self._typed:
            self._typed.pop()
            self.refresh()

    def action_clear(self) -> None:
        """Take all back."""
        self._typed.clear()
        self.refresh()

    def render(self) -> RenderResult:
        """Whether something was typed, and not how much."""
        words = "•••• typed" if self._typed else "type it here; nothing of it is shown"
        return Content.styled(words, "" if self._typed else "$secondary")
