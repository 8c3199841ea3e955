"""Plans where quotas decide: the snapshot into the core, one cycle, what it decided out.

The core never sees a workflow or a pool; this is where its tasks and nodes get their names back.
"""

from __future__ import annotations

from collections.abc import Mapping

from osmo_ray.scheduler.core import status as st
from osmo_ray.scheduler.core.cycle import run
from osmo_ray.scheduler.core.entities import INFINITE, MICRO
from osmo_ray.scheduler.core.entities import Job as CoreJob
from osmo_ray.scheduler.core.inputs import (
    Ask,
    GroupIn,
    JobIn,
    Near,
    NodeIn,
    PodSetIn,
    QueueIn,
    Settings,
    TaskIn,
    Term,
)
from osmo_ray.scheduler.core.session import Session
from osmo_ray.scheduler.model import Amount, Eviction, Job, Need, Node, Plan, Queue, Snapshot, Standing
from osmo_ray.scheduler.reasons import leaving, no_fit, not_taken, over_bounds, standing
from osmo_ray.spec.reason import Reason

PLATFORM = "platform"
STORAGE = "storage"
Key = tuple[str, str]


class Planner:
    """Plans cycle after cycle and keeps the core's view in between: a cycle costs what has changed since the last.

    A job that is equal to the one of the last snapshot is not looked at again; other nodes, queues or topologies mean
    a view built anew. What a plan decided is taken back: what came of it is in the next snapshot.
    """

    def __init__(self) -> None:
        self._last: Snapshot | None = None
        self._session: Session | None = None
        self._jobs: dict[str, Job] = {}

    def plan(self, snapshot: Snapshot) -> Plan:
        """The same answer as `plan_with_queues`."""
        jobs = {_name(j): j for j in snapshot.jobs}
        session = self._session
        if session is None or self._last is None or _frame(self._last) != _frame(snapshot):
            session = self._session = open_session(snapshot)
        else:
            self._update(session, jobs)
            session.now = snapshot.now
        self._last, self._jobs = snapshot, jobs
        found = decide(session, snapshot, jobs)
        session.reset()
        return found

    def _update(self, session: Session, jobs: Mapping[str, Job]) -> None:
        for name, old in self._jobs.items():
            new = jobs.get(name)
            if new is not old and new != old and name in session.jobs:
                session.remove(name)
        fresh = [j for name, j in jobs.items() if name not in session.jobs]
        for job in sorted(fresh, key=lambda j: j.rank):
            session.add(_job(job))


def _frame(snapshot: Snapshot) -> tuple[object, ...]:
    return snapshot.nodes, snapshot.queues, snapshot.topologies, snapshot.tries


def plan_with_queues(snapshot: Snapshot) -> Plan:
    """One cycle of all actions. Running groups may be told to go; each names who starts instead."""
    return decide(open_session(snapshot), snapshot, {_name(j): j for j in snapshot.jobs})


def decide(session: Session, snapshot: Snapshot, jobs: Mapping[str, Job]) -> Plan:
    """Run a cycle and tell what it decided."""
    session.share()
    standings = tuple(_standing(session, q.name) for q in snapshot.queues)
    run(session, shared=True)
    place: dict[Key, Mapping[str, str]] = {}
    reserve: dict[Key, Mapping[str, str]] = {}
    for core in list(dict.fromkeys(entry[0].job for entry in session.journal)):
        chosen = {t.name: session.nodes.names[t.kept] for t in core.tasks if t.first == st.PENDING and t.kept >= 0}
        if chosen and all(t.status == st.ALLOCATED for t in core.tasks if t.name in chosen):
            place[jobs[core.name].key] = chosen
        elif chosen:
            reserve[jobs[core.name].key] = chosen
    return Plan(place, _holds(session, snapshot, jobs, set(place)), _evictions(session, jobs), reserve, standings)


def open_session(snapshot: Snapshot) -> Session:
    """The core's view of a snapshot."""
    settings = Settings(together=True, tries=snapshot.tries, scenarios=50, grace=-1.0, victims_per_move=0)
    return Session(
        [_node(n) for n in snapshot.nodes],
        [_queue(q) for q in snapshot.queues],
        [_job(j) for j in sorted(snapshot.jobs, key=lambda j: j.rank)],
        topologies=snapshot.topologies.items(),
        settings=settings,
        now=snapshot.now,
        extra=(STORAGE,),
    )


def _name(job: Job) -> str:
    return f"{job.workflow}/{job.group}"


def _node(node: Node) -> NodeIn:
    free = node.total - node.used
    labels = {**node.labels, PLATFORM: node.platform}
    extra = {STORAGE: float(free.storage)}
    return NodeIn(
        node.name, free.gpu, round(free.cpu * 1000), free.memory, extra=extra, labels=labels, taints=node.taints
    )


def _queue(queue: Queue) -> QueueIn:
    def column(i: int) -> tuple[float, float, float]:
        cores = queue.cpu[i]
        return queue.gpu[i], cores if i == 2 or cores < 0 else cores * 1000, queue.memory[i]

    return QueueIn(
        queue.name,
        queue.parent or None,
        queue.priority,
        queue.created,
        column(0),
        column(1),
        column(2),
        queue.preempt_min_runtime,
        queue.reclaim_min_runtime,
    )


