"""What tests of a platform with a registered cluster share."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from osmo_ray.backends.kubernetes.client import HttpApi
from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig
from tests.e2e.harness import Platform, until
from tests.servers.kube.cluster import HOST_ADDRESS, Cluster

LEASE = 6.0
"""Seconds for which an attempt of our own nodes runs without a word from a controller."""
UP = ("--listen", HOST_ADDRESS, "--insecure-no-tls", "--storage-gateway")
"""How such a platform is brought up."""
PODS = "/api/v1/namespaces/osmo/pods"


def register(platform: Platform, kube: Cluster, *options: str) -> None:
    """The cluster becomes the backend and the pool `kube`."""
    account = ("--kubeconfig", str(kube.backend_kubeconfig), "--runtime-image", kube.runtime_image)
    platform.cli("backend", "add", "kube", *account, *options)
    until(lambda: backend(platform)["status"] == "ONLINE", 60)


def backend(platform: Platform) -> dict[str, Any]:
    found = json.loads(platform.cli("backend", "list", "-t", "json").stdout)["backends"]
    return next(b for b in found if b["name"] == "kube")


def one(image: str, command: str, memory: str = "64Mi", more: str = "") -> str:
    """A workflow of one task. `more` are further lines of the task."""
    return f"""
workflow:
  name: one
  resources:
    default: {{cpu: 1, memory: {memory}, storage: 64Mi}}
  tasks:
  - name: only
    image: {image}
    command: {command}
""" + "".join(f"    {line}\n" for line in more.splitlines())


def run(platform: Platform, text: str) -> tuple[str, dict[str, Any]]:
    """Submit to the cluster, wait; the workflow's id and its one task."""
    name = platform.submit(text, "--pool", "kube")
    platform.wait(name)
    return name, platform.tasks(name)["only"]


def completed(platform: Platform, text: str, *options: str) -> str:
    """Submit to the cluster and wait for success; the workflow's id."""
    name = platform.submit(text, "--pool", "kube", *options)
    assert platform.wait(name) == "COMPLETED", platform.cli("workflow", "explain", name).stdout
    return name


def said(platform: Platform, name: str, task: str = "") -> list[str]:
    """What the commands of a workflow wrote, line by line."""
    only = ("--task", task) if task else ()
    log = platform.cli("workflow", "logs", name, *only).stdout
    return [line.split("] ", 1)[1] for line in log.splitlines() if "][osmo]" not in line]


def asked(kube: Cluster, verb: str, path: str, *rest: Any) -> Any:
    """One call to the cluster as its administrator."""

    async def ask() -> Any:
        api = HttpApi(open_kubeconfig(kube.kubeconfig.read_text()))
        try:
            return await getattr(api, verb)(path, *rest)
        finally:
            await api.close()

    return asyncio.run(ask())


def objects(kube: Cluster, kind: str, workflow: str) -> list[dict[str, Any]]:
    """Pods or Secrets of a workflow, by its uuid."""
    selector = {"labelSelector": f"osmo-ray/workflow={workflow}"}
    return list(asked(kube, "get", f"/api/v1/namespaces/osmo/{kind}", selector)["items"])


def pod(platform: Platform, kube: Cluster, name: str) -> dict[str, Any]:
    """The one pod of a workflow of one task."""
    (found,) = objects(kube, "pods", platform.query(name)["uuid"])
    return found
