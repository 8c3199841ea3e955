"""Quotas as Run:AI has them: departments above projects, for one node pool of one cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from osmo_ray.providers.quota import UNLIMITED, QuotaQueue, Resource
from osmo_ray.providers.quota_far import FarQuota, Told
from osmo_ray.providers.quota_kept import KeptQuotas
from osmo_ray.providers.runai_client import Login, Row, RunaiClient, RunaiError

_FREE: Resource = (UNLIMITED, UNLIMITED, 1.0)
_BYTES = {"mib": 1 << 20, "mb": 10**6, "gb": 10**9}
_OLD_GPU = {"deserved": "deservedGpus", "limit": "maxAllowedGpus", "overQuotaWeight": "gpuOverQuotaWeight"}
_DEPARTMENT = "department/"
"""Before the names of departments: a project may be called the same."""


@dataclass(frozen=True, slots=True)
class RunaiScope:
    """Which part of Run:AI is ours. An empty cluster means all; ranks that are not listed count 100."""

    node_pool: str = "default"
    cluster: str = ""
    ranks: Mapping[str, int] = field(default_factory=dict)
    interval: float = 20.0
    """Seconds between two readings."""
    pools: Mapping[str, str] = field(default_factory=dict)
    """Pool -> project; empty: each project is a pool of its own name."""


class RunaiOrigin:
    """Run:AI as an `Origin`."""

    name = "Run:AI"

    def __init__(self, client: RunaiClient, scope: RunaiScope) -> None:
        self._client, self._scope = client, scope

    def read(self) -> Told:
        projects = self._client.rows("/api/v1/org-unit/projects", "projects", self._scope.cluster)
        departments = self._client.rows("/api/v1/org-unit/departments", "departments", self._scope.cluster)
        queues = translate(projects, departments, self._scope)
        return Told(queues, self.pools(queues))

    def pools(self, queues: tuple[QuotaQueue, ...]) -> Mapping[str, str]:
        return _pools(queues, self._scope)

    def close(self) -> None:
        self._client.close()


def translate(projects: list[Row], departments: list[Row], scope: RunaiScope) -> tuple[QuotaQueue, ...]:
    """Departments, then projects, each in the order of the answer. Raises `RunaiError`: half a tree is none."""
    above = {row["id"]: _DEPARTMENT + _name(row) for row in departments}
    found = [_queue(row, above[row["id"]], "", scope) or QuotaQueue(above[row["id"]]) for row in departments]
    for row in projects:
        parent = row.get("parentId")
        if parent is not None and parent not in above:
            raise RunaiError(f"project {_name(row)} is of department {parent}, which is not in the list of departments")
        queue = _queue(row, _name(row), above[parent] if parent is not None else "", scope)
        if queue is not None:
            found.append(queue)
    names = [q.name for q in found]
    twice = {n for n in names if names.count(n) > 1} if len(set(names)) < len(names) else set()
    if twice:
        raise RunaiError(f"the names {', '.join(sorted(twice))} are there twice; set runai_cluster to one cluster's id")
    if all(name.startswith(_DEPARTMENT) for name in names):
        raise RunaiError(f"no project has node pool {scope.node_pool!r}; check runai_node_pool and runai_cluster")
    return tuple(found)


def _pools(queues: tuple[QuotaQueue, ...], scope: RunaiScope) -> dict[str, str]:
    """As the settings say, else each project is a pool of its name. A pool of a project that is not there waits."""
    return dict(scope.pools) or {q.name: q.name for q in queues if not q.name.startswith(_DEPARTMENT)}


def _queue(row: Row, name: str, parent: str, scope: RunaiScope) -> QuotaQueue | None:
    """None where the row has no share in the node pool."""
    listed = row.get("resources")
    if listed is None:
        entry: object = {"gpu": {new: row.get(old) for new, old in _OLD_GPU.items()}}
    elif isinstance(listed, list):
        entry = next((e for e in listed if _pool(e) == scope.node_pool), None)
    else:
        raise RunaiError(f"{name}: `resources` is no list")
    if entry is None:
        return None
    if not isinstance(entry, dict):
        raise RunaiError(f"{name}: a row of `resources` is no object")
    rank = entry.get("rank", row.get("rank"))
    memory = entry.get("memory")
    unit = str(memory.get("units") or "MB") if isinstance(memory, dict) else "MB"
    if unit.lower() not in _BYTES:
        raise RunaiError(f"{name}: memory in {unit!r}; known are Mib, MB, GB")
    return QuotaQueue(
        name,
        parent,
        scope.ranks.get(str(rank), 100),
        gpu=_resource(entry.get("gpu"), 1.0, f"{name}: gpu"),
        cpu=_resource(entry.get("cpu"), 0.001, f"{name}: cpu"),
        memory=_resource(memory, _BYTES[unit.lower()], f"{name}: memory"),
    )


def _pool(entry: object) -> str:
    pool = entry.get("nodePool") if isinstance(entry, dict) else None
    return str(pool.get("name")) if isinstance(pool, dict) else ""


def _resource(told: object, unit: float, where: str) -> Resource:
    """A resource that is null is not managed by Run:AI, and so unlimited."""
    if told is None:
        return _FREE
    if not isinstance(told, dict):
        raise RunaiError(f"{where} is no object")
    limit = told["limit"] if "limit" in told else told.get("maxAllowed")
    quota, weight = _number(told.get("deserved"), where), told.get("overQuotaWeight")
    most = _number(limit, where)
    return (
        UNLIMITED if quota < 0 else quota * unit,
        UNLIMITED if most < 0 else most * unit,
        1.0 if weight is None else max(_number(weight, where), 0.0),
    )


def _number(told: object, where: str) -> float:
    if told is None:
        return UNLIMITED
    if isinstance(told, bool) or not isinstance(told, int | float) or not math.isfinite(told):
        raise RunaiError(f"{where}: {told!r} is no number")
    if told < 0 and told != UNLIMITED:
        raise RunaiError(f"{where}: {told!r} is no amount")
    return float(told)


def _name(row: Row) -> str:
    name = row.get("name")
    if not isinstance(name, str) or not name:
        raise RunaiError(f"the row with id {row.get('id')!r} has no name")
    return name


def connect(login: Login, scope: RunaiScope, kept: KeptQuotas | None = None) -> FarQuota:
    """Run:AI by its address and an application's credentials."""
    origin = RunaiOrigin(RunaiClient(login), scope)
    return FarQuota(origin, scope.interval, kept)
