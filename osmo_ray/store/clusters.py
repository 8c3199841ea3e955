"""Registered clusters: who they are and how to reach them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select

from osmo_ray.store import schema
from osmo_ray.store.protocol import Cluster
from osmo_ray.store.verbs import Verbs

_COLUMNS = ("sealed", "settings", "created")


class Clusters(Verbs):
    """One small table."""

    def save_cluster(self, cluster: Cluster) -> None:
        """Replaces the cluster of that name."""
        row = (cluster.name, cluster.sealed, cluster.settings, cluster.created)
        upsert = self.upsert(schema.clusters, ("name",), (), _COLUMNS)
        self.database.write(lambda c: upsert.run(c, [row]))

    def clusters(self) -> Sequence[Cluster]:
        k = schema.clusters.c
        ask = select(k.name, *(k[name] for name in _COLUMNS)).order_by(k.name)
        return self.database.read(lambda c: [Cluster(*row) for row in c.execute(ask)])

    def delete_cluster(self, name: str) -> bool:
        gone = delete(schema.clusters).where(schema.clusters.c.name == name)
        return self.database.write(lambda c: c.execute(gone).rowcount > 0)
