"""Tables of money, the book and metering, and nothing else. `triggers.py` keeps their rules.

- Amounts are integer microcredits and columns of 64 bits; no float, no NUMERIC.
- Times are Unix milliseconds, UTC, in columns of 64 bits. Signed documents carry the same integers,
  prices multiply them, and neither database nor driver can shift them by a time zone.
- A party is its Ed25519 identity, a document its SHA-256: both stand here as base64url, as on the
  wire. Signed documents are kept as the bytes that were signed.
- Balance = credits - debits, for every account. A leg moves a positive amount from the account it
  debits to the account it credits, so the sum of all balances is zero by construction.
- Rows of `transfer`, `leg`, `offer_terms`, `generation_order`, `receipt` and `transition` never
  change and never go; `account.balance` moves by an inserted leg and by nothing else.
"""

from __future__ import annotations

import enum
from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from trust.jobs import BidKind

METADATA: Final = SQLModel.metadata
METADATA.naming_convention = {
    "pk": "%(table_name)s_pk",
    "uq": "%(table_name)s_%(column_0_name)s_unique",
    "fk": "%(table_name)s_%(column_0_name)s_refers",
    "ix": "%(table_name)s_%(column_0_name)s",
}
ID_CHARACTERS_MAX: Final = 96  # "owner:" + 43 characters of an identity + ":pending"


class AccountRole(enum.StrEnum):
    """What an account is for; `ledger.account_id` turns a role and a party into its id."""

    EXTERNAL = "external"
    BUYER = "buyer"
    ESCROW = "escrow"
    HOST_PENDING = "host_pending"
    HOST_PAYABLE = "host_payable"
    OWNER_PENDING = "owner_pending"
    OWNER_PAYABLE = "owner_payable"
    FEES = "fees"
    CLEARING = "clearing"


class TransferKind(enum.StrEnum):
    """Why money moved."""

    TOP_UP = "top_up"
    PLACE = "place"
    POST = "post"
    VOID = "void"
    EXPIRE = "expire"
    MATURE = "mature"
    REFUND = "refund"
    PAY_OUT = "pay_out"


class HoldState(enum.StrEnum):
    """A hold is placed once and ends once."""

    PLACED = "placed"
    POSTED = "posted"
    VOIDED = "voided"
    EXPIRED = "expired"


class OfferState(enum.StrEnum):
    """See `transitions.OFFER`."""

    LISTED = "listed"
    CLAIMED = "claimed"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    UNLISTED = "unlisted"
    EXPIRED = "expired"


class OrderState(enum.StrEnum):
    """See `transitions.ORDER`."""

    OPEN = "open"
    LEASED = "leased"
    CLOSED = "closed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class JobState(enum.StrEnum):
    """See `transitions.JOB`."""

    QUEUED = "queued"
    PLACED = "placed"
    STARTING = "starting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXHAUSTED = "exhausted"


class LeaseState(enum.StrEnum):
    """See `transitions.LEASE`."""

    FUNDED = "funded"
    CLAIMED = "claimed"
    PROVISIONING = "provisioning"
    ATTESTING = "attesting"
    READY = "ready"
    DRAINING = "draining"
    PREEMPTED = "preempted"
    HOST_LOST = "host_lost"
    EXHAUSTED = "exhausted"
    REVOKED = "revoked"
    CLOSED = "closed"
    CLAIM_LOST = "claim_lost"
    PROVISION_FAILED = "provision_failed"
    ATTEST_FAILED = "attest_failed"


class SettlementState(enum.StrEnum):
    """What was posted for a receipt waits, matures, is disputed, or went back."""

    PENDING = "pending"
    DISPUTED = "disputed"
    MATURED = "matured"
    REFUNDED = "refunded"


class Meter(enum.StrEnum):
    """What a job's ceiling counts: training steps, a whole evaluation, a million served tokens."""

    STEPS = "steps"
    RUN = "run"
    TOKENS = "tokens"


def _enum(kind: type[enum.StrEnum]) -> sa.Enum:
    return sa.Enum(
        kind,
        native_enum=False,
        create_constraint=True,
        name=kind.__name__.lower(),
        length=24,
        values_callable=lambda members: [member.value for member in members],
    )


def _column(kind: Any, *constraints: Any, **options: Any) -> Any:
    return Field(sa_column=sa.Column(kind, *constraints, **({"nullable": False} | options)))


def _text(*constraints: Any, **options: Any) -> Any:
    return _column(sa.String(ID_CHARACTERS_MAX), *constraints, **options)


def _integer(**options: Any) -> Any:
    return _column(sa.BigInteger(), **options)


# --- money ---------------------------------------------------------------------------------------


