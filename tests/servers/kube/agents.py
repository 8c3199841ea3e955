"""Agents of the test cluster: installed by our chart as an administrator does, and a platform's end for them.

`Front` is as much of a platform as an agent needs, for tests of the backend alone: it takes websockets at the address
that pods reach, and gives local sockets that lead to the cluster. `wall` takes every way into the cluster away.
"""

from __future__ import annotations

import asyncio
import base64
import http
import json
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.server import ServerConnection, serve

from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig
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


class Admin:
    """The test cluster's API server, as an administrator who waits for each answer."""

    def __init__(self, kube: Cluster) -> None:
        access = open_kubeconfig(kube.kubeconfig.read_text())
        verify = access.context if access.context is not None else True
        self._http = httpx.Client(base_url=access.server, headers=access.header, verify=verify, timeout=30)

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def apply(self, value: Mapping[str, Any], *, dry: bool = False) -> str:
        """Make it so, or only ask whether it could be; unknown fields are refused. What the server warns of."""
        query = {
            "fieldManager": "tests",
            "force": "true",
            "fieldValidation": "Strict",
            **({"dryRun": "All"} if dry else {}),
        }
        headers = {"Content-Type": "application/apply-patch+yaml"}
        answer = self._http.patch(path_of(value), params=query, content=json.dumps(value), headers=headers)
        assert answer.is_success, f"{value['kind']} {value['metadata']['name']}: {answer.text[:1000]}"
        return answer.headers.get("Warning", "")

    def text(self, path: str, query: Mapping[str, str] = {}) -> str:
        """What stands there; empty when nothing does."""
        answer = self._http.get(path, params=query)
        return answer.text if answer.is_success else ""

    def delete(self, path: str) -> None:
        self._http.delete(path)


def path_of(value: Mapping[str, Any]) -> str:
    """Where an object is, by the plural of its kind."""
    group, kind, meta = value["apiVersion"], str(value["kind"]).lower(), value["metadata"]
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else kind + ("es" if kind.endswith("s") else "s")
    base = f"/apis/{group}" if "/" in group else f"/api/{group}"
    below = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
    return f"{base}{below}/{plural}/{meta['name']}"


def namespace(name: str, security: str = "") -> dict[str, Any]:
    labels = {"pod-security.kubernetes.io/enforce": security} if security else {}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


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
        with Admin(kube) as admin:
            print(_last_words(admin, name))
            helm("uninstall", name, *at, "--wait")
            admin.delete(f"/api/v1/namespaces/osmo-{name}")


def give(kube: Cluster, name: str, token: str) -> None:
    """Put the token of a backend's agent where the chart looks for it."""
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": f"{name}-token", "namespace": RELEASES},
        "data": {"token": base64.b64encode(token.encode()).decode()},
    }
    with Admin(kube) as admin:
        admin.apply(namespace(RELEASES, "restricted"))
        admin.apply(secret)


def _last_words(admin: Admin, name: str) -> str:
    """Of the agents of a release, for the report of a test that fails."""
    pods, selector = f"/api/v1/namespaces/{RELEASES}/pods", {"labelSelector": f"app.kubernetes.io/instance={name}"}
    found = json.loads(admin.text(pods, selector))["items"]
    return "".join(admin.text(f"{pods}/{one['metadata']['name']}/log", {"tailLines": "40"}) for one in found)


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
    if kube.folder is None:
        pytest.fail("this test closes a cluster off, so it needs one of its own: unset KUBECONFIG")
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
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
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
        self._thread.join(10)
        self._loop.close()

    def _do(self, work: Any) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _start(self) -> tuple[str, Ways]:
        self.switch = Switch()
        self._server = await serve(self._take, HOST_ADDRESS, 0, process_request=self._judge, max_size=4 << 20)
        return f"http://{HOST_ADDRESS}:{self._server.sockets[0].getsockname()[1]}", Ways(self._dial)

    async def _stop(self) -> None:
        for wire in self.wires:
            wire.transport.abort()
        self._server.close()
        await self._server.wait_closed()
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
