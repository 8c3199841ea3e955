"""Move running work together to make room; nobody may lose."""

from __future__ import annotations

from osmo_ray.scheduler.core.actions.taking import each
from osmo_ray.scheduler.core.entities import Job
from osmo_ray.scheduler.core.gang import upcoming
from osmo_ray.scheduler.core.session import Session
from osmo_ray.scheduler.core.solver import Solved
from osmo_ray.scheduler.core.victims import Herd, herd


def consolidation(session: Session) -> None:
    bound = session.settings.victims_per_move
    if bound == 0:
        return

    def may(job: Job) -> bool:
        wanted = sum(t.kind.gpus for t in upcoming(job)[0])
        return job.preemptible and bool(session.nodes.gpus_free().clip(0).sum() + 1e-6 >= wanted)

    def prey(job: Job) -> Herd:
        return herd(session, session.queues.values(), (lambda j: j is job) if job in session.active else None)

    def valid(solved: Solved) -> bool:
        return not solved.gone and (bound is None or len(solved.moved) <= bound)

    each(session, "consolidation", may, prey, valid, across=True)