class Account(SQLModel, table=True):
    """A balance that moves by legs alone. `floor` None: it may fall below zero without limit."""

    __tablename__ = "account"
    __table_args__ = (
        sa.UniqueConstraint("id", "currency", name="account_currency"),
        sa.CheckConstraint("floor IS NULL OR balance >= floor", name="account_floor"),
        sa.CheckConstraint("version >= 0", name="account_version"),
    )
    id: str = _text(primary_key=True)
    role: AccountRole = _column(_enum(AccountRole))
    currency: str = _column(sa.String(8))
    floor: int | None = _integer(nullable=True)
    balance: int = _integer()
    version: int = _integer()
    created_at_ms: int = _integer()


class Hold(SQLModel, table=True):
    """Money of one order, set aside in an escrow account of its own; leases draw on it."""

    __tablename__ = "hold"
    __table_args__ = (
        sa.CheckConstraint("reserved > 0", name="hold_reserved"),
        sa.CheckConstraint("captured >= 0 AND released >= 0", name="hold_parts"),
        sa.CheckConstraint("captured + released <= reserved", name="hold_sum"),
        sa.CheckConstraint("state = 'placed' OR captured + released = reserved", name="hold_ended"),
        sa.Index(
            "hold_live_order",
            "order_id",
            unique=True,
            sqlite_where=sa.text("state = 'placed'"),
            postgresql_where=sa.text("state = 'placed'"),
        ),
    )
    id: str = _text(primary_key=True)
    order_id: str = _text()
    account_id: str = _text(sa.ForeignKey("account.id"))
    escrow_id: str = _text(sa.ForeignKey("account.id"), unique=True)
    reserved: int = _integer()
    captured: int = _integer()
    released: int = _integer()
    state: HoldState = _column(_enum(HoldState))
    expires_at_ms: int = _integer()
    created_at_ms: int = _integer()


class Transfer(SQLModel, table=True):
    """One movement of money under a client-made id; `leg_count` legs and never another."""

    __tablename__ = "transfer"
    __table_args__ = (sa.CheckConstraint("leg_count >= 0", name="transfer_leg_count"),)
    id: str = _text(primary_key=True)
    kind: TransferKind = _column(_enum(TransferKind))
    command_digest: str = _text()
    leg_count: int = _integer()
    hold_id: str | None = _text(sa.ForeignKey("hold.id"), nullable=True, index=True)
    reverses: str | None = _text(sa.ForeignKey("transfer.id"), nullable=True, unique=True)
    created_at_ms: int = _integer()


class Leg(SQLModel, table=True):
    """A positive amount from one account to another.

    It names the version that each account has once it is counted: a trigger refuses a version that
    is not the next, and a balance moves to a version by the leg that names it. So each leg counts
    once, and an UPDATE of a balance by hand finds no leg to stand on.
    """

    __tablename__ = "leg"
    __table_args__ = (
        sa.CheckConstraint("amount > 0", name="leg_amount"),
        sa.CheckConstraint("debit_account <> credit_account", name="leg_accounts"),
        sa.ForeignKeyConstraint(
            ["debit_account", "currency"], ["account.id", "account.currency"], name="leg_debit"
        ),
        sa.ForeignKeyConstraint(
            ["credit_account", "currency"], ["account.id", "account.currency"], name="leg_credit"
        ),
        sa.UniqueConstraint("debit_account", "debit_version", name="leg_debit_version"),
        sa.UniqueConstraint("credit_account", "credit_version", name="leg_credit_version"),
    )
    transfer_id: str = _text(sa.ForeignKey("transfer.id"), primary_key=True)
    number: int = _integer(primary_key=True, autoincrement=False)
    debit_account: str = _text()
    debit_version: int = _integer()
    credit_account: str = _text()
    credit_version: int = _integer()
    currency: str = _column(sa.String(8))
    amount: int = _integer()


# --- the book ------------------------------------------------------------------------------------


class Offer(SQLModel, table=True):
    """A machine that a host offers; `version` is the compare-and-set token of every change."""

    __tablename__ = "offer"
    __table_args__ = (
        sa.Index("offer_state", "state"),
        sa.CheckConstraint(
            "state IN ('unlisted', 'expired') OR deadline_ms IS NOT NULL", name="offer_deadline"
        ),
    )
    id: str = _text(primary_key=True)
    host: str = _text(index=True)
    state: OfferState = _column(_enum(OfferState))
    terms_number: int = _integer()
    version: int = _integer()
    deadline_ms: int | None = _integer(nullable=True)
    created_at_ms: int = _integer()


