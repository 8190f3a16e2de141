"""The triggers that keep rows and balances, as migrations install them.

A trigger refuses, for every connection, what the program would never ask: so a forged UPDATE or
DELETE fails even for somebody who holds the database's password but may not drop triggers.
An entry that a released migration has installed never changes; a later rule is a new entry.
The PostgreSQL text was tried by hand on version 15; the tests run on SQLite.
"""

from __future__ import annotations

import dataclasses
from typing import Final

_MOVE: Final = """\
UPDATE account SET balance = balance - NEW.amount, version = version + 1
 WHERE id = NEW.debit_account;
UPDATE account SET balance = balance + NEW.amount, version = version + 1
 WHERE id = NEW.credit_account;"""

_MISPLACED: Final = """\
NEW.number NOT BETWEEN 1 AND (SELECT leg_count FROM transfer WHERE id = NEW.transfer_id)
 OR NEW.debit_version <> (SELECT version + 1 FROM account WHERE id = NEW.debit_account)
 OR NEW.credit_version <> (SELECT version + 1 FROM account WHERE id = NEW.credit_account)"""

_WITHOUT_LEG: Final = """\
NEW.version <> OLD.version + 1 OR NOT EXISTS (SELECT 1 FROM leg WHERE
 (debit_account = NEW.id AND debit_version = NEW.version AND NEW.balance = OLD.balance - amount)
 OR (credit_account = NEW.id AND credit_version = NEW.version
 AND NEW.balance = OLD.balance + amount))"""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Trigger:
    """One trigger: it refuses what `when` says, or, if it `moves`, does what the text says."""

    name: str
    table: str
    event: str
    """UPDATE, DELETE or INSERT; BEFORE it, or AFTER it for the one that moves balances."""
    when: str = ""
    """A condition over OLD and NEW; empty = always."""
    message: str = ""
    """What the refusal says."""
    moves: str = ""
    """Statements instead of a refusal."""
    sqlite_only: bool = False
    """REPLACE is SQLite's: it deletes rows without an UPDATE or a DELETE."""

    def sqlite(self) -> str:
        """The statement for SQLite, exactly as sqlite_master keeps it."""
        timing = "AFTER" if self.moves else "BEFORE"
        when = f"\nWHEN {self.when}" if self.when else ""
        body = self.moves or f"SELECT RAISE(ABORT, '{self.message}');"
        return (
            f'CREATE TRIGGER {self.name} {timing} {self.event} ON "{self.table}"{when}\n'
            f"BEGIN\n{body}\nEND"
        )

    def postgresql(self) -> tuple[str, ...]:
        """The statements for PostgreSQL: a function, then the trigger that calls it."""
        if self.sqlite_only:
            return ()
        timing = "AFTER" if self.moves else "BEFORE"
        row = "OLD" if self.event == "DELETE" else "NEW"
        refusal = f"RAISE EXCEPTION '{self.message}';"
        if self.when:
            refusal = f"IF {self.when} THEN {refusal} END IF;"
        function = (
            f"CREATE FUNCTION {self.name}() RETURNS trigger LANGUAGE plpgsql AS $$\n"
            f"BEGIN\n{self.moves or refusal}\nRETURN {row};\nEND $$"
        )
        trigger = (
            f'CREATE TRIGGER {self.name} {timing} {self.event} ON "{self.table}"\n'
            f"FOR EACH ROW EXECUTE FUNCTION {self.name}()"
        )
        return (function, trigger)


def _kept(table: str, key: str) -> tuple[Trigger, ...]:
    """Rows of `table` never go, not even to make room for another of the same key."""
    keys = " AND ".join(f"{column} = NEW.{column}" for column in key.split())
    return (
        Trigger(
            name=f"{table}_no_delete",
            table=table,
            event="DELETE",
            message=f"a row of {table} is never deleted",
        ),
        Trigger(
            name=f"{table}_no_replace",
            table=table,
            event="INSERT",
            when=f'EXISTS (SELECT 1 FROM "{table}" WHERE {keys})',  # noqa: S608  our own names
            message=f"UNIQUE constraint failed: {table}: a row of this key is there already",
            sqlite_only=True,
        ),
    )


