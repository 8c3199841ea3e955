"""What goes wrong in a real cluster, and how its tasks end: nothing finished runs again, and what was lost does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.harness import Platform, commands, until
from tests.e2e.kube import PODS, UP, asked, backend, objects, one, pod, said
from tests.e2e.test_kubernetes_tasks import pool, update
from tests.servers.kube.cluster import Cluster

pytestmark = pytest.mark.kubernetes
NODE = "/api/v1/nodes/node-1"
TWO = """
workflow:
  name: two
  resources:
    default: {{cpu: 0, memory: 64Mi, storage: 64Mi}}
  tasks:
  - {{name: first, image: "ubuntu:24.04", command: [sh, -c, "echo first; echo x >{{{{output}}}}/x"]}}
  - name: second
    image: ubuntu:24.04
    command: [sh, -c, "cat {{{{input:0}}}}/x; sleep 5; echo whole # {mark}"]
    inputs: [{{task: first}}]
"""
ONCE_LOST = "[sh, -c, 'echo $OSMO_RETRY_ID; test $OSMO_RETRY_ID != 0 || sleep 600']"


@pytest.fixture(scope="module")
def platform(kube_platform: Platform) -> Platform:
    return kube_platform


def ready(kube: Cluster) -> bool:
    found = asked(kube, "get", "/api/v1/nodes")["items"]
    conditions = [c for node in found for c in node["status"]["conditions"]]
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def half_way(platform: Platform, mark: str) -> str:
    """A workflow whose first task has finished and whose second runs."""
    id = platform.submit(TWO.format(mark=mark), "--pool", "kube")
    platform.running(id, "second")
    until(lambda: commands(mark), 30)
    return id


def ends_as_if_nothing_was(platform: Platform, id: str) -> None:
    assert platform.wait(id) == "COMPLETED", platform.cli("explain", id).stdout
    assert {name: task["retry_id"] for name, task in platform.tasks(id).items()} == {"first": 0, "second": 0}
    assert said(platform, id) == ["first", "x", "whole"]


@pytest.mark.parametrize("part", ["kubelet", "etcd", "containerd"])
def test_a_part_of_the_cluster_is_killed_and_comes_back(platform: Platform, kube: Cluster, part: str):
    """The command ends while it is away."""
    mark = f"mark-{platform.home.name}-{part}"
    id = half_way(platform, mark)
    kube.part("kill", part)
    try:
        until(lambda: not commands(mark), 30)
    finally:
        kube.part("start", part)
    ends_as_if_nothing_was(platform, id)
    until(lambda: backend(platform)["status"] == "ONLINE" and ready(kube), 60)


def test_the_controller_is_killed_and_adopts(platform: Platform):
    mark = f"mark-{platform.home.name}-controller"
    id = half_way(platform, mark)
    platform.kill("ControllerActor")
    until(lambda: not commands(mark), 30)
    ends_as_if_nothing_was(platform, id)


def test_the_platform_goes_down_and_comes_up_with_pods_alive(platform: Platform, kube: Cluster):
    """One ends while it is down, one after it; both are adopted."""
    mark = f"mark-{platform.home.name}-down"
    ended = half_way(platform, mark)
    script = "until test -e /tmp/go; do sleep 0.1; done; echo after"
    stays = platform.submit(one("ubuntu:24.04", f"[sh, -c, '{script}']"), "--pool", "kube")
    platform.running(stays, "only")
    platform.cli("down", "--keep-tasks", timeout=120)
    until(lambda: not commands(mark), 30)
    platform.up(*UP)
    ends_as_if_nothing_was(platform, ended)
    until(lambda: backend(platform)["status"] == "ONLINE", 60)
    platform.cli("workflow", "exec", stays, "only", "--", "touch", "/tmp/go")
    assert platform.wait(stays) == "COMPLETED"
    assert platform.tasks(stays)["only"]["retry_id"] == 0 and said(platform, stays) == ["after"]
    until(lambda: not objects(kube, "pods", platform.query(stays)["uuid"]), 60)


def drain(platform: Platform, kube: Cluster, id: str) -> None:
    """What `kubectl drain` does to a pod."""
    name = pod(platform, kube, id)["metadata"]["name"]
    value = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    asked(kube, "create", f"{PODS}/{name}/eviction", {**value, "deleteOptions": {"gracePeriodSeconds": 1}})


def delete(platform: Platform, kube: Cluster, id: str) -> None:
    asked(kube, "delete", f"{PODS}/{pod(platform, kube, id)['metadata']['name']}", 1)


def remove_node(platform: Platform, kube: Cluster, id: str) -> None:
    """The node has gone for good; another one of its name comes. The cluster itself takes a minute to notice."""
    kube.part("kill", "kubelet")
    try:
        asked(kube, "delete", NODE)
        until(lambda: platform.tasks(id)["only"]["retry_id"] == 1, 120)
    finally:
        kube.part("start", "kubelet")
    until(lambda: ready(kube), 60)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [(drain, "eviction"), (delete, "deleted by somebody else"), (remove_node, "node")],
)
def test_what_the_cluster_takes_away_runs_again(
    platform: Platform, kube: Cluster, fault: Callable[[Platform, Cluster, str], None], reason: str
):
    id = platform.submit(one("ubuntu:24.04", ONCE_LOST), "--pool", "kube")
    platform.running(id, "only")
    fault(platform, kube, id)
    assert platform.wait(id) == "COMPLETED", platform.cli("explain", id).stdout
    task = platform.tasks(id)["only"]
    assert (task["status"], task["retry_id"], task["exit_code"]) == ("COMPLETED", 1, 0)
    lost = next(t for g in platform.query(id)["groups"] for t in g["tasks"] if t["retry_id"] == 0)
    assert (lost["status"], lost["exit_code"]) == ("RESCHEDULED", 3001)
    assert reason in platform.cli("workflow", "events", id).stdout.lower()


def test_a_deadline_of_the_clusters_own_ends_a_task(platform: Platform):
    update(platform, "POD_TEMPLATE", "short", {"spec": {"activeDeadlineSeconds": 3}})
    text = one("ubuntu:24.04", "[sh, -c, 'sleep 8']")

    def end() -> dict[str, Any]:
        id = platform.submit(text, "--pool", "kube")
        platform.wait(id)
        return dict(platform.tasks(id)["only"])

    with pool(platform, common_pod_template=["short"]):
        task = until(lambda: (found := end())["status"] != "COMPLETED" and found, 90)
    assert (task["status"], task["exit_code"]) == ("FAILED_BACKEND_ERROR", 3001)
    until(lambda: end()["status"] == "COMPLETED", 90)
