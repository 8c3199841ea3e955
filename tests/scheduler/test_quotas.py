"""Plans with queues: who borrows, who gives back, who waits and what the waiting are told."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from osmo_ray.scheduler.model import Amount, Job, Nearness, Need, Node, Part, Plan, Queue, Seat, Snapshot
from osmo_ray.scheduler.plan import plan
from osmo_ray.scheduler.queued import Planner

G = 1 << 30
HIGH, NORMAL, LOW = 125, 100, 50


def node(name: str, gpu: int, **more) -> Node:
    return Node(name, Amount(64, 512 * G, gpu, 100 * G), **more)


def needs(name: str, gpu: int, count: int) -> tuple[Need, ...]:
    return tuple(Need(f"{name}.{i}", f"{name}{i}", Amount(1, G, gpu)) for i in range(count))


def waits(name: str, queue: str, gpu: int, priority: int, count: int = 1, at: float = 0.0, **more) -> Job:
    return Job("w", name, needs(name, gpu, count), (0, at, name), queue=queue, priority=priority, **more)


def runs(name: str, queue: str, gpu: int, priority: int, on: str, count: int = 1, leaving: bool = False, **more) -> Job:
    seats = tuple(Seat(n, on, leaving) for n in needs(name, gpu, count))
    return Job("w", name, (), (0, -1.0, name), queue=queue, priority=priority, seats=seats, **more)


def pool(name: str, quota: float, weight: float = 1.0, limit: float = -1.0, **more) -> Queue:
    return Queue(name, "all", gpu=(quota, limit, weight), **more)


def taken(found: Plan) -> dict[str, str]:
    return {e.group: e.for_group for e in found.preempt}


ALL = Queue("all")


def test_low_work_borrows_what_is_free_and_a_normal_job_of_the_owner_takes_it_back():
    queues = (ALL, pool("one", 2), pool("two", 2, created=1.0))
    borrowed = [runs(f"r{i}", "one", 1, LOW, "n", started=float(i)) for i in range(2)]
    third = plan(Snapshot((node("n", 4),), (*borrowed, waits("third", "one", 1, LOW)), queues))
    assert third.place["w", "third"] == {"third.0": "n"}
    full = [runs(f"r{i}", "one", 1, LOW, "n") for i in range(4)]
    found = plan(Snapshot((node("n", 4),), (*full, waits("owner", "two", 2, NORMAL)), queues))
    assert set(taken(found).values()) == {"owner"}
    assert len(taken(found)) == 2
    assert found.reserve["w", "owner"] == {"owner.0": "n"}
    assert found.hold["w", "owner"].code == "WaitsForRelease"


def test_within_a_pool_a_normal_job_displaces_low_work_but_low_displaces_nobody():
    queues = (ALL, pool("a", 4))
    low = [runs(f"low{i}", "a", 1, LOW, "n") for i in range(4)]
    found = plan(Snapshot((node("n", 4),), (*low, waits("now", "a", 1, NORMAL)), queues))
    assert [e.action for e in found.preempt] == ["preempt"]
    again = plan(Snapshot((node("n", 4),), (*low, waits("also", "a", 1, LOW)), queues))
    assert not again.preempt
    assert again.hold["w", "also"].code == "NoFit"


def test_what_is_free_is_split_by_weight():
    queues = (ALL, pool("a", 2, 1.0), pool("b", 2, 3.0, created=1.0))
    jobs = tuple(waits(f"{q}{i}", q, 1, LOW, at=float(i)) for q in "ab" for i in range(12))
    found = plan(Snapshot((node("n", 8),), jobs, queues))
    fair = {s.queue: s.fair for s in found.standings}
    assert (fair["a"], fair["b"]) == (3.0, 5.0)
    assert sum(1 for key in found.place if key[1].startswith("a")) == 3


def test_work_that_cannot_be_taken_from_stays_within_the_quota_and_says_so():
    queues = (ALL, pool("a", 2))
    jobs = (runs("held", "a", 2, NORMAL, "n"), waits("more", "a", 1, NORMAL))
    reason = plan(Snapshot((node("n", 8),), jobs, queues)).hold["w", "more"]
    assert reason.code == "OverQuota"
    assert reason.sentence == (
        "asks for 1 GPU, queue a holds 2 GPU (by w/held 2 GPU) of its quota for non-preemptible work of 2 GPU"
    )
    assert reason.evidence["would_start_with"] == "1 GPU less held in a"
    assert reason.evidence["position"] == "1 of 1"


def test_a_limit_of_the_parent_holds_too():
    queues = (Queue("all", gpu=(-1, 3, 1)), pool("a", 1), pool("b", 1))
    jobs = (runs("x", "a", 2, LOW, "n"), waits("y", "b", 2, LOW))
    reason = plan(Snapshot((node("n", 8),), jobs, queues)).hold["w", "y"]
    assert (reason.code, reason.evidence["queue"]) == ("OverLimit", "all")


def test_the_place_is_kept_until_those_who_leave_have_left():
    queues = (ALL, pool("one", 0), pool("two", 2, created=1.0))
    nodes = (node("n", 2),)
    jobs = (runs("old", "one", 2, LOW, "n"), waits("owner", "two", 2, NORMAL), waits("thief", "one", 1, LOW, at=-9.0))
    first = plan(Snapshot(nodes, jobs, queues))
    assert taken(first) == {"old": "owner"}
    promised = replace(jobs[1], reserved=first.reserve["w", "owner"])
    leaving = runs("old", "one", 2, LOW, "n", leaving=True)
    second = plan(Snapshot(nodes, (leaving, promised, jobs[2]), queues))
    assert not second.preempt
    assert second.reserve["w", "owner"] == {"owner.0": "n"}
    third = plan(Snapshot(nodes, (promised, jobs[2]), queues))
    assert set(third.place) == {("w", "owner")}


def test_a_young_job_is_not_taken_from_before_its_minimum_runtime():
    queues = (ALL, pool("one", 0, reclaim_min_runtime=60.0), pool("two", 2, created=1.0))
    jobs = (runs("young", "one", 2, LOW, "n", started=100.0), waits("owner", "two", 2, NORMAL))
    assert not plan(Snapshot((node("n", 2),), jobs, queues, now=130.0)).preempt
    assert taken(plan(Snapshot((node("n", 2),), jobs, queues, now=170.0))) == {"young": "owner"}


def test_a_gang_stays_on_one_node_and_gathers_where_it_must():
    queues = (ALL, pool("a", -1))
    racks = [node(f"n{i}", 2, labels={"rack": f"r{i // 2}"}) for i in range(4)]
    together = plan(Snapshot(tuple(racks), (waits("g", "a", 1, LOW, 2),), queues))
    assert len(set(together.place["w", "g"].values())) == 1
    layout = Part("", Nearness("t", required="rack"), frozenset({"g.0", "g.1"}))
    near = waits("g", "a", 2, LOW, 2, layout=layout)
    used = replace(racks[0], used=Amount(gpu=1))
    found = plan(Snapshot((used, *racks[1:]), (near,), queues, {"t": ("rack",)}))
    assert set(found.place["w", "g"].values()) == {"n2", "n3"}


def test_what_is_missing_on_the_nearest_node_is_told():
    jobs = (runs("busy", "a", 1, LOW, "near"), runs("more", "a", 3, LOW, "far"), waits("x", "a", 4, LOW))
    found = plan(Snapshot((node("near", 4), node("far", 4), node("small", 1)), jobs, (ALL, pool("a", -1))))
    assert found.hold["w", "x"].evidence["would_start_with"] == "1 GPU more free on near"
    assert "needs 4 GPU, 3 of 4 free (1 node)" in found.hold["w", "x"].sentence


def test_taints_and_unknown_queues_are_told():
    queues = (ALL, pool("a", -1))
    jobs = (waits("x", "a", 1, LOW), waits("lost", "nowhere", 1, LOW))
    found = plan(Snapshot((node("n", 2, taints=frozenset({"hardware"})),), jobs, queues))
    assert "tainted hardware (1 node)" in found.hold["w", "x"].sentence
    assert found.hold["w", "lost"].code == "NoQueue"


def test_who_may_not_reclaim_is_told_by_how_much():
    queues = (ALL, pool("a", 0, 0.0), pool("b", 4, created=1.0))
    jobs = (runs("busy", "b", 4, LOW, "n"), waits("x", "a", 1, LOW))
    reason = plan(Snapshot((node("n", 4),), jobs, queues)).hold["w", "x"]
    assert reason.evidence["reclaim"] == (
        "may not reclaim from other queues: with 1 GPU more, a would hold 1 GPU of its fair share of 0 GPU"
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_planner_that_keeps_its_view_answers_like_one_that_starts_anew(data):
    queues = (ALL, pool("a", 2), pool("b", 2, created=1.0))
    nodes = (node("n", 3), node("m", 2))
    planner, alive, told = Planner(), {}, {}
    for step in range(6):
        name = f"j{step}"
        queue, priority = data.draw(st.sampled_from("ab")), data.draw(st.sampled_from([LOW, NORMAL]))
        alive[name] = waits(name, queue, data.draw(st.integers(1, 2)), priority, at=float(step))
        if data.draw(st.booleans()):
            del alive[data.draw(st.sampled_from(sorted(alive)))]
        snapshot = Snapshot(nodes, tuple(alive.values()), queues, now=float(step))
        found, told = planner.plan(snapshot), plan(snapshot)
        assert found == told
        for (_, group), chosen in found.place.items():
            job = alive[group]
            seats = tuple(Seat(n, chosen[n.uuid]) for n in job.needs)
            alive[group] = replace(job, needs=(), seats=seats, started=float(step))
        for gone in {e.group for e in found.preempt}:
            del alive[gone]


def test_jobs_that_fail_again_and_again_do_not_keep_another_from_its_turn():
    """Each of the first asks for a kind of node that nobody could free; the last one could have its place."""
    queues = (
        ALL,
        pool("one", 0, 0.0),
        *(pool(f"q{i}", 60, created=float(i)) for i in range(8)),
        pool("z", 2, created=99.0),
    )
    nodes = (node("n", 4), node("m", 4, platform="other"))
    busy = [runs(f"r{i}", "one", 1, LOW, "n", started=float(i)) for i in range(4)]
    stuck = [waits(f"s{i}", f"q{i}", 3, NORMAL, 2) for i in range(8)]
    last = waits("last", "z", 1, NORMAL, at=50.0)
    snapshot = Snapshot(nodes, (*busy, *stuck, last), queues, tries=2)
    planner = Planner()
    assert any("last" in taken(planner.plan(snapshot)).values() for _ in range(9))
