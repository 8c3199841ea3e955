"""Migrations: they end at the schema, race safely, and refuse what they do not know."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from osmo_ray.store import migrating, schema
from osmo_ray.store.protocol import StoreError
from osmo_ray.store.sql import SqlStore


def test_the_migrated_schema_is_the_schema(store: SqlStore) -> None:
    with store.database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, schema.metadata) == []


def test_the_newest_migration_is_the_one_that_the_code_wants() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrating.SCRIPTS))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.REVISION]


def test_processes_that_race_all_succeed(url: str) -> None:
    script = (
        "import sys; from osmo_ray.store.sql import SqlStore; "
        "s = SqlStore(sys.argv[1]); s.migrate(); print(s.database_id())"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [process.communicate() for process in running]
    assert [(process.returncode, err) for process, (_, err) in zip(running, told, strict=True)] == [(0, "")] * 4
    assert len({out for out, _ in told}) == 1


def test_threads_that_race_all_succeed(url: str) -> None:
    failures: list[Exception] = []

    def one() -> None:
        made = SqlStore(url)
        try:
            made.migrate()
        except Exception as error:
            failures.append(error)
        finally:
            made.close()

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_database_of_a_newer_version_is_refused(store: SqlStore) -> None:
    with store.database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="9999") as told:
        store.migrate()
    assert told.value.permanent


def test_migrations_need_nothing_outside_the_package() -> None:
    assert (migrating.SCRIPTS / "env.py").is_file()
    assert Path(migrating.__file__).parent in migrating.SCRIPTS.parents
