"""Victims, unit by unit: one elastic task, or the whole core of a gang, in the reverse of the order of service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from osmo_ray.scheduler.core import status as st
from osmo_ray.scheduler.core.entities import Job, Queue, Task, cost_of
from osmo_ray.scheduler.core.inputs import JobIn
from osmo_ray.scheduler.core.order import Line
from osmo_ray.scheduler.core.session import Session


@dataclass(slots=True, eq=False)
class Prey:
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


def units(session: Session, jobs: Iterable[Job], recorded: set[Task]) -> Iterator[list[Task]]:
    """Units of these jobs in order, passing over those recorded already."""
    prey = [Prey(job, tasks) for job in jobs if (tasks := takeable(job))]
    zero = [0, 0, 0]
    line: Line[Prey] = Line(prey, session.capacity, lambda _: zero, reverse=True)
    while line:
        one = line.pop()
        unit = one.unit()
        known = not recorded.isdisjoint(unit)
        line.take(one, cost_of(unit))
        if len(unit) < len(one.tasks):
            gone = recorded if known else set(unit)
            line.push(Prey(one.job, [t for t in one.tasks if t not in gone]))
        if not known:
            yield unit


def protected(session: Session, job: Job, minimum: float | None) -> bool:
    """Whether a job is younger than its minimum runtime."""
    started = job.given.started if session.runtimes else None
    return minimum is not None and started is not None and session.now - started < minimum


def preempt_minimum(queue: Queue) -> float | None:
    """The first minimum runtime set, from the leaf up."""
    return next((q.given.preempt_min_runtime for q in queue.path if q.given.preempt_min_runtime is not None), None)


def reclaim_minimum(taker: Queue, victim: Queue) -> float | None:
    """From the victim's side of the lowest common ancestor, upwards."""
    start = len(victim.path) - 1
    for depth, (a, b) in enumerate(zip(reversed(taker.path), reversed(victim.path), strict=False)):
        if a is not b:
            start = len(victim.path) - 1 - depth
            break
    for queue in victim.path[start:]:
        if queue.given.reclaim_min_runtime is not None:
            return queue.given.reclaim_min_runtime
    return None


def loses_core(victims: Iterable[Task], minimum: Callable[[Job], float | None], session: Session) -> bool:
    """Whether a job that is still protected would fall below one of its minimums."""
    jobs = {t.job for t in victims}
    return any(protected(session, j, minimum(j)) and not j.satisfied for j in jobs)
