"""Give what is free to whoever is next; a job that still wants more goes back into the line."""

from __future__ import annotations

import numpy as np

from osmo_ray.scheduler.core.entities import Job
from osmo_ray.scheduler.core.gang import chunk, place_job, request, upcoming, within_bounds
from osmo_ray.scheduler.core.order import Line
from osmo_ray.scheduler.core.session import Session, constrained


def waiting(session: Session) -> list[Job]:
    """Jobs that may start something."""
    return sorted((j for j in session.open if j.ready), key=lambda j: j.index)


def keep_promises(session: Session) -> None:
    """Serve first whom room was made for, on those nodes; otherwise others would take it, and the same again."""
    for job in waiting(session):
        if job.given.promised:
            mask = np.array([n in job.given.promised for n in session.nodes.names], dtype=bool)
            place_job(session, job, upcoming(job)[0], mask, False)


def allocate(session: Session) -> None:
    """Place jobs in order. Nothing becomes free meanwhile, so what has no room once is not tried again."""
    line: Line[Job] = Line(waiting(session), session.capacity, request)
    refused: set[tuple[object, int]] = set()
    while line:
        job = line.pop()
        mark = job.signature, job.stays
        if mark in refused:
            continue
        tasks, cost = upcoming(job)
        if place_job(session, job, tasks, None, False):
            if job in session.open and chunk(job):
                line.push(job)
        elif within_bounds(job, cost) and _final(job):
            refused.add(mark)


def _final(job: Job) -> bool:
    """Whether its failure depends on free room alone."""
    return all(t.kind.plain for t in job.tasks) and (not constrained(job.given.tree) or job.stays == 0)
