"""One backend over a cluster of a thousand nodes and five thousand pods: a real control plane, nodes by KWOK.

What is measured is this side: memory and CPU of the process that holds the backend, calls to the API server per pod,
and the lag from a change in the cluster to the observation of it, sampled while all goes on.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from osmo_ray.backends.kubernetes import pods
from osmo_ray.backends.kubernetes.backend import KubernetesBackend
from osmo_ray.backends.kubernetes.client import HttpApi
from osmo_ray.backends.kubernetes.kubeconfig import open_kubeconfig
from osmo_ray.backends.kubernetes.settings import ClusterSettings
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, GroupPlan, Phase

KUBE = Path(__file__).resolve().parents[1] / "tests/servers/kube"
NODES, PODS, AT_ONCE = 1000, 5000, 250
_PROBE_EVERY, _TOLD = 0.5, "it is "
Row = Callable[..., None]
_STAGES = """
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: runs}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
    - {key: .status.podIP, operator: DoesNotExist}
  next:
    statusTemplate: |
      phase: Running
      podIP: 10.1.1.1
      startTime: {{ Now | Quote }}
      conditions: [{type: Ready, status: "True"}]
      initContainerStatuses:
      - {name: osmo-init, image: i, imageID: "", ready: true, restartCount: 0, state: {terminated: {exitCode: 0}}}
      containerStatuses:
      - {name: user, image: i, imageID: "", ready: true, restartCount: 0, state: {running: {}}}
      - {name: osmo-ctrl, image: i, imageID: "", ready: true, restartCount: 0, state: {running: {}}}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: ends}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: DoesNotExist}
    - {key: .status.phase, operator: In, values: [Running]}
  delay: {durationMilliseconds: 5000, jitterDurationMilliseconds: 15000}
  next:
    statusTemplate: |
      phase: Succeeded
      containerStatuses:
      - {name: user, image: i, imageID: "", ready: false, restartCount: 0, state: {terminated: {exitCode: 0}}}
      - name: osmo-ctrl
        image: i
        imageID: ""
        ready: false
        restartCount: 0
        state: {terminated: {exitCode: 0, message: '{"at": 1, "exit_code": 0}'}}
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: goes}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
    - {key: .metadata.deletionTimestamp, operator: Exists}
  next: {finalizers: {empty: true}, delete: true}
