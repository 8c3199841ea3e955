"""The schedule loop: what waits and what is free, in; placements and reasons, out."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from osmo_ray.control.delegating import Delegating
from osmo_ray.control.layout import Levels, asks_for
from osmo_ray.control.ledger import Events
from osmo_ray.control.queues import Queues, split
from osmo_ray.engine.events import Event, Held, Placed
from osmo_ray.engine.model import Group, Workflow
from osmo_ray.engine.plans import PoolRules, request
from osmo_ray.engine.propagate import spec_of
from osmo_ray.engine.status import TaskStatus
from osmo_ray.providers.quota import QuotaProvider, QuotaQueue, QuotaSnapshot
from osmo_ray.scheduler.model import Amount, Job, Need, Node, Plan, Snapshot, Standing
from osmo_ray.scheduler.plan import plan
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.model import Priority, ResourceSpec
from osmo_ray.spec.reason import Reason

_EVERYTHING = QuotaSnapshot("", (QuotaQueue("all"),), default="all")
"""What stands for quotas where there are none: one queue that is owed all."""
_RANK = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}


@dataclass(slots=True)
class Scheduling:
    """One cluster as the scheduler sees it. Amounts in use come from placements, not from what nodes report.

    What a group asks for and uses is worked out once per state of it: between two cycles few groups change."""

    rules: PoolRules
    platform: str
    nodes: Sequence[NodeReport] = ()
    placed: int = 0
    seconds: float = 0.0
    """How long the newest cycle took."""
    quota: QuotaProvider | None = None
    clock: Callable[[], float] = time.time
    own: str = ""
    """The backend whose nodes carry plain names, where there are registered clusters beside it."""
    clusters: Mapping[str, str] = field(default_factory=dict)
    """Registered clusters: name -> default platform."""
    preempted: int = 0
    """Groups asked to give way so far."""
    levels: Mapping[str, Levels] = field(default_factory=dict)
    """Pool -> its topology, coarse to fine."""
    standings: tuple[Standing, ...] = ()
    """What each queue had in the newest cycle; empty where no quotas decide."""
    delegating: Delegating = field(default_factory=Delegating)
    """Clusters that place by themselves."""
    _queues: Queues | None = None
    _asks: dict[str, Mapping[str, Need]] = field(default_factory=dict)
    _groups: dict[str, _Seen] = field(default_factory=dict)
    _gathering: dict[str, bool] = field(default_factory=dict)

    def events(self, live: Mapping[str, Workflow]) -> Events:
        """Place what fits now; tell those that wait why, when that is news."""
        here, there = self.delegating.split(live)
        found = self._events(here)
        return {**found, **self.delegating.events(there)} if there else found

    def _events(self, live: Mapping[str, Workflow]) -> Events:
        begun = time.perf_counter()
        quota = self.quota.snapshot() if self.quota else None
        if quota is not None:
            return self._by_quota(live, quota, begun)
        if self._gathers(live):
            return self._by_quota(live, _EVERYTHING, begun)
        self._queues, self.standings = None, ()
        snapshot = self.take(live)
        decided = plan(snapshot) if snapshot.jobs else Plan()
        events: dict[str, list[Event]] = defaultdict(list)
        for (workflow, group), chosen in decided.place.items():
            events[workflow].append(Placed(group, chosen))
        for job in snapshot.jobs:
            # The sentence's numbers move with every task that ends; writing each would cost more than it tells.
            reason = decided.hold.get((job.workflow, job.group))
            if reason is not None and reason.code != job.told:
                events[job.workflow].append(Held(job.group, reason))
        self.placed += len(decided.place)
        self.seconds = time.perf_counter() - begun
        return events

    def _by_quota(self, live: Mapping[str, Workflow], quota: QuotaSnapshot, begun: float) -> Events:
        """The same where quotas decide, and who runs may be asked to give way."""
        self._forget(live)
        firm = quota is _EVERYTHING
        if self._queues is None or self._queues.firm is not firm or self._queues.levels is not self.levels:
            self._queues = Queues(self._needs, _rank, self.levels, firm)
        events, decided = self._queues.events(live, self._nodes({}), quota, self.clock())
        self.standings = () if firm else decided.standings
        self.placed += len(decided.place)
        self.preempted += len({(e.workflow, e.group) for e in decided.preempt})
        self.seconds = time.perf_counter() - begun
        return events

    def look(self, live: Mapping[str, Workflow]) -> tuple[Mapping[tuple[str, str], Reason], Sequence[Snapshot]]:
        """Why groups wait at this moment, and the cluster with what runs on it, shard by shard; nothing while quotas
        are not known. Changes nothing."""
        live, _ = self.delegating.split(live)
        quota = self.quota.snapshot() if self.quota else None
        held = quota or _EVERYTHING
        queues = Queues(self._needs, _rank, self.levels, held is _EVERYTHING)
        snapshot = queues.take(live, self._nodes({}), held, self.clock())
        if not held.queues:
            return {}, ()
        if quota is not None or self._gathers(live):
            parts = tuple(split(snapshot, held).values())
            return {key: reason for part in parts for key, reason in plan(part).hold.items()}, parts
        found = self.take(live)
        order = sorted(found.jobs, key=lambda job: job.rank)
        line = {job.key: {"position": f"{at} of {len(order)}"} for at, job in enumerate(order, 1)}
        held_back = plan(found).hold
        return {key: replace(why, evidence={**line[key], **why.evidence}) for key, why in held_back.items()}, (
            snapshot,
        )

    def _gathers(self, live: Mapping[str, Workflow]) -> bool:
        """Whether any group minds where its tasks stand: the core gathers them, the short rules do not."""
        if live.keys() != self._gathering.keys():
            self._gathering = {uuid: self._gathering.get(uuid, asks_for(w)) for uuid, w in live.items()}
        return any(self._gathering.values())

    def know(self, clusters: Mapping[str, str]) -> None:
        """Clusters came or went, and with them what tasks ask for."""
        self.clusters = dict(clusters)
        self._asks.clear()
        self._groups.clear()
        self._queues = None

    def _platform(self, workflow: Workflow) -> Callable[[str | None], str]:
        """From the platform that a task names to the one that nodes carry. A workflow of a cluster that is not known
        (yet, or any more) fits nowhere."""
        backend = workflow.backend
        if backend in self.clusters:
            return lambda asked: f"{backend}/{asked}" if asked else self.clusters[backend]
        if self.own and backend != self.own:
            return lambda asked: f"{backend}/{asked or '?'}"
        return lambda asked: asked or self.platform

    def take(self, live: Mapping[str, Workflow]) -> Snapshot:
        """The cluster at this moment."""
        self._forget(live)
        used: dict[str, Amount] = defaultdict(Amount)
        jobs: list[Job] = []
        for workflow in live.values():
            for group in workflow.groups:
                if group.status.finished or group.pending:
                    continue
                seen = self._groups.get(group.uuid)
                if seen is None or seen.group is not group:
                    seen = self._groups[group.uuid] = self._look(workflow, group)
                for node, amount in seen.used:
                    used[node] += amount
                if seen.job is not None:
                    jobs.append(seen.job)
        return Snapshot(self._nodes(used), tuple(jobs))

    def _nodes(self, used: Mapping[str, Amount]) -> tuple[Node, ...]:
        return tuple(
            Node(n.name, Amount(n.cpu, n.memory, n.gpu, n.storage), used.get(n.name, Amount()), n.platform, n.labels)
            for n in self.nodes
            if n.alive
        )

    def _needs(self, workflow: Workflow) -> Mapping[str, Need]:
        needs = self._asks.get(workflow.uuid)
        if needs is None:
            needs = self._asks[workflow.uuid] = asks(workflow, self.rules, self._platform(workflow))
        return needs

    def _look(self, workflow: Workflow, group: Group) -> _Seen:
        """What is placed of a group, and the job that its tasks without a place make."""
        needs = self._needs(workflow)
        used, waiting = [], []
        for task in group.tasks:
            if task.status is TaskStatus.PROCESSING:
                waiting.append(needs[task.uuid])
            elif task.node and not task.status.finished:
                used.append((task.node, needs[task.uuid].amount))
        return _Seen(group, tuple(used), _job(workflow, group, tuple(waiting)) if waiting else None)

    def _forget(self, live: Mapping[str, Workflow]) -> None:
        """Workflows that are not alive any more."""
        if self._asks.keys() - live.keys():
            self._asks = {uuid: needs for uuid, needs in self._asks.items() if uuid in live}
            alive = {group.uuid for workflow in live.values() for group in workflow.groups}
            self._groups = {uuid: seen for uuid, seen in self._groups.items() if uuid in alive}


@dataclass(frozen=True, slots=True)
class _Seen:
    """A group as it was, by identity, and what came of it."""

    group: Group
    used: tuple[tuple[str, Amount], ...]
    job: Job | None


def asks(workflow: Workflow, rules: PoolRules, platform: Callable[[str | None], str]) -> Mapping[str, Need]:
    """What each task asks for, by task uuid: fixed at submission, so worth keeping."""
    found: dict[str, Need] = {}
    for group in workflow.groups:
        specs = {t.name: t for t in spec_of(workflow.spec, group).tasks}
        for task in group.tasks:
            spec = specs[task.name]
            asked = request(workflow, spec, rules)
            resource = workflow.spec.resources.get(spec.resource, ResourceSpec())
            found[task.uuid] = Need(
                task.uuid,
                task.name,
                Amount(asked.cpu, asked.memory, asked.gpu, asked.storage),
                platform(resource.platform),
                _excluded(workflow, resource),
            )
    return found


def _excluded(workflow: Workflow, resource: ResourceSpec) -> frozenset[str]:
    """Users write host names; nodes of a registered cluster carry its name before their own."""
    names = resource.nodes_excluded
    return frozenset((*names, *(f"{workflow.backend}/{name}" for name in names)))


def _job(workflow: Workflow, group: Group, needs: tuple[Need, ...]) -> Job:
    near = next((t.node for t in group.tasks if t.node and not t.status.finished), "")
    return Job(
        workflow.uuid, group.name, needs, _rank(workflow, group), near, group.reason.code if group.reason else ""
    )


def _rank(workflow: Workflow, group: Group) -> tuple[int, float, str]:
    return _RANK[workflow.priority], group.times.processing or workflow.submitted, f"{workflow.id}/{group.name}"
