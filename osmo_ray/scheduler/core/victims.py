"""Victims, unit by unit: one elastic task, or the whole core of a gang, in the reverse of the order of service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from osmo_ray.scheduler.core.entities import Job, Queue, Task, cost_of
from osmo_ray.scheduler.core.order import Line
from osmo_ray.scheduler.core.prey import Left, Prey, Rank
from osmo_ray.scheduler.core.session import Session

Herd = dict[Queue, list[tuple[Rank, Left]]]


def herd(session: Session, leaves: Iterable[Queue], spared: Callable[[Job], bool] | None = None) -> Herd:
    """The victims of these leaves, each in its order; remembered while a leaf does not change."""
    found: Herd = {}
    for leaf in leaves:
        line = prey_of(session, leaf).line
        if spared is not None:
            line = [e for e in line if not spared(e[1].job)]
        if line:
            found[leaf] = list(line)
    return found


def prey_of(session: Session, leaf: Queue) -> Prey:
    """What may be taken from a leaf."""
    known = session.prey.get(leaf)
    if known is None or known.version != leaf.version:
        known = session.prey[leaf] = Prey.of(leaf, session.nodes.count)
    return known


def units(session: Session, herd: Herd, recorded: set[Task]) -> Iterator[list[Task]]:
    """Units of this herd in order, passing over those recorded already."""
    zero = [0, 0, 0]
    line: Line[Left] = Line((), session.capacity, lambda _: zero, True, herd)
    while line:
        one = line.pop()
        unit = one.unit()
        known = not recorded.isdisjoint(unit)
        line.take(one, cost_of(unit))
        if len(unit) < len(one.tasks):
            gone = recorded if known else set(unit)
            line.push(Left(one.job, [t for t in one.tasks if t not in gone]))
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
