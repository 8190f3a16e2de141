"""Receipts that this agent carried: the relay shows each message that the market took.

A receipt travels in the clear, signed, to the market, and any host of a job may read it there
(`wire.JOB_RECEIPTS`): to keep a copy tells a host nothing new. It makes the market's silence
visible: a receipt that is here and not in the market's list is owed still.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import Final

from marketplace.wire import LeaseView
from provider_agent.earnings.book import Book, KeptReceipt
from provider_agent.frames import Frame
from trust.errors import BlindhostError
from trust.identity import verify_signed
from trust.messages import Receipt, SignedMessage, parse_message, signed_label

RECEIPT_BYTES_MAX: Final = 1 << 16  # one has about 1 KiB; what is longer is no receipt worth a copy
NOTE_MS: Final = 30_000

_log = logging.getLogger("blindhost.earnings")


class AccountKeeper:
    """A `relay.Witness` that also notes leases and what the offer does.

    `clock` gives Unix milliseconds. Nothing here raises: a full disk costs an entry of the book,
    and no traffic.
    """

    def __init__(self, book: Book, *, market: bytes, clock: Callable[[], int]) -> None:
        self._book, self._market, self._clock = book, market, clock
        self._noted: tuple[str, int] | None = None
        self.fee_ppm: int | None = None
        """The market's fee, as it last said it; None: it was not asked."""

    def __call__(self, lease: str, frame: Frame) -> None:
        """Keep a copy, if this is a receipt.

        (1) It went to the market, and is of a receipt's size and label. (2) It parses, and the
        signature holds under the key that it names; whether that is the metered key is known when
        the statement is made. (3) It is of the lease that carried it.
        """
        if frame.peer != self._market or len(frame.payload) > RECEIPT_BYTES_MAX:  # (1)
            return
        try:
            message = parse_message(frame.payload)
            if not isinstance(message, SignedMessage):
                return
            if signed_label(message.signed) != Receipt.LABEL:
                return
            receipt = verify_signed(Receipt, message.signed, signer=None)  # (2)
        except BlindhostError as error:
            _log.warning("receipt-not-kept lease=%s reason=%s", lease, type(error).__name__)
            return
        if receipt.document.lease != lease:  # (3)
            _log.warning("receipt-not-kept lease=%s reason=names another", lease)
            return
        kept = KeptReceipt(
            digest=receipt.digest,
            lease=lease,
            number=receipt.document.number,
            signer=receipt.signer,
            signed=receipt.encode(),
            at=self._clock(),
        )
        self._keep(lambda: self._book.keep_receipt(kept))

    def opened(self, view: LeaseView) -> None:
        """Keep a lease's terms, as the market states them when the lease is first seen."""
        self._keep(lambda: self._book.keep_lease(view, fee_ppm=self.fee_ppm, now=self._clock()))

    def offer_is(self, state: str) -> None:
        """Note what the offer does, as often as it changes, and every `NOTE_MS`."""
        now = self._clock()
        if self._noted is not None:
            known, at = self._noted
            if known == state and 0 <= now - at < NOTE_MS:
                return
        self._noted = (state, now)
        self._keep(lambda: self._book.note_state(state, now))

    @staticmethod
    def _keep(write: Callable[[], None]) -> None:
        try:
            write()
        except sqlite3.Error as error:
            _log.warning("book-not-written reason=%s", error)
