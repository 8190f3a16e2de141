"""The one message: a fact arrived."""

from __future__ import annotations

from textual.message import Message

from tui.facts import Fact, Latest


class Arrived(Message):
    """A fact, on its way to a screen. Only the newest of a `Latest` fact waits in line."""

    def __init__(self, fact: Fact) -> None:
        super().__init__()
        self.fact = fact

    def can_replace(self, message: Message) -> bool:
        """Whether this one may go, because `message`, which waits behind it, says it newer."""
        return (
            isinstance(message, Arrived)
            and isinstance(self.fact, Latest)
            and type(message.fact) is type(self.fact)
            and message.fact.key == self.fact.key
            and self.fact.as_of <= message.fact.as_of  # a late one replaces nothing newer
        )
