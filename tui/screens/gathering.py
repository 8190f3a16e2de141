"""A screen whose facts come in crowds: those that come together are drawn once.

A job's first look brings thousands of events and records; drawing each would take seconds.
"""

from __future__ import annotations

from collections.abc import Callable

from textual.app import App

from tui.screens.window import Window


class Gathering(Window):
    """Draws after all that waits in line was taken."""

    @property
    def online(self) -> bool:
        """The market answers, or nobody has said yet that it does not."""
        return self.shared.online or self.shared.connection is None


def open_from_list(app: App[None], word: str) -> None:
    """Leave whatever stands over the list of this tab; the list finds what the word names."""
    while len(app.screen_stack) > 1:
        app.pop_screen()
    take: Callable[[str], None] | None = getattr(app.screen, "open_link", None)
    if take is not None:
        take(word)
