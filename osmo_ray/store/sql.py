"""The store of every platform: SQLite on a laptop, PostgreSQL in production, the same verbs.

`SqlStore` only puts the parts together; see `writing`, `leading`, `reading`, `around`,
`apps`, `credentials`, `datasets`, `dataset_index`, `identity`, `notices` and `sessions`.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import select, text

from osmo_ray.store import archive, migrating, schema
from osmo_ray.store.apps import Apps
from osmo_ray.store.around import Around
from osmo_ray.store.caching import Caching
from osmo_ray.store.clusters import Clusters
from osmo_ray.store.configs import Configs
from osmo_ray.store.credentials import Credentials
from osmo_ray.store.database import Database
from osmo_ray.store.dataset_index import DatasetIndex
from osmo_ray.store.datasets import Datasets
from osmo_ray.store.identity import Identity
from osmo_ray.store.notices import Notices
from osmo_ray.store.protocol import StoreError
from osmo_ray.store.reading import Reading
from osmo_ray.store.sessions import Sessions
from osmo_ray.store.writing import Writing


class SqlStore(
    Writing,
    Reading,
    Around,
    Apps,
    Credentials,
    Datasets,
    DatasetIndex,
    Notices,
    Identity,
    Sessions,
    Clusters,
    Caching,
    Configs,
):
    """State of one platform. May be used by many threads at once, and by many processes on one URL.

    `url` is `sqlite:////path/osmo.db` or `postgresql://user@host/database`. `disk_reserve` is the free space, in
    bytes, below which `submit` raises `StorageFull` on SQLite. `check_filesystem=False` allows SQLite on a network
    filesystem, for those who know that theirs is fit for it.
    """

    def __init__(self, url: str, *, disk_reserve: int = 0, check_filesystem: bool = True) -> None:
        super().__init__(Database(url, check_filesystem=check_filesystem), disk_reserve)

    def migrate(self) -> None:
        migrating.migrate(self.database)

    def database_id(self) -> str:
        ask = select(schema.meta.c.value).where(schema.meta.c.key == "database_id")
        found: str | None = self.database.read(lambda connection: connection.execute(ask).scalar())
        if found is None:
            raise StoreError("the database has no id; call migrate() first", permanent=True)
        return found

    def ping(self) -> None:
        self.database.read(lambda connection: connection.execute(text("SELECT 1")).scalar())

    def backup(self, target: str) -> None:
        """An archive that `archive.restore` reads, also into the other kind of database."""
        archive.write(self.database, Path(target))

    def close(self) -> None:
        self.database.close()
