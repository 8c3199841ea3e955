"""Connections and transactions on SQLite and PostgreSQL.

Everything that differs between the two stands here; the verbs see `read(work)` and `write(work)`, which run a
function inside one transaction.

Nothing acknowledged is ever lost: `write` returns only after a COMMIT that reached the disk. On SQLite that is WAL
with synchronous=FULL (NORMAL would lose the last commits in a power cut); on PostgreSQL `synchronous_commit` is turned
on for our sessions where an administrator turned it off. What `work` does must be harmless when done twice, because a
transaction whose connection broke, even during COMMIT, is tried once more: every verb of the store is so.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.sql import ClauseElement

from osmo_ray.store import errors, filesystem
from osmo_ray.store.protocol import StoreError

T = TypeVar("T")

BUSY_PATIENCE = 60.0
"""Seconds for which a writer waits for other processes on SQLite. Writes take milliseconds."""
_BUSY_TIMEOUT = 5000  # milliseconds that SQLite itself waits, per try
_WRITER = "osmo_writer"

_PG_SESSION = """
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SET statement_timeout = '60s';
SET lock_timeout = '20s';
SET idle_in_transaction_session_timeout = '30s';
SET timezone = 'UTC'
"""
"""The limits free the lease's lock when a leader is cut off in the middle of a transaction."""

_PG_CONNECT = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20000,
    "application_name": "osmo",
}


