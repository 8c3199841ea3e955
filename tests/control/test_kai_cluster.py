"""The loops over a real cluster in which the real KAI places the groups: gangs, waiting, and who gives way to whom."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from osmo_ray.backends.fake import FakeBackend
from osmo_ray.backends.kubernetes import kai as objects
from osmo_ray.backends.kubernetes.backend import KubernetesBackend
from osmo_ray.backends.kubernetes.client import HttpApi
from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig
from osmo_ray.backends.kubernetes.settings import ClusterSettings
from osmo_ray.backends.many import ManyBackends
from osmo_ray.control.clusters import Clusters, Registration
from osmo_ray.control.controller import Controller, ControlSettings
from osmo_ray.engine.admit import admit
from osmo_ray.engine.events import Policy
from osmo_ray.engine.model import Task, Workflow
from osmo_ray.engine.status import TaskStatus, WorkflowStatus
from osmo_ray.providers.quota import YamlQuota
from osmo_ray.spec.model import GroupSpec, Priority, ResourceSpec, TaskSpec, Topology, WorkflowSpec
from osmo_ray.store.protocol import Cluster as Row
from osmo_ray.store.protocol import Config, Store, Texts
from tests.servers.kube.cluster import Cluster
from tests.servers.kube.kai import GPUS, kai

__all__ = ["kai"]
pytestmark = pytest.mark.kubernetes
QUOTA = """
queues:
  - {name: all}
  - {name: one, parent: all, gpu: {quota: 2, limit: 4}}
  - {name: two, parent: all, gpu: {quota: 2, limit: 4}}
