"""Registered clusters as the loops see them: kept in step with the store, placed by pool, never lost while silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from osmo_ray.backends.fake import Ending, FakeBackend
from osmo_ray.backends.kubernetes.settings import ClusterSettings, Platform
from osmo_ray.backends.many import ManyBackends
from osmo_ray.control import templates
from osmo_ray.control.clusters import ClusterError, Clusters, Registration, connect, seal
from osmo_ray.control.controller import Controller
from osmo_ray.spec.attempt import NodeReport, Observation, Phase
from osmo_ray.spec.reason import Reason
from osmo_ray.store.protocol import Cluster, Config, Store
from tests.control.conftest import spec, submit

NODE = NodeReport("n1", "10.0.0.1", 4.0, 8 << 30, 0, 1 << 40, platform="default")
ROW = Cluster("lab", "", Registration(("lab",)).to_json(), 1.0)


class World:
    """A controller whose platform has one node of its own, and one cluster in the store."""

    def __init__(self, store: Store, start: Callable[..., Controller]) -> None:
        self.store = store
        self.own = FakeBackend("local", [replace(NODE, platform="local")])
        self.lab = FakeBackend("lab", [NODE], script=lambda _: Ending(float("inf")))
        self.many = ManyBackends(self.own)
        self.controller = start(self.many, clusters=Clusters(self.many, lambda row: self.lab))


async def until(what: Callable[[], object], limit: float = 15.0) -> None:
    deadline = time.monotonic() + limit
    while not what():
        assert time.monotonic() < deadline, "it did not come about in time"
        await asyncio.sleep(0.02)


def test_a_registration_is_read_as_it_was_written():
    platform = Platform("a100", {"gpu": "a100"}, ({"key": "k", "operator": "Exists"},))
    made = Registration(("p", "q"), "c", "ns", "image", "s3://b", (Platform("default"), platform), {"spec": {}})
    assert Registration.from_json(made.to_json()) == made


def test_a_kubeconfig_opens_with_its_key_and_for_its_name_only(tmp_path: Path):
    text = """
current-context: c
clusters: [{name: k, cluster: {server: "https://h:1"}}]
users: [{name: u, user: {token: abc}}]
contexts: [{name: c, context: {cluster: k, user: u, namespace: team}}]
"""
    row = replace(ROW, sealed=seal(tmp_path / "key", "lab", text))
    assert "abc" not in row.sealed
    assert connect(row, tmp_path / "key", "owner", "").name == "lab"
    with pytest.raises(ClusterError, match="does not open"):
        connect(replace(row, name="other"), tmp_path / "key", "owner", "")


async def test_clusters_follow_the_store():
    many = ManyBackends(FakeBackend())
    clusters = Clusters(many, lambda row: FakeBackend(row.name))
    assert await clusters.update([ROW]) == {"lab": "lab/default"}
    assert set(many.clusters) == {"lab"} and await clusters.update([ROW]) is None
    assert await clusters.update([]) == {} and set(many.clusters) == set()


async def test_a_cluster_that_cannot_be_opened_stops_nobody():
    def broken(row: Cluster) -> FakeBackend:
        raise ClusterError("no")

    many = ManyBackends(FakeBackend())
    assert await Clusters(many, broken).update([ROW]) == {"lab": "lab/default"}
    assert set(many.clusters) == set()


async def test_work_of_a_clusters_pool_runs_there_and_nowhere_else(store: Store, start: Callable[..., Controller]):
    """Also when the cluster is registered after the work was handed in."""
    world = World(store, start)
    made = submit(store, spec(("a", ())), backend="lab")
    at_home = submit(store, spec(("a", ())))
    await until(lambda: store.load([at_home.uuid])[0].status.finished)
    assert store.load([made.uuid])[0].groups[0].tasks[0].node == ""
    store.save_cluster(ROW)
    await until(lambda: len(world.lab.started) == 1)
    await until(lambda: store.load([made.uuid])[0].groups[0].tasks[0].node == "lab/n1")
    assert len(world.own.started) == 1


async def test_a_silent_cluster_loses_no_work(store: Store, start: Callable[..., Controller]):
    """For much longer than the lease after which a silent node of our own counts as lost (1 s here)."""
    store.save_cluster(ROW)
    world = World(store, start)
    made = submit(store, spec(("a", ())), backend="lab")
    await until(lambda: store.load([made.uuid])[0].groups[0].tasks[0].status.value == "RUNNING")
    world.lab.unplug()
    await until(lambda: world.many.offline == {"lab"})
    began = time.monotonic()
    await until(lambda: time.monotonic() - began > 3.0)
    task = store.load([made.uuid])[0].groups[0].tasks[0]
    assert (task.status.value, task.retry_id) == ("RUNNING", 0)
    rows = {backend: node for backend, _, node in store.nodes()}
    assert not rows["lab"].alive and rows["local"].alive


async def test_an_event_of_the_cluster_is_told_and_kept_as_the_reason(store: Store, start: Callable[..., Controller]):
    store.save_cluster(ROW)
    world = World(store, start)
    made = submit(store, spec(("a", ())), backend="lab")
    await until(lambda: len(world.lab.started) == 1)
    key = world.lab.started[0]
    reason = Reason("FailedMount", "the volume is not there")
    world.lab._news.put_nowait(Observation(key, Phase.PENDING, time.time(), "n1", reason=reason))
    await until(lambda: any(r.kind == "FailedMount" for _, r in store.records(made.uuid)))


def test_pods_of_a_pool_are_merged_over_its_templates(store: Store):
    """The cluster's own first, then the pool's in order, then the platform's; other pools have only the first."""
    gpu = Platform("gpu")
    lab = Registration(
        ("lab", "other"), platforms=(Platform("default"), gpu), template={"spec": {"a": 1, "b": 1, "c": 1}}
    )
    row = replace(ROW, settings=lab.to_json())
    pool = {"common_pod_template": ["one", "two"], "platforms": {"gpu": {"override_pod_template": ["three"]}}}
    assert templates.read(store, [row]) == {}
    parts = {"one": {"spec": {"b": 2, "d": 2}}, "two": {"spec": {"d": 3}}, "three": {"spec": {"d": 4}}}
    store.save_config(Config("POD_TEMPLATE", 1, parts, "ann", 1.0))
    store.save_config(Config("POOL", 1, {"lab": pool, "other": {}}, "ann", 1.0))
    found = templates.read(store, [row])["lab"]
    assert found == {
        "lab/default": {"spec": {"a": 1, "b": 2, "c": 1, "d": 3}},
        "lab/gpu": {"spec": {"a": 1, "b": 2, "c": 1, "d": 4}},
    }
    settings = ClusterSettings("owner", "s3://b", "image", template=lab.template, templates=found)
    assert settings.template_of("lab", gpu)["spec"]["d"] == 4
    assert settings.template_of("other", gpu) == lab.template


async def test_a_running_controller_hands_templates_on(store: Store, start: Callable[..., Controller]):
    class Lab(FakeBackend):
        told: object = None

        def use_templates(self, templates: object) -> None:
            self.told = templates

    lab = Lab("lab", [NODE])
    many = ManyBackends(FakeBackend("local", [replace(NODE, platform="local")]))
    start(many, clusters=Clusters(many, lambda row: lab))
    store.save_cluster(ROW)
    store.save_config(Config("POD_TEMPLATE", 1, {"base": {"spec": {"x": 1}}}, "ann", 1.0))
    store.save_config(Config("POOL", 1, {"lab": {"common_pod_template": ["base"]}}, "ann", 1.0))
    await until(lambda: lab.told == {"lab/default": {"spec": {"x": 1}}})
