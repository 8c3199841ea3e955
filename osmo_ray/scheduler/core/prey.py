"""What is left of a job to take from, and the victims of one leaf in order."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from osmo_ray.scheduler.core import status as st
from osmo_ray.scheduler.core.entities import Job, Queue, Task
from osmo_ray.scheduler.core.inputs import JobIn

Rank = tuple[int, int, float, int]


@dataclass(slots=True, eq=False)
class Left:
    """What is left of a job to take from."""

    job: Job
    tasks: list[Task] = field(default_factory=list)

    @property
    def queue(self) -> Queue:
        return self.job.queue

    @property
    def given(self) -> JobIn:
        return self.job.given

    @property
    def index(self) -> int:
        return self.job.index

    def left(self) -> dict[str, int]:
        counts = dict.fromkeys(self.job.pod_sets, 0)
        for task in self.tasks:
            counts[task.pod_set.name] += 1
        return counts

    def gang_state(self) -> int:
        """As of a job, over what is left."""
        if len(self.job.pod_sets) == 1:
            least = next(iter(self.job.pod_sets.values())).minimum
            return 0 if len(self.tasks) < least else 1 + (len(self.tasks) > least)
        left = self.left()
        if any(left[p.name] < p.minimum for p in self.job.pod_sets.values()):
            return 0
        return 1 + any(left[p.name] > p.minimum for p in self.job.pod_sets.values())

    def unit(self) -> list[Task]:
        """The next to take: one task above a minimum, or else all that is left."""
        if len(self.tasks) == 1:
            return self.tasks
        left = self.left()
        above = [p for p in self.job.pod_sets.values() if left[p.name] > p.minimum]
        if not above:
            return list(self.tasks)
        worst = max(above, key=lambda p: (left[p.name] / max(p.minimum, 1), p.name))
        return [max((t for t in self.tasks if t.pod_set is worst), key=lambda t: t.rank)]


def takeable(job: Job) -> list[Task]:
    """Tasks that have a place and have not been asked to go; one that was given its place just now keeps it."""
    return [t for t in job.tasks if st.STAYS[t.status] and t.status != st.ALLOCATED]


@dataclass(frozen=True, slots=True)
class Prey:
    """The victims of a leaf, the first to be taken last, as of a version of the leaf."""

    version: int
    line: list[tuple[Rank, Left]]
    gpus: NDArray[np.float64]
    """Per node, what they could free."""

    @staticmethod
    def of(leaf: Queue, nodes: int) -> Prey:
        gpus = np.zeros(nodes)
        left = [Left(job, tasks) for job in leaf.active if job.preemptible and (tasks := takeable(job))]
        for one in left:
            for task in one.tasks:
                gpus[task.node] += task.kind.gpus
        return Prey(leaf.version, sorted(((taking_rank(one), one) for one in left), key=lambda e: e[0]), gpus)


def taking_rank(one: Left) -> Rank:
    """Lowest priority, most elastic, youngest: the greatest is taken first."""
    return (-one.given.priority, one.gang_state(), one.given.created, one.index)
