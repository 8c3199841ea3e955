"""What a waiting group is told: its reason with the numbers of the moment, and when it will start."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from osmo_ray.backends.fake import Ending, FakeBackend
from osmo_ray.control.controller import Controller
from osmo_ray.control.outlook import outlook, remaining
from osmo_ray.engine.status import TaskStatus
from osmo_ray.providers.quota import YamlQuota
from osmo_ray.spec.model import Priority
from tests.control.conftest import FAST
from tests.control.test_quotas_in_control import NODES, QUOTA, runs, send, until


def test_how_much_longer():
    assert remaining((), 5.0) is None
    assert remaining((10.0, 20.0, 60.0), 0.0) == 20.0
    assert remaining((10.0, 20.0, 60.0), 15.0) == 25.0, "the median of those that ran longer"
    assert remaining((10.0,), 30.0) == 15.0, "longer than any before"


@pytest.mark.parametrize("quota", ["", QUOTA])
async def test_position_reason_and_start(store, tmp_path: Path, quota: str):
    if quota:
        (tmp_path / "quota.yaml").write_text(quota)
    short = {"done"}
    backend = FakeBackend(
        nodes=NODES, script=lambda plan: Ending(0.3 if plan.workflow_id.rpartition("-")[0] in short else float("inf"))
    )
    controller = Controller(store, backend, "one", settings=FAST, quota=YamlQuota(tmp_path / "quota.yaml"))
    task = asyncio.ensure_future(controller.run())
    try:
        running = send(store, "first", 4, Priority.LOW, "low")
        await until(store, running.id, runs)
        wanted = send(store, "first", 1, Priority.LOW, "me")
        later = send(store, "first", 1, Priority.LOW, "later")
        for one in (wanted, later):
            await until(store, one.id, lambda g: g.reason)
        told = (await outlook(controller.ledger, controller.scheduling, wanted.uuid))["t-group"]
        assert told.start is None and "run times are not known" in told.why
        assert told.reason is not None and told.reason.evidence["position"] == "1 of 2"
        assert "would_start_with" in told.reason.evidence
        if quota:
            assert told.reason.code == "OverLimit" and told.reason.evidence["held"] == "4 GPU"
        learned = send(store, "second", 0, Priority.LOW, "done")
        await until(store, learned.id, lambda g: g.tasks[0].status is TaskStatus.COMPLETED)
        # That was another pool, whose tasks say nothing of this one.
        told = (await outlook(controller.ledger, controller.scheduling, later.uuid))["t-group"]
        assert told.reason is not None and told.reason.evidence["position"] == "2 of 2"
        assert told.start is None and "run times are not known" in told.why
        for _ in range(2):
            one = send(store, "first", 0, Priority.LOW, "done")
            await until(store, one.id, lambda g: g.tasks[0].status is TaskStatus.COMPLETED)
        now = controller.ledger.clock()
        told = (await outlook(controller.ledger, controller.scheduling, wanted.uuid))["t-group"]
        assert told.start is not None and now <= told.start < now + 60
        assert told.why == "from the run times of 2 earlier tasks"
        assert await outlook(controller.ledger, controller.scheduling, running.uuid) == {}
        assert await outlook(controller.ledger, controller.scheduling, "unknown") == {}
    finally:
        await controller.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        controller.ledger.close()
