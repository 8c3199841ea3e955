"""The controller: whoever holds the lease runs the loops, and steps down the moment it does not.

Stateless over the store: a new leader reads what is alive, asks the backend what runs, and goes on with the same code
that a running one uses. It runs inside a detached Ray actor in a platform, and as a plain object in tests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from osmo_ray.backends.protocol import Backend, BackendUnavailable, StaleEpoch
from osmo_ray.control import dispatch, notices, retention, schedule, templates, tidy, watch
from osmo_ray.control.cache import StepCache
from osmo_ray.control.clusters import Clusters, delegating
from osmo_ray.control.credentials import Purse
from osmo_ray.control.datasets import Librarian
from osmo_ray.control.layout import levels_of
from osmo_ray.control.ledger import Ledger
from osmo_ray.control.notices import NoticeSettings
from osmo_ray.engine.events import Policy
from osmo_ray.engine.plans import PoolRules
from osmo_ray.objects.protocol import ObjectStore
from osmo_ray.providers.quota import QuotaProvider
from osmo_ray.spec.attempt import NodeReport, Observation
from osmo_ray.store.protocol import LeaseLost, Store, StoreError

log = logging.getLogger(__name__)
T = TypeVar("T")
_LONGEST_PAUSE = 60.0
"""Seconds between tries while a server that takes messages is away."""


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """Intervals in seconds. `attempt_lease` is how long a task runs on without any word from a controller."""

    lease_ttl: float = 10.0
    attempt_lease: float = 60.0
    poll: float = 1.0
    tidy: float = 3.0
    watch: float = 5.0
    retention: float = 30 * 86400.0
    retention_every: float = 600.0
    notices: float = 2.0
    platform: str = "local"


class Controller:
    """Loops over one store and one backend. `holder` must differ between processes."""

    def __init__(
        self,
        store: Store,
        backend: Backend,
        holder: str,
        *,
        objects: ObjectStore | None = None,
        settings: ControlSettings | None = None,
        policy: Policy | None = None,
        rules: PoolRules | None = None,
        quota: QuotaProvider | None = None,
        purse: Purse | None = None,
        librarian: Librarian | None = None,
        notify: NoticeSettings | None = None,
        clusters: Clusters | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ledger = Ledger(store, policy or Policy(), clock)
        self.backend = backend
        self.holder = holder
        self.objects = objects
        self.settings = settings or ControlSettings()
        self.rules = rules or PoolRules()
        self.purse, self.librarian = purse, librarian
        self.notify = notify
        self.scheduling = schedule.Scheduling(self.rules, self.settings.platform, quota=quota, clock=clock)
        self.scheduling.delegating.quota = quota
        self.clusters = clusters
        if clusters is not None:
            self.scheduling.own = backend.name
        self.ledger.planner = self.scheduling.events
        self.ledger.recaller = StepCache(self.ledger)
        self.counts: dict[str, float] = {}
        self._quota_error = ""
        self._pools_seen = 0
        self._seen_at: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()
        self._unsaved: list[Observation] = []

    # -- life

    @property
    def nodes(self) -> Sequence[NodeReport]:
        """As they last reported."""
        return self.scheduling.nodes

    @property
    def leading(self) -> bool:
        return self.ledger.lease is not None

    def wake(self) -> None:
        """Somebody committed something: look now rather than at the next poll."""
        self._wake.set()

    async def run(self) -> None:
        """Lead whenever possible, until `stop`."""
        while not self._stopped.is_set():
            try:
                lease = await self._acquire()
                if lease:
                    await self._lead()
            except (LeaseLost, StaleEpoch) as error:
                log.warning("stepping down: %s", error)
            except (StoreError, BackendUnavailable) as error:
                log.warning("cannot lead now: %s: %s", type(error).__name__, error)
            except Exception:
                log.exception("a control loop failed; starting over from the store")
            finally:
                self.ledger.clear()
            await self._pause(min(1.0, self.settings.lease_ttl / 3))

    async def stop(self) -> None:
        """End the loops and give the lease back."""
        lease = self.ledger.lease
        self._stopped.set()
        self._wake.set()
        if lease is not None:
            await self._quietly(self.ledger.db(self.ledger.store.release, lease))

    async def close(self) -> None:
        await self.backend.close()
        self.ledger.close()

    async def _acquire(self) -> bool:
        store, ttl = self.ledger.store, self.settings.lease_ttl
        self.ledger.lease = await self.ledger.db(store.acquire, "controller", self.holder, ttl)
        return self.ledger.lease is not None

    async def _lead(self) -> None:
        assert self.ledger.lease is not None
        log.info("leading with epoch %d", self.ledger.lease.epoch)
        await self.ledger.refresh()
        await self._look()
        loops: tuple[Callable[[], Awaitable[None]], ...] = (
            self._renew_loop,
            self._refresh_loop,
            self._schedule_loop,
            self._dispatch_loop,
            self._watch_loop,
            self._tidy_loop,
            self._retention_loop,
            self._notice_loop,
        )
        tasks = [asyncio.ensure_future(loop()) for loop in loops]
        stopper = asyncio.ensure_future(self._stopped.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stopper], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task is not stopper:
                    task.result()
        finally:
            for task in (*tasks, stopper):
                task.cancel()
            await asyncio.gather(*tasks, stopper, return_exceptions=True)

    # -- loops: each one step, again and again, through passing faults

    async def _renew_loop(self) -> None:
        """Without a renewal in time nobody may commit; the store checks that again in each commit."""
        while True:
            await asyncio.sleep(self.settings.lease_ttl / 3)
            try:
                if not await self._acquire():
                    raise LeaseLost("another controller leads now")
            except LeaseLost:
                raise
            except StoreError as error:
                log.warning("could not renew the lease: %s", error)

    async def _refresh_loop(self) -> None:
        while True:
            await self._until(self._wake, self.settings.poll)
            await self._passing(dispatch.settle(self.ledger))
            await self._passing(self.ledger.refresh())

    async def _schedule_loop(self) -> None:
        while True:
            await self._until(self.ledger.schedule, self.settings.poll)
            before = self.scheduling.preempted
            await self._passing(self.ledger.apply({}, place=True))
            self._after_preemption(before)
            self._look_at_quotas()
            self.counts["preempted"] = float(self.scheduling.preempted)
            self.counts["placed"] = float(self.scheduling.placed)
            self.counts["schedule_seconds"] = self.scheduling.seconds

    def _after_preemption(self, before: int) -> None:
        """The places are free now; who they were freed for starts in the next cycle."""
        if self.scheduling.preempted != before:
            self.ledger.schedule.set()

    def _look_at_quotas(self) -> None:
        """A bad source of quotas is told once per change of what is wrong."""
        error = self.scheduling.quota.error if self.scheduling.quota else ""
        self.counts["quota_stale"] = float(bool(error))
        if error != self._quota_error:
            self._quota_error = error
            log.warning("quotas: %s", f"{error}; what was in force until now stays so" if error else "good again")

    async def _dispatch_loop(self) -> None:
        while True:
            await self._until(self.ledger.dispatch, self.settings.poll)
            epoch = self.ledger.lease.epoch if self.ledger.lease else 0
            sent = await self._passing(
                dispatch.step(
                    self.ledger,
                    self.backend,
                    self.rules,
                    epoch,
                    self.purse,
                    self.librarian,
                    self.scheduling.delegating,
                )
            )
            self._count("commands", sent or 0)

    async def _watch_loop(self) -> None:
        """Observations that could not be committed are kept: the backend tells each of them once."""
        while True:
            if not self._unsaved:
                self._unsaved = list(await self._passing(self.backend.watch(self.settings.watch)) or ())
            if self._unsaved:
                seen = self._unsaved
                if await self._passing(self._take_in(seen)):
                    self._unsaved = self._unsaved[len(seen) :]
                    self._count("observations", len(seen))

    async def _take_in(self, seen: Sequence[Observation]) -> bool:
        before = self.scheduling.preempted
        await watch.step(self.ledger, self.backend, seen)
        self._after_preemption(before)
        return True

    async def _tidy_loop(self) -> None:
        while True:
            await asyncio.sleep(self.settings.tidy)
            await self._passing(self._look())
            await self._passing(tidy.limits(self.ledger))

    async def _retention_loop(self) -> None:
        while True:
            await self._passing(retention.step(self.ledger, self.objects, self.settings.retention))
            if self.objects is not None:
                await self._passing(retention.forget_code(self.ledger, self.objects))
            await asyncio.sleep(self.settings.retention_every)

    async def _notice_loop(self) -> None:
        if self.notify is None or not self.notify.channels:
            await self._stopped.wait()
            return
        pause = self.settings.notices
        while True:
            done = await self._passing(notices.step(self.ledger, self.notify))
            self._count("notices", done.sent if done else 0)
            pause = min(pause * 2, _LONGEST_PAUSE) if done and done.away else self.settings.notices
            await asyncio.sleep(pause)

    async def _look(self) -> None:
        """Nodes and attempts as they are, compared with the store."""
        await self._look_at_clusters()
        await self._look_at_pools()
        now = self.ledger.clock()
        before = {n.name for n in self.scheduling.nodes}
        self.scheduling.nodes = await self.backend.capacity()
        for node in self.scheduling.nodes:
            if node.alive:
                self._seen_at[node.name] = now
        for name in {n.backend for n in self.scheduling.nodes}:
            mine = [n for n in self.scheduling.nodes if n.backend == name]
            await self.ledger.db(self.ledger.store.save_nodes, name or self.backend.name, mine, now)
        silent = await self._silent(now)
        await tidy.compare(self.ledger, self.backend, self.scheduling.nodes, silent, self.settings.attempt_lease)
        if {n.name for n in self.scheduling.nodes} != before:
            self.ledger.schedule.set()
        samples = await self.backend.usage()
        self.counts["running_tasks"] = float(len(samples))
        self.counts["tasks_cpu_cores"] = sum(s.cpu for s in samples)
        self.counts["tasks_memory_bytes"] = sum(s.memory for s in samples)
        if samples:
            await self.ledger.db(self.ledger.store.add_usage, samples)

    async def _look_at_clusters(self) -> None:
        """Clusters that were registered or removed meanwhile."""
        if self.clusters is not None:
            rows = await self.ledger.db(self.ledger.store.clusters)
            changed = await self.clusters.update(rows)
            if rows:
                self.clusters.use_templates(await self.ledger.db(templates.read, self.ledger.store, rows))
            if changed is not None:
                self.scheduling.know(changed)
                self.scheduling.delegating.clusters = delegating(rows)
                self.ledger.schedule.set()

    async def _look_at_pools(self) -> None:
        """Topologies that administrators gave to pools meanwhile."""
        written = await self.ledger.db(self.ledger.store.config, "POOL")
        if (written.revision if written else 0) != self._pools_seen:
            self._pools_seen = written.revision if written else 0
            self.scheduling.levels = levels_of(written.body) if written else {}
            self.scheduling.delegating.levels = self.scheduling.levels
            self.ledger.schedule.set()

    async def _silent(self, now: float) -> dict[str, float]:
        """Seconds of silence per node that does not answer; what an earlier leader saw counts too. Behind a cluster's
        API that does not answer nothing is known to be lost: no silence counts there."""
        alive = {n.name for n in self.scheduling.nodes if n.alive}
        offline: frozenset[str] = getattr(self.backend, "offline", frozenset())
        unknown = {}
        for backend, at, report in await self.ledger.db(self.ledger.store.nodes):
            if report.alive and report.name not in self._seen_at:
                self._seen_at[report.name] = at
            if backend in offline:
                unknown[report.name] = 0.0
        return {name: now - at for name, at in self._seen_at.items() if name not in alive} | unknown

    # -- small help

    async def _passing(self, work: Awaitable[T]) -> T | None:
        """Do one step; a fault that may pass is logged and waited out, leadership questions go up."""
        try:
            return await work
        except (LeaseLost, StaleEpoch):
            raise
        except (StoreError, BackendUnavailable) as error:
            self._count("faults", 1)
            log.warning("%s: %s", type(error).__name__, error)
            await asyncio.sleep(0.3)
            return None

    def _count(self, name: str, amount: float) -> None:
        if amount:
            self.counts[name] = self.counts.get(name, 0.0) + amount

    async def _until(self, event: asyncio.Event, seconds: float) -> None:
        try:
            # Not `wait_for`, which on Python 3.11 can swallow a cancellation that comes with the event.
            async with asyncio.timeout(seconds):
                await event.wait()
        except TimeoutError:
            pass
        event.clear()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopped.wait()
        except TimeoutError:
            pass

    async def _quietly(self, work: Awaitable[object]) -> None:
        try:
            await work
        except StoreError as error:
            log.warning("while stopping: %s", error)
