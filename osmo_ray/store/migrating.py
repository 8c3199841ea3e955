"""Bringing a database to the schema that this version of the code works with.

All of it is one transaction, so a crash leaves the old schema. Processes that race wait for each other: on SQLite for
the writer's lock, on PostgreSQL for an advisory lock. Alembic is imported only when there is something to do.
"""

from __future__ import annotations

import secrets
import threading
from pathlib import Path

from sqlalchemy import Connection, insert, inspect, select, text

from osmo_ray.store import schema
from osmo_ray.store.database import Database
from osmo_ray.store.protocol import StoreError

_LOCK = 7_305_413_916_211  # any constant of ours
_one_at_a_time = threading.Lock()  # Alembic keeps what it works on in globals
SCRIPTS = Path(__file__).parent / "migrations"


def migrate(database: Database, revision: str = schema.REVISION) -> None:
    """Upgrade to `revision`. Raises a permanent `StoreError` if the database is newer than this code."""
    if database.read(current) != revision:
        database.write(lambda connection: upgrade(connection, revision, database.sqlite))


def current(connection: Connection) -> str:
    """The revision of the schema, empty for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or ""


def upgrade(connection: Connection, revision: str, sqlite: bool) -> None:
    """Inside the caller's transaction."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    if not sqlite:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text("SET LOCAL lock_timeout = 0"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    for wanted in (current(connection), revision):
        if wanted and wanted not in known:
            raise StoreError(
                f"schema {wanted} is not known to this version (its newest is {schema.REVISION}); "
                "install the version that wrote it, or a later one",
                permanent=True,
            )
    with _one_at_a_time:
        command.upgrade(config, revision)
    if connection.execute(select(schema.meta).where(schema.meta.c.key == "database_id")).first() is None:
        connection.execute(insert(schema.meta).values(key="database_id", value=secrets.token_hex(16)))