def _immutable(table: str, key: str) -> tuple[Trigger, ...]:
    """Rows of `table` never change and never go."""
    update = Trigger(
        name=f"{table}_no_update",
        table=table,
        event="UPDATE",
        message=f"a row of {table} never changes",
    )
    return (update, *_kept(table, key))


def _fixed(table: str, key: str, columns: str) -> tuple[Trigger, ...]:
    """Rows of `table` never go, and neither key nor these columns of them ever change."""
    names = f"{key} {columns}".split()
    update = Trigger(
        name=f"{table}_fixed",
        table=table,
        event="UPDATE",
        when=" OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in names),
        message=f"these columns of {table} never change: {' '.join(names)}",
    )
    return (update, *_kept(table, key))


FIRST: Final = (
    *_immutable("transfer", "id"),
    *_immutable("leg", "transfer_id number"),
    *_immutable("offer_terms", "offer_id number"),
    *_immutable("generation_order", "job_digest number"),
    *_immutable("receipt", "digest"),
    *_immutable("transition", "subject_id number"),
    *_kept("account", "id"),
    *_fixed("hold", "id", "order_id account_id escrow_id reserved expires_at_ms created_at_ms"),
    *_fixed("offer", "id", "host created_at_ms"),
    *_fixed("order", "id", "buyer job_digest hold_id bid_kind bid gpus created_at_ms"),
    *_fixed(
        "job",
        "digest",
        "buyer owner manifest terms_digest enclaves checkpoint_steps generations_max spend_max"
        " meter ceiling royalty_per_job royalty_per_million_tokens fee_ppm created_at_ms",
    ),
    *_fixed(
        "lease",
        "id",
        "order_id job_digest rank offer_id offer_terms_number price host created_at_ms",
    ),
    *_fixed(
        "settlement",
        "receipt_digest",
        "lease_id job_digest job_number generation rank host_amount owner_amount fee_amount"
        " lease_gross lease_fee lease_tokens paid_through_step job_royalty job_tokens transfer_id"
        " matures_at_ms created_at_ms",
    ),
    Trigger(
        name="account_opens_empty",
        table="account",
        event="INSERT",
        when="NEW.balance <> 0 OR NEW.version <> 0",
        message="an account opens with balance 0 and version 0",
    ),
    Trigger(
        name="account_moves_by_leg",
        table="account",
        event="UPDATE",
        when=_WITHOUT_LEG,
        message="a balance moves by an inserted leg, once, and by nothing else",
    ),
    Trigger(
        name="leg_in_its_place",
        table="leg",
        event="INSERT",
        when=_MISPLACED,
        message="a leg counts within its transfer, and after the last leg of both its accounts",
    ),
    Trigger(name="leg_moves_balances", table="leg", event="INSERT", moves=_MOVE),
    Trigger(
        name="hold_ends_once",
        table="hold",
        event="UPDATE",
        when=(
            "OLD.state <> 'placed' OR NEW.captured < OLD.captured OR NEW.released < OLD.released"
        ),
        message="a hold that ended never changes, and what it captured or released never falls",
    ),
    Trigger(
        name="job_generation_rises",
        table="job",
        event="UPDATE",
        when="NEW.generation NOT IN (OLD.generation, OLD.generation + 1)",
        message="a generation follows the one before",
    ),
    Trigger(
        name="lease_set_once",
        table="lease",
        event="UPDATE",
        when=" OR ".join(
            f"OLD.{c} IS NOT NULL AND NEW.{c} IS DISTINCT FROM OLD.{c}"
            for c in ("generation", "signing_key", "ready_at_ms", "metered_until_ms")
        ),
        message="generation, signing key and metered times of a lease are set once",
    ),
    Trigger(
        name="settlement_ends_once",
        table="settlement",
        event="UPDATE",
        when="OLD.state IN ('matured', 'refunded')",
        message="a settlement that matured or went back never changes",
    ),
)

TRIGGERS: Final = FIRST
