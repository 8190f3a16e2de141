"""The first line of every screen: where one is, what is left, and whether the market answers."""

from __future__ import annotations

from collections.abc import Iterable

from textual.app import RenderResult
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widget import Widget

from tui.state import shared

NARROW: int = 100
TABS = ("Start", "Offers", "Jobs", "Trust", "Money", "Chat", "Keys")


class TopBar(Widget):
    """Tabs, balance, link. It is drawn from `Shared` alone; a click on a tab is its digit."""

    DEFAULT_CSS = """
    TopBar { dock: top; height: 1; background: $panel; color: $foreground; }
    """

    class Chosen(Message):
        """Somebody clicked on a tab; `mode` is its screen. ``help`` for the question mark."""

        def __init__(self, mode: str) -> None:
            super().__init__()
            self.mode = mode

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode
        self.state = shared.Shared()
        self.now = 0
        self._places: list[tuple[int, int, str]] = []

    def show(self, state: shared.Shared, now: int) -> None:
        """Draw again if a word of it differs."""
        before = self._words()
        self.state, self.now = state, now
        if self._words() != before:
            self.refresh()

    def _words(self) -> tuple[str, str, bool]:
        return (
            shared.money_words(self.state),
            shared.link_words(self.state, self.now),
            self.state.simulated,
        )

    def render(self) -> RenderResult:
        """What does not fit goes: the brand, how long money lasts, *online*, money. What is not
        online never goes.
        """
        money, link, _ = self._words()
        online = self.state.online
        brand, lasts = True, True
        shown_link = not online or self.size.width >= NARROW
        for step in range(5):
            left = self._left(brand=brand)
            right = self._right(money if lasts else money.partition(",")[0], link, shown_link)
            if _length(left) + _length(right) <= self.size.width:
                break
            match step:
                case 0:
                    brand = False
                case 1:
                    lasts = False
                case 2:
                    shown_link = not online
                case _:
                    money = ""
        gap = max(0, self.size.width - _length(left) - _length(right))
        parts, column = [*left, (" " * gap, "", ""), *right], 0
        self._places = []
        for text, _, mode in parts:
            if mode:
                self._places.append((column, column + len(text), mode))
            column += len(text)
        return Content.assemble(*((text, style) for text, style, _ in parts))

    def _left(self, *, brand: bool) -> list[tuple[str, str, str]]:
        parts = [(" ▚ blindhost " if brand else " ▚ ", "bold", "")]
        for number, name in enumerate(TABS, start=1):
            here = name.lower() == self.mode
            parts.append((f"{number} {name}", "reverse bold" if here else "", name.lower()))
            parts.append((" ", "", ""))
        return parts

    def _right(self, money: str, link: str, shown_link: bool) -> list[tuple[str, str, str]]:  # noqa: FBT001
        parts = []
        if money:
            parts += [(money, "bold", ""), ("  ", "", "")]
        if self.state.simulated:
            parts += [("SIMULATED", "reverse bold $warning", ""), ("  ", "", "")]
        if shown_link:
            style = "" if self.state.online else "reverse bold"
            parts += [(link, style, ""), ("  ", "", "")]
        return [*parts, ("?", "bold", "help"), (" ", "", "")]

    def on_click(self, event: Click) -> None:
        """A tab, or the question mark."""
        for first, end, mode in self._places:
            if first <= event.x < end:
                self.post_message(self.Chosen(mode))


def _length(parts: Iterable[tuple[str, str, str]]) -> int:
    return sum(len(text) for text, _, _ in parts)
