"""What holds for every cluster and after every step, whatever the rules decide."""

from __future__ import annotations

import numpy as np
import plain_cluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusters import EXACT, job_in, promises, session, settle, states, worlds
from osmo_ray.scheduler.core import status
from osmo_ray.scheduler.core.cycle import ACTIONS, run
from osmo_ray.scheduler.core.entities import INFINITE
from osmo_ray.scheduler.core.inputs import Ask, JobIn, NodeIn, QueueIn, Settings, TaskIn
from osmo_ray.scheduler.core.session import Session

often = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def within_bounds(s: Session) -> None:
    for q in s.queues.values():
        for r in range(3):
            assert q.limit[r] == INFINITE or q.held[r] <= q.limit[r], f"{q.name} above its limit"
            assert q.quota[r] == INFINITE or q.firm[r] <= q.quota[r], f"{q.name}: firm work above its quota"


def within_nodes(s: Session) -> None:
    assert (s.nodes.idle >= -1e-9).all()
    assert (s.nodes.future >= -1e-9).all()


def gangs_whole(s: Session) -> None:
    for job in s.jobs.values():
        for p in job.pod_sets.values():
            assert p.stays == 0 or p.stays >= p.minimum, f"{job.name} has {p.stays} of {p.minimum}"


def nobody_goes_for_nothing(s: Session) -> None:
    paid = {t for d in s.deals for t in (*d.gone, *d.moved)}
    for job in s.jobs.values():
        for t in job.tasks:
            if status.REALLY[t.first] and t.kept != t.held:
                assert t in paid, f"{t.name} was evicted for nobody"
    for d in s.deals:
        assert d.gone or d.moved or any(t.kept >= 0 for t in d.job.tasks)


@often
@given(worlds())
def test_after_every_action_bounds_hold_and_gangs_are_whole(w):
    s = session(w)
    s.share()
    for action in ACTIONS.values():
        action(s)
        within_bounds(s)
        within_nodes(s)
        gangs_whole(s)
        nobody_goes_for_nothing(s)


@often
@given(worlds())
def test_who_makes_room_does_so_for_someone_who_starts(w):
    s = session(w)
    s.share()
    for name in ("reclaim", "preempt"):
        before = len(s.deals)
        ACTIONS[name](s)
        for d in s.deals[before:][-1:]:
            assert d.job.satisfied
            assert any(t.kept >= 0 and t.first == status.PENDING for t in d.job.tasks)


@often
@given(worlds())
def test_no_reclaim_makes_the_taker_the_richer_one(w):
    one = Settings(victims_per_move=None, grace=0.0, signatures=False, scenarios=1_000_000, tries=1)
    s = session(w, one)
    s.share()
    before = {q.name: list(q.held) for q in s.queues.values()}
    ACTIONS["reclaim"](s)
    for d in s.deals:
        for q in d.job.queue.path:
            family = s.tops if q.parent is None else q.parent.children
            for other in family:
                if other is not q and any(other in t.job.queue.path for t in d.gone):
                    assert poorer(q, other, before[q.name])


def poorer(taker, other, before) -> bool:
    """In each resource that the taker gained: within its share, or below the other's saturation."""
    for r in range(3):
        if taker.held[r] > before[r] and taker.held[r] > taker.fair[r] and other.fair[r] > 0:
            mine = taker.held[r] / taker.fair[r] if taker.fair[r] else float("inf")
            if mine >= other.held[r] / other.fair[r]:
                return False
    return True


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds())
def test_a_settled_cluster_stays_settled(w):
    seen, promised = [], {}
    for _ in range(12):
        s = session(w, EXACT, promised)
        run(s)
        w, promised = settle(w, s), promises(s)
        seen.append(w.states())
        if len(seen) > 1 and seen[-1] == seen[-2]:
            break
    else:
        raise AssertionError(f"never settles: {seen[-4:]}")
    for _ in range(5):
        s = session(w, EXACT, promised)
        run(s)
        w, promised = settle(w, s), promises(s)
        assert w.states() == seen[-1]


