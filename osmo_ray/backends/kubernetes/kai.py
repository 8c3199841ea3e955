"""What KAI, NVIDIA's scheduler for Kubernetes, is given: a gang for a group, a queue for a pool, a topology. Pure.

In a cluster that KAI schedules, groups are not placed here: a group is one PodGroup, all of it or nothing, and KAI
chooses nodes by the queues' shares. HIGH and NORMAL work is not preempted and stays within its queue's guarantee; LOW
work may borrow, and gives way.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from osmo_ray.spec.attempt import AttemptKey, Delegated, GroupPlan, Near

SCHEDULER = "kai-scheduler"
QUEUES = "/apis/scheduling.run.ai/v2/queues"
TOPOLOGIES = "/apis/kai.scheduler/v1alpha1/topologies"
GANG, QUEUE, SUBGROUP = "pod-group-name", "kai.scheduler/queue", "kai.scheduler/subgroup-name"
_OLD_QUEUE = "runai/queue"
_SPARE = "rest"
"""The part of a group for tasks that mind nothing, where others do."""


def gangs(namespace: str) -> str:
    """Where PodGroups are."""
    return f"/apis/scheduling.run.ai/v2alpha2/namespaces/{namespace}/podgroups"


def gang_name(group_uuid: str) -> str:
    return f"osmo-{group_uuid}"


def group_in(name: str) -> str:
    """The group that a PodGroup's name stands for."""
    return name.removeprefix("osmo-")


def parent_queue(namespace: str) -> str:
    return f"osmo-default-{namespace}"


def pool_queue(namespace: str, pool: str) -> str:
    return f"osmo-pool-{namespace}-{pool}"


def topology_name(namespace: str, pool: str) -> str:
    return f"{pool_queue(namespace, pool)}-topology"


def queue_of(namespace: str, pool: str, share: tuple[float, float, float], labels: Mapping[str, str]) -> dict[str, Any]:
    """The queue of a pool; of its GPUs `share` is the guarantee, the maximum and the weight, -1 for no bound."""
    free = _amount((-1, -1, 1))
    resources = {"gpu": _amount(share), "cpu": free, "memory": free}
    spec = {"parentQueue": parent_queue(namespace), "resources": resources}
    return _queue(pool_queue(namespace, pool), spec, labels)


def top_of(namespace: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """The queue above those of all pools."""
    free = _amount((-1, -1, 1))
    return _queue(parent_queue(namespace), {"resources": {"gpu": free, "cpu": free, "memory": free}}, labels)


def topology_of(namespace: str, pool: str, levels: Sequence[str], labels: Mapping[str, str]) -> dict[str, Any]:
    """Labels of nodes, coarse to fine."""
    return {
        "apiVersion": "kai.scheduler/v1alpha1",
        "kind": "Topology",
        "metadata": {"name": topology_name(namespace, pool), "labels": dict(labels)},
        "spec": {"levels": [{"nodeLabel": label} for label in levels]},
    }


def gang_of(plan: GroupPlan, told: Delegated, namespace: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """The PodGroup of what should run of a group now."""
    here = {attempt.key for attempt in plan.attempts}
    topology = topology_name(namespace, told.pool)
    spec: dict[str, Any] = {
        "minMember": max(len(here), 1),
        "queue": pool_queue(namespace, told.pool),
        "priorityClassName": f"osmo-{told.priority.lower()}",
        "markUnschedulable": True,
    }
    if _alike(told):
        spec["topologyConstraint"] = _constraint(told.parts[0], topology)
    elif told.parts:
        spec["subGroups"] = [_subgroup(part, topology) for part in _present(_all_parts(told), here)]
    return {
        "apiVersion": "scheduling.run.ai/v2alpha2",
        "kind": "PodGroup",
        "metadata": {"name": gang_name(plan.uuid), "labels": dict(labels)},
        "spec": spec,
    }


def subgroup(told: Delegated, key: AttemptKey) -> str:
    """The sub-group that an attempt's pod belongs to; empty where there are none."""
    if not told.parts or _alike(told):
        return ""
    return next((part.name for part in _all_parts(told) if key in part.keys), _SPARE)


def on_pod(pod: dict[str, Any], plan: GroupPlan, told: Delegated, key: AttemptKey, namespace: str) -> None:
    """Make a pod one of its group's gang, in place."""
    meta, spec = pod["metadata"], pod["spec"]
    queue = pool_queue(namespace, told.pool)
    meta["annotations"][GANG] = gang_name(plan.uuid)
    meta["labels"] |= {QUEUE: queue, _OLD_QUEUE: queue}
    if name := subgroup(told, key):
        meta["labels"][SUBGROUP] = name
    spec |= {"schedulerName": SCHEDULER, "priorityClassName": f"osmo-{told.priority.lower()}"}


def anywhere_but(excluded: Iterable[str], labels: Mapping[str, str]) -> dict[str, Any]:
    """The affinity of a pod that may go to any node with these labels except some."""
    wanted: dict[str, Any] = {}
    if labels:
        wanted["matchExpressions"] = [{"key": k, "operator": "In", "values": [v]} for k, v in sorted(labels.items())]
    if names := sorted(set(excluded)):
        wanted["matchFields"] = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in names]
    if not wanted:
        return {}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [wanted]}}}


