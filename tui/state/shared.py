"""What every screen knows: the link, the balance, the setup."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

from tui.facts import Balance, Connection, Fact, Link, Setup
from tui.text import left, span

F = TypeVar("F", bound=Fact)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """The newest of each; None: nothing came yet."""

    connection: Connection | None = None
    balance: Balance | None = None
    setup: Setup | None = None

    @property
    def online(self) -> bool:
        """The market answers."""
        return self.connection is not None and self.connection.link is Link.ONLINE

    @property
    def browses(self) -> bool:
        """The market answers, or nothing is known against it: offers are shown without keys too."""
        found = self.connection
        return found is not None and found.link is not Link.OFFLINE

    @property
    def simulated(self) -> bool:
        """What is shown proves nothing about hardware."""
        return self.setup is not None and self.setup.simulated


def apply(state: Shared, fact: Fact, now: int) -> Shared:  # noqa: ARG001 - every `apply` has it
    """Take a fact."""
    match fact:
        case Connection():
            return dataclasses.replace(state, connection=_newer(state.connection, fact))
        case Balance():
            return dataclasses.replace(state, balance=_newer(state.balance, fact))
        case Setup():
            return dataclasses.replace(state, setup=_newer(state.setup, fact))
        case _:
            return state


def _newer(old: F | None, new: F) -> F:
    return new if old is None or new.as_of >= old.as_of else old


def money_words(state: Shared) -> str:
    """Free money, cut to two decimals, and how long it lasts."""
    if state.balance is None:
        return ""
    lasts = "idle" if state.balance.empty_in is None else span(state.balance.empty_in)
    return f"{left(state.balance.free)[:-2]} cr, {lasts}"


def link_words(state: Shared, now: int) -> str:
    """The link, in words."""
    link = state.connection
    if link is None:
        return "connecting"
    if link.link is Link.ONLINE:
        return "online"
    words = f"{link.link.value.upper()} for {span(max(0, now - link.since))}"
    return words if link.retry_in is None else f"{words}, next try in {span(link.retry_in)}"
