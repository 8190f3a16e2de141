"""Migrations: alembic from the first table on, run by the market itself when it opens its store.

A released migration never changes. Each runs in one transaction, up and down.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection, Engine

from marketplace.triggers import TRIGGERS
from trust.errors import BlindhostError

LOCATION: Final = "marketplace:migrations"


class SchemaError(BlindhostError):
    """A database whose schema is not the one that this program keeps."""


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema up to `revision`. Raises SchemaError for a schema that we don't know."""
    with engine.begin() as connection:
        _check_known(connection)
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Bring the schema down to `revision`; ``base`` drops every table, and all that is in them."""
    with engine.begin() as connection:
        command.downgrade(_config(connection), revision)


def check_schema(engine: Engine) -> None:
    """Refuse a schema that is not at the newest migration, or that lacks one of its triggers."""
    with engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_heads()
        wanted = _scripts().get_heads()
        if sorted(found) != sorted(wanted):
            raise SchemaError(f"schema is at {found}, wanted {tuple(wanted)}")
        missing = missing_triggers(connection)
    if missing:
        raise SchemaError(f"schema lacks triggers: {', '.join(missing)}")


def missing_triggers(connection: Connection) -> tuple[str, ...]:
    """Names of the triggers that should guard the tables and don't, or say something else."""
    if connection.dialect.name == "sqlite":
        query = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        texts = {row.name: row.sql for row in connection.execute(sa.text(query))}
        wanted = {t.name: t.sqlite() for t in TRIGGERS}
        return tuple(sorted(n for n, text in wanted.items() if texts.get(n) != text))
    query = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled = 'O'"
    found = set(connection.execute(sa.text(query)).scalars())
    return tuple(sorted(t.name for t in TRIGGERS if t.postgresql() and t.name not in found))


def _check_known(connection: Connection) -> None:
    known = {script.revision for script in _scripts().walk_revisions()}
    for found in MigrationContext.configure(connection).get_current_heads():
        if found not in known:
            raise SchemaError(f"schema is at {found!r}, which this program does not know")


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", LOCATION)
    config.attributes["connection"] = connection
    return config


def _scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", LOCATION)
    return ScriptDirectory.from_config(config)
