"""Across queues: a queue below its share takes back from those above theirs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from osmo_ray.scheduler.core import status as st
from osmo_ray.scheduler.core.actions.taking import each
from osmo_ray.scheduler.core.entities import Amounts, Job, Queue, Task, cost_of, fits_in, minus, plus
from osmo_ray.scheduler.core.gang import request, within_quota
from osmo_ray.scheduler.core.session import Session
from osmo_ray.scheduler.core.solver import Solved
from osmo_ray.scheduler.core.victims import Herd, herd, loses_core, protected, reclaim_minimum


def reclaim(session: Session) -> None:
    def may(job: Job) -> bool:
        cost = request(job)
        return fits_in(plus(job.queue.held, cost), job.queue.fair) and within_quota(job, cost)

    def prey(job: Job) -> Herd:
        def spared(j: Job) -> bool:
            return j.gang_state() != 2 and protected(session, j, reclaim_minimum(job.queue, j.queue))

        others = (q for q in session.queues.values() if q is not job.queue)
        return herd(session, others, spared if session.runtimes else None)

    def valid(solved: Solved) -> bool:
        taker = solved.job.queue
        return fair(session, solved) and not loses_core(solved.gone, lambda j: reclaim_minimum(taker, j.queue), session)

    each(session, "reclaim", may, prey, valid)


def level(taker: Queue, victim: Queue) -> tuple[Queue, Queue]:
    """The first ancestors, from the top, that differ; the last common depth if one path ends."""
    pair = (taker.path[-1], victim.path[-1])
    for pair in zip(reversed(taker.path), reversed(victim.path), strict=False):
        if pair[0] is not pair[1]:
            break
    return pair


def fair(session: Session, solved: Solved) -> bool:
    """Whether each unit comes from a queue that had it to give, and the taker does not end up the richer one."""
    taker = solved.job.queue
    cost = cost_of(list(solved.tasks))
    left = {q: list(a) for q, a in solved.before.items()}
    lost: set[Queue] = set()
    counted = [*solved.gone, *solved.moved] if session.settings.count_moved else list(solved.gone)
    used = [x > 0 for x in cost]
    for victim, unit in _units(counted):
        ours, theirs = level(taker, victim)
        if not _may_lose(solved, ours, theirs, cost, left[theirs]):
            return False
        amount = cost_of(unit)
        used = [u or x > 0 for u, x in zip(used, amount, strict=True)]
        for queue in victim.path:
            left[queue] = minus(left[queue], amount)
            lost.add(queue)
    return _firm(solved, cost) and all(
        _poorer(session, queue, other, plus(left[queue], cost), left[other], used)
        for queue in taker.path
        for other in _siblings(session, queue)
        if other in lost
    )


def _units(victims: Sequence[Task]) -> Iterator[tuple[Queue, list[Task]]]:
    """Each elastic task by itself, the core of a gang as one block."""
    jobs: dict[Job, list[Task]] = {}
    for task in victims:
        jobs.setdefault(task.job, []).append(task)
    for job, tasks in jobs.items():
        core: list[Task] = []
        for p in job.pod_sets.values():
            mine = [t for t in tasks if t.pod_set is p]
            alive = sum(st.STAYS[t.first] for t in p.tasks)
            spare = max(0, alive - p.minimum)
            for task in mine[:spare]:
                yield job.queue, [task]
            core += mine[spare:]
        if core:
            yield job.queue, core


def _may_lose(solved: Solved, ours: Queue, theirs: Queue, cost: Amounts, left: Amounts) -> bool:
    if not fits_in(left, theirs.may):
        return True
    return fits_in(plus(solved.before[ours], cost), ours.quota) and not fits_in(left, theirs.quota)


def _firm(solved: Solved, cost: Amounts) -> bool:
    """A non-preemptible taker stays within the quota of every level."""
    if solved.job.preemptible:
        return True
    return all(fits_in(plus(solved.firm[q], cost), q.quota) for q in solved.job.queue.path)


def _siblings(session: Session, queue: Queue) -> Sequence[Queue]:
    family = session.tops if queue.parent is None else queue.parent.children
    return [q for q in family if q is not queue]


def _poorer(session: Session, taker: Queue, other: Queue, ours: Amounts, theirs: Amounts, used: Sequence[bool]) -> bool:
    """Whether the taker stays below the sibling it took from, in every resource involved."""
    for r in range(3):
        if not used[r]:
            continue
        mine = _ratio(ours[r], taker.fair[r])
        if mine > 1 and other.fair[r] > 0 and mine * session.settings.saturation >= _ratio(theirs[r], other.fair[r]):
            return False
    return True


def _ratio(held: float, share: float) -> float:
    if share == 0:
        return float("inf") if held > 0 else 0.0
    return held / share
