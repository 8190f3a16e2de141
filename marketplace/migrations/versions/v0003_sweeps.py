"""Indexes of what sweeps look for each second: leases with a deadline, messages that were read."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the indexes."""
    for name, table, column, condition in (
        ("lease_overdue", "lease", "deadline_ms", "deadline_ms IS NOT NULL"),
        ("message_acknowledged", "message", "at_ms", "payload IS NULL"),
    ):
        op.create_index(
            name,
            table,
            [column],
            unique=False,
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )


def downgrade() -> None:
    """Take them away again."""
    op.drop_index("message_acknowledged", table_name="message")
    op.drop_index("lease_overdue", table_name="lease")
