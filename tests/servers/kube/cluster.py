"""A real cluster for a test session: the one that KUBECONFIG names, or one started here from ready programs.

Without KUBECONFIG the programs come from KUBE_BIN, or from what `make kube-tools` built. It fails rather than skips
when the cluster does not come up. A cluster of one's own needs OSMO_TEST_RUNTIME_IMAGE, OSMO_TEST_TASK_IMAGE and
OSMO_TEST_STORAGE_URL beside KUBECONFIG: images that its nodes can have, and storage that its pods and we reach.
"""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import yaml

from osmo_ray.backends.kubernetes.client import HttpApi
from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig
from osmo_ray.objects import scope

HERE = Path(__file__).resolve().parent
UP = HERE.parent / "kube-up"
HOST_ADDRESS, NEAR_ADDRESS, _PODS, _CABLE = "10.77.1.1", "10.77.1.2", "10.78.0.0/24", "osmokube0"
"""This host as the cluster's pods see it, at the other end of a cable into the cluster's network namespace."""
API_PORT, _GATEWAY = int(os.environ.get("OSMO_TEST_KUBE_PORT", "16543")), 18700
_TOOLS = "localhost/osmo-tools:1"
_ALSO = tuple(f"docker.io/library/{name}" for name in ("ubuntu:24.04", "ubuntu:22.04", "alpine:3.18"))
"""Names that examples and tutorials use, for the image that stands in for all of them."""


@dataclass(frozen=True)
class Cluster:
    """Where the cluster is, and what runs in it. `folder` is kube-up's state; None for a cluster of somebody else."""

    kubeconfig: Path
    """An administrator's."""
    storage_url: str
    """For pods."""
    storage: str
    """The same for us."""
    runtime_image: str
    task_image: str
    folder: Path | None = None
    backend_kubeconfig: Path = Path()
    """Of the account that `clusters/kubernetes/backend.yaml` makes: all that the backend may do."""

    def part(self, verb: str, name: str) -> None:
        """`kill` or `start` one part of a cluster of our own."""
        if self.folder is None:
            pytest.fail("this test kills parts of the cluster, so it needs one of its own: unset KUBECONFIG")
        _kube_up(self.folder, verb, name)


def environment(folder: Path | None, *argv: str) -> list[str]:
    return ["env", f"KUBE_DIR={folder}", f"KUBE_PORT={API_PORT}", *argv]


@pytest.fixture(scope="session")
def kube() -> Iterator[Cluster]:
    given = os.environ.get("KUBECONFIG")
    if given:
        storage = os.environ["OSMO_TEST_STORAGE_URL"]
        images = os.environ["OSMO_TEST_RUNTIME_IMAGE"], os.environ["OSMO_TEST_TASK_IMAGE"]
        with tempfile.TemporaryDirectory() as base:
            yield _with_account(Cluster(Path(given), storage, storage, *images), Path(base))
        return
    base = Path(tempfile.mkdtemp(prefix="osmo-kube-"))
    try:
        yield from _own(base)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _own(base: Path) -> Iterator[Cluster]:
    tools = subprocess.run(["bash", HERE / "build.sh"], capture_output=True, text=True, check=True)
    folder, store, key = base / "up", base / "storage", secrets.token_bytes(32)
    _kube_up(folder, "up", KUBE_BIN=tools.stdout.strip())
    gateway = None
    try:
        _cable(folder)
        _images(folder, base)
        store.mkdir()
        serve = [sys.executable, str(HERE / "gateway.py"), str(store), key.hex(), HOST_ADDRESS, str(_GATEWAY)]
        cluster = Cluster(
            folder / "kubeconfig",
            f"osmo+http://{HOST_ADDRESS}:{_GATEWAY}#{scope.grant(key, scope.ALL, '', time.time() + 86400)}",
            store.as_uri(),
            "localhost/osmo-runtime:1",
            "localhost/busybox:1",
            folder,
        )
        gateway = subprocess.Popen(serve, env={**os.environ, "PYTHONPATH": str(HERE.parents[2])})
        _await_gateway()
        yield _with_account(cluster, base)
    finally:
        if gateway is not None:
            gateway.terminate()
            gateway.wait(10)
        subprocess.run(["ip", "link", "del", _CABLE], check=False, capture_output=True)
        _kube_up(folder, "down")


