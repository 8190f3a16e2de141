"""Windows for a real terminal that no user has: ``python -m tests.tui.strange hostile|crash``.

`hostile`: facts whose every text is hostile, past the first wall, as if `client.text.clean` had a
hole. `crash`: F9 raises, with a canary in a local variable and in the error's message.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from pathlib import Path
from typing import ClassVar

from textual.binding import Binding, BindingType

import tui.app
from tests.tui.rig import BALANCE, NOW, ONLINE, SETUP, ScriptedHub
from tests.tui.scenes import chat, job, jobs, keys, money, offers, start, trust
from tui.app import BlindhostApp
from tui.facts import Connection, Fact

HOSTILE = (
    "\x1b]52;c;QUJDREVG\x07\x1b]52;c;QUJDREVG\x1b\\\x1b[2J\x1b[31m\x9b2J\x9d52;c;QUJDREVG\x9c\x85"
    "\u202e\u2066\u200b\x7f\x00\r\x0b[@click=app.quit]x[/]{$error}表\n"
)
CANARY = "correct-horse-canary-7731"
KEPT = {
    ("Stage", "name"),
    ("JobHead", "state"),
    ("JobHead", "kind"),
    ("OfferPage", "query"),
    ("OfferPage", "sort"),
    ("Funnel", "query"),
}
"""Fields that say where a fact belongs: with others it would not be shown at all."""
LONG_FIELDS = {"words", "headline", "text", "what", "found"}


def hostile(value: object, owner: str = "", name: str = "", *, tail: str = "") -> object:
    """The same, with hostile words in every text of it; `tail` makes some of them long."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value).__name__
        changes = {
            each.name: hostile(getattr(value, each.name), kind, each.name, tail=tail)
            for each in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **changes)
    if isinstance(value, tuple):
        return tuple(hostile(each, owner, name, tail=tail) for each in value)
    if isinstance(value, str) and not isinstance(value, enum.Enum) and (owner, name) not in KEPT:
        return value[:8] + HOSTILE + (tail if name in LONG_FIELDS else "")
    return value


def facts(*, tail: str = "") -> list[Fact]:
    """Facts for every screen."""
    told: list[Fact] = [ONLINE]
    plain = (
        BALANCE, start.HOME, SETUP, offers.FUNNEL, offers.page("", total=9), *offers.PREVIEWS,
        *jobs.HEADS, *job.RUNNING, trust.FIRST, trust.PASSED, *trust.RELEASES, *money.ENTRIES,
        money.receipt(1), money.receipt(2, holds=False), chat.head(chat.BASE),
        chat.head(chat.TUNED), keys.KEYS, *keys.BROKERS, keys.CONSENT, keys.ANSWERED,
    )  # fmt: skip
    seen: set[type] = set()
    for each in plain:
        if not isinstance(each, Connection):
            long = tail if type(each) not in seen else ""  # one long one of each kind is enough
            seen.add(type(each))
            told.append(hostile(each, tail=long))
    return told


class Crashing(BlindhostApp):
    """F9 ends it by a fault."""

    CSS_PATH = Path(tui.app.__file__).with_name("blindhost.tcss")
    BINDINGS: ClassVar[list[BindingType]] = [Binding("f9", "crash", show=False)]

    def action_crash(self) -> None:
        passphrase = CANARY
        raise RuntimeError(passphrase)


def main() -> int:
    kind = Crashing if sys.argv[1] == "crash" else BlindhostApp
    told = facts() if sys.argv[1] == "hostile" else [ONLINE, BALANCE, SETUP]
    app = kind(ScriptedHub(told), clock=lambda: NOW, link=("start",), quiet=True)
    app.run()
    return app.return_code or 0


if __name__ == "__main__":
    sys.exit(main())
