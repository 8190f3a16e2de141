"""What a serving host does for itself each round: windows, price, accounts, refusals; in one place.

``serve`` makes one, gives its gate and accounts to the keeper, and lets it lead the rounds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from provider_agent.earnings.book import BOOK_FILE, Book
from provider_agent.earnings.host_market import HostMarket
from provider_agent.earnings.maintenance import Phase, Plan
from provider_agent.earnings.pricing import Pricer
from provider_agent.earnings.receipts import AccountKeeper
from provider_agent.errors import AgentError, MarketError
from provider_agent.journal import replace_file
from provider_agent.keeper import Keeper
from provider_agent.offers import OfferKeeper
from provider_agent.refusals import (
    Enrolment,
    HostRefusedError,
    LeaseGate,
    check_clock,
    check_enrolment,
    check_identity_file,
    check_user,
    check_version,
)

ENROLMENT_FILE: Final = "enrolled"
VERSION_FILE: Final = "version"
NOTE_BYTES_MAX: Final = 64


def check_start(home: Path, *, key: Path, found: Enrolment, uid: int, version: str) -> str | None:
    """Refuse to start at all; what to say otherwise. Raises HostRefusedError.

    (1) Not as root on real hardware. (2) The identity is its owner's alone. (3) The home was
    enrolled as what it is now. (4) No newer agent ran here. What was found is noted for next time.
    """
    said = check_user(uid, found)  # (1)
    check_identity_file(key.stat().st_mode)  # (2)
    enrolled = _note(home / ENROLMENT_FILE)
    if enrolled is not None and enrolled not in set(Enrolment):
        raise HostRefusedError("other-enrolment", f"the note {enrolled[:32]!r} is no enrolment")
    kind = check_enrolment(None if enrolled is None else Enrolment(enrolled), found)  # (3)
    newest = check_version(version, _note(home / VERSION_FILE))  # (4)
    replace_file(home / ENROLMENT_FILE, kind.value.encode())
    replace_file(home / VERSION_FILE, newest.encode())
    return said


def _note(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            return opened.read(NOTE_BYTES_MAX).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return None


class Desk:
    """One host's own affairs. `clock` gives Unix milliseconds."""

    def __init__(
        self,
        home: Path,
        *,
        market: HostMarket,
        identity: bytes,
        enrolment: Enrolment,
        clock: Callable[[], int],
    ) -> None:
        self._market, self._enrolment, self._clock = market, enrolment, clock
        self._book = Book(home / BOOK_FILE)
        self._plan = Plan(home)
        self._pricer = Pricer(home, book=self._book, market=market, clock=clock)
        self.accounts = AccountKeeper(self._book, market=identity, clock=clock)

    def close(self) -> None:
        """Let the book go."""
        self._book.close()

    async def meet_market(self) -> None:
        """Refuse a clock that is off the market's, and learn its fee.

        Raises HostRefusedError; MarketError where the market does not answer.
        """
        view = await self._market.market()
        check_clock(view.now, self._clock())
        self.accounts.fee_ppm = view.fee_ppm

    def gate(self, offer: OfferKeeper) -> LeaseGate:
        """What this host holds leases against."""
        return LeaseGate(
            draft=lambda: offer.draft,
            enrolment=self._enrolment,
            floor=self._floor,
            closed=lambda now: self._plan.posture(now).reason,
        )

    async def round(self, offer: OfferKeeper, keeper: Keeper) -> None:
        """One round: the price, the offer, the leases, and the end of what runs in a drain.

        Raises HostRefusedError once the market is first met, where this host's clock is off.
        """
        if self.accounts.fee_ppm is None:
            with contextlib.suppress(MarketError):
                await self.meet_market()
        posture = self._plan.posture(self._clock())
        if posture.phase is Phase.OPEN:
            await self._pricer.round(offer)
        await offer.round(busy=keeper.busy, closed=posture.reason)
        await keeper.round()
        if posture.phase is Phase.CLOSED and keeper.busy:
            await keeper.end_all("maintenance")

    def _floor(self) -> int | None:
        try:
            return self._pricer.floor()
        except AgentError as error:
            raise HostRefusedError("below-floor", str(error)) from error
