"""Quotas as Kubernetes schedulers have them: Queue objects of KAI, or ClusterQueues and Cohorts of Kueue.

Both are read, never written. What one of their schedulers would leave out (a queue whose parent is not there) is left
out here too, so its work waits with `NoQueue`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from osmo_ray.backends.kubernetes.nodes import quantity
from osmo_ray.providers.quota import UNLIMITED, QuotaError, QuotaQueue, Resource
from osmo_ray.providers.quota_far import Told

Object = Mapping[str, Any]
_FREE: Resource = (UNLIMITED, UNLIMITED, 1.0)
_NOTHING: Resource = (0.0, 0.0, 0.0)
_COHORT = "cohort/"
"""Before the names of cohorts: a ClusterQueue may be called the same."""
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9.]+)(h|ms|m|s|us|µs|ns)")
_GPU = "nvidia.com/gpu"


class Cluster(Protocol):
    """As much of an API server as is needed. Raises `QuotaError` when it cannot be read."""

    def list(self, path: str) -> Sequence[Object]:
        """All objects of a collection, page by page; nothing where the cluster does not know their kind."""
        ...

    def version(self, group: str) -> str:
        """The preferred version of an API group; empty where the cluster does not know it."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class KubeScope:
    """`namespace`: KAI: the one in names of queues that were made for pools; Kueue: whose LocalQueues are pools, empty
    for all. `pools` comes before what names say."""

    namespace: str = ""
    pools: Mapping[str, str] = field(default_factory=dict)


# -- KAI


class KaiOrigin:
    """KAI's Queue objects as an `Origin`."""

    name = "the cluster with KAI"

    def __init__(self, cluster: Cluster, scope: KubeScope) -> None:
        self._cluster, self._scope = cluster, scope

    def read(self) -> Told:
        version = self._cluster.version("scheduling.run.ai")
        if not version:
            raise QuotaError("the cluster has no KAI queues (API group scheduling.run.ai); install KAI first")
        queues = kai_queues(self._cluster.list(f"/apis/scheduling.run.ai/{version}/queues"))
        return Told(queues, self.pools(queues))

    def pools(self, queues: tuple[QuotaQueue, ...]) -> Mapping[str, str]:
        parents = {queue.parent for queue in queues}
        before = f"osmo-pool-{self._scope.namespace}-"
        leaves = [queue.name for queue in queues if queue.name not in parents]
        return {name.removeprefix(before): name for name in leaves} | dict(self._scope.pools)

    def close(self) -> None:
        self._cluster.close()


def kai_queues(objects: Sequence[Object]) -> tuple[QuotaQueue, ...]:
    """Older queues first, as KAI orders equals. Raises `QuotaError` for what is no number."""
    found = {}
    for one in sorted(objects, key=_age):
        spec, name = one.get("spec") or {}, str(one["metadata"]["name"])
        given = spec.get("resources") or {}
        found[name] = QuotaQueue(
            name,
            str(spec.get("parentQueue") or ""),
            int(spec["priority"]) if spec.get("priority") is not None else 100,
            gpu=_kai(given.get("gpu"), 1.0, f"queue {name}: gpu"),
            cpu=_kai(given.get("cpu"), 0.001, f"queue {name}: cpu"),
            memory=_kai(given.get("memory"), 1e6, f"queue {name}: memory"),
            preempt_min_runtime=_seconds(spec.get("preemptMinRuntime"), name),
            reclaim_min_runtime=_seconds(spec.get("reclaimMinRuntime"), name),
        )
    return _whole(found)


def _kai(told: object, unit: float, where: str) -> Resource:
    """A number that is missing is 0 there; -1 is unlimited."""
    if told is None:
        return _NOTHING
    if not isinstance(told, Mapping):
        raise QuotaError(f"{where} is no object")
    quota, limit, weight = (_number(told.get(key, 0), where) for key in ("quota", "limit", "overQuotaWeight"))
    return (
        UNLIMITED if quota < 0 else quota * unit,
        UNLIMITED if limit < 0 else limit * unit,
        max(weight, 0.0),
    )


def _number(told: object, where: str) -> float:
    if isinstance(told, bool) or not isinstance(told, int | float):
        raise QuotaError(f"{where}: {told!r} is no number")
    return float(told)


def _seconds(told: object, queue: str) -> float | None:
    """`1h30m`, as Go writes durations."""
    if told is None or told == "":
        return None
    parts = _PART.findall(str(told))
    if "".join(n + unit for n, unit in parts) != str(told):
        raise QuotaError(f"queue {queue}: {told!r} is no duration")
    return sum(float(n) * _UNITS[unit] for n, unit in parts)


# -- Kueue


class KueueOrigin:
    """Kueue's ClusterQueues, Cohorts and LocalQueues as an `Origin`."""

    name = "the cluster with Kueue"

    def __init__(self, cluster: Cluster, scope: KubeScope) -> None:
        self._cluster, self._scope = cluster, scope

    def read(self) -> Told:
        version = self._cluster.version("kueue.x-k8s.io")
        if not version:
            raise QuotaError("the cluster has no Kueue (API group kueue.x-k8s.io); install Kueue first")
        base = f"/apis/kueue.x-k8s.io/{version}"
        # Cohorts as objects of their own came later, and with a version of their own.
        cohorts = self._cluster.list(f"{base}/cohorts") or self._cluster.list("/apis/kueue.x-k8s.io/v1alpha1/cohorts")
        queues = kueue_queues(self._cluster.list(f"{base}/clusterqueues"), cohorts)
        within = f"/namespaces/{self._scope.namespace}" if self._scope.namespace else ""
        local = self._cluster.list(f"{base}{within}/localqueues")
        names = {queue.name for queue in queues}
        aliases = {
            str(one["metadata"]["name"]): str((one.get("spec") or {}).get("clusterQueue") or "") for one in local
        }
        return Told(
            queues, {pool: queue for pool, queue in aliases.items() if queue in names} | dict(self._scope.pools)
        )

    def pools(self, queues: tuple[QuotaQueue, ...]) -> Mapping[str, str]:
        return dict(self._scope.pools)

    def close(self) -> None:
        self._cluster.close()


