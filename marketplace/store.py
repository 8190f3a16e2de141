"""The database: its engine, its transaction scope, and nothing else.

- A writing scope is one transaction: it commits as a whole when the block ends, and leaves no
  trace when the block raises. On SQLite it begins with ``BEGIN IMMEDIATE``, so a scope that has
  begun never meets another writer, and what it read is still true when it writes.
- ``synchronous=FULL`` in WAL mode: what was answered has reached the disk.
- Foreign keys are on in every connection; SQLite's default is off.
- A store opens only on a schema at the newest migration, with every trigger in place.
- A disk that is full ends a scope as any other error does: nothing of it is stored, what was stored
  before can be read, and the next scope works as soon as there is room (`is_full`).

On PostgreSQL isolation is SERIALIZABLE. There a conflict of two writers ends one of them with an
OperationalError (SQLSTATE 40001), and whoever runs the scope has to run it again: nothing does yet.
Migrations, triggers and ledger were tried by hand on PostgreSQL 15; the tests run on SQLite.
"""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlmodel import Session

from marketplace.migrations import check_schema, upgrade

BUSY_MILLISECONDS: Final = 10_000  # a writer waits so long for another; a capture takes under 50
DISK_FULL_STATE: Final = "53100"  # PostgreSQL's SQLSTATE
READ_ONLY: Final = "blindhost_read_only"


class Store:
    """One database. Threads may share it; every scope has a session of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reader = engine.execution_options(**{READ_ONLY: True})

    @classmethod
    def open(cls, url: str) -> Self:
        """Open a database, and migrate it to the newest schema first.

        Raises SchemaError if the schema is newer than this program, or lacks a trigger.
        """
        engine = make_engine(make_url(url))
        upgrade(engine)
        check_schema(engine)
        return cls(engine)

    @classmethod
    def open_file(cls, path: Path) -> Self:
        """Open an SQLite file; it is made, readable by its owner alone, if it is not there."""
        if not path.exists():
            path.touch(mode=0o600)
        return cls.open(f"sqlite:///{path}")

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        """A writing scope: all of it, or nothing."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            session.connection()  # begins now: a session by itself waits for its first statement
            yield session

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """A scope that sees one consistent state and keeps no change."""
        with Session(self._reader, expire_on_commit=False) as session:
            try:
                session.connection()
                yield session
            finally:
                session.expunge_all()  # or the rollback would empty the rows that were read
                session.rollback()


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full: SQLite's, PostgreSQL's or a file system's."""
    found = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(found, OSError):
        return found.errno in {errno.ENOSPC, errno.EDQUOT}
    if getattr(found, "sqlstate", None) == DISK_FULL_STATE:
        return True
    return getattr(found, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def make_engine(url: URL) -> Engine:
    """An engine whose every connection and transaction keeps the rules above."""
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, isolation_level="SERIALIZABLE")
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_MILLISECONDS / 1000})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # sqlite3 begins nothing by itself: `_on_begin` does
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "recursive_triggers=ON",  # or REPLACE deletes rows without asking the triggers
        "trusted_schema=OFF",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
