"""What alembic runs: on the connection that `marketplace.migrations` hands over, and no other."""

from alembic import context

from marketplace.models_exchange import METADATA  # of both modules of tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
    transaction_per_migration=False,
)
context.run_migrations()
