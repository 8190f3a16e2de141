"""Tables of what parties exchange: replies, blobs, documents, boxes, readiness, heads, reports."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "blob",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("stored_by", sa.String(length=64), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("blob_pk")),
    )
    op.create_table(
        "blob_share",
        sa.Column("party", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("party", name=op.f("blob_share_pk")),
    )
    op.create_table(
        "box",
        sa.Column("box", sa.String(length=64), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("acknowledged", sa.BigInteger(), nullable=False),
        sa.Column("messages", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("box", name=op.f("box_pk")),
    )
    op.create_table(
        "checkpoint",
        sa.Column("artifact", sa.String(length=64), nullable=False),
        sa.Column("signer", sa.String(length=64), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("lease", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("artifact", "signer", name=op.f("checkpoint_pk")),
    )
    op.create_index("checkpoint_job", "checkpoint", ["job", "generation", "step"], unique=False)
    op.create_index(op.f("checkpoint_lease"), "checkpoint", ["lease"], unique=False)
    op.create_table(
        "document",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("signer", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=True),
        sa.Column("posted_by", sa.String(length=64), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "signer", name=op.f("document_pk")),
    )
    op.create_index("document_job", "document", ["job", "generation"], unique=False)
    op.create_table(
        "head",
        sa.Column("custodian", sa.String(length=64), nullable=False),
        sa.Column("incarnation", sa.BigInteger(), nullable=False),
        sa.Column("entries", sa.BigInteger(), nullable=False),
        sa.Column("chain", sa.String(length=64), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("custodian", name=op.f("head_pk")),
    )
    op.create_table(
        "newest",
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("signer", sa.String(length=64), nullable=False),
        sa.Column("lineage", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("kind", "signer", "lineage", name=op.f("newest_pk")),
    )
    op.create_table(
        "readiness",
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("custodian", sa.String(length=64), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("job", "custodian", name=op.f("readiness_pk")),
    )
    op.create_table(
        "reply",
        sa.Column("identity", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("request", sa.String(length=64), nullable=False),
        sa.Column("status", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("identity", "key", name=op.f("reply_pk")),
    )
    op.create_index("reply_at", "reply", ["at_ms"], unique=False)
    op.create_table(
        "heartbeat",
        sa.Column("offer", sa.String(length=64), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["offer"], ["offer.id"], name=op.f("heartbeat_offer_refers")),
        sa.PrimaryKeyConstraint("offer", name=op.f("heartbeat_pk")),
    )
    op.create_table(
        "message",
        sa.Column("box", sa.String(length=64), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("message", sa.String(length=64), nullable=False),
        sa.Column("sender", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=True),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["box"], ["box.box"], name=op.f("message_box_refers")),
        sa.PrimaryKeyConstraint("box", "number", name=op.f("message_pk")),
        sa.UniqueConstraint("box", "sender", "message", name="message_once"),
    )
    op.create_index("message_at", "message", ["at_ms"], unique=False)


def downgrade() -> None:
    """Take them away again."""
    op.drop_index("message_at", table_name="message")
    op.drop_table("message")
    op.drop_table("heartbeat")
    op.drop_index("reply_at", table_name="reply")
    op.drop_table("reply")
    op.drop_table("readiness")
    op.drop_table("newest")
    op.drop_table("head")
    op.drop_index("document_job", table_name="document")
    op.drop_table("document")
    op.drop_index(op.f("checkpoint_lease"), table_name="checkpoint")
    op.drop_index("checkpoint_job", table_name="checkpoint")
    op.drop_table("checkpoint")
    op.drop_table("box")
    op.drop_table("blob_share")
    op.drop_table("blob")
