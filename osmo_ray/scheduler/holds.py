"""A reason for every group that a plan leaves waiting, told once per kind of group rather than once per group."""

from __future__ import annotations

from collections.abc import Collection

from osmo_ray.scheduler.core.entities import Job as CoreJob
from osmo_ray.scheduler.core.entities import Queue
from osmo_ray.scheduler.core.session import Session
from osmo_ray.scheduler.model import Amount, Job, Snapshot
from osmo_ray.scheduler.reasons import holders, leaving, no_fit, not_taken, over_bounds, standing
from osmo_ray.spec.reason import Reason

STORAGE = "storage"
Key = tuple[str, str]


class Holds:
    """The reasons after a cycle; what several groups share is found out once."""

    def __init__(self, session: Session, snapshot: Snapshot) -> None:
        self.session, self.snapshot = session, snapshot
        self.nodes = {n.name: n for n in snapshot.nodes}
        self.free = _free(session)
        self.titles = {f"{j.workflow}/{j.group}": j.title for j in snapshot.jobs if j.title}
        self._rooms: dict[tuple[object, ...], Reason] = {}
        self._reasons: dict[tuple[object, ...], Reason] = {}
        self._holders: dict[tuple[Queue, int, bool], str] = {}

    def all(self, placed: Collection[Key]) -> dict[Key, Reason]:
        """For each group with tasks that wait and found no place: why, and where in its queue's line."""
        waiting = [j for j in self.snapshot.jobs if j.needs and j.key not in placed]
        waiting.sort(key=lambda j: (-j.priority, j.rank))
        length: dict[str, int] = {}
        for job in waiting:
            length[job.queue] = length.get(job.queue, 0) + 1
        at: dict[str, int] = {}
        found: dict[Key, Reason] = {}
        for job in waiting:
            at[job.queue] = at.get(job.queue, 0) + 1
            reason = self._reason(job)
            queue = self.session.queues.get(job.queue)
            facts = standing(queue, at[job.queue], length[job.queue]) if queue else {}
            found[job.key] = Reason(reason.code, reason.sentence, {**facts, **reason.evidence}, reason.next_command)
        return found

    def _reason(self, job: Job) -> Reason:
        core = self.session.jobs.get(f"{job.workflow}/{job.group}")
        if core is None:
            return Reason("NoQueue", f"queue {job.queue} is not a queue that runs jobs", {"queue": job.queue})
        if core not in self.session.open:
            return self._waits(core)
        mark = (core.signature, core.queue, core.preemptible)
        if mark not in self._reasons:
            self._reasons[mark] = over_bounds(core, self.whom) or self._no_room(job, core)
        return self._reasons[mark]

    def whom(self, queue: Queue, resource: int, firm: bool) -> str:
        """Who holds most of a resource in a queue."""
        key = (queue, resource, firm)
        if key not in self._holders:
            self._holders[key] = holders(self.session, *key, self.titles)
        return self._holders[key]

    def _no_room(self, job: Job, core: CoreJob) -> Reason:
        room = self._rooms.get(core.signature)
        if room is None:
            room = self._rooms[core.signature] = no_fit(job, self.nodes, self.free)
        why = not_taken(core)
        return Reason(room.code, room.sentence, {**room.evidence, **({"reclaim": why} if why else {})})

    def _waits(self, core: CoreJob) -> Reason:
        names = [self.session.nodes.names[t.kept] for t in core.tasks if t.kept >= 0]
        victims = [
            self.titles.get(t.job.name, t.job.name)
            for deal in self.session.deals
            if deal.job is core
            for t in deal.gone
        ]
        return leaving(names, list(dict.fromkeys(victims)))


def _free(session: Session) -> dict[str, Amount]:
    gpu, cpu, memory = (session.nodes.future[r].tolist() for r in range(3))
    storage = session.nodes.future[session.nodes.rows[STORAGE]].tolist()
    return {
        name: Amount(cpu[i] / 1000, int(memory[i]), int(gpu[i]), int(storage[i]))
        for i, name in enumerate(session.nodes.names)
    }
