"""The calls about KAI's objects: queues and topologies of pools, gangs of groups, and word of who had to give way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Any

from osmo_ray.backends.kubernetes import kai
from osmo_ray.backends.kubernetes.client import ApiError, HttpApi, Object
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.spec.attempt import Delegated, GroupPlan

_KEPT = 3600.0


class Gangs:
    """For one namespace. All calls raise `ApiError` and `BackendUnavailable`. What an administrator made under the
    name of ours stays as it is."""

    def __init__(self, api: HttpApi, namespace: str, labels: Mapping[str, str]) -> None:
        self._api, self._namespace, self._labels = api, namespace, dict(labels)
        self._written: dict[str, Object] = {}
        """What we wrote last, by path."""
        self._evicted: dict[str, tuple[float, str]] = {}
        self._begun, self._beginning = False, asyncio.Lock()

    async def prepare(self, plan: GroupPlan, told: Delegated) -> None:
        """Make all that the pods of this group need to be looked at."""
        space = self._namespace
        await self._keep(kai.QUEUES, kai.top_of(space, self._labels))
        await self._keep(kai.QUEUES, kai.queue_of(space, told.pool, told.share, self._labels))
        if told.levels:
            await self._topology(kai.topology_of(space, told.pool, told.levels, self._labels))
        self._evicted.pop(plan.uuid, None)
        await self._write(kai.gangs(space), kai.gang_of(plan, told, space, self._labels))

    async def remove(self, group_uuid: str) -> None:
        """The group has no pods any more."""
        self._evicted.pop(group_uuid, None)
        path = f"{kai.gangs(self._namespace)}/{kai.gang_name(group_uuid)}"
        self._written.pop(path, None)
        await self._api.delete(path)

    async def begin(self, groups: Collection[str]) -> None:
        """Once, before anything is prepared: remove the gangs of all but these groups, which have pods. Raises
        `BackendUnavailable` where there is no KAI to speak to."""
        async with self._beginning:
            if not self._begun:
                try:
                    await self._sweep(groups)
                except ApiError as error:
                    raise BackendUnavailable(
                        f"KAI's objects cannot be used there (clusters/kubernetes/kai.yaml gives the rights): {error}"
                    ) from error
                self._begun = True

    async def _sweep(self, groups: Collection[str]) -> None:
        marks = ",".join(f"{name}={value}" for name, value in self._labels.items())
        found = await self._api.get(kai.gangs(self._namespace), {"labelSelector": marks})
        for item in found["items"]:
            uuid = kai.group_in(str(item["metadata"]["name"]))
            if uuid not in groups:
                await self.remove(uuid)

    def heard(self, event: Object, deleted: bool) -> None:
        """An event about a gang: the scheduler's word that it gives way."""
        if not deleted and event.get("reason") == "Evict":
            now = time.monotonic()
            self._evicted = {uuid: said for uuid, said in self._evicted.items() if now - said[0] < _KEPT}
            told = " ".join(str(event.get("message") or "made room for other work").split())
            self._evicted[kai.group_in(str(event["involvedObject"].get("name")))] = now, told[:500].rstrip(".")

    def evicted(self, group_uuid: str) -> str:
        """Why the group has to give way; empty if it has not."""
        return self._evicted.get(group_uuid, (0.0, ""))[1]

    async def _keep(self, folder: str, value: dict[str, Any]) -> None:
        """Write it, unless what is there is somebody else's."""
        path = f"{folder}/{value['metadata']['name']}"
        if self._written.get(path) == value:
            return
        there = await self._there(path)
        if there is not None and not self._ours(there):
            self._written[path] = value
            return
        await self._write(folder, value)

    async def _topology(self, value: dict[str, Any]) -> None:
        """Its levels cannot be changed, so a changed one is made anew."""
        path = f"{kai.TOPOLOGIES}/{value['metadata']['name']}"
        if self._written.get(path) == value:
            return
        there = await self._there(path)
        if there is not None and self._ours(there) and there["spec"] != value["spec"]:
            await self._api.delete(path)
        await self._keep(kai.TOPOLOGIES, value)

    async def _there(self, path: str) -> Object | None:
        try:
            return await self._api.get(path)
        except ApiError as error:
            if error.status != 404:
                raise
        return None

    def _ours(self, there: Object) -> bool:
        found = there["metadata"].get("labels") or {}
        return all(found.get(name) == value for name, value in self._labels.items())

    async def _write(self, folder: str, value: dict[str, Any]) -> None:
        path = f"{folder}/{value['metadata']['name']}"
        if self._written.get(path) != value:
            await self._api.apply(path, value)
            self._written[path] = value
