"""Sessions in pods of registered clusters: a replica opens its own way to the cluster.

The controller would be one more copy of every byte, in the process whose loops everybody waits for. A replica holds
the key that opens a registration anyway, and asks the cluster for nothing but the pod that is meant.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from osmo_ray.api.services import Inside
from osmo_ray.backends.kubernetes.tunnel.ways import Dial, Ways
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.control.clusters import ClusterError, Way, sessions
from osmo_ray.store.protocol import Cluster, Store

MARK = "/"
"""Between a cluster's name and that of its node."""


class ClusterSessions:
    """One way in per cluster, opened when it is first asked for and anew when its registration changes."""

    def __init__(self, store: Store, key: Path, dial: Dial) -> None:
        self._store, self._key, self._dial = store, key, dial
        self._ways: Ways | None = None
        self._open: dict[str, tuple[Cluster, Inside]] = {}

    async def of(self, node: str) -> Inside:
        """What reaches the pods of the cluster that `node` belongs to. Raises `BackendUnavailable`."""
        if self._ways is None:
            self._ways = Ways(self._dial)
        return await asyncio.to_thread(self._of, node.partition(MARK)[0], self._ways.path)

    def _of(self, name: str, way: Way) -> Inside:
        row = next((one for one in self._store.clusters() if one.name == name), None)
        if row is None:
            raise BackendUnavailable(f"no cluster {name!r} is registered now")
        known = self._open.get(name)
        if known is not None and known[0] == row:
            return known[1]
        try:
            made = sessions(row, self._key, self._store.database_id()[:12], way)
        except ClusterError as error:
            raise BackendUnavailable(str(error)) from error
        self._open[name] = row, made
        return made
