"""What all verbs share: the database, and statements compiled once.

Reads go through SQLAlchemy's expressions. Writes of many rows are compiled once to SQL text with positional
parameters and executed with plain tuples, since building a dict per row costs more than the row itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, insert, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.sql import ClauseElement

from osmo_ray.store.database import Database

IN_LIMIT = 500
"""Values in one IN list."""


class Bulk:
    """One statement for many rows; a row has the values of `columns`, in that order."""

    def __init__(self, database: Database, columns: Sequence[str], make: Callable[[], ClauseElement]) -> None:
        self._columns = tuple(columns)
        self._database = database
        self._make = make
        self._sql = ""
        self._order: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None

    def run(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
        """Execute for every row; the number of rows that the database touched."""
        if not rows:
            return 0
        if not self._sql:
            self._prepare()
        if self._order is not None:
            rows = [self._order(row) for row in rows]
        return self._database.plain_many(connection, self._sql, rows)

    def _prepare(self) -> None:
        sql, names = self._database.compile(self._make())
        wanted = [self._columns.index(name.removeprefix("p_")) for name in names]
        if wanted != list(range(len(self._columns))):
            self._order = lambda row: tuple([row[i] for i in wanted])
        self._sql = sql


def parameters(columns: Sequence[str]) -> dict[str, Any]:
    return {name: bindparam(f"p_{name}") for name in columns}


class Verbs:
    """Base of the store's parts."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def insert(self, table: Table, columns: Sequence[str]) -> Bulk:
        return Bulk(self.database, columns, lambda: insert(table).values(parameters(columns)))

    def update(self, table: Table, keys: Sequence[str], columns: Sequence[str]) -> Bulk:
        """Rows are the new values, then the keys."""

        def make() -> ClauseElement:
            found = [table.c[key] == bindparam(f"p_{key}") for key in keys]
            return update(table).where(*found).values(parameters(columns))

        return Bulk(self.database, (*columns, *keys), make)

    def delete(self, table: Table, key: str) -> Bulk:
        """Rows are the key alone."""
        return Bulk(self.database, (key,), lambda: delete(table).where(table.c[key] == bindparam(f"p_{key}")))

    def upsert(self, table: Table, keys: Sequence[str], kept: Sequence[str], columns: Sequence[str]) -> Bulk:
        """Rows are keys, what only a new row gets, and what is always written; without the last, a row that is there
        stays as it is."""
        every = (*keys, *kept, *columns)

        def make() -> ClauseElement:
            dialect = sqlite_insert if self.database.sqlite else postgres_insert
            statement = dialect(table).values(parameters(every))
            new = {name: statement.excluded[name] for name in columns}
            if not new:
                return statement.on_conflict_do_nothing(index_elements=[*keys])
            return statement.on_conflict_do_update(index_elements=[*keys], set_=new)

        return Bulk(self.database, every, make)


def chunks(values: Sequence[str], size: int = IN_LIMIT) -> list[Sequence[str]]:
    return [values[i : i + size] for i in range(0, len(values), size)]
