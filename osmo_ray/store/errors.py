"""Database errors as the store's own: whether trying again can help is decided here, once."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from osmo_ray.store.protocol import StorageFull, StoreError

_SQLITE_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_SQLITE_PERMANENT = frozenset(
    {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_TOOBIG,
    }
)
_PG_FULL = "53100"
_PG_AGAIN = ("40001", "40P01", "23503")
"""Serialization, deadlock, a row that is referred to went away meanwhile: rolled back, nothing written."""
_PG_GONE = ("08", "57P")  # connection exceptions, the server stops or starts
_PG_PERMANENT = ("22", "23", "28", "3D", "3F", "42", "0A")


def sqlite_code(error: BaseException) -> int:
    """The primary result code, 0 for anything that is not SQLite's."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlite_errorcode", 0) & 0xFF


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's five characters, empty for anything else (also when no server answered)."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return getattr(original, "sqlstate", None) or ""


def is_busy(error: BaseException) -> bool:
    """Another process has SQLite's lock."""
    return sqlite_code(error) in _SQLITE_BUSY


def may_retry_at_once(error: BaseException) -> bool:
    """The connection had died (the server may be back already), or PostgreSQL asks to begin again."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return sqlstate(error).startswith((*_PG_AGAIN, *_PG_GONE))


def translate(error: SQLAlchemyError) -> StoreError:
    """What a caller sees. The text names no user, password or statement."""
    told = _first_line(error)
    if sqlite_code(error) == sqlite3.SQLITE_FULL or sqlstate(error) == _PG_FULL:
        return StorageFull(f"the disk of the database is full, nothing was written ({told}); free some space")
    if is_busy(error):
        return StoreError("the database is busy: other processes have held its lock for a minute")
    if "no such table" in told or sqlstate(error) == "42P01":
        return StoreError(f"the database has no schema yet ({told}); call migrate() first", permanent=True)
    if isinstance(error, PoolTimeout):
        return StoreError("all connections to the database are in use")
    return StoreError(f"the database failed: {told}", permanent=_permanent(error))


def _permanent(error: SQLAlchemyError) -> bool:
    if not isinstance(error, DBAPIError):
        return True
    return sqlite_code(error) in _SQLITE_PERMANENT or sqlstate(error).startswith(_PG_PERMANENT)


def _first_line(error: SQLAlchemyError) -> str:
    original = error.orig if isinstance(error, DBAPIError) else error
    lines = str(original).strip().splitlines()
    return lines[0] if lines else type(original).__name__
