"""Gangs that fell below their minimum and stayed there give back what they hold."""

from __future__ import annotations

from osmo_ray.scheduler.core import status as st
from osmo_ray.scheduler.core.entities import Job
from osmo_ray.scheduler.core.session import Session


def is_stale(job: Job) -> bool:
    """Something runs, nothing has succeeded, and some pod set is short of its minimum."""
    if not any(p.uses for p in job.pod_sets.values()) or any(t.status == st.SUCCEEDED for t in job.tasks):
        return False
    return any(p.uses < p.minimum for p in job.pod_sets.values())


def evict_stale(session: Session) -> None:
    grace = session.settings.grace
    if grace < 0:
        return
    for job in list(session.short):
        if is_stale(job):
            since = session.now if job.given.stale is None else job.given.stale
            if session.now - since >= grace:
                for task in job.tasks:
                    if st.STAYS[task.status]:
                        session.evict(task)
