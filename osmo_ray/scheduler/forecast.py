"""When groups that wait will probably start: cycles of the planner, with time moved on to the next expected end.

It knows what runs and what waits now. Work that comes later, and groups that wait for others to end, are not in it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from osmo_ray.scheduler.model import Job, Plan, Seat, Snapshot
from osmo_ray.scheduler.queued import Planner

Key = tuple[str, str]
_BATCH = 0.02
"""Ends that lie this much of the time looked ahead apart are taken together."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """`at` on the snapshot's clock; None when it does not start with what is known, or only after `beyond`."""

    at: float | None
    beyond: float | None = None


def forecast(
    snapshot: Snapshot, ends: Mapping[str, float], runs: Mapping[str, float], targets: Collection[Key], most: int = 200
) -> Mapping[Key, Forecast]:
    """One look ahead for all targets, of at most `most` cycles.

    `ends` are the expected ends of running tasks and `runs` the expected run times of waiting ones, in seconds by task
    uuid; a task that is in neither never ends. The snapshot has queues.
    """
    planner, now = Planner(), snapshot.now
    jobs = {job.key: job for job in snapshot.jobs}
    ends, found = dict(ends), dict[Key, Forecast]()
    for _ in range(most):
        plan = planner.plan(replace(snapshot, jobs=tuple(jobs.values()), now=now))
        found |= {key: Forecast(now) for key in targets if key in plan.place and key not in found}
        if len(found) == len(targets):
            return found
        _follow(plan, jobs, ends, runs, now)
        if plan.place or plan.preempt:
            continue
        coming = [end for job in jobs.values() for seat in job.seats if (end := ends.get(seat.need.uuid)) is not None]
        if not coming:
            return dict.fromkeys(targets, Forecast(None)) | found
        first = max(min(coming), now)
        now = max(end for end in coming if end <= first + _BATCH * (first - snapshot.now) + 1e-6)
        _end(jobs, ends, now)
    return dict.fromkeys(targets, Forecast(None, now)) | found


def _follow(plan: Plan, jobs: dict[Key, Job], ends: dict[str, float], runs: Mapping[str, float], now: float) -> None:
    """Do what the plan says; whoever gives way leaves at once and waits again."""
    for key, chosen in plan.place.items():
        job = jobs[key]
        seats = tuple(Seat(need, chosen[need.uuid]) for need in job.needs)
        ends.update({need.uuid: now + runs[need.uuid] for need in job.needs if need.uuid in runs})
        jobs[key] = replace(job, needs=(), seats=(*job.seats, *seats), started=now, reserved={})
    for key in {(e.workflow, e.group) for e in plan.preempt}:
        job = jobs[key]
        for seat in job.seats:
            ends.pop(seat.need.uuid, None)
        jobs[key] = replace(job, needs=(*job.needs, *(s.need for s in job.seats)), seats=(), started=None)
    for key, job in jobs.items():
        promised = plan.reserve.get(key, {})
        if promised != job.reserved:
            jobs[key] = replace(job, reserved=promised)


def _end(jobs: dict[Key, Job], ends: dict[str, float], now: float) -> None:
    """Whatever has ended by now leaves."""
    for key, job in list(jobs.items()):
        left = tuple(seat for seat in job.seats if ends.get(seat.need.uuid, now + 1) > now)
        if len(left) == len(job.seats):
            continue
        if left or job.needs:
            jobs[key] = replace(job, seats=left)
        else:
            del jobs[key]
