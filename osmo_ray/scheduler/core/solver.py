"""Room for one job at the cost of others: the search that consolidation, reclaim and preempt share.

Victims are offered unit by unit in their order. As soon as what is free and what could be freed might suffice, the
units on the newest victim's nodes are evicted in the journal, and the taker and every job touched are placed anew in
the ordinary order of queues. A victim that finds a place again has only moved; one that finds its own never notices;
the others are what it costs. The action has the last word. No scenario that fails leaves a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from osmo_ray.scheduler.core import status as st
from osmo_ray.scheduler.core.entities import Amounts, Job, Queue, Task, cost_of
from osmo_ray.scheduler.core.gang import chunk, place_job, request
from osmo_ray.scheduler.core.order import Line
from osmo_ray.scheduler.core.session import Session
from osmo_ray.scheduler.core.topology import Mask
from osmo_ray.scheduler.core.victims import Herd, prey_of, units


@dataclass(frozen=True, slots=True)
class Solved:
    """A scenario that worked: who takes what, who pays. Queue numbers are those before anything was evicted."""

    job: Job
    tasks: tuple[Task, ...]
    gone: tuple[Task, ...]
    moved: tuple[Task, ...]
    before: dict[Queue, Amounts]
    firm: dict[Queue, Amounts]


Validate = Callable[[Solved], bool]


class Search:
    """The search for one job, with everything that stays the same during it."""

    def __init__(
        self,
        session: Session,
        job: Job,
        prey: Callable[[Job], Herd],
        pending: Mapping[Queue, Sequence[Job]],
        valid: Validate,
    ) -> None:
        self.session, self.job, self.valid = session, job, valid
        self._find = prey
        self.herd: Herd = {}
        self.pending = pending
        self.left = session.settings.scenarios
        self.before = {q: list(q.held) for q in session.queues.values()}
        self.firm = {q: list(q.firm) for q in session.queues.values()}

    def run(self) -> Solved | None:
        """Make room and place the job; on failure nothing has changed."""
        session, tasks, stayed = self.session, chunk(self.job), self.job.stays
        mark = len(session.journal)
        if not tasks or not Hope(session, tasks, ()).at_most(evictable(session)):
            return None
        self.herd = self._find(self.job)
        solved = self._sweep(tasks) if sweepable(self.job, tasks) else None
        if solved is not None:
            return solved
        recorded: list[Task] = []
        for count in range(1, len(tasks) + 1):
            solved = self._prefix(tasks[:count], recorded)
            if solved is None:
                session.undo(mark)
                return None
            recorded = [*solved.gone, *solved.moved]
            if count < len(tasks):
                session.undo(mark)
        if self.job.satisfied and self.job.stays > stayed:
            return solved
        session.undo(mark)
        return None

    def _sweep(self, tasks: Sequence[Task]) -> Solved | None:
        """Equal tasks that each fit one node: one walk over the victims finds the nodes, one simulation proves them.

        Going from one task to the next, the search below would only walk again over what it has seen, and stop where
        the next node has room for one task more; so the nodes that get room, in the order of the walk, are its answer.
        """
        hope = Hope(self.session, tasks, ())
        by_node: dict[int, list[Task]] = {}
        victims: list[Task] = []
        for unit in units(self.session, self._copy(), set()) if not hope() else ():
            task = unit[0]
            if len(unit) > 1:
                return None
            waiting = by_node.setdefault(task.node, [])
            waiting.append(task)
            before = hope.sum
            hope.add(unit)
            if hope.sum > before:
                victims += waiting
                waiting.clear()
                if hope():
                    break
        return self._try(tasks, victims) if victims and hope() else None

    def _copy(self) -> Herd:
        return {leaf: list(line) for leaf, line in self.herd.items()}

    def _prefix(self, tasks: Sequence[Task], recorded: Sequence[Task]) -> Solved | None:
        hopeful = Hope(self.session, tasks, recorded)
        if recorded and hopeful():
            solved = self._try(tasks, recorded)
            if solved is not None:
                return solved
        offered: list[list[Task]] = []
        for unit in units(self.session, self._copy(), set(recorded)):
            offered.append(unit)
            hopeful.add(unit)
            if not hopeful():
                continue
            for node in sorted({t.node for t in unit}):
                solved = self._try(tasks, [*recorded, *_on(node, offered)])
                if solved is not None:
                    return solved
                if self.left <= 0:
                    return None
        return None

    def _try(self, tasks: Sequence[Task], victims: Sequence[Task]) -> Solved | None:
        """One simulation; what it did stays only if it worked."""
        self.left -= 1
        session = self.session
        mark = len(session.journal)
        feasible = self._feasible(tasks, victims)
        for task in victims:
            session.evict(task)
        if self._place(tasks, victims, feasible):
            gone = tuple(t for t in victims if t.kept < 0)
            moved = tuple(t for t in victims if t.status == st.PIPELINED)
            solved = Solved(self.job, tuple(tasks), gone, moved, self.before, self.firm)
            if self.valid(solved):
                return solved
        session.undo(mark)
        return None

    def _feasible(self, tasks: Sequence[Task], victims: Sequence[Task]) -> Mask | None:
        if any(t.kind.gpus <= 0 for t in tasks):
            return None
        found: Mask = self.session.nodes.gpus_free() > 0
        found[[t.node for t in victims]] = True
        return found

    def _place(self, tasks: Sequence[Task], victims: Sequence[Task], mask: Mask | None) -> bool:
        touched = {t.job for t in victims}
        waiting = touched | {self.job}
        partial = cost_of(list(tasks))

        def cost(job: Job) -> Amounts:
            if job is self.job:
                return partial
            return cost_of(chunk(job, True)) if job in touched else request(job)

        members = [*relevant(self.pending, waiting), *waiting]
        line: Line[Job] = Line(members, self.session.capacity, cost)
        while line and waiting:
            job = line.pop()
            if job not in waiting:
                continue
            waiting.discard(job)
            if job is self.job:
                if not place_job(self.session, job, tasks, mask, True):
                    return False
            else:
                place_job(self.session, job, chunk(job, True), mask, True)
        return self.job not in waiting


def evictable(session: Session) -> NDArray[np.float64]:
    """GPUs per node that any victim could free."""
    found = np.zeros(session.nodes.count)
    for leaf in session.queues.values():
        if leaf.active:
            found += prey_of(session, leaf).gpus
    return found


def sweepable(job: Job, tasks: Sequence[Task]) -> bool:
    """Whether a chunk is more than one of the same, and needs whole GPUs."""
    kind = tasks[0].kind if tasks else None
    return (
        kind is not None
        and len(tasks) > 1
        and job.plain
        and kind.plain
        and kind.gpus > 0
        and {t.kind for t in tasks} == {kind}
    )


def relevant(pending: Mapping[Queue, Sequence[Job]], waiting: set[Job]) -> Iterator[Job]:
    """Pending jobs that can influence in which order these are served: those that share a top queue with one."""
    leaves = {j.queue for j in waiting}
    tops = {q.path[-1] for q in leaves}
    flat = all(len(q.path) <= 2 for q in leaves) and len(tops) == 1
    for queue in leaves if flat else [q for q in pending if q.path[-1] in tops]:
        for job in pending.get(queue, ()):
            if job not in waiting and job.waiting:
                yield job


def _on(node: int, offered: Sequence[Sequence[Task]]) -> list[Task]:
    """Everything offered so far of the jobs that have something offered on this node."""
    jobs = {t.job for unit in offered for t in unit if t.node == node}
    return [t for unit in offered for t in unit if t.job in jobs]


class Hope:
    """A cheap, necessary condition: the GPUs that are or could be free, against those asked for."""

    def __init__(self, session: Session, tasks: Sequence[Task], recorded: Sequence[Task]) -> None:
        self.asked = sorted((t.kind.gpus for t in tasks), reverse=True)
        self.free = session.nodes.gpus_free()
        self.alike = self.asked[0] == self.asked[-1] and self.asked[0] > 0
        self.each, self.count = self.asked[0], len(self.asked)
        self.fits = np.floor((self.free + 1e-6) / self.each).clip(0) if self.alike else self.free
        self.sum = float(self.fits.sum())
        self.add(recorded)

    def add(self, unit: Sequence[Task]) -> None:
        for task in unit:
            node = task.node
            self.free[node] += task.kind.gpus
            if self.alike:
                new = max(0.0, float((self.free[node] + 1e-6) // self.each))
                self.sum += new - float(self.fits[node])
                self.fits[node] = new
            else:
                self.sum += task.kind.gpus

    def at_most(self, more: NDArray[np.float64]) -> bool:
        """Whether there would be hope with all of this freed."""
        free = self.free + more
        if self.alike:
            return bool(np.floor((free + 1e-6) / self.each).clip(0).sum() >= self.count)
        return bool(free.sum() + 1e-6 >= sum(self.asked) and free.max() + 1e-6 >= self.asked[0])

    def __call__(self) -> bool:
        if self.alike:
            return self.sum >= self.count
        return self.sum + 1e-6 >= sum(self.asked) and float(self.free.max()) + 1e-6 >= self.asked[0]
