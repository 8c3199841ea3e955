"""The schedule loop where quotas decide: running groups are told too, and some are asked to give way.

Kept between cycles: the planner's view of the cluster, jobs by group, and the places promised to those for whom others
had to leave. All of it may be lost: a new leader plans anew from what is placed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from osmo_ray.control.layout import Levels, layout
from osmo_ray.engine.events import Event, Held, Placed, Preempted
from osmo_ray.engine.model import Group, Workflow
from osmo_ray.engine.status import TaskStatus
from osmo_ray.providers.quota import QuotaQueue, QuotaSnapshot
from osmo_ray.scheduler.model import Amount, Eviction, Job, Need, Node, Plan, Queue, Seat, Snapshot
from osmo_ray.scheduler.queued import Planner
from osmo_ray.spec.model import Priority
from osmo_ray.spec.reason import Reason

PRIORITY = {Priority.HIGH: 125, Priority.NORMAL: 100, Priority.LOW: 50}
"""From 100 on work is never stopped and stays within the quota."""
_RULE = {
    "reclaim": "its queue {taker} holds less than its share and {loser} more",
    "preempt": "it has a higher priority in queue {taker}",
}

Ask = Callable[[Workflow], Mapping[str, Need]]
"""What each task of a workflow asks for, by task uuid."""
Rank = Callable[[Workflow, Group], tuple[int, float, str]]
Key = tuple[str, str]


@dataclass(slots=True)
class Queues:
    """Quotas as the schedule loop uses them."""

    ask: Ask
    rank: Rank
    levels: Mapping[str, Levels] = field(default_factory=dict)
    """Pool -> its topology."""
    firm: bool = False
    """Whether nobody gives way: where there are no quotas and groups only want to gather."""
    _planners: dict[str, Planner] = field(default_factory=dict)
    _promised: Mapping[Key, Mapping[str, str]] = field(default_factory=dict)
    _quota: QuotaSnapshot | None = None
    _jobs: dict[str, tuple[Group, Job | None]] = field(default_factory=dict)

    def events(
        self, live: Mapping[str, Workflow], nodes: Sequence[Node], quota: QuotaSnapshot, now: float
    ) -> tuple[Mapping[str, list[Event]], Plan]:
        """One cycle: who is placed, who gives way to whom, and why the others wait."""
        snapshot = self.take(live, nodes, quota, now)
        if not quota.queues:
            plan = _unknown(snapshot, quota)
            return _told(live, snapshot, plan), plan
        parts = split(snapshot, quota)
        plan = _merged([self._planners.setdefault(name, Planner()).plan(part) for name, part in parts.items()])
        self._promised = plan.reserve
        return _told(live, snapshot, plan), plan

    def take(self, live: Mapping[str, Workflow], nodes: Sequence[Node], quota: QuotaSnapshot, now: float) -> Snapshot:
        """The cluster at this moment, with its queues."""
        if self._quota is not quota:
            self._jobs.clear()
            self._quota = quota
        kept, self._jobs = self._jobs, {}
        jobs: list[Job] = []
        for workflow in live.values():
            for group in workflow.groups:
                if group.status.finished or group.pending:
                    continue
                seen = kept.get(group.uuid)
                if seen is None or seen[0] is not group:
                    seen = group, self._job(workflow, group, quota)
                self._jobs[group.uuid] = seen
                if seen[1] is not None:
                    promised = self._promised.get(seen[1].key)
                    jobs.append(replace(seen[1], reserved=promised) if promised else seen[1])
        queues = tuple(_queue(i, q) for i, q in enumerate(quota.queues))
        topologies = {pool: tuple(levels.values()) for pool, levels in self.levels.items()}
        return Snapshot(tuple(nodes), tuple(jobs), queues, topologies, now)

    def _job(self, workflow: Workflow, group: Group, quota: QuotaSnapshot) -> Job | None:
        asked = self.ask(workflow)
        needs = tuple(asked[t.uuid] for t in group.tasks if t.status is TaskStatus.PROCESSING)
        sitting = [t for t in group.tasks if t.node and not t.status.finished and t.status is not TaskStatus.PROCESSING]
        if not needs and not sitting:
            return None
        began = [t.times.running or t.times.scheduling for t in sitting]
        return Job(
            workflow.uuid,
            group.name,
            needs,
            self.rank(workflow, group),
            told=group.reason.code if group.reason else "",
            title=f"{workflow.id}/{group.name}",
            queue=quota.resolve(workflow.pool),
            priority=PRIORITY[workflow.priority],
            preemptible=False if self.firm else None,
            seats=tuple(Seat(asked[t.uuid], t.node) for t in sitting),
            started=min(began) if began else None,
            layout=layout(workflow, group, self.levels.get(workflow.pool, {})),
        )


def split(snapshot: Snapshot, quota: QuotaSnapshot) -> Mapping[str, Snapshot]:
    """One snapshot per shard, by its name. Work of other shards that runs on a shard's nodes counts as used there."""
    if not quota.shards:
        return {"": snapshot}
    at: dict[str, str] = {}
    for shard in quota.shards:
        for node in snapshot.nodes:
            if node.name not in at and all(node.labels.get(key) == value for key, value in shard.nodes.items()):
                at[node.name] = shard.name
    of = {queue.name: queue.shard for queue in quota.queues}
    strangers: dict[str, Amount] = defaultdict(Amount)
    for job in snapshot.jobs:
        for seat in job.seats:
            if at.get(seat.node, "") != of.get(job.queue, ""):
                strangers[seat.node] += seat.need.amount
    return {
        shard.name: replace(
            snapshot,
            nodes=tuple(
                replace(node, used=node.used + strangers[node.name]) if node.name in strangers else node
                for node in snapshot.nodes
                if at.get(node.name) == shard.name
            ),
            jobs=tuple(job for job in snapshot.jobs if of.get(job.queue, "") == shard.name),
            queues=tuple(queue for queue in snapshot.queues if of[queue.name] == shard.name),
            spread=shard.spread,
        )
        for shard in quota.shards
    }