def _job(job: Job) -> JobIn:
    tasks = [TaskIn(n.uuid, _ask(n)) for n in job.needs]
    tasks += [TaskIn(s.need.uuid, _ask(s.need), st.RELEASING if s.leaving else st.RUNNING, s.node) for s in job.seats]
    near = job.nearness and Near(job.nearness.topology, job.nearness.required, job.nearness.preferred)
    whole = GroupIn("", near or None, (PodSetIn("default", len(tasks)),))
    return JobIn(
        _name(job),
        job.queue,
        tuple(tasks),
        job.priority,
        not job.firm,
        job.rank[1],
        job.started,
        tree=whole,
        promised=frozenset(job.reserved.values()),
    )


def _ask(need: Need) -> Ask:
    where = [Term(PLATFORM, frozenset({need.platform}))]
    if need.excluded:
        where.append(Term("", need.excluded, negated=True))
    amount = need.amount
    extra = ((STORAGE, float(amount.storage)),) if amount.storage else ()
    return Ask(
        amount.gpu, round(amount.cpu * 1000), amount.memory, extra=extra, where=tuple(where), tolerates=need.tolerates
    )


def _evictions(session: Session, jobs: Mapping[str, Job]) -> tuple[Eviction, ...]:
    found: list[Eviction] = []
    told: set[str] = set()
    for deal in session.deals:
        losers: dict[CoreJob, list[str]] = {}
        for task in (*deal.gone, *deal.moved):
            if st.REALLY[task.first] and task.kept != task.held and task.name not in told:
                told.add(task.name)
                losers.setdefault(task.job, []).append(task.name)
        taker = jobs[deal.job.name]
        for loser, tasks in losers.items():
            victim = jobs[loser.name]
            found.append(
                Eviction(victim.workflow, victim.group, tuple(tasks), taker.workflow, taker.group, deal.action)
            )
    return tuple(found)


def _standing(session: Session, name: str) -> Standing:
    queue = session.queues[name]

    def gpus(value: float) -> float:
        return value if value == INFINITE else value / MICRO

    return Standing(
        name, gpus(queue.quota[0]), gpus(queue.limit[0]), gpus(queue.fair[0]), gpus(queue.held[0]), gpus(queue.firm[0])
    )


def _holds(session: Session, snapshot: Snapshot, jobs: Mapping[str, Job], placed: set[Key]) -> dict[Key, Reason]:
    nodes = {n.name: n for n in snapshot.nodes}
    free = _free(session, nodes)
    known: dict[tuple[object, ...], Reason] = {}
    lines: dict[str, int] = {}
    holds: dict[Key, Reason] = {}
    for job in sorted(snapshot.jobs, key=lambda j: (-j.priority, j.rank)):
        if not job.needs or job.key in placed:
            continue
        lines[job.queue] = lines.get(job.queue, 0) + 1
        core = session.jobs.get(_name(job))
        if core is None:
            holds[job.key] = Reason("NoQueue", f"queue {job.queue} is not a queue that runs jobs", {"queue": job.queue})
            continue
        mark = (core.signature, core.queue.name, core.preemptible)
        if core not in session.open:
            holds[job.key] = _waits(session, core)
            continue
        if mark not in known:
            known[mark] = over_bounds(session, core) or _no_room(job, core, nodes, free)
        holds[job.key] = known[mark]
    return _with_positions(session, snapshot, holds, lines)


def _with_positions(
    session: Session, snapshot: Snapshot, holds: Mapping[Key, Reason], lines: Mapping[str, int]
) -> dict[Key, Reason]:
    at: dict[str, int] = {}
    out: dict[Key, Reason] = {}
    for job in sorted(snapshot.jobs, key=lambda j: (-j.priority, j.rank)):
        reason = holds.get(job.key)
        if reason is None:
            continue
        at[job.queue] = at.get(job.queue, 0) + 1
        queue = session.queues.get(job.queue)
        facts = standing(queue, at[job.queue], lines[job.queue]) if queue else {}
        out[job.key] = Reason(reason.code, reason.sentence, {**facts, **reason.evidence}, reason.next_command)
    return out


def _no_room(job: Job, core: CoreJob, nodes: Mapping[str, Node], free: Mapping[str, Amount]) -> Reason:
    reason = no_fit(job, nodes, free)
    why = not_taken(core)
    facts = {**reason.evidence, **({"reclaim": why} if why else {})}
    return Reason(reason.code, reason.sentence, facts)


def _waits(session: Session, core: CoreJob) -> Reason:
    names = [session.nodes.names[t.kept] for t in core.tasks if t.kept >= 0]
    victims = [t.job.name for deal in session.deals if deal.job is core for t in deal.gone]
    return leaving(names, list(dict.fromkeys(victims)))


def _free(session: Session, nodes: Mapping[str, Node]) -> dict[str, Amount]:
    future, row = session.nodes.future, session.nodes.rows[STORAGE]
    return {
        name: Amount(float(future[1, i]) / 1000, int(future[2, i]), int(future[0, i]), int(future[row, i]))
        for i, name in enumerate(session.nodes.names)
        if name in nodes
    }
