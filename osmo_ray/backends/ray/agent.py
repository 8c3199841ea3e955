"""The agent of one Ray node: a `NodeHost` behind a detached, async actor.

It owns no state that matters: the spool on the node's disk does. When Ray restarts it (or a new one comes up on the
same host) it adopts what the spool holds.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import ray

from osmo_ray.backends.ray.doors import Relays, SessionDoor
from osmo_ray.backends.ray.line import Address, Door
from osmo_ray.backends.ray.programs import Cluster, Programs
from osmo_ray.runtime import NodeHost
from osmo_ray.runtime.inside.frames import Ask
from osmo_ray.runtime.options import Options
from osmo_ray.spec.attempt import (
    AttemptKey,
    AttemptPlan,
    LogChunk,
    NodeReport,
    Observation,
    Phase,
    UsageSample,
)
from osmo_ray.spec.reason import Reason

_NO_STORAGE = Reason(
    "StorageUnreachable",
    "this node cannot reach the platform's storage, a folder on the head",
    next_command="osmo up --storage-gateway",
)
_COMPANY = 0.15
_EACH = 0.009
PLATFORM_LABEL = "osmo-platform"
"""A node that was started with this Ray label is of that platform: `ray start --labels osmo-platform=a100`."""
_URGENT = (Phase.READY, Phase.FINISHED, Phase.LOST)


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What every agent of a platform is told. `home` is where the spool lies on the head; other hosts have their
    own `~/.osmo`. `remote_storage_url` is what nodes use that cannot reach `storage_url` (a local folder)."""

    home: Path
    storage_url: str
    remote_storage_url: str = ""
    head: str = ""
    cluster: Cluster = field(default_factory=Cluster)
    options: Options = field(default_factory=Options)


