"""Replays whose answers can be worked out by hand, and the form of traces and pictures."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from osmo_ray.providers.quota import QuotaSnapshot, parse
from osmo_ray.sim.chart import averages, draw
from osmo_ray.sim.figures import ALL, Figures, Waits, figures, waits
from osmo_ray.sim.replay import Point, Replayed, Variant, nodes_like, replay
from osmo_ray.sim.trace import Arrival, Asked, TraceError, read, write
from osmo_ray.spec.model import Priority

GPU = (Asked(1, 1 << 30, 1),)
NODE = nodes_like(1, 64.0, 1 << 40, 4)
SVG = "{http://www.w3.org/2000/svg}"


def quotas(a: int, b: int, more: str = "") -> QuotaSnapshot:
    pools = f"- {{name: a, parent: all, gpu: {{quota: {a}}}}}\n- {{name: b, parent: all, gpu: {{quota: {b}}}{more}}}\n"
    return parse(f"queues:\n- {{name: all}}\n{pools}", "quota.yaml")


def run(arrivals: list[Arrival], quota: QuotaSnapshot | None) -> tuple[Replayed, dict[str, Figures]]:
    done = replay(arrivals, Variant(NODE, quota))
    return done, {row.pool: row for row in figures(done)}


def two_pools() -> list[Arrival]:
    return [Arrival(0, 100, "a", GPU)] * 4 + [Arrival(0, 100, "b", GPU)] * 2


def borrowed() -> list[Arrival]:
    """Pool b fills the node with work that may be stopped; at 100, pool a wants two of its GPUs for 100 seconds."""
    low = Arrival(0, 1000, "b", GPU, priority=Priority.LOW)
    return [low] * 4 + [Arrival(100, 100, "a", GPU)] * 2


def test_a_quota_of_one_runs_one_after_the_other():
    done, rows = run(two_pools(), quotas(1, 2))
    assert [f.started for f in done.fates] == [0, 100, 200, 300, 0, 0]
    assert rows["a"].waits == Waits(150, 150, 300, 300)
    assert rows["b"].waits == Waits(0, 0, 0, 0)
    assert rows[ALL].waits == Waits(100, 50, 300, 300)
    assert (rows["a"].gpu, rows["b"].gpu, rows[ALL].gpu) == (400 / 1600, 200 / 1600, 600 / 1600)
    assert rows[ALL].cpu == pytest.approx(600 / (64 * 400))


def test_the_double_quota_halves_the_wait():
    done, rows = run(two_pools(), quotas(2, 2))
    assert [f.started for f in done.fates] == [0, 0, 100, 100, 0, 0]
    assert rows["a"].waits == Waits(50, 50, 100, 100)
    assert rows[ALL].gpu == 600 / 800
    assert done.points[0] == Point(0, 4, 4, 2)
    assert done.points[-1] == Point(200, 0, 0, 0)


def test_without_quotas_nobody_is_held_back():
    done, rows = run(two_pools(), None)
    assert [f.started for f in done.fates] == [0, 0, 0, 0, 100, 100]
    assert rows["a"].waits == Waits(0, 0, 0, 0)


def test_more_nodes_help_where_the_nodes_are_short():
    done = replay(two_pools(), Variant(nodes_like(2, 64.0, 1 << 40, 4)))
    assert {f.started for f in done.fates} == {0}
    assert figures(done)[-1].gpu == 600 / 800


def test_low_work_gives_way_and_begins_anew():
    done, rows = run(borrowed(), quotas(2, 2))
    assert (rows["b"].preempted, rows["b"].lost, rows["a"].preempted) == (2, 200.0, 0)
    assert rows["a"].waits == Waits(0, 0, 0, 0)
    assert sorted(f.ended or 0 for f in done.fates) == [200, 200, 1000, 1000, 1200, 1200]
    assert rows[ALL].gpu == pytest.approx((2 * 100 + 4 * 1000 + 200) / (4 * 1200))


def test_a_gang_gives_way_whole():
    gang = Arrival(0, 1000, "b", GPU * 4, priority=Priority.LOW)
    done, rows = run([gang, Arrival(100, 50, "a", GPU)], quotas(2, 2))
    assert (rows["b"].preempted, rows["b"].lost) == (1, 400.0)
    assert [(f.started, f.ended) for f in done.fates] == [(0, 1150), (100, 150)]


def test_young_work_is_taken_when_its_minimum_runtime_is_over():
    done, rows = run(borrowed(), quotas(2, 2, ", reclaim_min_runtime: 300"))
    assert [f.started for f in done.fates[4:]] == pytest.approx([300, 300], abs=0.01)
    assert rows["b"].preempted == 2
    assert rows["a"].waits is not None
    assert rows["a"].waits.mean == pytest.approx(200, abs=0.01)


def test_what_can_never_start_is_counted_with_its_reason():
    arrivals = [Arrival(0, 10, "a", GPU), Arrival(0, 10, "elsewhere", GPU), Arrival(5, 10, "a", GPU * 3)]
    done, rows = run(arrivals, quotas(2, 2, ", reclaim_min_runtime: 300"))
    assert (rows["elsewhere"].never, rows["elsewhere"].reasons) == (1, ("NoQueue",))
    assert rows["elsewhere"].waits is None
    assert (rows["a"].never, rows["a"].reasons) == (1, ("OverQuota",))
    assert (done.ended, done.points[-1].waiting) == (10, 2)


def test_the_order_of_the_lines_does_not_matter():
    done, _ = run(list(reversed(borrowed())), quotas(2, 2))
    assert [f.arrival.submitted for f in done.fates] == [0, 0, 0, 0, 100, 100]
    assert sum(f.preempted for f in done.fates) == 2


def test_a_larger_step_looks_less_often_and_ends_are_exact():
    done = replay([Arrival(t, 100, "a", GPU * 4) for t in (0, 10, 20)], Variant(NODE), step=60)
    assert [(f.started, f.ended) for f in done.fates] == [(0, 100), (120, 220), (220, 320)]


def test_the_percentile_is_a_value_that_was_seen():
    assert waits([float(n) for n in range(1, 101)]) == Waits(50.5, 50.5, 95, 100)
    assert waits([]) is None


def test_a_trace_is_read_as_it_was_written():
    arrivals = [replace(one, user="ann") for one in borrowed()]
    assert read(write(reversed(arrivals)), "t.jsonl") == tuple(sorted(arrivals, key=lambda a: a.submitted))


def test_a_trace_may_leave_out_what_has_a_default():
    (one,) = read('\n{"submitted": 1.5, "seconds": 2, "pool": "a", "tasks": [{"memory": "4Gi"}]}\n', "t")
    assert one == Arrival(1.5, 2.0, "a", (Asked(1, 4 << 30, 0),), "-", Priority.NORMAL)


WHOLE = '{"submitted": 0, "seconds": 1, "pool": "a", "tasks": [{}]}'


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "not valid JSON"),
        ("[" * 200_000, "nested too deep"),
        ("[]", "a group must be an object"),
        ('{"submitted": 0, "seconds": 1, "pool": "a"}', "no `tasks`"),
        (WHOLE.replace("0", "NaN"), "`submitted` must be a number"),
        (WHOLE.replace("1", "-1"), "`seconds` must be a number"),
        (WHOLE.replace('"a"', '""'), "`pool` must be text"),
        (WHOLE.replace("[{}]", "[]"), "at least one task"),
        (WHOLE.replace("{}", '{"gpu": 0.5}'), "`gpu` must be a whole number"),
        (WHOLE.replace("{}", '{"memory": "4 apples"}'), "not an amount"),
        (WHOLE.replace("{}", '{"cpus": 1}'), "no field 'cpus'; it takes cpu, memory, gpu"),
        (WHOLE.replace('"a"', '"a", "priority": "URGENT"'), "one of HIGH, NORMAL, LOW"),
    ],
)
def test_a_bad_line_is_named(line: str, told: str):
    with pytest.raises(TraceError, match=r"^t\.jsonl:2: ") as error:
        read(f"{WHOLE}\n{line}\n", "t.jsonl")
    assert told in str(error.value)


def test_an_empty_trace_is_refused():
    with pytest.raises(TraceError, match="no group in it"):
        read("\n\n", "t.jsonl")


def test_averages_weigh_values_by_time():
    points = [Point(10.0, 4, 0, 0), Point(12.0, 2, 0, 0), Point(14.0, 0, 0, 0)]
    found = averages(points, lambda p: p.gpus, 8.0)
    assert sum(found) / len(found) == pytest.approx((4 * 2 + 2 * 2) / 8)
    assert (found[0], found[len(found) // 4 + 1], found[-1]) == pytest.approx((4, 2, 0))


def test_the_picture_is_svg_with_two_lines_in_each_diagram():
    before, _ = run(two_pools(), quotas(1, 2))
    after, _ = run(two_pools(), quotas(2, 2))
    root = ET.fromstring(draw([("a <present>", before), ("new", after)]))
    assert root.tag == f"{SVG}svg"
    texts = [t.text for t in root.iter(f"{SVG}text")]
    assert {"a <present>", "new", "Utilisation of GPUs", "Groups that wait", "100%"} <= set(texts)
    lines = [line.attrib["points"].split() for line in root.iter(f"{SVG}polyline")]
    assert len(lines) == 4
    tops = [min(float(dot.split(",")[1]) for dot in line) for line in lines[:2]]
    assert tops[1] < tops[0] or tops[1] == pytest.approx(60)  # the new quotas fill all four GPUs at first
    assert all(70 <= float(dot.split(",")[0]) <= 870 for line in lines for dot in line)


def test_a_cluster_without_gpus_is_drawn_by_its_cores():
    done = replay([Arrival(0, 0, "a", (Asked(),))], Variant(nodes_like(1, 4.0, 1 << 40, 0)))
    assert "Utilisation of cores" in draw([("present", done)])
    assert figures(done)[-1].gpu is None
