"""Which screen is behind which tab, and which a deep link opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from textual.screen import Screen

if TYPE_CHECKING:
    from tui.app import BlindhostApp


def _start() -> Screen[None]:
    from tui.screens.start import StartScreen

    return StartScreen()


def _offers() -> Screen[None]:
    from tui.screens.offers import OffersScreen

    return OffersScreen()


def _jobs() -> Screen[None]:
    from tui.screens.jobs import JobsScreen

    return JobsScreen()


def _trust() -> Screen[None]:
    from tui.screens.trust import TrustScreen

    return TrustScreen()


def _money() -> Screen[None]:
    from tui.screens.money import MoneyScreen

    return MoneyScreen()


def _chat() -> Screen[None]:
    from tui.screens.chat import ChatScreen

    return ChatScreen()


def _keys() -> Screen[None]:
    from tui.screens.keys import KeysScreen

    return KeysScreen()


def _settings() -> Screen[None]:
    from tui.screens.settings import SettingsScreen

    return SettingsScreen()


MODES: Final[dict[str, Callable[[], Screen[None]]]] = {
    "start": _start,
    "offers": _offers,
    "jobs": _jobs,
    "trust": _trust,
    "money": _money,
    "chat": _chat,
    "keys": _keys,
    "settings": _settings,
}
"""By tab; the digit of each is its place. A screen is imported when it is first opened."""


def open_link(app: BlindhostApp, link: Sequence[str]) -> None:
    """Open what a link names: ``offers QUERY``, ``job ID``, ``trust ID``, ``chat MODEL``, ….

    Every screen that takes a word has ``open_link(word)``; the rest of the link is that word.
    """
    kind, word = link[0], " ".join(link[1:])
    mode = {"job": "jobs", "consent": "keys", "new": "jobs"}.get(kind, kind)
    if mode not in MODES:
        app.notify(f"no screen {kind!r}", markup=False, severity="warning")
        return
    app.switch_mode(mode)

    def opened() -> None:
        if kind == "new":
            from tui.screens.new_job import NewJobScreen

            app.push_screen(NewJobScreen())
        elif word and (take := getattr(app.screen, "open_link", None)) is not None:
            take(word)

    app.call_after_refresh(opened)
