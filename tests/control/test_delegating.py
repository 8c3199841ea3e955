"""Clusters that place by themselves: their groups leave at once, carry what placing needs, and learn their node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest

from osmo_ray.backends.fake import Ending, FakeBackend
from osmo_ray.backends.many import ManyBackends
from osmo_ray.control.clusters import Clusters, Registration
from osmo_ray.control.controller import Controller
from osmo_ray.spec.attempt import AttemptKey, GroupPlan, NodeReport, Observation, Phase
from osmo_ray.spec.model import ResourceSpec, Topology
from osmo_ray.spec.reason import Reason
from osmo_ray.store.protocol import Cluster, Config, Store
from tests.control.conftest import submit
from tests.control.test_clusters import until
from tests.control.test_topology_in_control import gang

ROW = Cluster("lab", "", Registration(("lab",), scheduler="kai").to_json(), 1.0)


class Own(FakeBackend):
    """A cluster with its own scheduler: attempts come with no node, and it says when they have one."""

    def __init__(self) -> None:
        nodes = [NodeReport("n1", "10.0.0.1", 4.0, 8 << 30, 0, 1 << 40, platform="default")]
        super().__init__("lab", nodes, script=lambda _: Ending(float("inf")))
        self.got: list[GroupPlan] = []
        self.seen: dict[AttemptKey, Observation] = {}

    async def apply(self, epoch: int, plans: Sequence[GroupPlan]) -> Mapping[str, Reason]:
        self.got += plans
        for plan in plans:
            for attempt in plan.attempts:
                if attempt.key not in self.seen:
                    self.tell(attempt.key, Phase.PENDING, reason=Reason("Unschedulable", "queue is full"))
        return {}

    async def list(self) -> Sequence[Observation]:
        return tuple(self.seen.values())

    def tell(self, key: AttemptKey, phase: Phase, node: str = "", reason: Reason | None = None) -> None:
        self.seen[key] = Observation(key, phase, self.clock(), node, reason=reason)
        self._news.put_nowait(self.seen[key])


@pytest.fixture
async def world(store: Store, start: Callable[..., Controller]) -> tuple[Own, Controller]:
    lab = Own()
    many = ManyBackends(FakeBackend("local", []))
    controller = start(many, clusters=Clusters(many, lambda row: lab))
    store.save_cluster(ROW)
    store.save_config(Config("POOL", 1, {"default": {"topology_keys": [{"key": "rack", "label": "r"}]}}, "root", 1.0))
    await until(lambda: controller.scheduling.delegating.clusters and controller.scheduling.delegating.levels)
    return lab, controller


async def test_a_group_goes_there_whatever_room_there_seems_to_be_and_learns_its_node(
    store: Store, world: tuple[Own, Controller]
):
    lab, controller = world
    wanted = gang({"a": 64, "b": 0}, {"a": (Topology("rack"),), "b": (Topology("rack"),)})
    resources = {**wanted.resources, "b": replace(wanted.resources["b"], nodes_excluded=("n9",))}
    made = submit(store, replace(wanted, resources=resources), backend="lab")
    controller.wake()
    await until(lambda: lab.got)
    plan = lab.got[0]
    assert plan.delegated is not None
    a, b = (t.key for t in plan.attempts)
    assert [t.node for t in plan.attempts] == ["*", "*"]
    assert plan.delegated.platforms == {a: "default", b: "default"}
    assert plan.delegated.excluded == {b: ("n9",)}
    assert (plan.delegated.levels, plan.delegated.share) == (("r",), (-1.0, -1.0, 1.0))
    assert [(set(near.keys), near.required) for near in plan.delegated.parts] == [({a, b}, "r")]
    await until(lambda: _task(controller, a).reason is not None)
    assert _task(controller, a).reason.sentence == "queue is full"
    assert _task(controller, a).node == "lab/*"
    lab.tell(a, Phase.RUNNING, "n1")
    await until(lambda: _task(controller, a).node == "lab/n1")
    assert _task(controller, b).node == "lab/*"
    lab.tell(a, Phase.FINISHED, "n1", Reason("Preempted", "another queue is owed it"))
    found = store.load([made.uuid])[0]
    assert found.groups[0].name == wanted.groups[0].name


async def test_what_waits_there_is_not_lost_for_having_no_node(store: Store, world: tuple[Own, Controller]):
    lab, controller = world
    submit(store, gang({"a": 1}, {}), backend="lab")
    controller.wake()
    await until(lambda: lab.got)
    key = lab.got[0].attempts[0].key
    before = controller.counts.get("observations", 0)
    await controller._look()
    await controller._look()
    assert _task(controller, key).retry_id == 0
    assert controller.counts.get("observations", 0) >= before


async def test_other_work_is_placed_by_us_as_ever(store: Store, start: Callable[..., Controller]):
    many = ManyBackends(FakeBackend("local"))
    controller = start(many, clusters=Clusters(many, lambda row: Own()))
    store.save_cluster(ROW)
    await until(lambda: controller.scheduling.delegating.clusters)
    made = submit(store, replace(gang({"a": 0}, {}), resources={"a": ResourceSpec(cpu=1)}))
    controller.wake()
    await until(lambda: store.load([made.uuid])[0].status.finished)


def _task(controller: Controller, key: AttemptKey):
    found = controller.ledger.task(key.task_uuid)
    assert found is not None
    return found