class Database:
    """One database and its pool of connections."""

    def __init__(self, url: str, *, check_filesystem: bool = True) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise StoreError("this is not a database URL; write sqlite:////path/osmo.db", permanent=True) from error
        kind = parsed.get_backend_name()
        self.file: Path | None = None
        self._turn = threading.Lock()
        self._kept: Connection | None = None
        if kind == "sqlite":
            self.file = _sqlite_file(parsed.database, check_filesystem)
            self.engine = _sqlite_engine(self.file)
        elif kind == "postgresql":
            self.engine = _postgres_engine(parsed.set(drivername="postgresql+psycopg").render_as_string(False))
        else:
            raise StoreError(
                f"the state cannot be kept in {kind!r}; use sqlite:////path/osmo.db or postgresql://user@host/database",
                permanent=True,
            )
        self._reader = self.engine.execution_options(**({} if self.file else _PG_READ))
        self._writer = self.engine.execution_options(**{_WRITER: True})

    @property
    def sqlite(self) -> bool:
        return self.file is not None

    @property
    def mark(self) -> str:
        """What stands for a parameter in plain SQL."""
        return "?" if self.sqlite else "%s"

    @property
    def clock(self) -> str:
        """SQL for the database's own time in seconds since the epoch; on PostgreSQL that of the statement, not of
        the transaction's begin."""
        if self.sqlite:
            return "((julianday('now') - 2440587.5) * 86400.0)"
        return "extract(epoch from clock_timestamp())::double precision"

    def compile(self, statement: ClauseElement) -> tuple[str, tuple[str, ...]]:
        """SQL text for `exec_driver_sql`, and the names of its parameters in order."""
        compiled: Any = statement.compile(dialect=self.engine.dialect)
        return str(compiled), tuple(compiled.positiontup or ())

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one consistent snapshot."""
        return self._run(self._snapshot, work)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction that is on the disk when this returns. Any error rolls all of it back."""
        return self._in_turn(self._begun, work)

    def write_plainly(self, work: Callable[[Connection], T]) -> T:
        """`write` for work that says all with `plain` and `plain_many`, and often: on SQLite one connection stays open
        for it, because taking one from the pool and beginning there cost as much as a small transaction."""
        return self._in_turn(self._plainly_begun if self.sqlite else self._begun, work)

    def _in_turn(self, begun: Callable[[], AbstractContextManager[Connection]], work: Callable[[Connection], T]) -> T:
        if not self.sqlite:
            return self._run(begun, work)
        if not self._turn.acquire(timeout=BUSY_PATIENCE):  # threads of one process need not fight for the file's lock
            raise StoreError("the database is busy: other threads have been writing for a minute")
        try:
            return self._run(begun, work)
        finally:
            self._turn.release()

    @contextmanager
    def _begun(self) -> Iterator[Connection]:
        with self._writer.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _plainly_begun(self) -> Iterator[Connection]:
        """Under `_turn`. SQLAlchemy does not hear of this transaction, and any fault ends the connection."""
        if self._kept is None:
            self._kept = self.engine.connect()
        driver: sqlite3.Connection = _driver(self._kept)
        try:
            driver.execute("BEGIN IMMEDIATE")
            yield self._kept
            driver.execute("COMMIT")
        except BaseException as error:
            kept, self._kept = self._kept, None
            kept.invalidate()
            kept.close()
            if isinstance(error, sqlite3.Error):
                raise DBAPIError.instance(None, None, error, sqlite3.Error, dialect=self.engine.dialect) from error
            raise

    def plain(self, connection: Connection, sql: str, values: tuple[Any, ...] = ()) -> Any:
        """The driver's cursor after this statement, inside the transaction of `connection`. For what every commit
        asks: SQLAlchemy's own execution costs more than these statements do."""
        cursor = _driver(connection).cursor()
        cursor.execute(sql, values)
        return cursor

    def plain_many(self, connection: Connection, sql: str, values: Sequence[tuple[Any, ...]]) -> int:
        """The same for each of many tuples; the number of rows touched."""
        cursor = _driver(connection).cursor()
        cursor.executemany(sql, values)
        return int(cursor.rowcount)

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None
        self.engine.dispose()

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        with self._reader.connect() as connection, connection.begin():
            yield connection

    def _run(self, begun: Callable[[], AbstractContextManager[Connection]], work: Callable[[Connection], T]) -> T:
        patience = time.monotonic() + BUSY_PATIENCE
        fresh = True
        while True:
            try:
                with begun() as connection:
                    return self._work(connection, work)
            except SQLAlchemyError as error:
                if errors.is_busy(error) and time.monotonic() < patience:
                    continue
                if not fresh or not errors.may_retry_at_once(error):
                    raise errors.translate(error) from error
                fresh = False

    def _work(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        """`work`, with what the driver itself raises as SQLAlchemy would have wrapped it."""
        driver: Any = self.engine.dialect.dbapi
        try:
            return work(connection)
        except driver.Error as error:
            lost = self.engine.dialect.is_disconnect(error, _driver(connection), None)
            if lost:
                connection.invalidate(error)
            raise DBAPIError.instance(
                None, None, error, driver.Error, connection_invalidated=lost, dialect=self.engine.dialect
            ) from error


def _driver(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


_PG_READ = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}


def _sqlite_file(database: str | None, check_filesystem: bool) -> Path:
    if not database or database == ":memory:":
        raise StoreError("SQLite needs a file, write sqlite:////path/osmo.db", permanent=True)
    file = Path(database).absolute()
    if check_filesystem:
        filesystem.refuse_network(file.parent)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch(mode=0o600)  # tokens' hashes and workflows' texts are nobody else's
    except OSError as error:
        raise StoreError(f"cannot open {file}: {error.strerror}", permanent=True) from error
    return file


def _sqlite_engine(file: Path) -> Engine:
    engine = create_engine(
        f"sqlite:///{file}", connect_args={"timeout": _BUSY_TIMEOUT / 1000}, pool_size=8, max_overflow=24
    )

    @event.listens_for(engine, "connect")
    def prepare(raw: sqlite3.Connection, _: object) -> None:
        raw.isolation_level = None  # transactions begin where we say, not where the driver guesses
        cursor = raw.cursor()
        _use_wal(cursor)
        for setting in (
            f"busy_timeout = {_BUSY_TIMEOUT}",
            "synchronous = FULL",
            "foreign_keys = ON",
            "temp_store = MEMORY",
            "cache_size = -8000",
            "journal_size_limit = 67108864",
        ):
            cursor.execute(f"PRAGMA {setting}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A writer takes the lock at once: a transaction that reads first and then writes could not wait for it.
        writer = connection.get_execution_options().get(_WRITER)
        try:
            _driver(connection).execute("BEGIN IMMEDIATE" if writer else "BEGIN")
        except sqlite3.Error as error:
            raise DBAPIError.instance(None, None, error, sqlite3.Error, dialect=engine.dialect) from error

    return engine


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """Written into the file once; several processes may try that first time together, and SQLite does not wait."""
    patience = time.monotonic() + BUSY_PATIENCE
    while True:
        try:
            if cursor.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                return
            cursor.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if not errors.is_busy(error) or time.monotonic() > patience:
                raise
            time.sleep(0.01)


def _postgres_engine(url: str) -> Engine:
    engine = create_engine(
        url, connect_args=_PG_CONNECT, paramstyle="format", pool_size=8, max_overflow=24, pool_recycle=3600
    )

    @event.listens_for(engine, "connect")
    def prepare(raw: Any, _: object) -> None:
        before, raw.autocommit = raw.autocommit, True
        raw.execute(_PG_SESSION)
        raw.autocommit = before

    return engine
