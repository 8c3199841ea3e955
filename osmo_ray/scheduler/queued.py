"""Plans where quotas decide: the snapshot into the core, one cycle, what it decided out.

The core never sees a workflow or a pool; this is where its tasks and nodes get their names back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

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
from osmo_ray.scheduler.holds import STORAGE, Holds
from osmo_ray.scheduler.model import Eviction, Job, Need, Node, Part, Plan, Queue, Snapshot, Standing

PLATFORM = "platform"
_REST = "default"
"""The pod set of tasks that mind no neighbours."""
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
        jobs = {name_of(j): j for j in snapshot.jobs}
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
    return snapshot.nodes, snapshot.queues, snapshot.topologies, snapshot.tries, snapshot.spread


def plan_with_queues(snapshot: Snapshot) -> Plan:
    """One cycle of all actions. Running groups may be told to go; each names who starts instead."""
    return decide(open_session(snapshot), snapshot, {name_of(j): j for j in snapshot.jobs})


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
    return Plan(place, Holds(session, snapshot).all(set(place)), _evictions(session, jobs), reserve, standings)


def open_session(snapshot: Snapshot) -> Session:
    """The core's view of a snapshot."""
    settings = Settings(
        spread_gpu=snapshot.spread[0],
        spread_cpu=snapshot.spread[1],
        together=True,
        tries=snapshot.tries,
        scenarios=50,
        grace=-1.0,
        victims_per_move=0,
    )
    return Session(
        [_node(n) for n in snapshot.nodes],
        [_queue(q) for q in snapshot.queues],
        [_job(j) for j in sorted(snapshot.jobs, key=lambda j: j.rank)],
        topologies=snapshot.topologies.items(),
        settings=settings,
        now=snapshot.now,
        extra=(STORAGE,),
    )


def name_of(job: Job) -> str:
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
    sets = _pod_sets(job.layout) if job.layout else {}
    tasks = [TaskIn(n.uuid, _ask(n), pod_set=sets.get(n.uuid, _REST)) for n in job.needs]
    tasks += [
        TaskIn(
            s.need.uuid, _ask(s.need), st.RELEASING if s.leaving else st.RUNNING, s.node, sets.get(s.need.uuid, _REST)
        )
        for s in job.seats
    ]
    count = Counter(task.pod_set for task in tasks)
    whole = _tree(job.layout or Part(), count, "")
    if count[_REST]:
        whole = replace(whole, pod_sets=(*whole.pod_sets, PodSetIn(_REST, count[_REST])))
    return JobIn(
        name_of(job),
        job.queue,
        tuple(tasks),
        job.priority,
        not job.firm,
        job.rank[1],
        job.started,
        tree=whole,
        promised=frozenset(job.reserved.values()),
    )


def _pod_sets(part: Part, above: str = "") -> dict[str, str]:
    """Task uuid -> the name of its pod set, which is the path of its part."""
    path = f"{above}/{part.name}"
    found = dict.fromkeys(part.tasks, path)
    for inner in part.parts:
        found |= _pod_sets(inner, path)
    return found


def _tree(part: Part, count: Mapping[str, int], above: str) -> GroupIn:
    """A part as the core takes it; all of it, or nothing."""
    path = f"{above}/{part.name}"
    near = Near(part.near.topology, part.near.required, part.near.preferred) if part.near else None
    own = (PodSetIn(path, count[path]),) if count[path] else ()
    return GroupIn(path, near, own, tuple(_tree(inner, count, path) for inner in part.parts))


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