"""


def clusters(row: Row) -> None:
    """Needs Go, etcd and openssl; builds the control plane and KWOK once."""
    asyncio.run(_measure(row))


async def _measure(row: Row) -> None:
    async with _cluster() as admin:
        await _nodes(admin)
        api = HttpApi(admin.access)
        settings = ClusterSettings(secrets.token_hex(6), "s3://nowhere/at-all", "localhost/runtime:1", "osmo")
        backend = KubernetesBackend("bench", api, settings)
        await backend.capacity()
        before, cpu, begun = _memory(), time.process_time(), time.monotonic()
        lags: list[float] = []
        probe = asyncio.ensure_future(_probe(admin, settings))
        most = await _run(backend, lags)
        probe.cancel()
        took, used = time.monotonic() - begun, time.process_time() - cpu
        row(
            f"{PODS} pods on {NODES} nodes through one backend",
            f"{took:.0f} s",
            "",
            f"{PODS / took:.0f} pods each second",
        )
        row(
            "  CPU of the backend's process, per pod",
            f"{1000 * used / PODS:.1f} ms",
            "",
            f"{100 * used / took:.0f} % of a core",
        )
        row("  its memory above an empty cluster's", f"{most - before:.0f} MiB", "", f"{before:.0f} MiB before")
        row("  calls to the API server, per pod", f"{api.calls / PODS:.2f}", "4")
        lags.sort()
        row(
            "  lag from a change to its observation, median", f"{1000 * statistics.median(lags):.0f} ms", "",
            f"99 of 100 below {1000 * lags[int(len(lags) * 0.99)]:.0f} ms, {len(lags)} samples",
        )  # fmt: skip
        await backend.close()


async def _run(backend: KubernetesBackend, lags: list[float]) -> float:
    """Send all, settle what ends; the most memory there was, in MiB."""
    plans = [_plan(number) for number in range(PODS)]
    left = {plan.attempts[0].key for plan in plans}
    sending = asyncio.ensure_future(_send(backend, plans))
    most = _memory()
    while left:
        seen = await backend.watch(1.0)
        now = time.time()
        ended = [one.key for one in seen if one.phase is Phase.FINISHED and one.key in left]
        told = [one.reason.sentence for one in seen if one.reason and one.reason.sentence.startswith(_TOLD)]
        lags += [now - float(sentence.removeprefix(_TOLD)) for sentence in told]
        left.difference_update(ended)
        await backend.settle(ended)
        most = max(most, _memory())
    await sending
    return most


async def _send(backend: KubernetesBackend, plans: list[GroupPlan]) -> None:
    for begin in range(0, len(plans), AT_ONCE):
        refused = await backend.apply(1, plans[begin : begin + AT_ONCE])
        if refused:
            raise RuntimeError(next(iter(refused.values())).sentence)


def _plan(number: int) -> GroupPlan:
    uuid, key = secrets.token_hex(16), AttemptKey(secrets.token_hex(16), 0)
    attempt = AttemptPlan(
        key, f"bench-{number}", uuid, "g", uuid, "t", "ann", f"node-{number % NODES}", "localhost/task:1", ("true",)
    )
    return GroupPlan(uuid, attempt.workflow_id, "g", (attempt,))


async def _probe(admin: HttpApi, settings: ClusterSettings) -> None:
    """A pod that nobody schedules says the time as the reason for it, again and again."""
    attempt = _plan(0).attempts[0]
    made = pods.pod_of(attempt, settings, settings.platforms[0], 1)
    made["spec"]["schedulerName"] = "nobody"
    path = f"/api/v1/namespaces/{settings.namespace}/pods/{made['metadata']['name']}"
    await admin.apply(path, made)
    while True:
        await asyncio.sleep(_PROBE_EVERY)
        told = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": f"{_TOLD}{time.time()!r}",
        }
        await admin.merge(f"{path}/status", {"status": {"conditions": [told]}})


async def _nodes(admin: HttpApi) -> None:
    await admin.apply(
        "/api/v1/namespaces/osmo", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "osmo"}}
    )
    amounts = {"cpu": "64", "memory": "256Gi", "pods": "110", "ephemeral-storage": "1Ti"}
    status = {"capacity": amounts, "allocatable": amounts, "conditions": [{"type": "Ready", "status": "True"}]}

    async def one(number: int) -> None:
        name = f"node-{number}"
        meta = {"name": name, "labels": {"kubernetes.io/hostname": name}}
        await admin.create("/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": meta, "status": status})

    for begin in range(0, NODES, 50):
        await asyncio.gather(*(one(number) for number in range(begin, begin + 50)))
    ready = 0
    while ready < NODES:
        await asyncio.sleep(1.0)
        found = (await admin.get("/api/v1/nodes"))["items"]
        ready = sum(1 for node in found if not node["spec"].get("taints") and _is_ready(node))


def _is_ready(node: Any) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions") or ())


@asynccontextmanager
async def _cluster() -> AsyncIterator[HttpApi]:
    """A control plane without a node, and KWOK; an administrator's way to it."""
    with tempfile.TemporaryDirectory(prefix="osmo-bench-kube-") as name:
        base = Path(name)
        tools = _built()
        environ = {**os.environ, "KUBE_DIR": str(base / "up"), "KUBE_NODE": "0", "KUBE_PORT": "16743"}
        up = ["bash", str(KUBE.parent / "kube-up")]
        subprocess.run([*up, "up"], env=environ | {"KUBE_BIN": tools}, check=True, capture_output=True)
        (base / "stages.yaml").write_text(_STAGES)
        config = ["--kubeconfig", str(base / "up/kubeconfig"), "--config", str(base / "stages.yaml")]
        # Lists as streams need etcd 3.5.
        plain = {**os.environ, "KUBE_FEATURE_WatchListClient": "false"}
        with (base / "kwok.log").open("wb") as log:
            kwok = subprocess.Popen(
                [_built("kwok") + "/kwok", "--manage-all-nodes", *config], env=plain, stdout=log, stderr=log
            )
        admin = HttpApi(open_kubeconfig((base / "up/kubeconfig").read_text()))
        try:
            yield admin
        finally:
            await admin.close()
            kwok.terminate()
            kwok.wait()
            subprocess.run([*up, "down"], env=environ, check=False, capture_output=True)


def _built(*what: str) -> str:
    made = subprocess.run(["bash", str(KUBE / "build.sh"), *what], capture_output=True, text=True, check=True)
    return made.stdout.strip()


def _memory() -> float:
    """Resident memory of this process now, in MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20)
