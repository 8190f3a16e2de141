"""One machine's offer: listed, kept alive, listed again.

Rules:
- Its id is made here and stored before it is sent, so that an agent that was killed lists the same
  offer again and not a second one. New terms come under the same id.
- While the host is closed (a maintenance window), the offer is off the book: withdrawn, and listed
  afterwards under another id. A market that is away is asked again until it has heard so.
- An offer that the market suspended, because a lease failed on this machine, is listed again at
  most `RELISTS_MAX` times: a machine that keeps failing waits for a person.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from marketplace.wire import HEARTBEAT_SECONDS_MAX, OfferDraft, OfferState, OfferView
from provider_agent.errors import AgentError, MarketError, RejectedError
from provider_agent.journal import replace_file
from provider_agent.market_port import MarketPort
from trust.encoding import canonical_json, parse_json
from trust.errors import EncodingError

HEARTBEAT_MS: Final = HEARTBEAT_SECONDS_MAX * 1000 // 3  # two may be lost
RELISTS_MAX: Final = 8
OFFER_BYTES_MAX: Final = 1 << 14
KEY_BYTES: Final = 16

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford, lower case: no i, l, o, u
_RANDOM_BYTES: Final = 10

_log = logging.getLogger("blindhost.offer")


def make_offer_id(*, now: int, random: bytes) -> str:
    """``offr_`` and 26 sortable characters, of Unix milliseconds and 10 random bytes."""
    if len(random) != _RANDOM_BYTES or not 0 <= now < 1 << 48:
        raise EncodingError("offer id: 48 bits of time and 80 random bits are wanted")
    number = now << (8 * _RANDOM_BYTES) | int.from_bytes(random, "big")
    return "offr_" + "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


class OfferKeeper:
    """Lists one machine as long as its host runs. `clock` gives Unix milliseconds."""

    def __init__(
        self,
        file: Path,
        *,
        market: MarketPort,
        draft: OfferDraft,
        clock: Callable[[], int],
        note: Callable[[str], None] = lambda _state: None,
    ) -> None:
        self._file, self._market, self._clock = file, market, clock
        self._note = note
        self._closed = False
        self._draft = self._stored_or(draft)
        self._listed = False
        self._relists = 0
        self._beat_at = 0

    @property
    def offer(self) -> str:
        """Its id."""
        return self._draft.offer

    @property
    def draft(self) -> OfferDraft:
        """The offer as it was posted last, or will be."""
        return self._draft

    def reprice(self, ask: int, floor: int | None) -> None:
        """Ask another price from the next round on, under the same id; leases keep theirs."""
        changed = dataclasses.replace(
            self._draft,
            ask_microcredits_per_gpu_hour=ask,
            floor_microcredits_per_gpu_hour=floor,
        )
        if changed != self._draft:
            self._draft = changed
            self._store()
            self._listed = False

    async def round(self, *, busy: bool, closed: str | None = None) -> None:
        """List the offer, or say that the machine is there; `busy` while a lease needs it.

        `closed`: why no lease is wanted now; the offer is taken off the book until it is None.
        """
        now = self._clock()
        if closed is not None:
            await self._close(closed)
            return
        self._closed = False
        if self._listed and 0 <= now - self._beat_at < HEARTBEAT_MS:  # a clock may be set back
            return
        try:
            view = await (self._market.heartbeat(self.offer) if self._listed else self._post())
        except RejectedError as error:
            _log.warning("offer-rejected offer=%s code=%s", self.offer, error.code)
            self._start_anew()
            return
        except MarketError as error:
            _log.warning("market-away offer=%s reason=%s", self.offer, error)
            self._note("market-away")
            return
        self._note(view.state.value)
        if not self._listed:
            _log.info("listed offer=%s state=%s", self.offer, view.state.value)
        self._listed, self._beat_at = True, now
        if view.state is OfferState.SUSPENDED and not busy:
            self._relist()

    async def _close(self, reason: str) -> None:
        """Take the offer off the book, once; what an agent before this one listed too."""
        self._note("maintenance")
        if self._closed:
            return
        try:
            await self._market.withdraw(self.offer)
        except RejectedError:
            pass  # never listed, or ended already
        except MarketError as error:
            _log.warning("not-withdrawn offer=%s reason=%s", self.offer, error)
            return
        _log.info("closed offer=%s reason=%s", self.offer, reason)
        self._closed, self._listed = True, False
        self._rename()

    async def withdraw(self) -> None:
        """Take the offer off the book; the next start makes another."""
        if self._listed:
            try:
                await self._market.withdraw(self.offer)
            except MarketError as error:
                _log.warning("not-withdrawn offer=%s reason=%s", self.offer, error)
                return
        self._file.unlink(missing_ok=True)

    async def _post(self) -> OfferView:
        return await self._market.put_offer(self._draft, secrets.token_bytes(KEY_BYTES))

    def _relist(self) -> None:
        if self._relists >= RELISTS_MAX:
            _log.error("suspended offer=%s relists=%d", self.offer, self._relists)
            return
        self._relists += 1
        self._listed = False

    def _start_anew(self) -> None:
        """The market knows this offer as ended, or as another: make one under a new id."""
        if self._relists >= RELISTS_MAX:
            raise AgentError(f"offer: the market refused {self._relists} of them")
        self._relists += 1
        self._listed = False
        self._rename()

    def _rename(self) -> None:
        """The next offer is another one."""
        now = self._clock()
        name = make_offer_id(now=now, random=secrets.token_bytes(_RANDOM_BYTES))
        self._draft = dataclasses.replace(self._draft, offer=name)
        self._store()

    def _stored_or(self, draft: OfferDraft) -> OfferDraft:
        """The draft under the id that was stored, if an agent before this one stored one."""
        try:
            with self._file.open("rb") as file:
                stored = OfferDraft.from_json(parse_json(file.read(OFFER_BYTES_MAX)))
            draft = dataclasses.replace(draft, offer=stored.offer)
        except FileNotFoundError:
            pass
        except EncodingError as error:
            raise AgentError(f"the stored offer does not parse: {error}") from error
        self._draft = draft
        self._store()
        return draft

    def _store(self) -> None:
        content: Any = self._draft.to_json()
        replace_file(self._file, canonical_json(content))
