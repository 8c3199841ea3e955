"""The highest epoch that has spoken to a cluster, kept in the cluster, so that a controller which was replaced while
it was cut off finds out before it changes anything.

A new epoch is written once, by an update that only one of two writers can make; later commands of that epoch compare
numbers in memory, which a watch keeps fresh. A pod that a stale controller makes in the moment before it hears the
news carries the old epoch, by which the new controller knows it for what it is, and deletes it.
"""

from __future__ import annotations

import asyncio

from osmo_ray.backends.kubernetes.client import ApiError, KubeApi, Object
from osmo_ray.backends.kubernetes.pods import OWNER, PREFIX
from osmo_ray.backends.kubernetes.reflector import Reflector
from osmo_ray.backends.protocol import BackendUnavailable, StaleEpoch

_TRIES = 5


class Fence:
    """One per platform and namespace: a ConfigMap that holds a number."""

    def __init__(self, api: KubeApi, namespace: str, owner: str) -> None:
        self._api, self._owner = api, owner
        self._name = f"{PREFIX}-fence-{owner}"
        self._path = f"/api/v1/namespaces/{namespace}/configmaps"
        self._seen = self._won = -1
        self._lock = asyncio.Lock()
        query = {"fieldSelector": f"metadata.name={self._name}"}
        self.reflector = Reflector(api, self._path, query, self._changed)

    @property
    def won(self) -> int:
        """The epoch that this process speaks with; -1 before its first command."""
        return self._won

    async def pass_with(self, epoch: int) -> None:
        """Raises `StaleEpoch` when a higher epoch is known."""
        if epoch < self._seen:
            raise StaleEpoch(f"epoch {epoch} is over; {self._seen} was seen by the cluster")
        if epoch > self._won:
            async with self._lock:
                await self._raise(epoch)

    async def _raise(self, epoch: int) -> None:
        for _ in range(_TRIES):
            try:
                now = await self._api.get(f"{self._path}/{self._name}")
            except ApiError as error:
                if error.status != 404:
                    raise
                now = {}
            self._changed(now, False)
            if epoch < self._seen:
                raise StaleEpoch(f"epoch {epoch} is over; {self._seen} was seen by the cluster")
            if epoch == self._seen or await self._write(epoch, now):
                self._won = self._seen = epoch
                return
        raise BackendUnavailable("others write the cluster's fence all the time")

    async def _write(self, epoch: int, now: Object) -> bool:
        meta = {"name": self._name, "labels": {OWNER: self._owner}}
        value = {"apiVersion": "v1", "kind": "ConfigMap", "data": {"epoch": str(epoch)}}
        try:
            if now:
                version = {"resourceVersion": now["metadata"]["resourceVersion"]}
                await self._api.replace(f"{self._path}/{self._name}", {**value, "metadata": {**meta, **version}})
            else:
                await self._api.create(self._path, {**value, "metadata": meta})
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        return True

    def _changed(self, value: Object, deleted: bool) -> None:
        if not deleted and value:
            self._seen = max(self._seen, int(value["data"]["epoch"]))
