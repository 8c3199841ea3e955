"""Agents of the test cluster: installed by our chart as an administrator does, and a platform's end for them.

`Front` is as much of a platform as an agent needs, for tests of the backend alone: it takes websockets at the address
that pods reach, and gives local sockets that lead to the cluster. `wall` takes every way into the cluster away.
"""

from __future__ import annotations

import asyncio
import http
import json
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from osmo_ray.backends.kubernetes.tunnel.dialing import WirePipe
from osmo_ray.backends.kubernetes.tunnel.pipes import Pipe, StreamPipe
from osmo_ray.backends.kubernetes.tunnel.switch import Switch
from osmo_ray.backends.kubernetes.tunnel.ways import Ways
from tests.servers.kube.cluster import HERE, HOST_ADDRESS, Cluster

CHART = HERE.parents[2] / "clusters/helm/osmo-backend"
RELEASES = "osmo-system"
HELM = Path(os.environ.get("OSMO_TOOLS") or Path.home() / ".cache/osmo-ray/tools") / "helm/helm"


def run(*argv: str | Path, given: str = "") -> str:
    done = subprocess.run([str(a) for a in argv], input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, argv))} gave {done.returncode}: {done.stderr[-3000:]}{done.stdout[-2000:]}")
    return done.stdout


def helm(*argv: str | Path, given: str = "") -> str:
    """The pinned one that `make kube-tools` built."""
    return run(HELM, *argv, given=given)


def kubectl(kube: Cluster, *argv: str, given: str = "") -> str:
    return run("kubectl", f"--kubeconfig={kube.kubeconfig}", *argv, given=given)


@contextmanager
def installed(kube: Cluster, name: str, url: str, token: str) -> Iterator[None]:
    """The chart for backend `name`, whose tasks run in the namespace `osmo-NAME`."""
    give(kube, name, token)
    image, _, tag = kube.runtime_image.rpartition(":")
    values = {
        "backend": {"name": name, "url": url, "insecureNoTLS": True},
        "token": {"existingSecret": f"{name}-token"},
        "image": {"repository": image, "tag": tag},
        "tasks": {"namespace": f"osmo-{name}", "podSecurity": "privileged"},
        "agent": {
            "networkPolicy": {"ports": [443, 6443, int(url.rpartition(":")[2])]},
            "resources": {"requests": {"cpu": "0"}},  # a gang of the examples wants both cores of a small machine
        },
    }
    at = [f"--kubeconfig={kube.kubeconfig}", "-n", RELEASES]
    helm("install", name, CHART, *at, "-f", "-", "--wait", "--timeout", "120s", given=json.dumps(values))
    try:
        yield
    finally:
        print(kubectl(kube, "logs", "-n", RELEASES, f"deployment/{name}-agent", "--tail=40"))
        helm("uninstall", name, *at, "--wait")
        kubectl(kube, "delete", "namespace", f"osmo-{name}", "--wait=false")


def give(kube: Cluster, name: str, token: str) -> None:
    """Put the token of a backend's agent where the chart looks for it."""
    secret = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {RELEASES}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: {name}-token, namespace: {RELEASES}}}
stringData: {{token: {token}}}
"""
    kubectl(kube, "apply", "-f", "-", given=secret)


def agent_pid(kube: Cluster, name: str) -> int:
    """Of the agent's process on this machine."""
    mark = f"--name={name}\0".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if b"osmo_ray.backends.kubernetes.agent\0" in words and mark in words:
                return int(folder.name)
    pytest.fail(f"no agent of {name} runs")


@contextmanager
def wall(kube: Cluster, *, whole: bool = False) -> Iterator[None]:
    """No way into the cluster's network from here: only what it began itself is answered. `whole`: nothing at all."""
    assert kube.folder is not None
    begun = [] if whole else ["-m", "conntrack", "--ctstate", "NEW"]
    rules = [[chain, "-i", "eth0", *begun, "-j", "DROP"] for chain in ("INPUT", "FORWARD")]
    inside = ["nsenter", f"--net={kube.folder}/net", "--", "iptables", "-w"]
    for rule in rules:
        run(*inside, "-I", *rule)
    try:
        yield
    finally:
        for rule in rules:
            run(*inside, "-D", *rule)


class Front:
    """A platform's end for agents, on a thread of its own."""

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self.switch: Switch
        self.wires: list[ServerConnection] = []
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.url, self._ways = self._do(self._start()).result(20)

    def way(self, cluster: str) -> str:
        """The local socket that leads to a cluster."""
        return self._ways.path(cluster)

    def cut(self) -> None:
        """Break the newest connection off."""
        self._loop.call_soon_threadsafe(self.wires[-1].transport.abort)

    def close(self) -> None:
        self._do(self._stop()).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _do(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _start(self) -> tuple[str, Ways]:
        self.switch = Switch()
        self._server = await serve(self._take, HOST_ADDRESS, 0, process_request=self._judge, max_size=4 << 20)
        return f"http://{HOST_ADDRESS}:{self._server.sockets[0].getsockname()[1]}", Ways(self._dial)

    async def _stop(self) -> None:
        self._server.close()
        await self._ways.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _judge(self, wire: ServerConnection, request: Any) -> Any:
        good = request.headers.get("Authorization") == f"Bearer {self.token}"
        return None if good else wire.respond(http.HTTPStatus.FORBIDDEN, "")

    async def _take(self, wire: ServerConnection) -> None:
        self.wires.append(wire)
        assert wire.request is not None
        await self.switch.agent(wire.request.path.split("/")[4], WirePipe(wire))  # type: ignore[arg-type]

    async def _dial(self, cluster: str) -> Pipe:
        near, far = socket.socketpair()
        task = asyncio.ensure_future(self.switch.caller(cluster, await StreamPipe.of(far)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await StreamPipe.of(near)