def kueue_queues(objects: Sequence[Object], cohorts: Sequence[Object]) -> tuple[QuotaQueue, ...]:
    """Cohorts, then ClusterQueues, older ones first. A cohort has what its members have together, and lends nothing
    from beyond itself unless it has a parent."""
    above: dict[str, str] = {}
    own: dict[str, Mapping[str, tuple[float, float]]] = {}
    for one in sorted(cohorts, key=_age):
        spec, name = one.get("spec") or {}, str(one["metadata"]["name"])
        above[name] = str(spec.get("parentName") or spec.get("parent") or "")
        own[name] = _flavors(spec, name)
    leaves = []
    for one in sorted(objects, key=_age):
        spec, name = one.get("spec") or {}, str(one["metadata"]["name"])
        cohort = str(spec.get("cohortName") or spec.get("cohort") or "")
        if cohort:
            above.setdefault(cohort, "")
        leaves.append((name, cohort, spec, _flavors(spec, name)))
    for parent in list(above.values()):
        if parent:
            above.setdefault(parent, "")
    nominal = _nominal(above, own, [(cohort, flavors) for _, cohort, _, flavors in leaves])
    found = {_COHORT + n: _cohort(n, above[n], nominal[n], own.get(n, {})) for n in above}
    for name, cohort, spec, flavors in leaves:
        found[name] = _leaf(name, cohort, spec, flavors)
    return _whole(found)


def _flavors(spec: Object, name: str) -> Mapping[str, tuple[float, float]]:
    """Resource -> what is its own, and the most with what it borrows (infinite: no limit), over all flavors."""
    found: dict[str, tuple[float, float]] = {}
    for group in spec.get("resourceGroups") or ():
        for flavor in group.get("flavors") or ():
            for resource in flavor.get("resources") or ():
                try:
                    own = quantity(resource.get("nominalQuota", 0))
                    borrowed = resource.get("borrowingLimit")
                    most = float("inf") if borrowed is None else own + quantity(borrowed)
                except (KeyError, ValueError):
                    raise QuotaError(f"{name}: the quota of {resource.get('name')} is no quantity") from None
                before = found.get(str(resource["name"]), (0.0, 0.0))
                found[str(resource["name"])] = before[0] + own, before[1] + most
    return found


def _nominal(
    above: Mapping[str, str],
    own: Mapping[str, Mapping[str, tuple[float, float]]],
    members: Sequence[tuple[str, Mapping[str, tuple[float, float]]]],
) -> Mapping[str, Mapping[str, float]]:
    """Cohort -> resource -> what it and all below it have together."""
    found: dict[str, dict[str, float]] = {name: {} for name in above}
    given = [*members, *own.items()]
    for start, flavors in given:
        seen: set[str] = set()
        at = start
        while at and at not in seen:
            seen.add(at)
            for resource, (amount, _) in flavors.items():
                found[at][resource] = found[at].get(resource, 0.0) + amount
            at = above.get(at, "")
    return found


def _cohort(name: str, parent: str, nominal: Mapping[str, float], own: Mapping[str, tuple[float, float]]) -> QuotaQueue:
    def one(resource: str) -> Resource:
        if resource not in nominal:
            return _FREE
        quota = nominal[resource]
        if not parent:
            return quota, quota, 1.0
        amount, most = own.get(resource, (0.0, float("inf")))
        return quota, UNLIMITED if most == float("inf") else quota + most - amount, 1.0

    return QuotaQueue(
        _COHORT + name, _COHORT + parent if parent else "", gpu=one(_GPU), cpu=one("cpu"), memory=one("memory")
    )


def _leaf(name: str, cohort: str, spec: Object, flavors: Mapping[str, tuple[float, float]]) -> QuotaQueue:
    """A resource that no flavor names is not managed; a queue that was stopped takes nothing new."""
    stopped = str(spec.get("stopPolicy") or "None") != "None"
    fair = (spec.get("fairSharing") or {}).get("weight")
    weight = 1.0 if fair is None else quantity(fair)

    def one(resource: str) -> Resource:
        if stopped:
            return 0.0, 0.0, 0.0
        if resource not in flavors:
            return UNLIMITED, UNLIMITED, weight
        quota, most = flavors[resource]
        if not cohort:
            most = quota  # nobody to borrow from
        return quota, UNLIMITED if most == float("inf") else most, weight

    return QuotaQueue(name, _COHORT + cohort if cohort else "", gpu=one(_GPU), cpu=one("cpu"), memory=one("memory"))


# -- both


def _age(one: Object) -> tuple[str, str]:
    meta = one["metadata"]
    return str(meta.get("creationTimestamp") or ""), str(meta["name"])


def _whole(queues: Mapping[str, QuotaQueue]) -> tuple[QuotaQueue, ...]:
    """Those whose ancestors are all there."""

    def rooted(queue: QuotaQueue) -> bool:
        seen: set[str] = set()
        while queue.parent:
            if queue.parent not in queues or queue.parent in seen:
                return False
            seen.add(queue.parent)
            queue = queues[queue.parent]
        return True

    return tuple(queue for queue in queues.values() if rooted(queue))
