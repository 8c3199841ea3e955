"""The databases that the store is tested on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from osmo_ray.store.sql import SqlStore
from tests.fixtures_postgres import PostgresServer, fragile_postgres, postgres_server

__all__ = ["fragile_postgres", "postgres_server"]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'state' / 'osmo.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    made = server.database()
    yield made
    server.drop(made)


@pytest.fixture
def store(url: str) -> Iterator[SqlStore]:
    made = SqlStore(url)
    made.migrate()
    yield made
    made.close()
