"""Topology in the control loops: groups gather where they must, with quotas and without."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from osmo_ray.backends.fake import Ending, FakeBackend
from osmo_ray.control.controller import Controller
from osmo_ray.control.layout import layout, levels_of
from osmo_ray.engine.admit import admit
from osmo_ray.providers.quota import YamlQuota
from osmo_ray.scheduler.model import Nearness
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.model import Priority, ResourceSpec, Topology
from osmo_ray.store.protocol import Config, Texts
from tests.control.conftest import FAST, spec

POOLS = {"default": {"topology_keys": [{"key": "zone", "label": "z"}, {"key": "rack", "label": "r"}]}}
LEVELS = levels_of(POOLS)["default"]
# The packing rule would fill n1 and n2 first: they have least, and lie in two racks.
NODES = [
    NodeReport("n1", "", 64, 1 << 40, 1, 1 << 40, labels={"z": "a", "r": "1"}),
    NodeReport("n2", "", 64, 1 << 40, 1, 1 << 40, labels={"z": "a", "r": "2"}),
    NodeReport("n3", "", 64, 1 << 40, 2, 1 << 40, labels={"z": "b", "r": "3"}),
    NodeReport("n4", "", 64, 1 << 40, 2, 1 << 40, labels={"z": "b", "r": "3"}),
]
RACK = (Topology("rack"),)


def gang(gpus: dict[str, int], topology: dict[str, tuple[Topology, ...]]):
    """One group of these tasks: GPUs and wishes of each."""
    wanted = spec(("t", ()), name="w")
    lead = wanted.groups[0].tasks[0]
    tasks = tuple(replace(lead, name=n, lead=i == 0, resource=n) for i, n in enumerate(gpus))
    resources = {n: ResourceSpec(cpu=1, gpu=g, topology=topology.get(n, ())) for n, g in gpus.items()}
    return replace(wanted, groups=(replace(wanted.groups[0], tasks=tasks),), resources=resources)


def admitted(wanted, id: str = "w-1"):
    ids = (uuid.uuid4().hex for _ in itertools.count())
    return admit(
        wanted,
        id=id,
        uuid=next(ids),
        uuids=ids,
        user="ann",
        pool="default",
        backend="local",
        priority=Priority.NORMAL,
        now=time.time(),
        exec_timeout=0.0,
        queue_timeout=0.0,
    )


def parts(wanted) -> dict[str, tuple[Nearness | None, set[str]]]:
    workflow = admitted(wanted).workflow
    names = {t.uuid: t.name for t in workflow.groups[0].tasks}
    found: dict[str, tuple[Nearness | None, set[str]]] = {}

    def walk(part, above: str) -> None:
        found[above + part.name] = (part.near, {names[t] for t in part.tasks})
        for inner in part.parts:
            walk(inner, above + part.name + "/")

    whole = layout(workflow, workflow.groups[0], LEVELS)
    if whole is not None:
        walk(whole, "")
    return found


def test_nobody_minds():
    assert parts(gang({"a": 1, "b": 1}, {})) == {}
    assert parts(gang({"a": 1}, {"a": (Topology("gone"),)})) == {}, "a key that the pool no longer has binds nobody"


def test_levels_are_nested_and_the_stricter_wish_of_a_part_counts():
    soft = (Topology("zone"), Topology("rack", "one", required=False))
    hard = (Topology("zone"), Topology("rack", "one"))
    other = (Topology("zone"), Topology("rack", "two", required=False))
    found = parts(gang({"a": 1, "b": 1, "c": 1, "free": 1}, {"a": soft, "b": hard, "c": other}))
    assert found == {
        "": (None, set()),
        "/zone=default": (Nearness("default", required="z"), set()),
        "/zone=default/rack=one": (Nearness("default", required="r"), {"a", "b"}),
        "/zone=default/rack=two": (Nearness("default", preferred="r"), {"c"}),
    }


@pytest.fixture
async def lead(store, tmp_path: Path):
    running = []

    def make(quota: str = "") -> Controller:
        if quota:
            (tmp_path / "quota.yaml").write_text(quota)
        backend = FakeBackend(nodes=NODES, script=lambda plan: Ending(float("inf")))
        controller = Controller(store, backend, "one", settings=FAST, quota=YamlQuota(tmp_path / "quota.yaml"))
        running.append((controller, asyncio.ensure_future(controller.run())))
        return controller

    yield make
    for controller, task in running:
        await controller.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        controller.ledger.close()


async def until(store, id: str, check):
    for _ in range(500):
        group = store.find(id).groups[0]
        if check(group):
            return group
        await asyncio.sleep(0.02)
    raise AssertionError(f"{id}: {group}")


def send(store, wanted) -> str:
    return store.submit(wanted.name, lambda id: admitted(wanted, id), Texts("rendered")).id


@pytest.mark.parametrize("quota", ["", "queues: [{name: default}]"])
async def test_a_gang_gathers_in_a_rack(store, lead, quota: str):
    store.save_config(Config("POOL", 1, POOLS, "ann", time.time(), "", "", ()))
    controller = lead(quota)
    id = send(store, gang({"a": 1, "b": 1, "c": 1}, dict.fromkeys("abc", RACK)))
    group = await until(store, id, lambda g: all(t.node for t in g.tasks))
    assert {t.node for t in group.tasks} == {"n3", "n4"}
    assert controller.counts.get("preempted", 0) == 0


@pytest.mark.parametrize("quota", ["", "queues: [{name: default}]"])
async def test_a_gang_that_no_rack_holds_waits_and_is_told(store, lead, quota: str):
    store.save_config(Config("POOL", 1, POOLS, "ann", time.time(), "", "", ()))
    lead(quota)
    id = send(store, gang({"a": 2, "b": 2, "c": 1}, dict.fromkeys("abc", RACK)))
    group = await until(store, id, lambda g: g.reason)
    assert group.reason.code == "NoFit"
    assert "tasks must stand within one r" in group.reason.sentence
    plain = send(store, gang({"a": 2, "b": 2, "c": 1}, {}))
    await until(store, plain, lambda g: all(t.node for t in g.tasks))


SHARDED = """
shards: [{name: b, nodes: {z: b}}]
queues: [{name: default, shard: b, gpu: {quota: 4}}, {name: other}]
"""


async def test_work_stays_on_the_nodes_of_its_shard(store, lead):
    controller = lead(SHARDED)
    ids = [send(store, gang({"a": 1}, {})) for _ in range(5)]
    for id in ids[:4]:
        group = await until(store, id, lambda g: g.tasks[0].node)
        assert group.tasks[0].node in ("n3", "n4")
    fifth = await until(store, ids[4], lambda g: g.reason)
    # Two nodes outside have room; the queue's quota covers what its own shard has.
    assert fifth.reason.code == "OverQuota" and not fifth.tasks[0].node
    shares = {s.queue: s.fair for s in controller.scheduling.standings}
    assert shares == {"default": 4.0, "other": 0.0}
