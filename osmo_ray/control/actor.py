"""The controller as a detached Ray actor: Ray restarts it, and it comes back knowing only what the store knows.

The loops run on an event loop of their own in a thread, so that a slow call into Ray's client never keeps the actor
from answering, and a restart needs nothing but the constructor.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import ray

from osmo_ray.backends.kubernetes.tunnel.ways import Ways
from osmo_ray.backends.many import ManyBackends
from osmo_ray.backends.protocol import Backend
from osmo_ray.backends.ray.agent import AgentSettings
from osmo_ray.backends.ray.backend import RayBackend
from osmo_ray.control import links
from osmo_ray.control.clusters import Clusters, connect
from osmo_ray.control.controller import Controller, ControlSettings
from osmo_ray.control.credentials import Purse
from osmo_ray.control.datasets import Librarian
from osmo_ray.control.notices import NoticeSettings
from osmo_ray.control.outlook import outlook
from osmo_ray.engine.events import Policy
from osmo_ray.engine.plans import PoolRules
from osmo_ray.logs import configure
from osmo_ray.objects import open_store
from osmo_ray.providers import secrets
from osmo_ray.providers.buckets import Buckets
from osmo_ray.providers.quotas import QuotaSource, open_quota
from osmo_ray.runtime import wakeup
from osmo_ray.scheduler.model import Outlook, Standing
from osmo_ray.spec.attempt import AttemptKey, LogChunk
from osmo_ray.store.protocol import Cluster
from osmo_ray.store.sql import SqlStore


@dataclass(frozen=True, slots=True)
class ActorSettings:
    """All that a controller of a platform is made of."""

    database: str
    storage: str
    backend: str
    agents: AgentSettings
    control: ControlSettings = field(default_factory=ControlSettings)
    policy: Policy = field(default_factory=Policy)
    rules: PoolRules = field(default_factory=PoolRules)
    notify: NoticeSettings | None = None
    buckets: Buckets | None = None
    log_level: str = "INFO"
    quota: QuotaSource | None = None
    """None: `quota.yaml` in the home."""
    pods_storage: str = ""
    """How pods of registered clusters reach the storage; empty: they cannot."""


@dataclass(frozen=True, slots=True)
class ControllerHealth:
    """What `osmo status` shows of the controller."""

    leading: bool
    epoch: int
    pid: int
    live: int
    nodes: int
    counts: dict[str, float]
    clusters: dict[str, str] = field(default_factory=dict)
    """Registered clusters, and why each does not answer now."""
    quota_error: str = ""
    """Why the newest answer about quotas could not be used."""
    quota_queues: int | None = None
    """Queues in force; None: nobody set quotas."""


class ControllerActor:
    """Runs one `Controller` for as long as it lives."""

    def __init__(self, settings: ActorSettings) -> None:
        configure(settings.log_level)
        self._settings = settings
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        threading.Thread(target=self._run, name="controller", daemon=True).start()
        self._up.wait(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())

    async def _main(self) -> None:
        settings = self._settings
        store = SqlStore(settings.database)
        self._backends = ManyBackends(RayBackend(settings.backend, settings.agents))
        key = secrets.key_file(Path(settings.agents.home))
        owner = store.database_id()[:12]
        ways = Ways(links.dial)

        def connected(cluster: Cluster) -> Backend:
            return connect(cluster, key, owner, settings.pods_storage, ways.path)

        self._quota = open_quota(settings.quota or QuotaSource(Path(settings.agents.home)))
        holder = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._controller = Controller(
            store,
            self._backends,
            holder,
            objects=open_store(settings.storage),
            settings=settings.control,
            policy=settings.policy,
            rules=settings.rules,
            notify=settings.notify,
            purse=Purse(store, secrets.load(secrets.key_file(Path(settings.agents.home)))),
            librarian=Librarian(store, settings.buckets) if settings.buckets else None,
            quota=self._quota,
            clusters=Clusters(self._backends, connected),
        )
        bell = wakeup.listen(settings.agents.home)
        self._loop.add_reader(bell.fileno(), self._heard, bell)
        self._up.set()
        await self._controller.run()
        await self._controller.close()
        await ways.close()

    def _heard(self, bell: socket.socket) -> None:
        with suppress(BlockingIOError):
            while bell.recv(256):
                self._controller.wake()

    async def wake(self) -> None:
        """A replica on another host committed something; one on this host rings."""
        self._loop.call_soon_threadsafe(self._controller.wake)

    async def health(self) -> ControllerHealth:
        ledger, quota = self._controller.ledger, self._quota
        known = quota.snapshot()
        return ControllerHealth(
            self._controller.leading,
            ledger.lease.epoch if ledger.lease else 0,
            os.getpid(),
            len(ledger.live),
            sum(1 for n in self._controller.nodes if n.alive),
            dict(self._controller.counts),
            dict(self._backends.clusters),
            quota.error,
            len(known.queues) if known is not None else None,
        )

    async def standings(self) -> tuple[Standing, ...]:
        """What each queue had in the newest cycle; empty where no quotas decide, or another controller leads."""
        return self._controller.scheduling.standings if self._controller.leading else ()

    async def outlook(self, uuid: str) -> Mapping[str, Outlook]:
        """By group: why those of this workflow wait now, and when they may start."""
        if not self._controller.leading:
            return {}
        ask = outlook(self._controller.ledger, self._controller.scheduling, uuid)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask, self._loop))

    async def logs(self, key: AttemptKey, node: str, offset: int, limit: int, wait: float) -> LogChunk:
        """Part of a log of an attempt in a registered cluster, whose API only the controller talks to."""
        ask = self._backends.logs(key, node, offset, limit, wait)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(ask, self._loop))

    async def stop(self) -> None:
        """Give the lease back and end the loops; the actor itself is killed by whoever asked."""
        future = asyncio.run_coroutine_threadsafe(self._controller.stop(), self._loop)
        await asyncio.wrap_future(future)


RemoteController = ray.remote(
    num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=100, enable_task_events=False
)(ControllerActor)
