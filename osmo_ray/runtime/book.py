"""The host's memory of its attempts, rebuilt from the spool at every start. Blocking; used under one lock."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass, field, replace

from osmo_ray.runtime import reasons
from osmo_ray.runtime.codec import Job, Orders
from osmo_ray.runtime.container import Engine
from osmo_ray.runtime.network import free_address
from osmo_ray.runtime.options import Options
from osmo_ray.runtime.process import Identity
from osmo_ray.runtime.spool import FINAL, Folder, Spool
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, Observation, Phase
from osmo_ray.spec.reason import Reason


@dataclass(slots=True)
class Entry:
    """One attempt: `offset` is how far its status file was read."""

    folder: Folder
    job: Job
    orders: Orders
    newest: Observation | None = None
    offset: int = 0
    supervisor: Identity | None = None
    asked: float = 0.0
    """When the zygote was last asked to start it (monotonic)."""

    @property
    def final(self) -> bool:
        return self.newest is not None and self.newest.phase in FINAL

    @property
    def key(self) -> AttemptKey:
        return self.job.plan.key


@dataclass(slots=True)
class Book:
    """All attempts of this host, and what they hold."""

    spool: Spool
    node: str
    address: str
    storage_url: str
    options: Options
    gpus: tuple[int, ...] = ()
    entries: dict[AttemptKey, Entry] = field(default_factory=dict)
    waiting: dict[AttemptKey, AttemptPlan] = field(default_factory=dict)
    """Plans that wait for GPUs which an ending attempt still holds."""
    graves: set[str] = field(default_factory=set)
    epoch: int = -1
    _next_address: int = 0

    def load(self) -> None:
        """Read the spool after a start."""
        self.spool.sweep()
        self.graves, self.epoch = self.spool.buried(), self.spool.epoch()
        for folder in self.spool.folders():
            job = folder.job()
            if job is not None:
                entry = Entry(folder, job, folder.orders(job.plan), supervisor=folder.claimed())
                self.entries[entry.key] = entry
                self.read(entry)

    def read(self, entry: Entry) -> list[Observation]:
        """New observations of one attempt."""
        seen, entry.offset = entry.folder.observations(self.node, entry.offset)
        if seen:
            entry.newest = seen[-1]
        return seen

    def live(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if not entry.final]

    # --- what should run -----------------------------------------------------------------------------------------

    def refused(self, plan: AttemptPlan) -> bool:
        """A late plan: its group was deleted, it was settled, or a newer attempt of the task is here."""
        key = plan.key
        newer = any(e.key.task_uuid == key.task_uuid and e.key.retry_id > key.retry_id for e in self.entries.values())
        return f"g {plan.group_uuid}" in self.graves or f"k {key}" in self.graves or newer

    def superseded(self, plans: list[AttemptPlan]) -> list[Entry]:
        """Live attempts that plans of the same group no longer list."""
        listed = {plan.key for plan in plans}
        groups = {plan.group_uuid for plan in plans}
        return [e for e in self.live() if e.job.plan.group_uuid in groups and e.key not in listed]

    def accept(
        self, plan: AttemptPlan, mode: str, why: str, *, private: bool, engine: Engine
    ) -> tuple[Entry | None, Observation | None]:
        """Take a new attempt, with what there is to tell. The entry is None while it must wait for GPUs, or when it
        was refused for good; then the observation says so."""
        gpus = self._free_gpus(plan.gpu)
        if gpus is None:
            return None, self._no_gpus(plan)
        address = self._address(private=private)
        job = Job(plan, mode, why, address, gpus, private, self.storage_url, engine.name)
        job = replace(job, engine_global=engine.before, engine_run=engine.extra)
        orders = Orders().updated(plan)
        reason = Reason("HowItRuns", why, {"mode": mode}) if why else None
        seen = Observation(plan.key, Phase.ACCEPTED, time.time(), self.node, address, plan.restart, reason=reason)
        taken = self.spool.accept(job, seen)
        if taken is None:
            return None, None
        entry = Entry(taken[0], job, orders, seen, taken[1])
        self.entries[plan.key] = entry
        self.waiting.pop(plan.key, None)
        return entry, seen

    def _address(self, *, private: bool) -> str:
        if not private:
            return self.address
        used = {entry.job.address for entry in self.entries.values()}
        address, self._next_address = free_address(self.options, used, self._next_address)
        return address

    def _free_gpus(self, count: int) -> tuple[int, ...] | None:
        if count <= 0:
            return ()
        taken = {gpu for entry in self.live() for gpu in entry.job.gpus}
        free = [gpu for gpu in self.gpus if gpu not in taken]
        return tuple(free[:count]) if len(free) >= count else None

    def _no_gpus(self, plan: AttemptPlan) -> Observation | None:
        if plan.gpu <= len(self.gpus):
            self.waiting[plan.key] = plan
            return None
        sentence = f"needs {plan.gpu} GPUs, and this node has {len(self.gpus)}"
        return self._never(plan, Reason("NotEnoughGpus", sentence))

    def untrusted(self, plan: AttemptPlan) -> Observation:
        """The end of a Ray program that its pool does not trust."""
        return self._never(plan, reasons.UNTRUSTED)

    def _never(self, plan: AttemptPlan, reason: Reason) -> Observation:
        return Observation(
            plan.key, Phase.FINISHED, time.time(), self.node, self.address, plan.restart,
            exit_code=reasons.START_ERROR, reason=reason,
        )  # fmt: skip

    # --- orders --------------------------------------------------------------------------------------------------

    def order(self, entry: Entry, orders: Orders) -> None:
        """Give orders when they are new ones."""
        if orders == entry.orders or entry.final:
            return
        entry.folder.order(orders)
        entry.orders = orders
        self.claimed(entry)
        if entry.supervisor is not None:
            entry.supervisor.signal(signal.SIGUSR1)

    def release(self, entry: Entry, *, rerun: bool) -> None:
        """End a hold; a rerun counts only for the hold that goes on now."""
        old = entry.orders
        self.order(entry, replace(old, rerun=old.rerun + 1) if rerun else replace(old, release=True))

    def update(self, entry: Entry, plan: AttemptPlan) -> None:
        """What a plan says to an attempt that is here."""
        self.order(entry, entry.orders.updated(plan))

    def stop(self, entry: Entry, grace: float, why: str) -> None:
        """End it; a second, shorter grace has no effect on the first."""
        if not entry.orders.stop:
            self.order(entry, replace(entry.orders, stop=True, grace=grace, why=why))

    def claimed(self, entry: Entry) -> Identity | None:
        """Its supervisor, once there is one."""
        if entry.supervisor is None:
            entry.supervisor = entry.folder.claimed()
        return entry.supervisor

    def bury(self, kind: str, names: list[str]) -> None:
        new = [name for name in names if f"{kind} {name}" not in self.graves]
        if new:
            self.spool.bury(kind, new)
            self.graves.update(f"{kind} {name}" for name in new)
