"""From the cluster's nodes to what workflows may use of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from osmo_ray.backends.kubernetes.pods import GPU
from osmo_ray.backends.kubernetes.settings import ClusterSettings, Platform
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.reason import Reason

Object = Mapping[str, Any]
_UNITS = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_AMOUNTS = ("cpu", "memory", "ephemeral-storage", GPU)
_OVER = ("Succeeded", "Failed")


def quantity(text: str | int | float) -> float:
    """A Kubernetes quantity as a number: `250m` is 0.25, `1Gi` is 1073741824, `1e3` is 1000."""
    text = str(text)
    try:
        return float(text)
    except ValueError:
        unit = text.lstrip("+-.0123456789")
        return float(text[: len(text) - len(unit)]) * _UNITS[unit]


def reports(nodes: Iterable[Object], others: Iterable[Object], settings: ClusterSettings) -> Sequence[NodeReport]:
    """What is left of each node beside the pods of others."""
    used: dict[str, dict[str, float]] = {}
    for pod in others:
        node = str(pod["spec"].get("nodeName") or "")
        if node and pod.get("status", {}).get("phase") not in _OVER:
            sums = used.setdefault(node, dict.fromkeys(_AMOUNTS, 0.0))
            for name, amount in requests(pod).items():
                sums[name] += amount
    return tuple(_report(node, used.get(str(node["metadata"]["name"]), {}), settings) for node in nodes)


def requests(pod: Object) -> dict[str, float]:
    """What a pod asks of its node: all containers together, or the largest init container."""
    spec = pod["spec"]
    total = dict.fromkeys(_AMOUNTS, 0.0)
    for container in spec.get("containers") or ():
        for name, amount in _asked(container).items():
            total[name] += amount
    for container in spec.get("initContainers") or ():
        lasting = container.get("restartPolicy") == "Always"
        for name, amount in _asked(container).items():
            total[name] = total[name] + amount if lasting else max(total[name], amount)
    for name, amount in (spec.get("overhead") or {}).items():
        if name in total:
            total[name] += quantity(amount)
    return total


def _asked(container: Object) -> dict[str, float]:
    wanted = (container.get("resources") or {}).get("requests") or {}
    return {name: quantity(wanted[name]) for name in _AMOUNTS if name in wanted}


def _report(node: Object, used: Mapping[str, float], settings: ClusterSettings) -> NodeReport:
    meta, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    free = {
        name: max(quantity((status.get("allocatable") or {}).get(name, 0)) - used.get(name, 0.0), 0.0)
        for name in _AMOUNTS
    }
    seen = NodeReport(
        name=str(meta["name"]),
        address=_address(status),
        cpu=free["cpu"],
        memory=int(free["memory"]),
        gpu=int(free[GPU]),
        storage=int(free["ephemeral-storage"]),
        labels=dict(meta.get("labels") or {}),
        sandbox="container",
        backend_id=str(meta.get("uid") or ""),
    )
    platform = settings.platform_of(seen)
    reasons = tuple(_reasons(spec, status, platform, settings))
    return replace(seen, platform=platform.name, alive=not reasons, reasons=reasons)


def _address(status: Object) -> str:
    found = {a["type"]: a["address"] for a in status.get("addresses") or ()}
    return str(found.get("InternalIP") or found.get("Hostname") or "")


def _reasons(spec: Object, status: Object, platform: Platform, settings: ClusterSettings) -> Iterable[Reason]:
    """Why a node takes no work now."""
    if not settings.storage_url:
        sentence = "pods of this cluster cannot reach the platform's storage, a folder on the head"
        yield Reason("StorageUnreachable", sentence, next_command="osmo up --storage-gateway --listen ADDRESS")
    ready: Object = next((c for c in status.get("conditions") or () if c["type"] == "Ready"), {})
    if ready.get("status") != "True":
        told = str(ready.get("message") or "it has not reported yet")
        yield Reason("NodeNotReady", f"the node is not ready: {told}")
    if spec.get("unschedulable"):
        yield Reason("NodeCordoned", "the node is cordoned: it takes no new pods")
    for taint in spec.get("taints") or ():
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not _tolerated(taint, platform):
            if taint["key"].startswith("node.kubernetes.io/"):
                continue  # said above, in words
            text = f"{taint['key']}={taint.get('value', '')}:{taint['effect']}"
            yield Reason(
                "NodeTainted", f"the node has the taint {text}, which platform {platform.name} does not tolerate"
            )


def _tolerated(taint: Object, platform: Platform) -> bool:
    for one in platform.tolerations:
        if one.get("key") not in (None, "", taint["key"]) or one.get("effect") not in (None, "", taint.get("effect")):
            continue
        if one.get("operator") == "Exists" or one.get("value", "") == taint.get("value", ""):
            return True
    return False
