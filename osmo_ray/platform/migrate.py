"""Brings the database to the newest schema before anything opens it."""

from __future__ import annotations

from osmo_ray import settings as settings_room
from osmo_ray.store.sql import SqlStore


def main() -> int:
    """`python -m osmo_ray.platform.migrate`"""
    store = SqlStore(settings_room.load().database)
    try:
        store.migrate()
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
