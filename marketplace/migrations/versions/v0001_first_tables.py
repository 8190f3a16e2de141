"""The first tables: money, the book, metering, and the triggers that keep them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from marketplace.triggers import FIRST

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, then the triggers."""
    op.create_table(
        "account",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column(
            "role",
            sa.Enum(
                "external",
                "buyer",
                "escrow",
                "host_pending",
                "host_payable",
                "owner_pending",
                "owner_payable",
                "fees",
                "clearing",
                name="accountrole",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("currency", sa.String(length=8), nullable=False),
        sa.Column("floor", sa.BigInteger(), nullable=True),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("floor IS NULL OR balance >= floor", name="account_floor"),
        sa.CheckConstraint("version >= 0", name="account_version"),
        sa.PrimaryKeyConstraint("id", name=op.f("account_pk")),
        sa.UniqueConstraint("id", "currency", name="account_currency"),
    )
    op.create_table(
        "job",
        sa.Column("digest", sa.String(length=96), nullable=False),
        sa.Column("buyer", sa.String(length=96), nullable=False),
        sa.Column("owner", sa.String(length=96), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("terms_digest", sa.String(length=96), nullable=False),
        sa.Column("enclaves", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_steps", sa.BigInteger(), nullable=False),
        sa.Column("generations_max", sa.BigInteger(), nullable=False),
        sa.Column("spend_max", sa.BigInteger(), nullable=False),
        sa.Column(
            "meter",
            sa.Enum(
                "steps",
                "run",
                "tokens",
                name="meter",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("ceiling", sa.BigInteger(), nullable=False),
        sa.Column("royalty_per_job", sa.BigInteger(), nullable=False),
        sa.Column("royalty_per_million_tokens", sa.BigInteger(), nullable=False),
        sa.Column("fee_ppm", sa.BigInteger(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "queued",
                "placed",
                "starting",
                "running",
                "succeeded",
                "failed",
                "cancelled",
                "exhausted",
                name="jobstate",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("waiting_for", sa.String(length=256), nullable=True),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("deadline_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('succeeded', 'failed', 'cancelled', 'exhausted') OR deadline_ms IS NOT NULL",
            name="job_deadline",
        ),
        sa.CheckConstraint("enclaves > 0", name="job_enclaves"),
        sa.CheckConstraint("fee_ppm BETWEEN 0 AND 1000000", name="job_fee"),
        sa.CheckConstraint("generation BETWEEN 0 AND generations_max", name="job_generation"),
        sa.PrimaryKeyConstraint("digest", name=op.f("job_pk")),
    )
    op.create_index(op.f("job_buyer"), "job", ["buyer"], unique=False)
    op.create_index(op.f("job_owner"), "job", ["owner"], unique=False)
    op.create_table(
        "offer",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("host", sa.String(length=96), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "listed",
                "claimed",
                "paused",
                "suspended",
                "unlisted",
                "expired",
                name="offerstate",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("terms_number", sa.BigInteger(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("deadline_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('unlisted', 'expired') OR deadline_ms IS NOT NULL", name="offer_deadline"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("offer_pk")),
    )
    op.create_index(op.f("offer_host"), "offer", ["host"], unique=False)
    op.create_index("offer_state", "offer", ["state"], unique=False)
    op.create_table(
        "transition",
        sa.Column("subject_id", sa.String(length=96), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("subject_kind", sa.String(length=8), nullable=False),
        sa.Column("from_state", sa.String(length=24), nullable=True),
        sa.Column("to_state", sa.String(length=24), nullable=False),
        sa.Column("actor", sa.String(length=96), nullable=False),
        sa.Column("reason", sa.String(length=256), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=96), nullable=False),
        sa.PrimaryKeyConstraint("subject_id", "number", name=op.f("transition_pk")),
    )
    op.create_table(
        "generation_order",
        sa.Column("job_digest", sa.String(length=96), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.String(length=96), nullable=False),
        sa.Column("before", sa.String(length=96), nullable=True),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("number > 0", name="generation_order_number"),
        sa.ForeignKeyConstraint(
            ["job_digest"], ["job.digest"], name=op.f("generation_order_job_digest_refers")
        ),
        sa.PrimaryKeyConstraint("job_digest", "number", name=op.f("generation_order_pk")),
        sa.UniqueConstraint("before", name=op.f("generation_order_before_unique")),
        sa.UniqueConstraint("digest", name=op.f("generation_order_digest_unique")),
    )
    op.create_table(
        "hold",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("order_id", sa.String(length=96), nullable=False),
        sa.Column("account_id", sa.String(length=96), nullable=False),
        sa.Column("escrow_id", sa.String(length=96), nullable=False),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("captured", sa.BigInteger(), nullable=False),
        sa.Column("released", sa.BigInteger(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "placed",
                "posted",
                "voided",
                "expired",
                name="holdstate",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("state = 'placed' OR captured + released = reserved", name="hold_ended"),
        sa.CheckConstraint("captured + released <= reserved", name="hold_sum"),
        sa.CheckConstraint("captured >= 0 AND released >= 0", name="hold_parts"),
        sa.CheckConstraint("reserved > 0", name="hold_reserved"),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f("hold_account_id_refers")
        ),
        sa.ForeignKeyConstraint(["escrow_id"], ["account.id"], name=op.f("hold_escrow_id_refers")),
        sa.PrimaryKeyConstraint("id", name=op.f("hold_pk")),
        sa.UniqueConstraint("escrow_id", name=op.f("hold_escrow_id_unique")),
    )
    op.create_index(
        "hold_live_order",
        "hold",
        ["order_id"],
        unique=True,
        sqlite_where=sa.text("state = 'placed'"),
        postgresql_where=sa.text("state = 'placed'"),
    )
    op.create_table(
        "offer_terms",
        sa.Column("offer_id", sa.String(length=96), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("platform", sa.String(length=32), nullable=False),
        sa.Column("compute_class", sa.String(length=512), nullable=False),
        sa.Column("gpu_model", sa.String(length=64), nullable=False),
        sa.Column("gpus", sa.BigInteger(), nullable=False),
        sa.Column("memory_mib", sa.BigInteger(), nullable=False),
        sa.Column("ask", sa.BigInteger(), nullable=False),
        sa.Column("floor", sa.BigInteger(), nullable=True),
        sa.Column("ends_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("ask >= 0", name="offer_terms_ask"),
        sa.CheckConstraint("floor IS NULL OR floor BETWEEN 0 AND ask", name="offer_terms_floor"),
        sa.CheckConstraint("gpus > 0", name="offer_terms_gpus"),
        sa.ForeignKeyConstraint(
            ["offer_id"], ["offer.id"], name=op.f("offer_terms_offer_id_refers")
        ),
        sa.PrimaryKeyConstraint("offer_id", "number", name=op.f("offer_terms_pk")),
    )
    op.create_table(
        "order",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("buyer", sa.String(length=96), nullable=False),
        sa.Column("job_digest", sa.String(length=96), nullable=False),
        sa.Column("hold_id", sa.String(length=96), nullable=False),
        sa.Column(
            "bid_kind",
            sa.Enum(
                "on-demand",
                "interruptible",
                name="bidkind",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("bid", sa.BigInteger(), nullable=False),
        sa.Column("gpus", sa.BigInteger(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "open",
                "leased",
                "closed",
                "cancelled",
                "expired",
                name="orderstate",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("deadline_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('closed', 'cancelled', 'expired') OR deadline_ms IS NOT NULL",
            name="order_deadline",
        ),
        sa.CheckConstraint("bid >= 0", name="order_bid"),
        sa.CheckConstraint("gpus > 0", name="order_gpus"),
        sa.ForeignKeyConstraint(["hold_id"], ["hold.id"], name=op.f("order_hold_id_refers")),
        sa.ForeignKeyConstraint(
            ["job_digest"], ["job.digest"], name=op.f("order_job_digest_refers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("order_pk")),
        sa.UniqueConstraint("hold_id", name=op.f("order_hold_id_unique")),
        sa.UniqueConstraint("job_digest", name=op.f("order_job_digest_unique")),
    )
    op.create_index(op.f("order_buyer"), "order", ["buyer"], unique=False)
    op.create_index("order_state", "order", ["state"], unique=False)
    op.create_table(
        "transfer",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column(
            "kind",
            sa.Enum(
                "top_up",
                "place",
                "post",
                "void",
                "expire",
                "mature",
                "refund",
                "pay_out",
                name="transferkind",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("command_digest", sa.String(length=96), nullable=False),
        sa.Column("leg_count", sa.BigInteger(), nullable=False),
        sa.Column("hold_id", sa.String(length=96), nullable=True),
        sa.Column("reverses", sa.String(length=96), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("leg_count >= 0", name="transfer_leg_count"),
        sa.ForeignKeyConstraint(["hold_id"], ["hold.id"], name=op.f("transfer_hold_id_refers")),
        sa.ForeignKeyConstraint(
            ["reverses"], ["transfer.id"], name=op.f("transfer_reverses_refers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("transfer_pk")),
        sa.UniqueConstraint("reverses", name=op.f("transfer_reverses_unique")),
    )
    op.create_index(op.f("transfer_hold_id"), "transfer", ["hold_id"], unique=False)
    op.create_table(
        "lease",
        sa.Column("id", sa.String(length=96), nullable=False),
        sa.Column("order_id", sa.String(length=96), nullable=False),
        sa.Column("job_digest", sa.String(length=96), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=True),
        sa.Column("offer_id", sa.String(length=96), nullable=False),
        sa.Column("offer_terms_number", sa.BigInteger(), nullable=False),
        sa.Column("price", sa.BigInteger(), nullable=False),
        sa.Column("host", sa.String(length=96), nullable=False),
        sa.Column("signing_key", sa.String(length=96), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "funded",
                "claimed",
                "provisioning",
                "attesting",
                "ready",
                "draining",
                "preempted",
                "host_lost",
                "exhausted",
                "revoked",
                "closed",
                "claim_lost",
                "provision_failed",
                "attest_failed",
                name="leasestate",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("ready_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("metered_until_ms", sa.BigInteger(), nullable=True),
        sa.Column("deadline_ms", sa.BigInteger(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "state IN ('closed', 'claim_lost', 'provision_failed', 'attest_failed')"
            " OR deadline_ms IS NOT NULL",
            name="lease_deadline",
        ),
        sa.CheckConstraint("metered_until_ms >= ready_at_ms", name="lease_metered"),
        sa.ForeignKeyConstraint(
            ["job_digest"], ["job.digest"], name=op.f("lease_job_digest_refers")
        ),
        sa.ForeignKeyConstraint(
            ["offer_id", "offer_terms_number"],
            ["offer_terms.offer_id", "offer_terms.number"],
            name="lease_terms",
        ),
        sa.ForeignKeyConstraint(["order_id"], ["order.id"], name=op.f("lease_order_id_refers")),
        sa.PrimaryKeyConstraint("id", name=op.f("lease_pk")),
        sa.UniqueConstraint("signing_key", name=op.f("lease_signing_key_unique")),
    )
    op.create_index(op.f("lease_host"), "lease", ["host"], unique=False)
    op.create_index(
        "lease_live_offer",
        "lease",
        ["offer_id"],
        unique=True,
        sqlite_where=sa.text(
            "state IN ('claimed', 'provisioning', 'attesting', 'ready', 'draining')"
        ),
        postgresql_where=sa.text(
            "state IN ('claimed', 'provisioning', 'attesting', 'ready', 'draining')"
        ),
    )
    op.create_index(
        "lease_live_rank",
        "lease",
        ["job_digest", "rank"],
        unique=True,
        sqlite_where=sa.text(
            "state IN ('claimed', 'provisioning', 'attesting', 'ready', 'draining')"
        ),
        postgresql_where=sa.text(
            "state IN ('claimed', 'provisioning', 'attesting', 'ready', 'draining')"
        ),
    )
    op.create_index(op.f("lease_order_id"), "lease", ["order_id"], unique=False)
    op.create_table(
        "leg",
        sa.Column("transfer_id", sa.String(length=96), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("debit_account", sa.String(length=96), nullable=False),
        sa.Column("debit_version", sa.BigInteger(), nullable=False),
        sa.Column("credit_account", sa.String(length=96), nullable=False),
        sa.Column("credit_version", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(length=8), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount > 0", name="leg_amount"),
        sa.CheckConstraint("debit_account <> credit_account", name="leg_accounts"),
        sa.ForeignKeyConstraint(
            ["credit_account", "currency"], ["account.id", "account.currency"], name="leg_credit"
        ),
        sa.ForeignKeyConstraint(
            ["debit_account", "currency"], ["account.id", "account.currency"], name="leg_debit"
        ),
        sa.ForeignKeyConstraint(
            ["transfer_id"], ["transfer.id"], name=op.f("leg_transfer_id_refers")
        ),
        sa.PrimaryKeyConstraint("transfer_id", "number", name=op.f("leg_pk")),
        sa.UniqueConstraint("credit_account", "credit_version", name="leg_credit_version"),
        sa.UniqueConstraint("debit_account", "debit_version", name="leg_debit_version"),
    )
    op.create_table(
        "receipt",
        sa.Column("digest", sa.String(length=96), nullable=False),
        sa.Column("lease_id", sa.String(length=96), nullable=False),
        sa.Column("job_digest", sa.String(length=96), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("before", sa.String(length=96), nullable=True),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("milliseconds", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("committed_step", sa.BigInteger(), nullable=False),
        sa.Column("end", sa.String(length=24), nullable=True),
        sa.Column("received_at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_digest"], ["job.digest"], name=op.f("receipt_job_digest_refers")
        ),
        sa.ForeignKeyConstraint(["lease_id"], ["lease.id"], name=op.f("receipt_lease_id_refers")),
        sa.PrimaryKeyConstraint("digest", name=op.f("receipt_pk")),
        sa.UniqueConstraint("lease_id", "number", name="receipt_number"),
    )
    op.create_table(
        "settlement",
        sa.Column("receipt_digest", sa.String(length=96), nullable=False),
        sa.Column("lease_id", sa.String(length=96), nullable=False),
        sa.Column("job_digest", sa.String(length=96), nullable=False),
        sa.Column("job_number", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("host_amount", sa.BigInteger(), nullable=False),
        sa.Column("owner_amount", sa.BigInteger(), nullable=False),
        sa.Column("fee_amount", sa.BigInteger(), nullable=False),
        sa.Column("lease_gross", sa.BigInteger(), nullable=False),
        sa.Column("lease_fee", sa.BigInteger(), nullable=False),
        sa.Column("lease_tokens", sa.BigInteger(), nullable=False),
        sa.Column("paid_through_step", sa.BigInteger(), nullable=False),
        sa.Column("job_royalty", sa.BigInteger(), nullable=False),
        sa.Column("job_tokens", sa.BigInteger(), nullable=False),
        sa.Column("transfer_id", sa.String(length=96), nullable=True),
        sa.Column(
            "state",
            sa.Enum(
                "pending",
                "disputed",
                "matured",
                "refunded",
                name="settlementstate",
                native_enum=False,
                create_constraint=True,
                length=24,
            ),
            nullable=False,
        ),
        sa.Column("dispute", sa.LargeBinary(), nullable=True),
        sa.Column("matures_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "(transfer_id IS NULL) = (host_amount + owner_amount + fee_amount = 0)",
            name="settlement_transfer",
        ),
        sa.CheckConstraint(
            "host_amount >= 0 AND owner_amount >= 0 AND fee_amount >= 0", name="settlement_amounts"
        ),
        sa.ForeignKeyConstraint(
            ["job_digest"], ["job.digest"], name=op.f("settlement_job_digest_refers")
        ),
        sa.ForeignKeyConstraint(
            ["lease_id"], ["lease.id"], name=op.f("settlement_lease_id_refers")
        ),
        sa.ForeignKeyConstraint(
            ["receipt_digest"], ["receipt.digest"], name=op.f("settlement_receipt_digest_refers")
        ),
        sa.ForeignKeyConstraint(
            ["transfer_id"], ["transfer.id"], name=op.f("settlement_transfer_id_refers")
        ),
        sa.PrimaryKeyConstraint("receipt_digest", name=op.f("settlement_pk")),
        sa.UniqueConstraint("job_digest", "job_number", name="settlement_job_number"),
        sa.UniqueConstraint("transfer_id", name=op.f("settlement_transfer_id_unique")),
    )
    op.create_index(op.f("settlement_lease_id"), "settlement", ["lease_id"], unique=False)
    op.create_index(op.f("settlement_state"), "settlement", ["state"], unique=False)
    postgresql = op.get_bind().dialect.name == "postgresql"
    for trigger in FIRST:
        for statement in trigger.postgresql() if postgresql else (trigger.sqlite(),):
            op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Drop the tables, and with them their triggers."""
    op.drop_index(op.f("settlement_state"), table_name="settlement")
    op.drop_index(op.f("settlement_lease_id"), table_name="settlement")
    op.drop_table("settlement")
    op.drop_table("receipt")
    op.drop_table("leg")
    op.drop_index(op.f("lease_order_id"), table_name="lease")
    op.drop_index(
        "lease_live_rank",
        table_name="lease",
        sqlite_where=sa.text(
            "state IN ('claimed', 'provisioning', 'attesting', 'ready', 'draining')"
        ),
        postgresql_where=sa.text(
            "state IN ('claimed', 'provisioning', 'attesting', 'ready', 'draining')"
        ),
    )
    op.drop_index(
        "lease_live_offer",
        table_name="lease",
        sqlite_where=sa.text(
            "state IN ('claimed', 'provisioning', 'attesting', 'ready', 'draining')"
        ),
        postgresql_where=sa.text(
            "state IN ('claimed', 'provisioning', 'attesting', 'ready', 'draining')"
        ),
    )
    op.drop_index(op.f("lease_host"), table_name="lease")
    op.drop_table("lease")
    op.drop_index(op.f("transfer_hold_id"), table_name="transfer")
    op.drop_table("transfer")
    op.drop_index("order_state", table_name="order")
    op.drop_index(op.f("order_buyer"), table_name="order")
    op.drop_table("order")
    op.drop_table("offer_terms")
    op.drop_index(
        "hold_live_order",
        table_name="hold",
        sqlite_where=sa.text("state = 'placed'"),
        postgresql_where=sa.text("state = 'placed'"),
    )
    op.drop_table("hold")
    op.drop_table("generation_order")
    op.drop_table("transition")
    op.drop_index("offer_state", table_name="offer")
    op.drop_index(op.f("offer_host"), table_name="offer")
    op.drop_table("offer")
    op.drop_index(op.f("job_owner"), table_name="job")
    op.drop_index(op.f("job_buyer"), table_name="job")
    op.drop_table("job")
    op.drop_table("account")
    if op.get_bind().dialect.name == "postgresql":
        for trigger in FIRST:
            op.execute(f"DROP FUNCTION IF EXISTS {trigger.name}()")
