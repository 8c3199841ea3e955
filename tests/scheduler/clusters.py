"""Random clusters, as input of the core and as a world of the plain scheduler."""

from __future__ import annotations

import plain_cluster
import plain_scheduler as plain
from hypothesis import strategies as st

from osmo_ray.scheduler.core import status
from osmo_ray.scheduler.core.inputs import Ask, GroupIn, JobIn, NodeIn, PodSetIn, QueueIn, Settings, TaskIn
from osmo_ray.scheduler.core.session import Session

EXACT = Settings(victims_per_move=None, grace=0.0, signatures=False, scenarios=1_000_000)
Promised = dict[str, frozenset[str]]
NAMES = {"Pending": status.PENDING, "Running": status.RUNNING}


@st.composite
def worlds(draw) -> plain_cluster.World:
    """Up to 4 nodes, up to two departments of up to 3 queues, up to 8 jobs, some running where they fit."""
    nodes = {f"n{i}": (draw(st.integers(0, 4)), 8, 8) for i in range(draw(st.integers(1, 4)))}
    queues: dict[str, plain_cluster.Q] = {}
    number = 0
    for d in range(draw(st.integers(1, 2))):
        queues[f"d{d}"] = queue(draw, f"d{d}", None, d)
        for _ in range(draw(st.integers(1, 3))):
            queues[f"q{number}"] = queue(draw, f"q{number}", f"d{d}", number)
            number += 1
    w = plain_cluster.World(nodes, queues, {})
    for i in range(draw(st.integers(1, 8))):
        add_job(draw, w, i, number)
    return w


def queue(draw, name: str, parent: str | None, created: int) -> plain_cluster.Q:
    quota = draw(st.sampled_from([-1, 0, 1, 2, 3, 4]))
    limit = draw(st.sampled_from([-1, -1, -1, 2, 4, 6]))
    weight = draw(st.sampled_from([0, 1, 1, 2]))
    return plain_cluster.Q(
        name, parent, draw(st.sampled_from([100, 100, 101])), created, (quota, -1, -1), (limit, -1, -1), (weight, 1, 1)
    )


def add_job(draw, w: plain_cluster.World, i: int, queues: int) -> None:
    priority = draw(st.sampled_from([50, 50, 75, 100]))
    size = draw(st.integers(1, 3))
    need = (draw(st.sampled_from([0, 1, 1, 2, 3])), draw(st.integers(1, 3)), 1)
    name = f"q{draw(st.integers(0, queues - 1))}"
    job = plain_cluster.J(f"j-{i}", name, priority, priority < 100, draw(st.integers(0, 5)), draw(st.integers(1, size)))
    job.tasks = [plain_cluster.T(f"j-{i}.{k}", need) for k in range(size)]
    w.jobs[job.name] = job
    if draw(st.booleans()):
        run_where_it_fits(w, job)


def run_where_it_fits(w: plain_cluster.World, job: plain_cluster.J) -> None:
    """As if it had been started within its bounds; all of it or nothing."""
    cost = plain_cluster.total(t.need for t in job.tasks)
    if not plain.within(w, job, cost):
        return
    for t in job.tasks:
        node = next((n for n in w.nodes if plain.below_plain(t.need, w.idle(n))), None)
        if node is None:
            for u in job.tasks:
                u.status, u.node, u.was = "Pending", None, "Pending"
            return
        t.status, t.node, t.was = "Running", node, "Running"


def session(w: plain_cluster.World, settings: Settings = EXACT, promised: Promised | None = None) -> Session:
    nodes = [NodeIn(n, g, c, m) for n, (g, c, m) in w.nodes.items()]
    queues = [QueueIn(q.name, q.parent, q.priority, q.created, q.quota, q.limit, q.weight) for q in w.queues.values()]
    return Session(nodes, queues, [job_in(j, promised) for j in w.jobs.values()], settings=settings, now=1000.0)


def job_in(j: plain_cluster.J, promised: Promised | None = None) -> JobIn:
    tasks = tuple(
        TaskIn(t.name, Ask(gpu=t.need[0], cpu=t.need[1], memory=t.need[2]), NAMES[t.status], t.node) for t in j.tasks
    )
    tree = GroupIn(pod_sets=(PodSetIn("default", j.minimum),))
    return JobIn(
        j.name,
        j.queue,
        tasks,
        j.priority,
        j.preemptible,
        -float(j.age),
        tree=tree,
        promised=(promised or {}).get(j.name, frozenset()),
    )


def settle(w: plain_cluster.World, s: Session) -> plain_cluster.World:
    """The world after a cycle: what started runs, what had to go waits."""
    for core in s.jobs.values():
        job = w.jobs[core.name]
        for t, now in zip(job.tasks, core.tasks, strict=True):
            runs = now.held >= 0 and now.kept == now.held
            t.status, t.node, t.home = ("Running", s.nodes.names[now.held], None) if runs else ("Pending", None, None)
            t.was = t.status
    return w


def promises(s: Session) -> Promised:
    """For whom room was made, and where."""
    return {
        d.job.name: frozenset(s.nodes.names[t.kept] for t in d.job.tasks if t.status == status.PIPELINED)
        for d in s.deals
    }


def states(s: Session) -> dict[str, tuple[str, str | None]]:
    return {
        t.name: (status.NAMES[t.status], s.nodes.names[t.node] if t.node >= 0 else None)
        for j in s.jobs.values()
        for t in j.tasks
    }
