"""Inside one queue: work of a strictly lower priority makes room."""

from __future__ import annotations

from collections.abc import Sequence

from osmo_ray.scheduler.core.actions.taking import each
from osmo_ray.scheduler.core.entities import Job
from osmo_ray.scheduler.core.gang import request, within_quota
from osmo_ray.scheduler.core.session import Session
from osmo_ray.scheduler.core.solver import Solved
from osmo_ray.scheduler.core.victims import loses_core, preempt_minimum, protected


def preempt(session: Session) -> None:
    def may(job: Job) -> bool:
        return within_quota(job, request(job))

    def prey(job: Job) -> Sequence[Job]:
        least = preempt_minimum(job.queue)
        return [
            j
            for j in session.active
            if j.queue is job.queue
            and j.preemptible
            and j.given.priority < job.given.priority
            and (not session.runtimes or j.gang_state() == 2 or not protected(session, j, least))
        ]

    def valid(solved: Solved) -> bool:
        return not loses_core(solved.gone, lambda j: preempt_minimum(j.queue), session)

    each(session, "preempt", may, prey, valid)
