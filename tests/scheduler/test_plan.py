"""Placement: gangs whole, order kept, nothing over capacity, reasons with numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from osmo_ray.scheduler.model import Amount, Job, Need, Node, Snapshot
from osmo_ray.scheduler.plan import plan

G = 1 << 30


def node(name: str, cpu: float = 4, gpu: int = 0, memory: int = 8 * G, **more) -> Node:
    return Node(name, Amount(cpu, memory, gpu, 100 * G), **more)


def job(name: str, *amounts: Amount, rank: int = 1, at: float = 0.0, **more) -> Job:
    needs = tuple(Need(f"{name}.{i}", f"{name}{i}", a, **more) for i, a in enumerate(amounts))
    return Job("w", name, needs, (rank, at, name))


def test_a_gang_stays_together_on_the_fullest_node_that_fits():
    one = Amount(1, G)
    found = plan(Snapshot((node("big", 8), node("small", 2)), (job("a", one, one),)))
    assert set(found.place["w", "a"].values()) == {"small"}


def test_a_gang_that_fits_no_single_node_is_spread():
    found = plan(Snapshot((node("x", 2), node("y", 2)), (job("a", Amount(2, G), Amount(1, G)),)))
    assert set(found.place["w", "a"].values()) == {"x", "y"}


def test_half_a_gang_is_not_placed():
    found = plan(Snapshot((node("x", 2),), (job("a", Amount(2, G), Amount(1, G)),)))
    assert not found.place
    assert found.hold["w", "a"].sentence == ("a gang of 2 tasks: 0 of 1 node can now take a0: not all at once")


def test_priority_then_time():
    one = Amount(1, G)
    jobs = (job("late", one, at=2.0), job("early", one, at=1.0), job("high", one, rank=0, at=3.0))
    found = plan(Snapshot((node("x", 2),), jobs))
    assert set(found.place) == {("w", "high"), ("w", "early")}


def test_a_smaller_job_may_use_what_a_bigger_one_cannot():
    found = plan(Snapshot((node("x", 2),), (job("big", Amount(8, G)), job("small", Amount(1, G), at=5.0))))
    assert set(found.place) == {("w", "small")}
    assert found.hold["w", "big"].code == "NeverFits"


def test_each_refusal_is_counted_with_its_numbers():
    nodes = (node("a", gpu=0), node("b", gpu=0), Node("c", Amount(4, 8 * G, 8, G), platform="h100"))
    reason = plan(Snapshot(nodes, (job("j", Amount(1, G, 4)),))).hold["w", "j"]
    assert "needs 4 GPU, 0 of 0 free (2 nodes)" in reason.sentence
    assert "needs platform local, is h100 (1 node)" in reason.sentence


def test_an_excluded_node_is_not_used():
    wanted = job("a", Amount(1, G), excluded=frozenset({"x"}))
    assert plan(Snapshot((node("x"), node("y")), (wanted,))).place["w", "a"] == {"a.0": "y"}


amounts = st.builds(Amount, st.integers(0, 4).map(float), st.integers(0, 4).map(lambda n: n * G), st.integers(0, 3))


@given(
    st.lists(st.builds(lambda a: a, amounts), min_size=1, max_size=5),
    st.lists(st.lists(amounts, min_size=1, max_size=4), max_size=8),
)
def test_nothing_is_ever_over_capacity_and_every_job_has_an_answer(totals, wanted):
    nodes = tuple(Node(f"n{i}", total) for i, total in enumerate(totals))
    jobs = tuple(job(f"j{i}", *needs, at=float(i)) for i, needs in enumerate(wanted))
    found = plan(Snapshot(nodes, jobs))
    by_uuid = {n.uuid: n.amount for j in jobs for n in j.needs}
    for n in nodes:
        used = sum((by_uuid[u] for p in found.place.values() for u, at in p.items() if at == n.name), Amount())
        assert n.total.holds(used)
    assert set(found.place) | set(found.hold) == {(j.workflow, j.group) for j in jobs}
    assert not set(found.place) & set(found.hold)
    for j in jobs:
        placed = found.place.get((j.workflow, j.group))
        assert placed is None or set(placed) == {n.uuid for n in j.needs}
