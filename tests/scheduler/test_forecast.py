"""When a waiting group will start, looked ahead with the planner itself."""

from __future__ import annotations

from osmo_ray.scheduler.forecast import Forecast, forecast
from osmo_ray.scheduler.model import Amount, Job, Need, Node, Queue, Seat, Snapshot

ALL = (Queue("q"),)
NODE = Node("n", Amount(64, 1 << 40, 2, 1 << 40))


def need(name: str, gpu: int) -> Need:
    return Need(name, name, Amount(1, 1 << 20, gpu))


def waits(name: str, gpu: int, at: float, priority: int = 50, queue: str = "q") -> Job:
    return Job("w", name, (need(name, gpu),), (0, at, name), queue=queue, priority=priority)


def runs(name: str, gpu: int, queue: str = "q") -> Job:
    seat = Seat(need(name, gpu), "n")
    return Job("w", name, (), (0, -1.0, name), queue=queue, seats=(seat,), started=0.0)


def look(*jobs: Job, ends: dict[str, float], runs: dict[str, float], queues=ALL, most: int = 200) -> Forecast:
    me = ("w", "me")
    return forecast(Snapshot((NODE,), jobs, queues, now=100.0), ends, runs, [me], most)[me]


def test_now_when_there_is_room():
    assert look(waits("me", 2, 1.0), ends={}, runs={}) == Forecast(100.0)


def test_after_those_that_run_and_those_before_it_in_the_line():
    jobs = (runs("a", 1), runs("b", 1), waits("first", 2, 1.0), waits("me", 1, 2.0))
    found = look(*jobs, ends={"a": 130.0, "b": 160.0}, runs={"first": 60.0})
    # The second GPU is free from 130 on, but too little for the first in the line: me passes it then.
    assert found == Forecast(130.0)
    both = look(*jobs[:3], waits("me", 2, 2.0), ends={"a": 130.0, "b": 160.0}, runs={"first": 60.0})
    assert both == Forecast(220.0)


def test_without_run_times_nothing_is_promised():
    assert look(runs("a", 2), waits("me", 1, 2.0), ends={}, runs={}) == Forecast(None)


def test_a_bound_on_the_work_is_told():
    jobs = [runs("a", 2), *(waits(f"x{i}", 2, float(i)) for i in range(20)), waits("me", 2, 99.0)]
    times = {f"x{i}": 60.0 for i in range(20)}
    assert look(*jobs, ends={"a": 110.0}, runs=times) == Forecast(110.0 + 20 * 60)
    assert look(*jobs, ends={"a": 110.0}, runs=times, most=9).beyond is not None


def test_who_is_owed_takes_its_place_back_at_once():
    queues = (Queue("all"), Queue("one", "all", gpu=(0, -1, 1)), Queue("two", "all", gpu=(2, -1, 1)))
    low = Job("w", "low", (), (0, -1.0, "low"), queue="one", seats=(Seat(need("low", 2), "n"),), started=0.0)
    found = look(low, waits("me", 2, 2.0, 100, "two"), ends={"low": 5000.0}, runs={}, queues=queues)
    assert found == Forecast(100.0)


def test_several_are_told_by_one_look_ahead():
    jobs = (runs("a", 2), waits("x", 2, 1.0), waits("y", 2, 2.0), waits("huge", 3, 3.0))
    snapshot = Snapshot((NODE,), jobs, ALL, now=100.0)
    keys = [("w", name) for name in ("x", "y", "huge")]
    found = forecast(snapshot, {"a": 110.0}, {"x": 60.0, "y": 60.0}, keys)
    assert found == dict(zip(keys, (Forecast(110.0), Forecast(170.0), Forecast(None)), strict=True))
