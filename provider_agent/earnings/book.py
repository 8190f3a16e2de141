"""What a host keeps for its own accounts, in one SQLite file: it outlives leases and agents.

- Receipts that it pumped, as signed; the terms of each lease as they stood when it was first seen;
  for each moment what the offer was doing; past matches of the market; the replayed strategies.
- It is evidence, so it is durable, nothing in it is changed, and a broken one is an error and is
  never made anew. It holds nothing secret: ids, times, amounts and receipts.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from marketplace.wire import LeaseView
from marketplace.wire_hosts import PastMatch
from provider_agent.errors import AgentError

BOOK_FILE: Final = "earnings.sqlite3"
BUSY_SECONDS: Final = 5.0
SPAN_GAP_MS: Final = 120_000  # no word for so long: the agent was not running
RECEIPTS_MAX: Final = 1 << 16  # of one lease: six weeks, one a minute; an enclave may sign more

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS receipt (
    digest BLOB PRIMARY KEY, lease TEXT NOT NULL, number INTEGER NOT NULL,
    signer BLOB NOT NULL, signed BLOB NOT NULL, at INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS receipt_lease ON receipt (lease, number);
CREATE TABLE IF NOT EXISTS lease (
    name TEXT PRIMARY KEY, offer TEXT NOT NULL, price INTEGER NOT NULL, gpus INTEGER NOT NULL,
    fee_ppm INTEGER, at INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS span (
    number INTEGER PRIMARY KEY, state TEXT NOT NULL, since INTEGER NOT NULL, until INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS past_match (
    at INTEGER NOT NULL, price INTEGER NOT NULL, minutes INTEGER NOT NULL,
    interruptible INTEGER NOT NULL, mine INTEGER NOT NULL, copy INTEGER NOT NULL,
    PRIMARY KEY (at, price, interruptible, mine, copy)
);
CREATE TABLE IF NOT EXISTS replayed (strategy BLOB PRIMARY KEY, leases INTEGER NOT NULL,
    at INTEGER NOT NULL);
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptReceipt:
    """A copy of a receipt that this agent carried to the market."""

    digest: bytes
    lease: str
    number: int
    signer: bytes
    signed: bytes
    at: int
    """Unix milliseconds: when it was carried first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptLease:
    """The terms of a lease, as the market stated them when it was opened."""

    name: str
    offer: str
    price: int
    """Microcredits per GPU-hour."""
    gpus: int
    fee_ppm: int | None
    """The market's fee then; None: it was not asked."""
    at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """What the offer did from one moment to another; Unix milliseconds."""

    state: str
    since: int
    until: int