class OfferTerms(SQLModel, table=True):
    """One numbered version of what is offered, and for how much. It never changes."""

    __tablename__ = "offer_terms"
    __table_args__ = (
        sa.CheckConstraint("gpus > 0", name="offer_terms_gpus"),
        sa.CheckConstraint("ask >= 0", name="offer_terms_ask"),
        sa.CheckConstraint("floor IS NULL OR floor BETWEEN 0 AND ask", name="offer_terms_floor"),
    )
    offer_id: str = _text(sa.ForeignKey("offer.id"), primary_key=True)
    number: int = _integer(primary_key=True, autoincrement=False)
    platform: str = _column(sa.String(32))
    compute_class: str = _column(sa.String(512))
    gpu_model: str = _column(sa.String(64))
    gpus: int = _integer()
    memory_mib: int = _integer()
    ask: int = _integer()
    floor: int | None = _integer(nullable=True)
    ends_at_ms: int = _integer()
    created_at_ms: int = _integer()


class Job(SQLModel, table=True):
    """A signed job manifest, named by its digest, and the numbers that settlement reads from it."""

    __tablename__ = "job"
    __table_args__ = (
        sa.CheckConstraint("enclaves > 0", name="job_enclaves"),
        sa.CheckConstraint("generation BETWEEN 0 AND generations_max", name="job_generation"),
        sa.CheckConstraint("fee_ppm BETWEEN 0 AND 1000000", name="job_fee"),
        sa.CheckConstraint(
            "state IN ('succeeded', 'failed', 'cancelled', 'exhausted') OR deadline_ms IS NOT NULL",
            name="job_deadline",
        ),
    )
    digest: str = _text(primary_key=True)
    buyer: str = _text(index=True)
    owner: str = _text(index=True)
    manifest: bytes = _column(sa.LargeBinary())
    terms_digest: str = _text()
    enclaves: int = _integer()
    checkpoint_steps: int = _integer()
    generations_max: int = _integer()
    spend_max: int = _integer()
    meter: Meter = _column(_enum(Meter))
    ceiling: int = _integer()
    royalty_per_job: int = _integer()
    royalty_per_million_tokens: int = _integer()
    fee_ppm: int = _integer()
    state: JobState = _column(_enum(JobState))
    generation: int = _integer()
    waiting_for: str | None = _column(sa.String(256), nullable=True)
    version: int = _integer()
    deadline_ms: int | None = _integer(nullable=True)
    created_at_ms: int = _integer()


class GenerationOrder(SQLModel, table=True):
    """A generation order, as its buyer's broker signed it. The market stores it, and makes none."""

    __tablename__ = "generation_order"
    __table_args__ = (sa.CheckConstraint("number > 0", name="generation_order_number"),)
    job_digest: str = _text(sa.ForeignKey("job.digest"), primary_key=True)
    number: int = _integer(primary_key=True, autoincrement=False)
    digest: str = _text(unique=True)
    before: str | None = _text(nullable=True, unique=True)
    document: bytes = _column(sa.LargeBinary())
    expires_at_ms: int = _integer()
    created_at_ms: int = _integer()


class Order(SQLModel, table=True):
    """A bid with its money held: it asks for one enclave for each rank of its job."""

    __tablename__ = "order"
    __table_args__ = (
        sa.Index("order_state", "state"),
        sa.CheckConstraint("bid >= 0", name="order_bid"),
        sa.CheckConstraint("gpus > 0", name="order_gpus"),
        sa.CheckConstraint(
            "state IN ('closed', 'cancelled', 'expired') OR deadline_ms IS NOT NULL",
            name="order_deadline",
        ),
    )
    id: str = _text(primary_key=True)
    buyer: str = _text(index=True)
    job_digest: str = _text(sa.ForeignKey("job.digest"), unique=True)
    hold_id: str = _text(sa.ForeignKey("hold.id"), unique=True)
    bid_kind: BidKind = _column(_enum(BidKind))
    bid: int = _integer()
    gpus: int = _integer()
    state: OrderState = _column(_enum(OrderState))
    version: int = _integer()
    deadline_ms: int | None = _integer(nullable=True)
    created_at_ms: int = _integer()


_LIVE: Final = "state IN ('claimed', 'provisioning', 'attesting', 'ready', 'draining')"


