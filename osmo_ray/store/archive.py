"""Backup and restore: one file for both kinds of database, so that it also moves a platform between them.

An archive is gzip-compressed lines of JSON: a header (format, schema revision, time, kind of database), then for each
table a line with its name and columns and one line per row, then a last line with the number of rows, without which
an archive is not whole. It is read from one snapshot while everything runs. Restoring refuses a database that already
has work in it, builds the schema of the archive's revision, fills it and only then upgrades it. All of that is one
transaction.

Two things are not restored as they were: the database gets an id of its own, since it is another one, and nobody
holds a lease (epochs stay, so that backends still refuse the leaders of old).
"""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, MetaData, Table, insert, inspect, select, text

from osmo_ray.store import migrating, rows, schema
from osmo_ray.store.database import Database
from osmo_ray.store.protocol import StoreError

FORMAT = "osmo-ray database 1"
_BATCH = 1000
_INDEX = ("shelves", "versions", "tags", "members", "values")
_SKIPPED = frozenset({"meta", "session_keys", "datasets", *(f"dataset_{part}" for part in _INDEX)})
"""Of no use later, or read from the buckets again."""
_REPLACED = frozenset({"meta", "alembic_version"})
"""What a fresh database has anyway."""


def backup(store_url: str, file: str) -> None:
    """Write the state behind `store_url` into the archive `file`; an existing one is replaced only when all is well."""
    database = Database(store_url)
    try:
        write(database, Path(file))
    finally:
        database.close()


def restore(file: str, store_url: str) -> None:
    """Fill the empty database behind `store_url`. Raises a permanent `StoreError` and leaves it as it was if it is not
    empty, or if the archive is broken or newer than this code."""
    database = Database(store_url)
    try:
        database.write(lambda connection: _restore(connection, Path(file), database.sqlite))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"cannot restore {file}: it is not a whole archive ({error})", permanent=True) from error
    finally:
        database.close()


def write(database: Database, target: Path) -> None:
    """The archive appears under its name only when it is whole and on the disk."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        database.read(lambda connection: _dump(connection, part, database.sqlite))
        part.replace(target)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _dump(connection: Connection, part: Path, sqlite: bool) -> None:
    if (revision := migrating.current(connection)) != schema.REVISION:
        raise StoreError(f"the database has schema {revision!r}, not {schema.REVISION}; call migrate() first")
    kind = "sqlite" if sqlite else "postgresql"
    header = {"format": FORMAT, "revision": revision, "at": time.time(), "kind": kind}
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as raw:  # noqa: PTH123
        with gzip.open(raw, "wt", encoding="ascii", compresslevel=3) as out:
            for value in (header, *_tables(connection)):
                out.write(rows.dumps(value) + "\n")
        raw.flush()
        os.fsync(raw.fileno())


def _tables(connection: Connection) -> Iterator[object]:
    count = 0
    for table in schema.metadata.sorted_tables:
        if table.name in _SKIPPED:
            continue
        yield {"table": table.name, "columns": list(table.columns.keys())}
        ask = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=_BATCH)
        for row in connection.execute(ask):
            yield list(row)
            count += 1
    yield {"rows": count}


def _restore(connection: Connection, file: Path, sqlite: bool) -> None:
    with gzip.open(file, "rt", encoding="ascii") as text_lines:
        lines = (json.loads(line) for line in text_lines)
        header = next(lines, None)
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError("its first line is not ours")
        _clear(connection)
        migrating.upgrade(connection, str(header["revision"]), sqlite)
        _fill(connection, lines)
    connection.execute(text("UPDATE leases SET holder = '', expires = 0"))
    if not sqlite:
        _advance_sequences(connection)
    migrating.upgrade(connection, schema.REVISION, sqlite)


def _clear(connection: Connection) -> None:
    """Drop our empty tables, which may be of another revision than the archive. Raises if one is not empty."""
    found = MetaData()
    ours = {*schema.metadata.tables, "alembic_version"} & set(inspect(connection).get_table_names())
    found.reflect(connection, only=list(ours))
    for table in found.tables.values():
        if table.name not in _REPLACED and connection.execute(select(table).limit(1)).first() is not None:
            raise StoreError(
                f"the database already has {table.name}; restore into a new one, nothing was changed", permanent=True
            )
    found.drop_all(connection)


def _fill(connection: Connection, lines: Iterator[Any]) -> None:
    count, table, columns = 0, Table("", MetaData()), list[str]()
    batch: list[dict[str, Any]] = []
    for line in lines:
        if isinstance(line, list):
            batch.append(dict(zip(columns, line, strict=True)))
            if len(batch) >= _BATCH:
                count += _insert(connection, table, batch)
            continue
        count += _insert(connection, table, batch)
        if "rows" in line:
            if line["rows"] != count or next(lines, None) is not None:
                raise ValueError(f"it should have {line['rows']} rows and has {count}")
            return
        table, columns = _known(connection, line["table"], line["columns"]), line["columns"]
    raise ValueError("its end is missing")


def _known(connection: Connection, name: str, columns: list[str]) -> Table:
    if name not in inspect(connection).get_table_names():
        raise ValueError(f"its schema has no table {name!r}")
    table = Table(name, MetaData(), autoload_with=connection, resolve_fks=False)
    if set(columns) != set(table.columns.keys()):
        raise ValueError(f"table {name} has other columns")
    return table


def _insert(connection: Connection, table: Table, batch: list[dict[str, Any]]) -> int:
    count = len(batch)
    if batch:
        connection.execute(insert(table), batch)
        batch.clear()
    return count


def _advance_sequences(connection: Connection) -> None:
    """PostgreSQL counts on from what was used, not from what was inserted."""
    for table, column in (("tasks", "n"), ("outbox", "seq")):
        connection.execute(
            text(
                f"SELECT setval(pg_get_serial_sequence('{table}', '{column}'), "  # noqa: S608
                f"(SELECT coalesce(max({column}), 0) + 1 FROM {table}), false)"
            )
        )
