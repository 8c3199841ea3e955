"""Quotas in the control loops: who gives way, who comes back, who waits and is told why."""

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
from osmo_ray.engine.admit import admit
from osmo_ray.engine.status import TaskStatus, WorkflowStatus
from osmo_ray.providers.quota import YamlQuota
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.model import Priority, ResourceSpec
from osmo_ray.store.protocol import Texts
from tests.control.conftest import FAST, ended, spec

QUOTA = """
queues:
  - {name: all}
  - {name: one, parent: all, gpu: {quota: 2, limit: 4}}
  - {name: two, parent: all, gpu: {quota: 2, limit: 4}}
pools: {first: one, second: two}
"""
NODES = [NodeReport("n1", "", 64, 1 << 40, 4, 1 << 40)]


@pytest.fixture
async def lead(store, tmp_path: Path):
    """Start a controller that watches `quota.yaml` in the test's folder."""
    running = []

    def make(backend: FakeBackend) -> Controller:
        controller = Controller(store, backend, "one", settings=FAST, quota=YamlQuota(tmp_path / "quota.yaml"))
        running.append((controller, asyncio.ensure_future(controller.run())))
        return controller

    yield make
    for controller, task in running:
        await controller.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        controller.ledger.close()


def send(store, pool: str, gpu: int, priority: Priority, name: str, gang: bool = False):
    ids = (uuid.uuid4().hex for _ in itertools.count())
    wanted = spec(("t", ()), name=name, retries=3, exit_actions={"RESCHEDULE": "3006"})
    if gang:
        lead = wanted.groups[0].tasks[0]
        wanted = replace(wanted, groups=(replace(wanted.groups[0], tasks=(lead, replace(lead, name="u", lead=False))),))
    wanted = replace(wanted, resources={"default": ResourceSpec(cpu=1, gpu=gpu)})

    def build(id: str):
        return admit(
            wanted,
            id=id,
            uuid=next(ids),
            uuids=ids,
            user="ann",
            pool=pool,
            backend="local",
            priority=priority,
            now=time.time(),
            exec_timeout=0.0,
            queue_timeout=0.0,
        )

    return store.submit(wanted.name, build, Texts("rendered"))


async def until(store, id: str, check):
    for _ in range(500):
        state = store.find(id)
        if check(state.groups[0]):
            return state.groups[0]
        await asyncio.sleep(0.02)
    raise AssertionError(f"{id}: {state.groups[0]}")


def runs(group) -> bool:
    return group.tasks[0].status is TaskStatus.RUNNING


async def test_low_work_beyond_the_quota_gives_way_and_runs_again_later(store, lead, tmp_path: Path):
    (tmp_path / "quota.yaml").write_text(QUOTA)
    done = asyncio.Event()
    backend = FakeBackend(nodes=NODES, script=lambda plan: Ending(0.5) if done.is_set() else Ending(float("inf")))
    controller = lead(backend)
    low = send(store, "first", 4, Priority.LOW, "low")
    await until(store, low.id, runs)
    done.set()
    owner = send(store, "second", 2, Priority.NORMAL, "owner")
    assert (await ended(store, owner.id)).status is WorkflowStatus.COMPLETED
    again = await ended(store, low.id)
    assert again.status is WorkflowStatus.COMPLETED and again.groups[0].tasks[0].retry_id == 1
    first = next(row.task for row in store.attempts(low.uuid) if row.task.retry_id == 0)
    assert first.status is TaskStatus.RESCHEDULED and first.exit_code == 3006
    assert first.reason.code == "Preempted" and owner.id in first.reason.sentence
    assert first.reason.evidence["rule"] == "reclaim"
    assert controller.counts["preempted"] == 1


async def test_a_limit_holds_with_numbers_until_a_good_file_lets_go(store, lead, tmp_path: Path):
    path = tmp_path / "quota.yaml"
    path.write_text(QUOTA.replace("limit: 4", "limit: 3"))
    backend = FakeBackend(nodes=NODES, script=lambda plan: Ending(float("inf")))
    controller = lead(backend)
    low = send(store, "first", 4, Priority.LOW, "low")
    held = await until(store, low.id, lambda g: g.reason is not None and g.reason.code == "OverLimit")
    assert "asks for 4 GPU" in held.reason.sentence and "limit of 3 GPU" in held.reason.sentence
    path.write_text("queues: nothing good")
    for _ in range(500):
        if controller.counts.get("quota_stale"):
            break
        await asyncio.sleep(0.02)
    assert controller.counts["quota_stale"] == 1.0
    assert not runs(store.find(low.id).groups[0])
    path.write_text(QUOTA)
    await until(store, low.id, runs)
    wanted = {"one": (2, 4, 4, 2), "two": (2, 4, 0, 0)}
    for _ in range(500):
        standings = {s.queue: (s.quota, s.limit, s.held, s.borrowed) for s in controller.scheduling.standings}
        if wanted.items() <= standings.items():
            break
        await asyncio.sleep(0.02)
    assert wanted.items() <= standings.items()
    other = send(store, "first", 1, Priority.LOW, "other")
    held = await until(store, other.id, lambda g: g.reason is not None and g.reason.code == "OverLimit")
    assert f"(by {low.id}/" in held.reason.sentence, "who holds it, by the name that people know"


async def test_without_a_file_nobody_gives_way(store, lead):
    backend = FakeBackend(nodes=NODES, script=lambda plan: Ending(float("inf")))
    controller = lead(backend)
    low = send(store, "first", 4, Priority.LOW, "low")
    await until(store, low.id, runs)
    owner = send(store, "second", 2, Priority.HIGH, "owner")
    held = await until(store, owner.id, lambda g: g.reason is not None)
    assert controller.scheduling.standings == ()
    assert held.reason.code == "NoFit" and "queue" not in held.reason.evidence
    assert runs(store.find(low.id).groups[0]) and controller.counts["preempted"] == 0


async def test_a_gang_gives_way_whole_and_comes_back_whole(store, lead, tmp_path: Path):
    (tmp_path / "quota.yaml").write_text(QUOTA)
    done = asyncio.Event()
    backend = FakeBackend(nodes=NODES, script=lambda plan: Ending(0.5) if done.is_set() else Ending(float("inf")))
    controller = lead(backend)
    low = send(store, "first", 2, Priority.LOW, "low", gang=True)
    await until(store, low.id, lambda g: all(t.status is TaskStatus.RUNNING for t in g.tasks))
    done.set()
    owner = send(store, "second", 1, Priority.NORMAL, "owner")
    assert (await ended(store, owner.id)).status is WorkflowStatus.COMPLETED
    again = await ended(store, low.id)
    assert again.status is WorkflowStatus.COMPLETED
    assert [t.retry_id for t in again.groups[0].tasks] == [1, 1]
    assert controller.counts["preempted"] == 1
