"""KAI's scheduler and binder beside the test cluster, its kinds in it, and pretended GPUs on its node."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from osmo_ray.backends.kubernetes.client import ApiError, HttpApi
from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig
from tests.servers.kube.cluster import Cluster

HERE = Path(__file__).resolve().parent
GPUS = 4
_CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_WANTED = ("queues", "podgroups", "bindrequests", "topologies", "configs", "schedulingshards")


@pytest.fixture(scope="module")
def kai(kube: Cluster) -> Iterator[Cluster]:
    """The cluster, with KAI at work in it."""
    built = subprocess.run(["bash", HERE / "build.sh", "kai"], capture_output=True, text=True, check=True)
    folder = Path(built.stdout.strip())
    asyncio.run(_prepare(kube, folder / "crds"))
    base = Path(tempfile.mkdtemp(prefix="osmo-kai-"))
    parts = [_start(base, kube, folder / name, more) for name, more in _ARGUMENTS.items()]
    try:
        yield kube
        for part in parts:
            if part.poll() is not None:
                pytest.fail(f"{part.args[0]} ended by itself: {_last(base)}")  # type: ignore[index]
    finally:
        for part in parts:
            part.kill()
            part.wait()
        asyncio.run(_clear(kube, folder / "crds"))
        shutil.rmtree(base, ignore_errors=True)


_ARGUMENTS = {
    "kai-scheduler": [
        "--listen-address=127.0.0.1:0", "--plugin-server-port=18081", "--schedule-period=300ms", "--leader-elect=false",
    ],
    "kai-binder": ["--metrics-bind-address=0", "--health-probe-bind-address=0", "--fake-gpu-nodes"],
}  # fmt: skip


def _start(base: Path, kube: Cluster, program: Path, more: list[str]) -> subprocess.Popen[bytes]:
    with (base / f"{program.name}.log").open("wb") as log:
        environ = {**os.environ, "KUBECONFIG": str(kube.kubeconfig)}
        return subprocess.Popen([str(program), *more], env=environ, stdout=log, stderr=subprocess.STDOUT)


def _last(base: Path) -> str:
    return "\n".join(path.read_text(errors="replace")[-1500:] for path in base.glob("*.log"))


async def _prepare(kube: Cluster, crds: Path) -> None:
    api = HttpApi(open_kubeconfig(kube.kubeconfig.read_text()))
    try:
        for path in sorted(crds.glob("*.yaml")):
            value = yaml.safe_load(path.read_text())
            if value["spec"]["names"]["plural"] in _WANTED:
                await api.apply(f"{_CRDS}/{value['metadata']['name']}", value)
        for value in yaml.safe_load_all((HERE.parents[2] / "clusters/kubernetes/kai.yaml").read_text()):
            await api.apply(path_of(value), value)
        for plural in _WANTED[:4]:
            await _served(api, plural)
        node = (await api.get("/api/v1/nodes"))["items"][0]["metadata"]["name"]
        amount = {"nvidia.com/gpu": str(GPUS)}
        await api.merge(f"/api/v1/nodes/{node}/status", {"status": {"capacity": amount}})
        while (await api.get(f"/api/v1/nodes/{node}"))["status"]["allocatable"].get("nvidia.com/gpu") != str(GPUS):
            await asyncio.sleep(0.3)
    finally:
        await api.close()


async def _clear(kube: Cluster, crds: Path) -> None:
    """Its kinds, and with them all objects of them."""
    api = HttpApi(open_kubeconfig(kube.kubeconfig.read_text()))
    try:
        for name in [yaml.safe_load(path.read_text())["metadata"]["name"] for path in crds.glob("*.yaml")]:
            await api.delete(f"{_CRDS}/{name}")
            while await _there(api, f"{_CRDS}/{name}"):
                await asyncio.sleep(0.2)
    finally:
        await api.close()


async def _there(api: HttpApi, path: str) -> bool:
    try:
        await api.get(path)
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True


async def _served(api: HttpApi, plural: str) -> None:
    """A kind is served a moment after it was defined."""
    group, version = {"topologies": ("kai.scheduler", "v1alpha1"), "queues": ("scheduling.run.ai", "v2")}.get(
        plural, ("scheduling.run.ai", "v1alpha2" if plural == "bindrequests" else "v2alpha2")
    )
    while True:
        try:
            await api.get(f"/apis/{group}/{version}/{plural}")
            return
        except ApiError as error:
            if error.status != 404:
                raise
            await asyncio.sleep(0.2)


def path_of(value: dict[str, Any]) -> str:
    """Where an object is, by the plural that its kind has in every case that is used here."""
    group, kind, meta = value["apiVersion"], value["kind"].lower(), value["metadata"]
    plural = kind + ("es" if kind.endswith("s") else "s")
    base = f"/apis/{group}" if "/" in group else f"/api/{group}"
    below = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
    return f"{base}{below}/{plural}/{meta['name']}"
