"""Logs, error logs and events as streams: format, order, following, and slow readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from osmo_ray.api import follow
from osmo_ray.api.errors import ApiError
from osmo_ray.api.follow import Filter, Following
from osmo_ray.api.loglines import Formatter
from osmo_ray.engine.events import Observed
from osmo_ray.spec.attempt import AttemptKey, Observation, Phase
from osmo_ray.spec.reason import Reason
from osmo_ray.store.protocol import StoreError
from tests.api.world import HELLO, World

WIDE = "workflow:\n  name: wide\n  tasks:\n" + "".join(
    f"  - {{name: t{n}, image: i, command: [c]}}\n" for n in range(8)
)
START = "2027/01/15 08:00:00"


def lines(client: TestClient, name: str, kind: str = "logs", **params: Any) -> list[str]:
    reply = client.get(f"/api/workflow/{name}/{kind}", params=params)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "text/plain; charset=us-ascii"
    assert reply.headers["x-content-type-options"] == "nosniff"
    return reply.content.decode().splitlines()


def finished(world: World, **logs: list[str]) -> tuple[str, dict[str, AttemptKey]]:
    """A finished wide workflow whose tasks wrote these lines, one second apart."""
    name = world.submit(WIDE)
    tasks = [f"t{n}" for n in range(8)]
    keys = dict(zip(tasks, world.start(name, *tasks), strict=True))
    for task, written in logs.items():
        for second, line in enumerate(written):
            world.write(keys[task], line, at=world.now + second)
    world.now += 60
    for key in keys.values():
        world.finish(name, key)
    return name, keys


def test_lines_have_time_task_and_text_and_are_merged_by_time(world: World, client: TestClient) -> None:
    name, keys = finished(world, t0=["a0", "a1", "a2"], t1=["b0", "b1"])
    world.write(keys["t0"], "down loading", at=world.now, kind="P")
    assert lines(client, name) == [
        f"{START} [t0] a0",
        f"{START} [t1] b0",
        f"{START[:-1]}1 [t0] a1",
        f"{START[:-1]}1 [t1] b1",
        f"{START[:-1]}2 [t0] a2",
        "2027/01/15 08:01:00 [t0][osmo] down loading",
    ]
    assert lines(client, name, task_name="t1") == [f"{START} [t1] b0", f"{START[:-1]}1 [t1] b1"]
    assert lines(client, name, last_n_lines=2)[-1].endswith("down loading")
    assert lines(client, name, query="b[01]") == [f"{START} [t1] b0", f"{START[:-1]}1 [t1] b1"]
    assert lines(client, name, query=r"^[^ ]+ [^ ]+ \[t1\]", last_n_lines=1) == [f"{START[:-1]}1 [t1] b1"]


def test_a_stored_log_reads_like_a_live_one(world: World, client: TestClient) -> None:
    name, keys = finished(world, t0=[f"line {n}" for n in range(50)], t1=["ü ∑ tabs\tstay", ""])
    before = lines(client, name)
    assert len(before) == 52
    for key in keys.values():
        world.ship(name, key)
    assert lines(client, name) == before


def test_every_line_of_a_large_log_comes_in_order(world: World, client: TestClient) -> None:
    name, keys = finished(world)
    for number, key in enumerate(keys.values()):
        log = world.nodes.logs_of[key]
        log.data = b"".join(b"%d O t%d %d\n" % (1_800_000_000_000 + n * 8 + number, number, n) for n in range(20_000))
    got = lines(client, name)
    assert len(got) == 160_000
    assert [line.split("] ")[1] for line in got[:8]] == [f"t{n} 0" for n in range(8)]
    assert [line.split("] ")[1] for line in got] == [f"t{n % 8} {n // 8}" for n in range(160_000)]


def test_retries_are_marked_and_chosen(world: World, client: TestClient) -> None:
    name = world.submit(WIDE)
    (key,) = world.start(name, "t0")
    world.write(key, "first")
    lost = Observation(key, Phase.LOST, world.now, node="n1", reason=Reason("NodeLost", "gone"))
    world.happen(name, Observed(lost))
    world.nodes.logs_of[key].end = True
    (again,) = world.start(name, "t0")
    assert again.retry_id == 1
    world.write(again, "second", at=world.now + 1)
    client.post(f"/api/workflow/{name}/cancel")
    world.nodes.logs_of[again].end = True
    assert lines(client, name) == [f"{START} [t0] first", f"{START[:-1]}1 [t0 retry-1] second"]
    assert lines(client, name, task_name="t0") == [f"{START[:-1]}1 [t0 retry-1] second"]
    assert lines(client, name, task_name="t0", retry_id=0) == [f"{START} [t0] first"]


def test_a_log_that_was_lost_with_its_node_says_so(world: World, client: TestClient) -> None:
    name, _keys = finished(world)
    world.nodes.down.add("n1")
    world.now += 100
    assert "no log of this attempt was kept" in lines(client, name, task_name="t0")[0]


def test_error_logs_are_bare_lines(world: World, client: TestClient) -> None:
    name = world.submit(WIDE)
    (key,) = world.start(name, "t0")
    world.write(key, "fetching", kind="P")
    world.write(key, *(f"line {n}" for n in range(150)))
    world.finish(name, key, 1)
    assert lines(client, name, "error_logs", task_name="t0") == [f"line {n}" for n in range(50, 150)]
    assert lines(client, name, "error_logs", task_name="t0", last_n_lines=2) == ["line 148", "line 149"]
    links = client.get(f"/api/workflow/{name}/error_logs")
    assert links.status_code == 200
    assert links.json().startswith("t0: http://127.0.0.1:8000/api/workflow/wide-1/error_logs?")


def test_events_end_with_the_workflow(world: World, client: TestClient) -> None:
    name = world.submit(HELLO)
    assert lines(client, name, "events", follow="false")[0].startswith(
        "2027-01-15 08:00:00+00:00 Submitted: ann submitted"
    )
    (key,) = world.start(name, "a")
    world.finish(name, key, 1)
    told = lines(client, name, "events")
    assert any("[a] " in line for line in told)
    assert "Ended" in told[-1]
    assert all("[a]" in line for line in lines(client, name, "events", task_name="a"))


@pytest.mark.parametrize("params", [{"task_name": "nope"}, {"last_n_lines": 0}, {"query": "("}, {"query": "(a|a)*b"}])
def test_a_wrong_question_is_a_400(world: World, client: TestClient, params: dict[str, Any]) -> None:
    name = world.submit(WIDE)
    assert client.get(f"/api/workflow/{name}/logs", params=params).status_code == 400


@pytest.mark.parametrize("text", ["(a+)+$", "(a|a)*b", ".*.*.*.*x", "a" * 201, "(a{2}){3}", "["])
def test_costly_queries_are_refused(text: str) -> None:
    with pytest.raises(ApiError):
        Filter(text)


def test_the_formatter_joins_what_was_cut_anywhere() -> None:
    data = b"1800000000000 O one\n1800000000001 P two \xff\n1800000001000 O \n"
    whole = Formatter("t", 0).feed(data)
    for cut in range(len(data)):
        made = Formatter("t", 0)
        assert made.feed(data[:cut]) + made.feed(data[cut:]) + made.flush() == whole
    assert whole[1] == (1_800_000_000_001, b"2027/01/15 08:00:00 [t][osmo] two \xff\n")


class Reader:
    """Takes pieces off a stream and waits for the next one that matters."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self.pieces = pieces
        self.got = b""

    async def until(self, text: bytes) -> None:
        async with asyncio.timeout(20):
            while text not in self.got:
                self.got += await anext(self.pieces)