class Lease(SQLModel, table=True):
    """The right to one machine, for one rank of one job, at the terms that the offer had."""

    __tablename__ = "lease"
    __table_args__ = (
        sa.ForeignKeyConstraint(
            ["offer_id", "offer_terms_number"],
            ["offer_terms.offer_id", "offer_terms.number"],
            name="lease_terms",
        ),
        sa.Index(
            "lease_live_offer",
            "offer_id",
            unique=True,
            sqlite_where=sa.text(_LIVE),
            postgresql_where=sa.text(_LIVE),
        ),
        sa.Index(
            "lease_live_rank",
            "job_digest",
            "rank",
            unique=True,
            sqlite_where=sa.text(_LIVE),
            postgresql_where=sa.text(_LIVE),
        ),
        sa.Index(
            "lease_overdue",
            "deadline_ms",
            sqlite_where=sa.text("deadline_ms IS NOT NULL"),
            postgresql_where=sa.text("deadline_ms IS NOT NULL"),
        ),
        sa.CheckConstraint("metered_until_ms >= ready_at_ms", name="lease_metered"),
        sa.CheckConstraint(
            "state IN ('closed', 'claim_lost', 'provision_failed', 'attest_failed')"
            " OR deadline_ms IS NOT NULL",
            name="lease_deadline",
        ),
    )
    id: str = _text(primary_key=True)
    order_id: str = _text(sa.ForeignKey("order.id"), index=True)
    job_digest: str = _text(sa.ForeignKey("job.digest"))
    rank: int = _integer()
    generation: int | None = _integer(nullable=True)
    offer_id: str = _text()
    offer_terms_number: int = _integer()
    price: int = _integer()
    host: str = _text(index=True)
    signing_key: str | None = _text(nullable=True, unique=True)
    state: LeaseState = _column(_enum(LeaseState))
    version: int = _integer()
    ready_at_ms: int | None = _integer(nullable=True)
    metered_until_ms: int | None = _integer(nullable=True)
    deadline_ms: int | None = _integer(nullable=True)
    created_at_ms: int = _integer()


# --- metering ------------------------------------------------------------------------------------


class Receipt(SQLModel, table=True):
    """A receipt that was verified and accepted, as its enclave signed it. It never changes."""

    __tablename__ = "receipt"
    __table_args__ = (sa.UniqueConstraint("lease_id", "number", name="receipt_number"),)
    digest: str = _text(primary_key=True)
    lease_id: str = _text(sa.ForeignKey("lease.id"))
    job_digest: str = _text(sa.ForeignKey("job.digest"))
    generation: int = _integer()
    rank: int = _integer()
    number: int = _integer()
    before: str | None = _text(nullable=True)
    document: bytes = _column(sa.LargeBinary())
    milliseconds: int = _integer()
    first_step: int = _integer()
    step: int = _integer()
    tokens: int = _integer()
    committed_step: int = _integer()
    end: str | None = _column(sa.String(24), nullable=True)
    received_at_ms: int = _integer()


class Settlement(SQLModel, table=True):
    """What one receipt added to what is posted. Sums are cumulative, as the receipts are."""

    __tablename__ = "settlement"
    __table_args__ = (
        sa.UniqueConstraint("job_digest", "job_number", name="settlement_job_number"),
        sa.CheckConstraint(
            "host_amount >= 0 AND owner_amount >= 0 AND fee_amount >= 0", name="settlement_amounts"
        ),
        sa.CheckConstraint(
            "(transfer_id IS NULL) = (host_amount + owner_amount + fee_amount = 0)",
            name="settlement_transfer",
        ),
    )
    receipt_digest: str = _text(sa.ForeignKey("receipt.digest"), primary_key=True)
    lease_id: str = _text(sa.ForeignKey("lease.id"), index=True)
    job_digest: str = _text(sa.ForeignKey("job.digest"))
    job_number: int = _integer()
    generation: int = _integer()
    rank: int = _integer()
    host_amount: int = _integer()
    owner_amount: int = _integer()
    fee_amount: int = _integer()
    lease_gross: int = _integer()
    lease_fee: int = _integer()
    lease_tokens: int = _integer()
    paid_through_step: int = _integer()
    job_royalty: int = _integer()
    job_tokens: int = _integer()
    transfer_id: str | None = _text(sa.ForeignKey("transfer.id"), nullable=True, unique=True)
    state: SettlementState = _column(_enum(SettlementState), index=True)
    dispute: bytes | None = _column(sa.LargeBinary(), nullable=True)
    matures_at_ms: int = _integer()
    created_at_ms: int = _integer()


class Transition(SQLModel, table=True):
    """One step of one state machine, in a hash chain of its subject. It never changes."""

    __tablename__ = "transition"
    subject_id: str = _text(primary_key=True)
    number: int = _integer(primary_key=True, autoincrement=False)
    subject_kind: str = _column(sa.String(8))
    from_state: str | None = _column(sa.String(24), nullable=True)
    to_state: str = _column(sa.String(24))
    actor: str = _text()
    reason: str = _column(sa.String(256))
    at_ms: int = _integer()
    digest: str = _text()