def _merged(plans: Sequence[Plan]) -> Plan:
    """The plans of all shards as one: no group is in two."""
    if len(plans) == 1:
        return plans[0]
    return Plan(
        {key: chosen for plan in plans for key, chosen in plan.place.items()},
        {key: reason for plan in plans for key, reason in plan.hold.items()},
        tuple(eviction for plan in plans for eviction in plan.preempt),
        {key: chosen for plan in plans for key, chosen in plan.reserve.items()},
        tuple(standing for plan in plans for standing in plan.standings),
    )


def _unknown(snapshot: Snapshot, quota: QuotaSnapshot) -> Plan:
    """Quotas are wanted and not known yet: what runs goes on, what waits waits for them."""
    sentence = f"quotas are not known yet: {quota.error}"
    reason = Reason("QuotasUnknown", sentence, {}, "osmo status")
    return Plan(hold={job.key: reason for job in snapshot.jobs if job.needs})


def _queue(index: int, queue: QuotaQueue) -> Queue:
    """The order of the source decides between equals, as the time of creation does elsewhere."""
    return Queue(
        queue.name,
        queue.parent,
        queue.priority,
        float(index),
        queue.gpu,
        queue.cpu,
        queue.memory,
        queue.preempt_min_runtime,
        queue.reclaim_min_runtime,
    )


def _told(live: Mapping[str, Workflow], snapshot: Snapshot, plan: Plan) -> Mapping[str, list[Event]]:
    events: dict[str, list[Event]] = defaultdict(list)
    jobs = {job.key: job for job in snapshot.jobs}
    for key in dict.fromkeys((e.workflow, e.group) for e in plan.preempt):
        first = next(e for e in plan.preempt if (e.workflow, e.group) == key)
        events[key[0]].append(Preempted(key[1], _why(live, jobs, first)))
    for (workflow, group), chosen in plan.place.items():
        events[workflow].append(Placed(group, chosen))
    for job in snapshot.jobs:
        reason = plan.hold.get(job.key)
        if job.needs and reason is not None and reason.code != job.told:
            events[job.workflow].append(Held(job.group, reason))
    return events


def _why(live: Mapping[str, Workflow], jobs: Mapping[Key, Job], given: Eviction) -> Reason:
    """Who takes the place, and by which rule."""
    taker, loser = jobs[given.for_workflow, given.for_group], jobs[given.workflow, given.group]
    who = f"{live[given.for_workflow].id}/{given.for_group}"
    rule = _RULE[given.action].format(taker=taker.queue, loser=loser.queue)
    facts = {"for": who, "rule": given.action, "queue": loser.queue, "for_queue": taker.queue}
    return Reason("Preempted", f"gives way to {who}: {rule}", facts)