async def test_lines_come_while_the_task_runs_and_new_tasks_join(world: World) -> None:
    name = world.submit(HELLO)
    workflow = world.store.find(name)
    assert workflow is not None
    (a,) = world.start(name, "a")
    reader = Reader(Following(world.services, workflow.uuid).pieces(None))
    world.write(a, "first of a")
    await reader.until(b"first of a")
    world.write(a, "second of a")
    await reader.until(b"second of a")
    world.finish(name, a)
    world.now += 1
    (b,) = world.start(name, "b")
    world.write(b, "first of b")
    await reader.until(b"first of b")
    world.nodes.down.add("n1")
    world.finish(name, b)
    world.ship(name, b)
    async with asyncio.timeout(20):
        rest = [piece async for piece in reader.pieces]
    assert (reader.got + b"".join(rest)).count(b"first of b") == 1


async def test_a_database_that_goes_away_does_not_cut_a_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    name = world.submit(WIDE)
    workflow = world.store.find(name)
    assert workflow is not None
    (key,) = world.start(name, "t0")
    following = Following(world.services, workflow.uuid)
    reader = Reader(following.pieces(None))
    world.write(key, "before")
    await reader.until(b"before")
    failed = asyncio.Event()

    def away(uuids: object) -> None:
        failed.set()
        raise StoreError("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "load", away)
        while not failed.is_set():
            world.write(key, "while it is away")
            await reader.until(b"while it is away")
            reader.got = b""
    world.write(key, "after")
    await reader.until(b"after")
    await reader.pieces.aclose()  # type: ignore[attr-defined]


async def test_a_quiet_task_does_not_hold_back_a_busy_one(world: World) -> None:
    name = world.submit(WIDE)
    workflow = world.store.find(name)
    assert workflow is not None
    keys = world.start(name, *(f"t{n}" for n in range(8)))
    reader = Reader(Following(world.services, workflow.uuid).pieces(None))
    world.write(keys[3], "only me", at=world.now + 5)
    await reader.until(b"[t3] only me")
    await reader.pieces.aclose()  # type: ignore[attr-defined]


async def test_a_slow_reader_of_a_running_task_is_told_what_it_missed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "BEHIND", 100_000)
    monkeypatch.setattr(follow, "PIECE", 10_000)
    monkeypatch.setattr(follow, "STALL", 0.0)  # every reader counts as slow
    name = world.submit(WIDE)
    workflow = world.store.find(name)
    assert workflow is not None
    (key,) = world.start(name, "t0")
    world.write(key, "begin")
    pieces = Following(world.services, workflow.uuid, task="t0").pieces(None)
    got = [await anext(pieces)]
    world.write(key, *(f"line {n}" for n in range(20_000)))
    world.finish(name, key)
    async with asyncio.timeout(30):
        got += [piece async for piece in pieces]
    text = b"".join(got).decode().splitlines()
    skipped = next(line for line in text if "skipped" in line)
    number = int(skipped.split("skipped ")[1].split()[0])
    assert number > 10_000
    assert len(text) - 1 + number == 20_001
    assert text[-1].endswith("line 19999")


async def test_a_chain_keeps_one_log_open_at_a_time(world: World) -> None:
    chain = "workflow:\n  name: chain\n  tasks:\n  - {name: t0, image: i, command: [c]}\n" + "".join(
        f"  - {{name: t{n}, image: i, command: [c], inputs: [{{task: t{n - 1}}}]}}\n" for n in range(1, 12)
    )
    name = world.submit(chain)
    for number in range(12):
        world.now += 100
        (key,) = world.start(name, f"t{number}")
        world.write(key, *(f"{number} {n}" for n in range(3000)))
        world.finish(name, key)
    workflow = world.store.find(name)
    assert workflow is not None
    following = Following(world.services, workflow.uuid)
    most, text = 0, b""
    async for piece in following.pieces(None):
        most = max(most, len(following._open))
        text += piece
    assert most <= 2
    assert [line.split("] ")[1] for line in text.decode().splitlines()] == [
        f"{t} {n}" for t in range(12) for n in range(3000)
    ]