class Book:
    """The host's own book, in one file of mode 0600. Every method may raise sqlite3.Error."""

    def __init__(self, file: Path) -> None:
        new = not file.exists()
        if new:
            file.touch(mode=0o600)
        self._rows = sqlite3.connect(file, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            self._rows.execute("PRAGMA journal_mode = WAL")
            self._rows.execute("PRAGMA synchronous = FULL")
            self._rows.executescript(_SCHEMA)
        except sqlite3.DatabaseError as error:
            self._rows.close()
            raise AgentError(f"the host's book {file.name} does not open: {error}") from error

    def close(self) -> None:
        """Let the file go."""
        self._rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- receipts and leases ---------------------------------------------------------------------

    def keep_receipt(self, receipt: KeptReceipt) -> None:
        """Keep a receipt; the same again changes nothing, nor does one too many of one lease."""
        r = receipt
        values = (r.digest, r.lease, r.number, r.signer, r.signed, r.at, r.lease, RECEIPTS_MAX)
        self._rows.execute(
            """INSERT OR IGNORE INTO receipt SELECT ?, ?, ?, ?, ?, ?
            WHERE (SELECT count(*) FROM receipt WHERE lease = ?) < ?""",
            values,
        )

    def receipts(self, lease: str) -> tuple[KeptReceipt, ...]:
        """Those of one lease, by number."""
        sql = """SELECT digest, lease, number, signer, signed, at FROM receipt
            WHERE lease = ? ORDER BY number, digest"""
        names = ("digest", "lease", "number", "signer", "signed", "at")
        return tuple(
            KeptReceipt(**dict(zip(names, row, strict=True)))
            for row in self._rows.execute(sql, (lease,))
        )

    def keep_lease(self, view: LeaseView, *, fee_ppm: int | None, now: int) -> None:
        """Keep a lease's terms as they are first seen; later ones change nothing."""
        price = view.price_microcredits_per_gpu_hour
        values = (view.lease, view.offer, price, view.gpus, fee_ppm, now)
        self._rows.execute("INSERT OR IGNORE INTO lease VALUES (?, ?, ?, ?, ?, ?)", values)

    def leases(self) -> dict[str, KeptLease]:
        """By name."""
        names = ("name", "offer", "price", "gpus", "fee_ppm", "at")
        sql = "SELECT name, offer, price, gpus, fee_ppm, at FROM lease ORDER BY at, name"
        rows = self._rows.execute(sql)
        return {row[0]: KeptLease(**dict(zip(names, row, strict=True))) for row in rows}

    # --- what the offer did ----------------------------------------------------------------------

    def note_state(self, state: str, now: int) -> None:
        """Say what the offer does now. A state that goes on makes its span longer.

        A clock that was set back makes no span shorter.
        """
        last = self._rows.execute(
            "SELECT number, state, until FROM span ORDER BY number DESC LIMIT 1"
        ).fetchone()
        if last is not None and last[1] == state and now - last[2] <= SPAN_GAP_MS:
            sql = "UPDATE span SET until = max(until, ?) WHERE number = ?"
            self._rows.execute(sql, (now, last[0]))
            return
        since = now
        if last is not None and now - last[2] <= SPAN_GAP_MS:
            since = last[2]  # no gap between two words of one running agent
        sql = "INSERT INTO span (state, since, until) VALUES (?, ?, ?)"
        self._rows.execute(sql, (state, since, max(since, now)))

    def spans(self) -> tuple[Span, ...]:
        """Oldest first."""
        rows = self._rows.execute("SELECT state, since, until FROM span ORDER BY number")
        return tuple(Span(state=state, since=since, until=until) for state, since, until in rows)

    # --- history and strategies ------------------------------------------------------------------

    def keep_matches(self, matches: tuple[PastMatch, ...]) -> None:
        """Add to the recorded history.

        A match that is there already stays as it is, but for its minutes, which a lease that still
        ran could not have told.
        """
        copies: dict[tuple[int, int, bool, bool], int] = {}
        self._rows.execute("BEGIN")
        for each in matches:
            price = each.price_microcredits_per_gpu_hour
            name = (each.at, price, each.interruptible, each.mine)
            copies[name] = copies.get(name, 0) + 1
            self._rows.execute(
                """INSERT INTO past_match VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
                SET minutes = max(minutes, excluded.minutes)""",
                (each.at, price, each.minutes, each.interruptible, each.mine, copies[name]),
            )
        self._rows.execute("COMMIT")

    def matches(self) -> tuple[PastMatch, ...]:
        """The recorded history, oldest first."""
        sql = """SELECT at, price, minutes, interruptible, mine FROM past_match
            ORDER BY at, price, interruptible, mine, copy"""
        return tuple(
            PastMatch(
                at=at,
                price_microcredits_per_gpu_hour=price,
                minutes=minutes,
                interruptible=bool(interruptible),
                mine=bool(mine),
            )
            for at, price, minutes, interruptible, mine in self._rows.execute(sql)
        )

    def note_replayed(self, strategy: bytes, *, leases: int, now: int) -> None:
        """A strategy was replayed on so many leases."""
        sql = "INSERT OR REPLACE INTO replayed VALUES (?, ?, ?)"
        self._rows.execute(sql, (strategy, leases, now))

    def replayed(self, strategy: bytes) -> int | None:
        """On how many leases a strategy was replayed; None: never."""
        sql = "SELECT leases FROM replayed WHERE strategy = ?"
        row = self._rows.execute(sql, (strategy,)).fetchone()
        return None if row is None else int(row[0])
