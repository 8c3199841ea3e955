"""What consolidation, reclaim and preempt have in common: each waiting job in order, the search, and its bounds."""

from __future__ import annotations

from collections.abc import Callable

from osmo_ray.scheduler.core.actions.allocate import waiting
from osmo_ray.scheduler.core.entities import Job, Queue
from osmo_ray.scheduler.core.gang import request
from osmo_ray.scheduler.core.order import Line
from osmo_ray.scheduler.core.session import Deal, Session
from osmo_ray.scheduler.core.solver import Search, Solved
from osmo_ray.scheduler.core.victims import Herd

Prey = Callable[[Job], Herd]


def each(
    session: Session,
    action: str,
    may: Callable[[Job], bool],
    prey: Prey,
    valid: Callable[[Solved], bool],
    across: bool = False,
) -> None:
    """Search room for every job that may take. With signatures on, an equal job of the queue that failed is enough.

    When the tries are bounded, half of them go by order and half go on where the cycle before stopped, so that jobs
    that fail again and again do not keep the others from their turn.
    """
    settings = session.settings
    first = None if settings.tries is None else settings.tries // 2
    passed = session.turns.get(action, 0)
    skip = passed
    jobs = waiting(session)
    line: Line[Job] = Line(jobs, session.capacity, request)
    failed: set[tuple[object, ...]] = set()
    pending: dict[Queue, list[Job]] = {}
    for job in jobs:
        pending.setdefault(job.queue, []).append(job)
    tries = 0
    while line and (settings.tries is None or tries < settings.tries):
        job = line.pop()
        mark = job.signature if across else (job.queue.index, job.given.priority, job.signature, job.stays)
        if mark in failed or not may(job):
            continue
        if first is not None and tries >= first and skip > 0:
            skip -= 1
            continue
        tries += 1
        solved = Search(session, job, prey, pending, valid).run()
        if solved is not None:
            session.deals.append(Deal(action, job, solved.gone, solved.moved))
            line.changed()
        elif settings.signatures:
            failed.add(mark)
    session.turns[action] = passed + tries - (first or 0) if line else 0
