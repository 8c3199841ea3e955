"""The moving parts of one session: queues, jobs, pod sets, tasks and the classes of equal tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from osmo_ray.scheduler.core.inputs import Ask, JobIn, QueueIn, TaskIn
from osmo_ray.scheduler.core.status import ALIVE, GATED, PENDING, STAYS, USES

GPU, CPU, MEMORY = 0, 1, 2
MICRO = 1_000_000
"""Quotas count GPUs in millionths, so that sums of fractions stay exact."""
Amounts = list[int]
"""Millionths of GPUs, millicores, bytes."""
INFINITE = -1


@dataclass(slots=True, eq=False)
class Queue:
    """A queue of the tree with what its subtree holds; `path` goes from itself to the top."""

    name: str
    index: int
    given: QueueIn
    parent: Queue | None = None
    children: list[Queue] = field(default_factory=list)
    path: tuple[Queue, ...] = ()
    quota: Amounts = field(default_factory=lambda: [0, 0, 0])
    limit: Amounts = field(default_factory=lambda: [0, 0, 0])
    held: Amounts = field(default_factory=lambda: [0, 0, 0])
    firm: Amounts = field(default_factory=lambda: [0, 0, 0])
    """Held by non-preemptible work."""
    asked: Amounts = field(default_factory=lambda: [0, 0, 0])
    """Pending, beside what is held."""
    fair: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    may: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    """Allocatable share: the limit, or the greater of quota and fair share; -1: no bound."""
    active: dict[Job, None] = field(default_factory=dict)
    """Jobs of this leaf with tasks in place that stay."""
    version: int = 0
    """Grows with every change of what it holds."""


@dataclass(slots=True, eq=False)
class Kind:
    """A class of equal tasks: its request as a column for the nodes, its cost for the quotas."""

    index: int
    ask: Ask
    need: NDArray[np.float64]
    rows: tuple[tuple[int, float], ...]
    """(resource row, amount) for what is asked at all."""
    cost: tuple[int, int, int]
    shared: bool
    """Asks for a part of a GPU."""
    allowed: NDArray[np.bool_]
    gpus: float
    """GPUs for sums over nodes: parts and slices counted too."""
    plain: bool
    """Where it fits depends on nothing but the arrays: no parts of GPUs, claims or company."""


@dataclass(slots=True, eq=False)
class Task:
    """Where it sits now (`held`) and where it will be (`kept`): node numbers, -1 for nowhere."""

    name: str
    given: TaskIn
    kind: Kind
    job: Job
    pod_set: PodSet
    rank: tuple[bool, int, int]
    status: int = PENDING
    held: int = -1
    kept: int = -1
    held_on: tuple[str, ...] = ()
    kept_on: tuple[str, ...] = ()
    first: int = PENDING
    """Its state when the session began."""
    unpaid: bool = False
    """Came in as pipelined: never counted against the quota."""

    @property
    def node(self) -> int:
        return self.kept if self.kept >= 0 else self.held


@dataclass(slots=True, eq=False)
class PodSet:
    name: str
    minimum: int
    tasks: list[Task] = field(default_factory=list)
    stays: int = 0
    uses: int = 0
    alive: int = 0
    gated: int = 0
    waiting: int = 0

    def count(self, status: int, by: int) -> None:
        if STAYS[status]:
            self.stays += by
        if USES[status]:
            self.uses += by
        if ALIVE[status]:
            self.alive += by
        if status == PENDING:
            self.waiting += by
        elif status == GATED:
            self.gated += by

    @property
    def ready(self) -> bool:
        return self.alive - self.gated >= self.minimum

    @property
    def satisfied(self) -> bool:
        return self.stays >= self.minimum


@dataclass(slots=True, eq=False)
class Job:
    name: str
    index: int
    given: JobIn
    queue: Queue
    pod_sets: dict[str, PodSet]
    tasks: list[Task] = field(default_factory=list)
    signature: tuple[object, ...] = ()
    """Equal for jobs that ask the same of the cluster."""
    plain: bool = True
    """No topology and no sub-groups: its tasks are placed one after the other."""
    upcoming: tuple[list[Task], Amounts] | None = None
    """The next chunk and its cost, as long as no task has changed."""

    @property
    def preemptible(self) -> bool:
        return self.given.preemptible

    @property
    def stays(self) -> int:
        return sum(p.stays for p in self.pod_sets.values())

    @property
    def waiting(self) -> bool:
        return any(p.waiting for p in self.pod_sets.values())

    @property
    def ready(self) -> bool:
        return all(p.ready for p in self.pod_sets.values())

    @property
    def satisfied(self) -> bool:
        return all(p.satisfied for p in self.pod_sets.values())

    def gang_state(self) -> int:
        """0 below its minimum, 1 exactly there, 2 above."""
        above = False
        for p in self.pod_sets.values():
            if p.stays < p.minimum:
                return 0
            above = above or p.stays > p.minimum
        return 2 if above else 1


def fits_in(a: Amounts | tuple[int, ...], b: Amounts | list[float] | tuple[float, ...]) -> bool:
    """Whether a <= b in all three, where -1 in b is no bound."""
    return all(y == INFINITE or x <= y for x, y in zip(a, b, strict=True))


def plus(a: Amounts | tuple[int, ...], b: Amounts | tuple[int, ...]) -> Amounts:
    return [x + y for x, y in zip(a, b, strict=True)]


def minus(a: Amounts | tuple[int, ...], b: Amounts | tuple[int, ...]) -> Amounts:
    return [x - y for x, y in zip(a, b, strict=True)]


def cost_of(tasks: Sequence[Task]) -> Amounts:
    g = c = m = 0
    for task in tasks:
        cost = task.kind.cost
        g += cost[0]
        c += cost[1]
        m += cost[2]
    return [g, c, m]
