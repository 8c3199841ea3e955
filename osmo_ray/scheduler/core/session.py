"""One session: the cluster at a moment, changed by moves that a journal can take back.

`move` is the only way a task changes its state: nodes, queues, shared GPUs, claims and gang counts follow from it. A
decision is a stretch of the journal: kept, or undone by walking it backwards. Nothing is ever copied.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from osmo_ray.scheduler.core import status as st
from osmo_ray.scheduler.core.entities import INFINITE, MICRO, Job, Kind, PodSet, Queue, Task
from osmo_ray.scheduler.core.inputs import Ask, ClaimIn, GroupIn, JobIn, NodeIn, QueueIn, Settings, TaskIn
from osmo_ray.scheduler.core.nodes import LATER, NOW, Nodes
from osmo_ray.scheduler.core.prey import Prey
from osmo_ray.scheduler.core.shares import Claimant, divide
from osmo_ray.scheduler.core.topology import Tree

Entry = tuple[Task, int, int, int, tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Deal:
    """Who made room for whom, and by which action: tasks that go, tasks that move."""

    action: str
    job: Job
    gone: tuple[Task, ...]
    moved: tuple[Task, ...]


def pod_sets_of(group: GroupIn) -> Iterable[PodSet]:
    for given in group.pod_sets:
        yield PodSet(given.name, given.minimum)
    for inner in group.groups:
        yield from pod_sets_of(inner)


def constrained(group: GroupIn) -> bool:
    """Whether a topology has a say anywhere in the tree."""
    return bool(group.near or any(p.near for p in group.pod_sets) or any(constrained(g) for g in group.groups))


class Session:
    """Everything the actions work on. Jobs may be added and removed between cycles."""

    def __init__(
        self,
        nodes: Sequence[NodeIn],
        queues: Sequence[QueueIn],
        jobs: Iterable[JobIn] = (),
        claims: Sequence[ClaimIn] = (),
        topologies: Iterable[tuple[str, tuple[str, ...]]] = (),
        settings: Settings | None = None,
        now: float = 0.0,
        extra: Sequence[str] = (),
    ) -> None:
        self.settings = settings or Settings()
        self.now = now
        self.nodes = Nodes(nodes, claims, extra, self.settings.smallest_gpu)
        self.trees = {name: Tree(levels, self.nodes.given) for name, levels in topologies}
        self.kinds: dict[Ask, Kind] = {}
        self.queues: dict[str, Queue] = {}
        self.jobs: dict[str, Job] = {}
        self.journal: list[Entry] = []
        self.capacity = self.nodes.capacity()
        self._grow(queues)
        self._next = 0
        self.open: dict[Job, None] = {}
        """Jobs with tasks that wait."""
        self.active: dict[Job, None] = {}
        """Jobs with tasks in place that stay."""
        self.short: dict[Job, None] = {}
        """Jobs with something in place, but less than a minimum."""
        self.deals: list[Deal] = []
        self.prey: dict[Queue, Prey] = {}
        self.turns: dict[str, int] = {}
        """Per action, how many jobs earlier cycles have tried beyond the first."""
        self.runtimes = any(q.preempt_min_runtime is not None or q.reclaim_min_runtime is not None for q in queues)
        self.companions: list[Task] = []
        """Tasks that a pod affinity may look at."""
        for job in jobs:
            self.add(job)

    # queues ---------------------------------------------------------------------------------------------------------

    def _grow(self, given: Sequence[QueueIn]) -> None:
        for i, one in enumerate(given):
            quota = [_unit(v, r) for r, v in enumerate(one.quota)]
            limit = [_unit(v, r) for r, v in enumerate(one.limit)]
            self.queues[one.name] = Queue(one.name, i, one, quota=quota, limit=limit)
        for queue in self.queues.values():
            queue.parent = self.queues.get(queue.given.parent or "")
            if queue.parent is not None:
                queue.parent.children.append(queue)
        for queue in self.queues.values():
            path = [queue]
            while path[-1].parent is not None and path[-1].parent not in path:
                path.append(path[-1].parent)
            queue.path = tuple(path)

    @property
    def tops(self) -> list[Queue]:
        return [q for q in self.queues.values() if q.given.parent is None]

    def usable(self, queue: Queue) -> bool:
        """A leaf whose ancestors all exist."""
        return not queue.children and queue.path[-1].given.parent is None

    def share(self) -> None:
        """Compute every queue's fair share from what it holds and asks for."""
        self._divide(self.tops, [float(c) for c in self.capacity])
        for queue in self.queues.values():
            queue.may = [_allocatable(queue, r) for r in range(3)]

    def _divide(self, siblings: Sequence[Queue], totals: Sequence[float]) -> None:
        for r, total in enumerate(totals):
            unit = MICRO if r == 0 else 1
            claimants = [_claimant(q, r, unit) for q in siblings]
            divide(total / unit, claimants, self.settings.usage_factor)
            for queue, claimant in zip(siblings, claimants, strict=True):
                queue.fair[r] = round(claimant.share * unit)
        for queue in siblings:
            if queue.children:
                self._divide(queue.children, queue.fair)

    # jobs -----------------------------------------------------------------------------------------------------------

    def kind(self, ask: Ask) -> Kind:
        kind = self.kinds.get(ask)
        if kind is None:
            kind = self.kinds[ask] = self.nodes.kind(len(self.kinds), ask)
        return kind

    def add(self, given: JobIn) -> None:
        """Take a job in; one of an unknown queue is left out."""
        queue = self.queues.get(given.queue)
        if queue is None or not self.usable(queue):
            return
        job = Job(given.name, self._next, given, queue, {p.name: p for p in pod_sets_of(given.tree)})
        self._next += 1
        for i, one in enumerate(given.tasks):
            self._enter(job, one, i)
        job.signature = self._signature(job)
        job.plain = not given.tree.groups and not constrained(given.tree)
        self._track(job)
        self.jobs[job.name] = job

    def _enter(self, job: Job, given: TaskIn, i: int) -> None:
        pod_set = job.pod_sets.get(given.pod_set) or next(iter(job.pod_sets.values()))
        rank = (given.priority is None, -(given.priority or 0), i)
        task = Task(given.name, given, self.kind(given.ask), job, pod_set, rank)
        pod_set.tasks.append(task)
        job.tasks.append(task)
        if given.ask.company:
            self.companions.append(task)
        node = self.nodes.index.get(given.node or "", -1)
        state = given.state if node >= 0 or not st.USES[given.state] else st.FAILED
        if given.ask.refused and st.USES[state]:
            self.nodes.hide_slices(node)
        task.first, task.unpaid = state, state == st.PIPELINED
        pod_set.count(st.PENDING, 1)
        if state == st.PENDING:
            self._ask(job, task.kind, 1)
            return
        groups = given.shared if task.kind.shared else ()
        if task.kind.shared and not groups and st.USES[state]:
            groups = tuple(self.nodes.fresh(node) for _ in range(given.ask.devices))
        held, kept = (node if st.HOLDS[state] else -1), (node if st.STAYS[state] else -1)
        self._set(task, state, held, kept, groups if held >= 0 else (), groups if kept >= 0 else (), False)

    def _signature(self, job: Job) -> tuple[object, ...]:
        """Jobs with an equal one ask the same of the cluster; those with tasks placed already stand alone."""
        if any(t.status != st.PENDING for t in job.tasks):
            return (job.name,)
        return (job.given.tree, tuple((t.kind.index, t.given.pod_set, t.given.priority) for t in job.tasks))

    def remove(self, name: str) -> None:
        """Forget a job and free what it holds."""
        job = self.jobs.pop(name)
        for task in job.tasks:
            if task.status == st.PENDING:
                self._ask(job, task.kind, -1)
            self._set(task, st.SUCCEEDED, -1, -1, (), ())
        if self.companions:
            self.companions = [t for t in self.companions if t.job is not job]

    def _ask(self, job: Job, kind: Kind, sign: int) -> None:
        for queue in job.queue.path:
            for r in range(3):
                queue.asked[r] += sign * kind.cost[r]

    # moves ----------------------------------------------------------------------------------------------------------

    def move(
        self,
        task: Task,
        status: int,
        held: int,
        kept: int,
        held_on: tuple[str, ...] = (),
        kept_on: tuple[str, ...] = (),
    ) -> None:
        """Change a task and note how it was."""
        self.journal.append((task, task.status, task.held, task.kept, task.held_on, task.kept_on))
        self._set(task, status, held, kept, held_on, kept_on)

    def _set(
        self,
        task: Task,
        status: int,
        held: int,
        kept: int,
        held_on: tuple[str, ...],
        kept_on: tuple[str, ...],
        track: bool = True,
    ) -> None:
        nodes = self.nodes
        if (held, held_on) != (task.held, task.held_on):
            if task.held >= 0:
                nodes.take(NOW, task.kind, task.held, task.held_on, -1)
            if held >= 0:
                nodes.take(NOW, task.kind, held, held_on, 1)
        if (kept, kept_on) != (task.kept, task.kept_on):
            if task.kept >= 0:
                nodes.take(LATER, task.kind, task.kept, task.kept_on, -1)
            if kept >= 0:
                nodes.take(LATER, task.kind, kept, kept_on, 1)
        if not task.unpaid and (kept >= 0) != (task.kept >= 0):
            self._pay(task, 1 if kept >= 0 else -1)
        if status != task.status:
            task.pod_set.count(task.status, -1)
            task.pod_set.count(status, 1)
            if track:
                self._track(task.job)
        task.status, task.held, task.kept, task.held_on, task.kept_on = status, held, kept, held_on, kept_on

    def _track(self, job: Job) -> None:
        """Keep the lists of jobs that the actions walk, so that none of them walks all jobs."""
        job.upcoming = None
        waiting = stays = uses = 0
        short = False
        for p in job.pod_sets.values():
            waiting += p.waiting
            stays += p.stays
            uses += p.uses
            short = short or p.uses < p.minimum
        for where, belongs in (
            (self.open, waiting),
            (self.active, stays),
            (job.queue.active, stays),
            (self.short, uses and short),
        ):
            if belongs:
                where[job] = None
            elif job in where:
                del where[job]

    def _pay(self, task: Task, sign: int) -> None:
        gpu, cpu, memory = task.kind.cost
        firm = not task.job.given.preemptible
        for queue in task.job.queue.path:
            queue.version += 1
            for amounts in (queue.held, queue.firm) if firm else (queue.held,):
                amounts[0] += sign * gpu
                amounts[1] += sign * cpu
                amounts[2] += sign * memory

    def evict(self, task: Task) -> None:
        """Ask a task to go; one that has not started simply waits again."""
        if task.held < 0:
            self.move(task, st.PENDING, -1, -1)
        else:
            self.move(task, st.RELEASING, task.held, -1, task.held_on)

    def restore(self, task: Task) -> None:
        """Let an evicted task stay where it is: it never notices."""
        self.move(task, task.first, task.held, task.held, task.held_on, task.held_on)

    def place(self, task: Task, node: int, groups: tuple[str, ...], now: bool) -> None:
        """Put a task on a node: at once, or when what is leaving has left."""
        if now:
            self.move(task, st.ALLOCATED, node, node, groups, groups)
        else:
            self.move(task, st.PIPELINED, task.held, node, task.held_on, groups)

    def undo(self, mark: int) -> None:
        """Take back every move since `mark` (a length of the journal)."""
        journal = self.journal
        while len(journal) > mark:
            task, status, held, kept, held_on, kept_on = journal.pop()
            self._set(task, status, held, kept, held_on, kept_on)

    def reset(self) -> None:
        """Take back a whole cycle, so that what really happened can be told instead."""
        self.undo(0)
        self.deals.clear()


def _unit(value: float, resource: int) -> int:
    if value == INFINITE:
        return INFINITE
    return round(value * MICRO) if resource == 0 else round(value)


def _claimant(queue: Queue, r: int, unit: int) -> Claimant:
    given = queue.given
    quota = float(queue.quota[r]) if queue.quota[r] == INFINITE else queue.quota[r] / unit
    limit = float(queue.limit[r]) if queue.limit[r] == INFINITE else queue.limit[r] / unit
    request = (queue.held[r] + queue.asked[r]) / unit
    return Claimant(given.name, given.priority, given.created, quota, limit, given.weight[r], request)


def _allocatable(queue: Queue, r: int) -> float:
    limit, quota = queue.limit[r], queue.quota[r]
    if quota == INFINITE:
        return limit
    share = max(quota, queue.fair[r])
    return share if limit == INFINITE else min(limit, share)