# --- small help ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """A sub-group: pods belong to leaves, what they mind stands in those around them."""

    name: str
    parent: str
    near: Near | None = None
    keys: tuple[AttemptKey, ...] = ()


def _alike(told: Delegated) -> bool:
    """One wish that every task of the group shares."""
    return len(told.parts) == 1 and not told.parts[0].parts and len(told.parts[0].keys) == len(told.platforms)


def _all_parts(told: Delegated) -> list[_Part]:
    """Outer ones first; named after what they are, so that a pod's part keeps its name."""
    said: set[AttemptKey] = set()
    found: list[_Part] = []

    def walk(near: Near, parent: str) -> None:
        name = f"{parent}.{_word(near.name)}" if parent else _word(near.name)
        found.append(_Part(name, parent, near))
        found.append(_Part(f"{name}.own", name, keys=near.keys))
        said.update(near.keys)
        for inner in near.parts:
            walk(inner, name)

    for near in told.parts:
        walk(near, "")
    found.append(_Part(_SPARE, "", keys=tuple(key for key in told.platforms if key not in said)))
    return found


def _present(parts: Sequence[_Part], here: Collection[AttemptKey]) -> list[_Part]:
    """Without those in which nobody runs any more."""
    kept = [replace(part, keys=tuple(key for key in part.keys if key in here)) for part in parts]
    around = {part.parent for part in kept if part.keys}
    for part in reversed(kept):  # what is around comes before what is in it
        if part.name in around:
            around.add(part.parent)
    return [part for part in kept if part.keys or part.name in around]


def _subgroup(part: _Part, topology: str) -> dict[str, Any]:
    made: dict[str, Any] = {"name": part.name}
    if part.keys:
        made["minMember"] = len(part.keys)
    if part.parent:
        made["parent"] = part.parent
    if part.near is not None and (limit := _constraint(part.near, topology)):
        made["topologyConstraint"] = limit
    return made


def _word(name: str) -> str:
    """As the value of a label may be."""
    return re.sub(r"[^a-zA-Z0-9.-]", ".", name).strip(".-").lower() or "part"


def _constraint(near: Near, topology: str) -> dict[str, Any]:
    found = {"requiredTopologyLevel": near.required, "preferredTopologyLevel": near.preferred}
    kept = {name: label for name, label in found.items() if label}
    return {"topology": topology, **kept} if kept else {}


def _amount(share: tuple[float, float, float]) -> dict[str, float]:
    return {"quota": share[0], "limit": share[1], "overQuotaWeight": share[2]}


def _queue(name: str, spec: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    meta = {"name": name, "labels": dict(labels)}
    return {"apiVersion": "scheduling.run.ai/v2", "kind": "Queue", "metadata": meta, "spec": dict(spec)}
