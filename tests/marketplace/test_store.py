"""A scope commits as a whole, or leaves no trace."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sqlalchemy as sa

from marketplace import ledger
from marketplace.models import AccountRole
from marketplace.store import Store
from tests.marketplace.world import BUYER, fund, xfer


def pragma(store: Store, name: str) -> object:
    with store.reading() as session:
        return session.connection().exec_driver_sql(f"PRAGMA {name}").scalar_one()


def test_every_connection_is_durable_and_keeps_foreign_keys(store: Store) -> None:
    wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "recursive_triggers": 1}
    assert {name: pragma(store, name) for name in wanted} == wanted


def test_database_file_is_its_owners_alone(tmp_path: Path) -> None:
    Store.open_file(tmp_path / "private.db").close()
    assert (tmp_path / "private.db").stat().st_mode & 0o777 == 0o600


def test_a_scope_that_raises_leaves_no_trace(store: Store) -> None:
    with pytest.raises(RuntimeError, match="crash"), store.transaction() as session:  # noqa: PT012
        fund(session, 7)
        raise RuntimeError("crash")
    with store.reading() as session:
        assert ledger.balance(session, AccountRole.BUYER, BUYER.identity) == 0


def test_a_reading_scope_keeps_no_change(store: Store) -> None:
    with store.reading() as session:
        fund(session, 7)
    with store.reading() as session:
        assert ledger.balance(session, AccountRole.BUYER, BUYER.identity) == 0


def test_a_writer_waits_and_sees_what_the_one_before_wrote(store: Store) -> None:
    """BEGIN IMMEDIATE: nobody decides on a balance that another writer is about to change."""
    begun, go_on, seen = threading.Event(), threading.Event(), []

    def second() -> None:
        begun.wait()
        go_on.set()
        with store.transaction() as session:
            seen.append(ledger.balance(session, AccountRole.BUYER, BUYER.identity))

    thread = threading.Thread(target=second)
    thread.start()
    with store.transaction() as session:
        begun.set()
        go_on.wait()
        fund(session, 7)
    thread.join()
    assert seen == [7]


def test_foreign_keys_are_refused(store: Store) -> None:
    statement = "INSERT INTO transfer VALUES ('xfer_1', 'post', 'd', 0, 'hold_unknown', NULL, 1)"
    with pytest.raises(sa.exc.IntegrityError, match="FOREIGN KEY"), store.transaction() as session:
        session.connection().exec_driver_sql(statement)


def test_killed_writer_leaves_books_as_they_were(tmp_path: Path) -> None:
    """A connection that dies with an open transaction: the next reader sees none of it."""
    path = tmp_path / "market.db"
    store = Store.open_file(path)
    with store.transaction() as session:
        fund(session, 7)
    raw = sqlite3.connect(path, isolation_level=None)
    raw.execute("BEGIN IMMEDIATE")
    raw.execute("INSERT INTO transfer VALUES (?, 'top_up', 'd', 1, NULL, NULL, 1)", (xfer(),))
    raw.close()
    with store.reading() as session:
        assert ledger.audit(session) == ()
        assert ledger.balance(session, AccountRole.BUYER, BUYER.identity) == 7
    store.close()


WRITER = """
import sys
from pathlib import Path
from marketplace import ledger
from marketplace.ids import IdKind, make_id
from marketplace.store import Store
store = Store.open_file(Path(sys.argv[1]))
for number in range(1 << 20):
    name = make_id(IdKind.TRANSFER, now=number, random=bytes(10))
    with store.transaction() as session:
        command = ledger.TopUp(id=name, buyer=bytes(32), provider="x", amount=1)
        ledger.top_up(session, command, number)
    print(name, flush=True)
"""


def test_what_was_answered_before_sigkill_is_there_and_the_rest_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "market.db"
    Store.open_file(path).close()
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        answered = [writer.stdout.readline().strip() for _ in range(30)]
        writer.kill()
        answered += writer.stdout.read().split()
    store = Store.open_file(path)
    with store.reading() as session:
        query = sa.text("SELECT id FROM transfer ORDER BY id")
        found = list(session.connection().execute(query).scalars())
        assert ledger.audit(session) == ()
        total = ledger.balance(session, AccountRole.BUYER, bytes(32))
    assert len(found) - len(answered) in {0, 1}  # killed after its commit, before its answer
    assert found[: len(answered)] == answered
    assert total == len(found)
    store.close()