class NodeAgent:
    """One per node; every method is safe to call again."""

    def __init__(
        self, settings: AgentSettings, node: str, address: str, backend_id: str, labels: Mapping[str, str] | None = None
    ) -> None:
        self._labels = dict(labels or {})
        self._backend_id = backend_id
        self._lease = settings.options.lease
        on_head = node == settings.head
        home = settings.home if on_head else Path.home() / ".osmo"
        storage = settings.storage_url if on_head else settings.remote_storage_url
        self._unreachable = not storage
        root = home / "nodes" / node
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._host = NodeHost(root, node, address, storage, settings.options)
        self._programs = Programs(root, settings.cluster)
        self._told_at = 0.0
        self._listener = ""
        self._observing: asyncio.Task[Sequence[Observation]] | None = None
        self._started: asyncio.Task[None] | None = None
        self._sessions, self._relays = SessionDoor(self._inside, Ask.from_json), Relays(self._inside)
        verbs = (self.report, self.apply, self.delete, self.attempts, self.observe, self.settle, self.logs, self.usage)
        self._door = Door({verb.__name__: verb for verb in verbs}, {"follow": self.follow})

    async def _inside(self, ask: Ask, end: int) -> None:
        await (await self._ready()).inside(ask, end)

    async def inside_door(self) -> Address:
        """Where callers on this host begin sessions inside attempts."""
        return await self._sessions.open()

    async def relay_open(self, ask: Ask) -> str:
        return await self._relays.open(ask)

    async def relay_write(self, name: str, data: bytes) -> None:
        await self._relays.write(name, data)

    async def relay_read(self, name: str, wait: float) -> bytes | None:
        return await self._relays.read(name, wait)

    async def relay_close(self, name: str) -> None:
        await self._relays.close(name)

    async def release(self, key: AttemptKey, rerun: bool = False) -> None:
        """End the hold of a failed attempt, or run its command again in place."""
        await (await self._ready()).release(key, rerun=rerun)

    async def door(self) -> Address:
        """Where callers on this host find a shorter way to the same verbs."""
        return await self._door.open()

    async def _ready(self) -> NodeHost:
        """The host, started once, however many calls come first."""
        if self._started is None:
            self._started = asyncio.ensure_future(self._host.start())
        await asyncio.shield(self._started)
        return self._host

    async def report(self) -> NodeReport:
        host = await self._ready()
        report = host.report()
        platform = self._labels.get(PLATFORM_LABEL) or report.platform
        labels = {**report.labels, **self._labels}
        report = replace(report, backend_id=self._backend_id, labels=labels, platform=platform)
        if self._unreachable:
            return replace(report, alive=False, reasons=(*report.reasons, _NO_STORAGE))
        return report

    async def apply(self, epoch: int, attempts: Sequence[AttemptPlan], groups: Sequence[str]) -> None:
        """Run exactly these attempts of these groups on this node."""
        host = await self._ready()
        host.renew(self._lease)
        await host.apply(epoch, [self._programs.wrap(a) if a.ray is not None else a for a in attempts])
        here = {a.group_uuid for a in attempts}
        if elsewhere := [g for g in groups if g not in here]:
            await host.drop(epoch, elsewhere)

    async def delete(self, epoch: int, groups: Sequence[str], grace: float) -> None:
        host = await self._ready()
        await host.delete(epoch, groups, grace)

    async def attempts(self) -> Sequence[Observation]:
        return self._programs.translate(await (await self._ready()).attempts())

    async def observe(self, listener: str, wait: float) -> Sequence[Observation]:
        """News since the last call; each call also tells the tasks that a controller is alive. A new listener takes
        over from the one before, whose call may still be open although its controller is gone."""
        return await self._news(await self._listened(listener), wait)

    async def follow(self, listener: str, wait: float) -> AsyncIterator[Sequence[Observation]]:
        """`observe` again and again for `wait` seconds; who asks no more is no proof of a controller that lives."""
        host = await self._listened(listener)
        until = time.monotonic() + wait
        while self._listener == listener and (left := until - time.monotonic()) > 0:
            if seen := await self._news(host, left):
                yield seen

    async def _listened(self, listener: str) -> NodeHost:
        host = await self._ready()
        host.renew(self._lease)
        if listener != self._listener and self._observing is not None:
            self._observing.cancel()
        self._listener = listener
        return host

    async def _news(self, host: NodeHost, wait: float) -> Sequence[Observation]:
        self._observing = asyncio.ensure_future(self._observe(host, wait))
        try:
            return self._programs.translate(await self._observing)
        except asyncio.CancelledError:
            return ()

    async def _observe(self, host: NodeHost, wait: float) -> Sequence[Observation]:
        """Each answer costs the controller a transaction. What only informs waits a moment for company; ends and
        barriers are told at once, unless the last answer was a moment ago: then there is a crowd to wait for."""
        seen = list(await host.observe(wait))
        try:
            until = time.monotonic() + _COMPANY
            while seen and (left := min(until, self._crowd(host, seen)) - time.monotonic()) > 0:
                seen += await host.observe(left)
        except asyncio.CancelledError:
            host.give_back(seen)
            raise
        self._told_at = time.monotonic()
        return seen

    def _crowd(self, host: NodeHost, seen: Sequence[Observation]) -> float:
        """Until when an answer with these may wait: the more runs here, the more ends come soon."""
        urgent = any(o.phase in _URGENT for o in seen)
        return self._told_at + min(_COMPANY, _EACH * host.running) if urgent else float("inf")

    async def attempt(self, key: AttemptKey) -> None:
        """Returns when the attempt has ended: one call per attempt, named after it, is how Ray's dashboard comes to
        show what runs."""
        host = await self._ready()
        while True:
            if host.ended(key):
                return
            await asyncio.sleep(1.0)

    async def settle(self, keys: Sequence[AttemptKey]) -> None:
        await (await self._ready()).settle(keys)

    async def logs(self, key: AttemptKey, offset: int, limit: int, wait: float) -> LogChunk:
        return await (await self._ready()).logs(key, offset, limit, wait)

    async def preview(self, images: Sequence[str]) -> Mapping[str, str]:
        """How a task of each image would run here."""
        return await (await self._ready()).preview(images)

    async def usage(self) -> Sequence[UsageSample]:
        taken = await (await self._ready()).usage()
        return [UsageSample(s.key.task_uuid, s.key.retry_id, s.at, s.cpu, s.memory, s.gpu) for s in taken]

    async def close(self) -> None:
        await (await self._ready()).close()


# Of an agent's calls Ray's dashboard keeps only those that stand for an attempt: the others are many and say nothing.
RemoteAgent = ray.remote(
    num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=10_000, enable_task_events=False
)(NodeAgent)
