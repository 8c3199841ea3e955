"""A platform with a registered cluster, end to end on a real node: the same files run there as at home."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import ROOT, Platform, until
from tests.servers.kube.cluster import HOST_ADDRESS, Cluster

pytestmark = pytest.mark.kubernetes


@pytest.fixture(scope="module")
def platform(kube: Cluster) -> Iterator[Platform]:
    """A platform that pods can reach, with the cluster registered as `kube`."""
    home = Path(tempfile.mkdtemp(prefix="osmo-kube-e2e-"))
    made = Platform(home, host=HOST_ADDRESS)
    try:
        made.up("--listen", HOST_ADDRESS, "--insecure-no-tls", "--storage-gateway")
        made.cli("login", made.url, "--method", "token", "--token-file", str(home / "admin.token"))
        register(made, kube)
        yield made
    finally:
        made.down()
        shutil.rmtree(home, ignore_errors=True)


def register(platform: Platform, kube: Cluster) -> None:
    platform.cli("backend", "add", "kube", "--kubeconfig", str(kube.kubeconfig), "--runtime-image", kube.runtime_image)
    until(lambda: backend(platform)["status"] == "ONLINE", 60)


def backend(platform: Platform) -> dict[str, Any]:
    found = json.loads(platform.cli("backend", "list", "-t", "json").stdout)["backends"]
    return next(b for b in found if b["name"] == "kube")


def one(image: str, command: str, memory: str = "64Mi") -> str:
    """A workflow of one task."""
    return f"""
workflow:
  name: one
  resources:
    default: {{cpu: 1, memory: {memory}, storage: 64Mi}}
  tasks:
  - name: only
    image: {image}
    command: {command}
"""


def run(platform: Platform, text: str) -> tuple[str, dict[str, Any]]:
    """Submit to the cluster, wait; the workflow's id and its one task."""
    name = platform.submit(text, "--pool", "kube")
    platform.wait(name)
    return name, platform.tasks(name)["only"]


def test_the_quickstart_gives_the_same_results_as_at_home(platform: Platform):
    text = (ROOT / "examples/quickstart/workflow.yaml").read_text()
    names = [platform.submit(text, "--pool", pool) for pool in ("default", "kube")]
    reports = []
    for name in names:
        assert platform.wait(name) == "COMPLETED", platform.cli("workflow", "explain", name).stdout
        reports.append(platform.cli("workflow", "logs", name, "--task", "report").stdout)
    at_home, there = (text.partition("sum of the even")[2].partition("\n")[0] for text in reports)
    assert at_home == there and "250500" in there
    assert {t["node_name"] for t in platform.tasks(names[1]).values()} == {"kube/node-1"}


def test_an_image_that_cannot_be_had_fails_at_once(platform: Platform):
    name, task = run(platform, one("localhost/nothing:1", '["true"]'))
    assert task["status"] == "FAILED_IMAGE_PULL" and task["exit_code"] in (301, 302)
    assert "localhost/nothing:1" in platform.cli("workflow", "explain", name).stdout


def test_a_task_that_takes_too_much_memory_is_evicted(platform: Platform):
    _, task = run(platform, one("localhost/osmo-runtime:1", """[python3, -c, "b'x' * (200 << 20)"]"""))
    assert (task["status"], task["exit_code"]) == ("FAILED_EVICTED", 3004)


def test_a_cancelled_workflow_leaves_nothing_in_the_cluster(platform: Platform, kube: Cluster):
    name = platform.submit(one("ubuntu:24.04", "[sleep, '600']"), "--pool", "kube")
    platform.running(name, "only")
    platform.cli("workflow", "cancel", name)
    assert platform.wait(name) == "FAILED_CANCELED"
    workflow = platform.query(name)["uuid"]
    until(lambda: not objects(kube, "pods", workflow) and not objects(kube, "secrets", workflow), 60)


def objects(kube: Cluster, kind: str, workflow: str) -> list[str]:
    import asyncio

    from osmo_ray.backends.kubernetes.client import HttpApi
    from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig

    async def ask() -> list[str]:
        api = HttpApi(open_kubeconfig(kube.kubeconfig.read_text()))
        try:
            selector = {"labelSelector": f"osmo-ray/workflow={workflow}"}
            found = await api.get(f"/api/v1/namespaces/default/{kind}", selector)
            return [str(one["metadata"]["name"]) for one in found["items"]]
        finally:
            await api.close()

    return asyncio.run(ask())