def _with_account(cluster: Cluster, base: Path) -> Cluster:
    """The account of the documents, made and used as they say."""
    manifest = HERE.parents[2] / "clusters/kubernetes/backend.yaml"
    kubeconfig = base / "backend.kubeconfig"
    kubeconfig.write_text(asyncio.run(_account(cluster.kubeconfig, manifest)))
    return replace(cluster, backend_kubeconfig=kubeconfig)


async def _account(admin: Path, manifest: Path) -> str:
    access, config = open_kubeconfig(admin.read_text()), yaml.safe_load(admin.read_text())
    api = HttpApi(access)
    for one in yaml.safe_load_all(manifest.read_text()):
        group, kind, meta = one["apiVersion"], one["kind"].lower() + "s", one["metadata"]
        base = f"/apis/{group}" if "/" in group else f"/api/{group}"
        below = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
        await api.apply(f"{base}{below}/{kind}/{meta['name']}", one)
    token = ""
    while not token:
        found = await api.get("/api/v1/namespaces/osmo/secrets/osmo-backend-token")
        token = base64.b64decode((found.get("data") or {}).get("token", "")).decode()
        await asyncio.sleep(0.05)
    await api.close()
    config["users"] = [{"name": "osmo-backend", "user": {"token": token}}]
    config["contexts"][0]["context"].update(user="osmo-backend", namespace="osmo")
    return str(yaml.safe_dump(config))


def _cable(folder: Path) -> None:
    """A way between this host and the cluster's nodes and pods; nothing else goes over it."""
    subprocess.run(["ip", "link", "del", _CABLE], check=False, capture_output=True)
    inside = ["nsenter", f"--net={folder}/net", "--"]
    for argv in (
        ["ip", "link", "add", _CABLE, "type", "veth", "peer", "name", "eth0", "netns", f"kube-up-{API_PORT}"],
        ["ip", "addr", "add", f"{HOST_ADDRESS}/24", "dev", _CABLE],
        ["ip", "link", "set", _CABLE, "up"],
        [*inside, "ip", "addr", "add", f"{NEAR_ADDRESS}/24", "dev", "eth0"],
        [*inside, "ip", "link", "set", "eth0", "up"],
        ["ip", "route", "add", _PODS, "via", NEAR_ADDRESS],
    ):
        subprocess.run(argv, check=True, capture_output=True)


def _kube_up(folder: Path, *argv: str, **more: str) -> None:
    done = subprocess.run(
        environment(folder, "bash", str(UP), *argv), env={**os.environ, **more}, capture_output=True, text=True
    )
    if done.returncode:
        pytest.fail(f"kube-up {argv[0]} gave {done.returncode}: {done.stderr[-2000:]}", pytrace=False)


def _images(folder: Path, base: Path) -> None:
    """Ours, and one with the usual programs under the names that examples use."""
    tools = Path(os.environ.get("OSMO_TOOLS") or Path.home() / ".cache/osmo-ray/tools")
    launcher = tools / "launcher/osmo-launcher"
    subprocess.run([sys.executable, HERE / "runtime_image.py", launcher, base / "image"], check=True)
    _kube_up(folder, "image", "localhost/osmo-runtime:1", str(base / "image"))
    subprocess.run([sys.executable, HERE / "tools_image.py", base / "tools"], check=True)
    _kube_up(folder, "image", _TOOLS, str(base / "tools"))
    tag = ["ctr", "-a", folder / "ctd.sock", "-n", "k8s.io", "images", "tag", _TOOLS, *_ALSO]
    subprocess.run(tag, check=True, capture_output=True)


def _await_gateway() -> None:
    until = time.monotonic() + 30
    while True:
        with socket.socket() as probe:
            if probe.connect_ex((HOST_ADDRESS, _GATEWAY)) == 0:
                return
        if time.monotonic() > until:
            pytest.fail("the storage gateway did not come up", pytrace=False)
        time.sleep(0.1)
