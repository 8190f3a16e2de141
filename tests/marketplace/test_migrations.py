"""The schema that migrations make is the schema of the models, both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import make_url

from marketplace.migrations import SchemaError, check_schema, downgrade, upgrade
from marketplace.models_exchange import METADATA
from marketplace.store import Store, make_engine
from marketplace.triggers import TRIGGERS


def engine_at(folder: Path) -> sa.Engine:
    return make_engine(make_url(f"sqlite:///{folder / 'market.db'}"))


def checks_of(engine: sa.Engine) -> dict[str, list[str]]:
    """CHECK constraints by table, which alembic does not compare."""
    tables = sa.inspect(engine)
    return {
        name: sorted(
            " ".join(each["sqltext"].split()) for each in tables.get_check_constraints(name)
        )
        for name in METADATA.tables
    }


def test_upgraded_schema_is_the_models_schema(tmp_path: Path) -> None:
    engine = engine_at(tmp_path)
    upgrade(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
        found = set(connection.execute(sa.text("SELECT name FROM sqlite_master")).scalars())
    assert set(METADATA.tables) <= found
    assert {trigger.name for trigger in TRIGGERS} <= found
    made = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    METADATA.create_all(made)
    assert checks_of(engine) == checks_of(made)
    assert any("balance >= floor" in each for each in checks_of(engine)["account"])
    engine.dispose()
    made.dispose()


def test_downgrade_leaves_nothing_and_upgrade_comes_back(tmp_path: Path) -> None:
    engine = engine_at(tmp_path)
    upgrade(engine)
    downgrade(engine, "base")
    assert sa.inspect(engine).get_table_names() == ["alembic_version"]
    with engine.connect() as connection:
        triggers = sa.text("SELECT count(*) FROM sqlite_master WHERE type = 'trigger'")
        assert connection.execute(triggers).scalar_one() == 0
    upgrade(engine)
    check_schema(engine)
    engine.dispose()


def test_a_failed_migration_leaves_no_table_behind(tmp_path: Path) -> None:
    engine = engine_at(tmp_path)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE settlement (wrong INTEGER)")
    with pytest.raises(sa.exc.OperationalError, match="already exists"):
        upgrade(engine)
    assert sa.inspect(engine).get_table_names() == ["settlement"]
    engine.dispose()


def test_every_integer_column_has_64_bits() -> None:
    narrow = [
        f"{table.name}.{column.name}"
        for table in METADATA.tables.values()
        for column in table.columns
        if isinstance(column.type, sa.Integer) and not isinstance(column.type, sa.BigInteger)
    ]
    assert narrow == []
    exact = (sa.BigInteger, sa.String, sa.LargeBinary, sa.Boolean)  # no float, no NUMERIC
    assert all(isinstance(c.type, exact) for t in METADATA.tables.values() for c in t.columns)


def test_store_refuses_a_newer_schema(tmp_path: Path) -> None:
    store = Store.open_file(tmp_path / "market.db")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(SchemaError, match="'9999', which this program does not know"):
        Store.open_file(tmp_path / "market.db")


def test_store_refuses_a_schema_whose_trigger_was_dropped(tmp_path: Path) -> None:
    store = Store.open_file(tmp_path / "market.db")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER leg_no_update")
    store.close()
    with pytest.raises(SchemaError, match="leg_no_update"):
        Store.open_file(tmp_path / "market.db")


def test_store_refuses_a_schema_whose_trigger_was_weakened(tmp_path: Path) -> None:
    store = Store.open_file(tmp_path / "market.db")
    with store.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER leg_no_update")
        connection.exec_driver_sql(
            'CREATE TRIGGER leg_no_update BEFORE UPDATE ON "leg" BEGIN SELECT 1; END'
        )
    store.close()
    with pytest.raises(SchemaError, match="leg_no_update"):
        Store.open_file(tmp_path / "market.db")
