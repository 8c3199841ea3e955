"""Inside one queue: work of a strictly lower priority makes room."""

from __future__ import annotations

from osmo_ray.scheduler.core.actions.taking import each
from osmo_ray.scheduler.core.entities import Job
from osmo_ray.scheduler.core.gang import request, within_quota
from osmo_ray.scheduler.core.session import Session
from osmo_ray.scheduler.core.solver import Solved
from osmo_ray.scheduler.core.victims import Herd, herd, loses_core, preempt_minimum, protected


def preempt(session: Session) -> None:
    def may(job: Job) -> bool:
        return within_quota(job, request(job))

    def prey(job: Job) -> Herd:
        least = preempt_minimum(job.queue)

        def spared(j: Job) -> bool:
            return j.given.priority >= job.given.priority or (j.gang_state() != 2 and protected(session, j, least))

        return herd(session, (job.queue,), spared)

    def valid(solved: Solved) -> bool:
        return not loses_core(solved.gone, lambda j: preempt_minimum(j.queue), session)

    each(session, "preempt", may, prey, valid)