parts = st.sampled_from(
    [
        Ask(gpu=1, cpu=1),
        Ask(gpu=2, cpu=1),
        Ask(cpu=2),
        Ask(fraction=0.5, cpu=1),
        Ask(fraction=0.3, cpu=1, devices=2),
        Ask(gpu_memory=40, cpu=1),
        Ask(gpu_memory=70, cpu=1),
        Ask(cpu=1, extra=(("mig-1g.5gb", 1.0),)),
    ]
)


@st.composite
def jobs(draw, name: str) -> JobIn:
    ask, size = draw(parts), draw(st.integers(1, 3))
    tasks = tuple(TaskIn(f"{name}.{i}", ask) for i in range(size))
    return JobIn(name, f"q{draw(st.integers(0, 1))}", tasks, draw(st.sampled_from([50, 75, 100])))


def cluster() -> Session:
    nodes = [NodeIn(f"n{i}", 2, 6, 100, extra={"mig-1g.5gb": 1}) for i in range(2)]
    queues = [
        QueueIn("all"),
        QueueIn("q0", "all", quota=(2, -1, -1)),
        QueueIn("q1", "all", created=1.0, quota=(1, -1, -1)),
    ]
    return Session(nodes, queues, settings=EXACT)


def picture(s: Session) -> tuple[object, ...]:
    queues = {q.name: (tuple(q.held), tuple(q.firm), tuple(q.asked)) for q in s.queues.values()}
    shared = [sorted(map(tuple, table.values())) for table in s.nodes.shared]
    return queues, shared, s.nodes.idle.tolist(), s.nodes.future.tolist(), states(s)


def as_told(s: Session) -> list[JobIn]:
    """What an observer would tell of the session: everything that has a place now runs there."""
    out = []
    for job in s.jobs.values():
        tasks = tuple(
            TaskIn(t.name, t.given.ask, status.RUNNING, s.nodes.names[t.held], shared=t.held_on)
            if t.held >= 0 and t.kept == t.held
            else TaskIn(t.name, t.given.ask)
            for t in job.tasks
        )
        out.append(JobIn(job.name, job.given.queue, tasks, job.given.priority, job.given.preemptible))
    return out


@often
@given(st.lists(st.data(), min_size=2, max_size=6))
def test_the_session_kept_up_to_date_equals_the_rebuilt_one(steps):
    """Jobs come and go; a cycle is decided, taken back, and what came of it is told."""
    s = cluster()
    for i, data in enumerate(steps):
        s.add(data.draw(jobs(f"j{i}")))
        clean = picture(s)
        run(s)
        within_nodes(s)
        told = as_told(s)
        s.reset()
        assert picture(s) == clean, "a cycle taken back leaves a trace"
        for job in told:
            s.remove(job.name)
            s.add(job)
        if len(s.jobs) > 1 and data.draw(st.booleans()):
            s.remove(data.draw(st.sampled_from(sorted(s.jobs))))
        fresh = cluster()
        for job in s.jobs.values():
            fresh.add(job.given)
        assert picture(s)[2:] == picture(fresh)[2:]
        assert picture(s)[:2] == picture(fresh)[:2]
        run(fresh)
        mark = len(s.journal)
        run(s)
        assert states(s) == states(fresh)
        s.undo(mark)
        s.deals.clear()


@often
@given(worlds())
def test_adding_and_removing_leaves_nothing_behind(w):
    s = session(w)
    idle, future = s.nodes.idle.copy(), s.nodes.future.copy()
    extra = plain_cluster.J("extra-99", "q0", 50, True, 0, 1, [plain_cluster.T("extra-99.0", (0, 1, 1))])
    s.add(job_in(extra))
    run(s)
    s.reset()
    s.remove("extra-99")
    assert np.array_equal(s.nodes.idle, idle)
    assert np.array_equal(s.nodes.future, future)