pools: {first: one, second: two}
"""
_QUICK = ControlSettings(poll=0.3, tidy=0.5, watch=1.0)


class World:
    """A controller over the cluster, which is registered as `lab` with the pools `first` and `second`."""

    def __init__(self, store: Store, kube: Cluster, folder: Path) -> None:
        (folder / "quota.yaml").write_text(QUOTA)
        self.store = store
        self.api = HttpApi(open_kubeconfig(kube.kubeconfig.read_text()))
        settings = ClusterSettings(
            owner=secrets.token_hex(6),
            storage_url=kube.storage_url,
            runtime_image=kube.runtime_image,
            namespace="osmo",
            scheduler="kai",
        )
        access = open_kubeconfig(kube.backend_kubeconfig.read_text())
        many = ManyBackends(FakeBackend("local", []))
        store.save_cluster(Row("lab", "", Registration(("first", "second"), scheduler="kai").to_json(), 1.0))
        self.image = kube.task_image
        self.controller = Controller(
            store,
            many,
            "one",
            settings=_QUICK,
            policy=Policy(exit_actions={"RESCHEDULE": "3006"}),
            quota=YamlQuota(folder / "quota.yaml"),
            clusters=Clusters(many, lambda row: KubernetesBackend("lab", HttpApi(access), settings)),
        )
        self.running = asyncio.ensure_future(self.controller.run())

    async def close(self) -> None:
        await self.controller.stop()
        await self.running
        await self.controller.close()
        await self.api.close()

    def submit(
        self, name: str, pool: str, tasks: int, gpu: int, seconds: float, priority: Priority, *near: Topology
    ) -> str:
        """A workflow of one group; its uuid."""
        specs = tuple(
            TaskSpec(f"t{n}", self.image, ("sleep", str(seconds)), lead=n == 0, resource="r") for n in range(tasks)
        )
        resource = ResourceSpec(cpu=0, gpu=gpu, memory="32Mi", storage="32Mi", topology=near)
        wanted = WorkflowSpec(name, (GroupSpec("g", specs),), resources={"r": resource})
        ids = (uuid.uuid4().hex for _ in itertools.count())
        made = self.store.submit(
            name,
            lambda id: admit(
                wanted,
                id=id,
                uuid=next(ids),
                uuids=ids,
                user="ann",
                pool=pool,
                backend="lab",
                priority=priority,
                now=time.time(),
                exec_timeout=0.0,
                queue_timeout=0.0,
            ),
            Texts("rendered"),
        )
        self.controller.wake()
        return made.uuid

    def workflow(self, uuid: str) -> Workflow:
        return self.store.load([uuid])[0]

    def tasks(self, uuid: str) -> tuple[Task, ...]:
        return self.workflow(uuid).groups[0].tasks

    async def until(self, what: Callable[[], object], limit: float = 90.0) -> None:
        deadline = time.monotonic() + limit
        while not what():
            assert time.monotonic() < deadline, "it did not come about in time"
            await asyncio.sleep(0.1)

    async def ends(self, uuid: str) -> WorkflowStatus:
        await self.until(lambda: self.workflow(uuid).status.finished)
        return self.workflow(uuid).status

    async def runs(self, *uuids: str) -> None:
        await self.until(lambda: all(t.status is TaskStatus.RUNNING for u in uuids for t in self.tasks(u)))

    async def gangs(self) -> list[Any]:
        return list((await self.api.get(objects.gangs("osmo")))["items"])


@pytest.fixture
async def world(store: Store, kai: Cluster, tmp_path: Path) -> AsyncIterator[World]:
    made = World(store, kai, tmp_path)
    await made.until(lambda: made.controller.scheduling.delegating.clusters)
    yield made
    await made.close()


async def test_a_gang_is_placed_by_kai_runs_and_leaves_nothing(world: World):
    uuid = world.submit("gang", "first", 2, 1, 1, Priority.NORMAL)
    assert await world.ends(uuid) is WorkflowStatus.COMPLETED
    assert {t.node for t in world.tasks(uuid)} == {"lab/node-1"}
    queue = await world.api.get(f"{objects.QUEUES}/osmo-pool-osmo-first")
    assert queue["spec"]["resources"]["gpu"] == {"quota": 2, "limit": 4, "overQuotaWeight": 1}
    deadline = time.monotonic() + 30
    while await world.gangs():
        assert time.monotonic() < deadline, "its PodGroup is still there"
        await asyncio.sleep(0.2)


async def test_half_a_gang_never_starts_and_says_what_it_waits_for(world: World):
    uuid = world.submit("wide", "first", GPUS + 1, 1, 1, Priority.LOW)
    await world.until(lambda: all(t.reason is not None for t in world.tasks(uuid)))
    assert {t.status for t in world.tasks(uuid)} == {TaskStatus.SCHEDULING}
    assert {t.node for t in world.tasks(uuid)} == {"lab/*"}
    assert {t.reason.code for t in world.tasks(uuid) if t.reason} == {"Unschedulable"}
    small = world.submit("small", "second", 2, 1, 1, Priority.NORMAL)
    assert await world.ends(small) is WorkflowStatus.COMPLETED
    assert {t.status for t in world.tasks(uuid)} == {TaskStatus.SCHEDULING}


async def test_borrowed_places_are_given_back_to_whom_they_are_owed_and_the_work_runs_again(world: World):
    mine = world.submit("mine", "first", 1, 2, 8, Priority.LOW)
    await world.runs(mine)
    borrowed = world.submit("borrowed", "first", 1, 2, 8, Priority.LOW)
    await world.runs(borrowed)
    owed = world.submit("owed", "second", 1, 2, 2, Priority.NORMAL)
    assert await world.ends(owed) is WorkflowStatus.COMPLETED
    assert await world.ends(mine) is WorkflowStatus.COMPLETED
    assert await world.ends(borrowed) is WorkflowStatus.COMPLETED
    history = [r.message for u in (mine, borrowed) for _, r in world.store.records(u)]
    assert sum("exit code 3006" in message for message in history) == 1, history
    retries = [t.retry_id for u in (mine, borrowed) for t in world.tasks(u)]
    assert sorted(retries) == [0, 1]
    assert all(t.platform_retries == 0 and t.user_retries == 0 for u in (mine, borrowed) for t in world.tasks(u))


async def test_a_topology_binds_kai_too(world: World):
    """One rack has all the places, and then none of the nodes is in any."""
    levels = [{"key": "zone", "label": "test/zone"}, {"key": "rack", "label": "test/rack"}]
    world.store.save_config(Config("POOL", 1, {"first": {"topology_keys": levels}}, "root", 1.0))
    await world.until(lambda: world.controller.scheduling.delegating.levels)
    node = "/api/v1/nodes/node-1"
    await world.api.merge(node, {"metadata": {"labels": {"test/zone": "z", "test/rack": "r"}}})
    near = world.submit("near", "first", 2, 1, 1, Priority.NORMAL, Topology("rack"))
    assert await world.ends(near) is WorkflowStatus.COMPLETED
    found = await world.api.get(f"{objects.TOPOLOGIES}/osmo-pool-osmo-first-topology")
    assert [level["nodeLabel"] for level in found["spec"]["levels"]] == ["test/zone", "test/rack"]
    await world.api.merge(node, {"metadata": {"labels": {"test/zone": None, "test/rack": None}}})
    nowhere = world.submit("nowhere", "first", 2, 1, 1, Priority.NORMAL, Topology("rack"))
    await world.until(lambda: all(t.reason is not None for t in world.tasks(nowhere)))
    assert {t.node for t in world.tasks(nowhere)} == {"lab/*"}
