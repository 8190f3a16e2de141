"""What the cache knows of its objects without opening them: a row for each, in SQLite.

Rules:
- A row is written before its file and removed after it, so an agent that was killed leaves rows
  without files, which a read notices, and no file that nobody counts. Only a machine that lost its
  power, or an index that was lost, may leave such files: then the folder is looked through once.
- Nothing here is believed of an object's content: a name and a size are what a row says.
- The index is a convenience. It is made again from the files' names and sizes, whatever happened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

BUSY_SECONDS: Final = 5.0
EVICT_AT_ONCE: Final = 256
_WAITING: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL})

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS object (
    digest BLOB PRIMARY KEY, bytes INTEGER NOT NULL, used INTEGER NOT NULL, lease TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS object_used ON object (used);
CREATE TABLE IF NOT EXISTS pin (digest BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS running (lease TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS note (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS total (one INTEGER PRIMARY KEY CHECK (one = 1), bytes INTEGER NOT NULL);
INSERT OR IGNORE INTO total VALUES (1, 0);
CREATE TRIGGER IF NOT EXISTS object_comes AFTER INSERT ON object
    BEGIN UPDATE total SET bytes = bytes + NEW.bytes; END;
CREATE TRIGGER IF NOT EXISTS object_goes AFTER DELETE ON object
    BEGIN UPDATE total SET bytes = bytes - OLD.bytes; END;
"""
_KEPT: Final = """
    FROM object WHERE digest NOT IN (SELECT digest FROM pin)
    AND (lease IS NULL OR lease NOT IN (SELECT lease FROM running))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class CachedObject:
    """One object, as the index has it."""

    digest: bytes
    bytes: int
    used: int
    """Rises with each lease that used an object: what is least was used longest ago."""
    lease: str | None
    """The last lease that used it; None: no lease did."""
    pinned: bool
    """The host pinned it, or its last lease runs."""


def may_pass(error: sqlite3.Error) -> bool:
    """Whether the same question may be answered later: locked, or a full disk."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _WAITING


class Index:
    """Rows of one cache. `file` None: in memory. Every method may raise sqlite3.Error."""

    def __init__(self, file: Path | None) -> None:
        self._rows = sqlite3.connect(
            ":memory:" if file is None else file, timeout=BUSY_SECONDS, isolation_level=None
        )
        try:
            self._rows.execute("PRAGMA journal_mode = WAL")
            self._rows.execute("PRAGMA synchronous = OFF")  # what is lost with the power is found
            self._rows.executescript(_SCHEMA)
        except sqlite3.Error:
            self._rows.close()
            raise
        self._numbers: dict[str, int] = {}

    def close(self) -> None:
        """Let the file go."""
        self._rows.close()

    # --- objects ---------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Of all objects."""
        return int(self._one("SELECT bytes FROM total"))

    @property
    def objects(self) -> int:
        """How many there are."""
        return int(self._one("SELECT count(*) FROM object"))

    def has(self, sha256: bytes) -> bool:
        """Whether there is a row."""
        row = self._rows.execute("SELECT 1 FROM object WHERE digest = ?", (sha256,)).fetchone()
        return row is not None

    def add(self, sha256: bytes, size: int, lease: str | None) -> None:
        """A row for an object that is about to be written."""
        values = (sha256, size, self._use(lease), lease)
        self._rows.execute("INSERT OR IGNORE INTO object VALUES (?, ?, ?, ?)", values)

    def found(self, objects: Iterable[tuple[bytes, int]]) -> None:
        """Rows for files that were found; those that have one keep it."""
        self._rows.execute("BEGIN")
        self._rows.executemany("INSERT OR IGNORE INTO object VALUES (?, ?, 0, NULL)", objects)
        self._rows.execute("COMMIT")

    def touch(self, sha256: bytes, lease: str | None) -> None:
        """A lease used the object: one lease writes one row once."""
        used = self._use(lease)
        sql = "UPDATE object SET used = ?, lease = ? WHERE digest = ? AND used <> ?"
        self._rows.execute(sql, (used, lease, sha256, used))

    def remove(self, sha256: bytes) -> None:
        """Its file has gone."""
        self._rows.execute("DELETE FROM object WHERE digest = ?", (sha256,))

    def oldest(self) -> list[tuple[bytes, int]]:
        """Digests and sizes of objects that may go, what was used longest ago first."""
        sql = f"SELECT digest, bytes {_KEPT} ORDER BY used LIMIT {EVICT_AT_ONCE}"
        return list(self._rows.execute(sql))

    def listed(self) -> tuple[CachedObject, ...]:
        """Every object, what was used last first."""
        sql = """SELECT digest, bytes, used, lease, digest IN (SELECT digest FROM pin)
            OR (lease IS NOT NULL AND lease IN (SELECT lease FROM running))
            FROM object ORDER BY used DESC, digest"""
        return tuple(
            CachedObject(digest=name, bytes=size, used=used, lease=lease, pinned=bool(pinned))
            for name, size, used, lease, pinned in self._rows.execute(sql)
        )

    # --- what stays ------------------------------------------------------------------------------

    def pin(self, digests: Iterable[bytes]) -> None:
        """The host wants these kept, here or not."""
        rows = [(each,) for each in digests]
        self._rows.executemany("INSERT OR IGNORE INTO pin VALUES (?)", rows)

    def unpin(self, digests: Iterable[bytes]) -> None:
        """Let them go in their turn."""
        self._rows.executemany("DELETE FROM pin WHERE digest = ?", [(each,) for each in digests])

    def begin(self, lease: str) -> None:
        """What this lease uses stays while it runs."""
        self._rows.execute("INSERT OR IGNORE INTO running VALUES (?)", (lease,))

    def end(self, lease: str) -> None:
        """It runs no more."""
        self._rows.execute("DELETE FROM running WHERE lease = ?", (lease,))
        self._numbers.pop(lease, None)

    def end_all(self) -> None:
        """No lease runs: an agent has just started."""
        self._rows.execute("DELETE FROM running")

    # --- notes -----------------------------------------------------------------------------------

    def note(self, name: str) -> str | None:
        """What was noted under this name."""
        row = self._rows.execute("SELECT value FROM note WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def set_note(self, name: str, value: str) -> None:
        """Note it."""
        self._rows.execute("INSERT OR REPLACE INTO note VALUES (?, ?)", (name, value))

    def _use(self, lease: str | None) -> int:
        """The number of this use: one for each lease, another for each use by none."""
        if lease is not None and lease in self._numbers:
            return self._numbers[lease]
        number = 1 + int(self._one("SELECT coalesce(max(used), 0) FROM object"))
        if lease is not None:
            self._numbers[lease] = number
        return number

    def _one(self, sql: str) -> int:
        return int(self._rows.execute(sql).fetchone()[0])
