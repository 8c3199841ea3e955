"""Pools, their use, and the nodes behind them.

Every pool stands on every node of the backend; how much of them is a pool's own say the quotas, where there are any.
Numbers of use come from the tasks that hold something now, numbers of capacity from the nodes' own reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import APIRouter

from osmo_ray.api import grounds
from osmo_ray.api.errors import ApiError
from osmo_ray.api.grounds import configured
from osmo_ray.api.nouns import (
    ConciseList,
    ConcisePool,
    GpuShare,
    NodeSet,
    PlatformConfig,
    PlatformView,
    PoolList,
    PoolQuota,
    PoolShares,
    PoolView,
    PoolWithUsage,
    Resource,
    ResourceList,
    TopologyKey,
    Usage,
)
from osmo_ray.api.routes.common import Many, User
from osmo_ray.api.routes.service import NODE_SILENT
from osmo_ray.api.services import Services
from osmo_ray.api.submission import check_pool, pool_names
from osmo_ray.api.views import gibi
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.model import Timeouts, WorkflowSpec
from osmo_ray.spec.pools import PlatformSpec
from osmo_ray.spec.quantity import show_seconds
from osmo_ray.store.protocol import TaskQuery, TaskRow

HOLDING = ("SCHEDULING", "INITIALIZING", "RUNNING")
UNLIMITED = -1.0
_NOTHING = WorkflowSpec("", ())
_EVERYTHING = WorkflowSpec("", (), timeout=Timeouts(float("inf"), float("inf")))


@dataclass(frozen=True, slots=True)
class Held:
    """What tasks hold on a node or in a pool; `firm` are the GPUs of tasks that are never asked to give way."""

    cpu: float = 0.0
    memory: int = 0
    gpu: int = 0
    storage: int = 0
    firm: int = 0

    def plus(self, row: TaskRow) -> Held:
        firm = row.gpu if row.priority != "LOW" else 0
        return self + Held(row.cpu, row.memory, row.gpu, row.storage, firm)

    def __add__(self, other: Held) -> Held:
        return Held(
            self.cpu + other.cpu,
            self.memory + other.memory,
            self.gpu + other.gpu,
            self.storage + other.storage,
            self.firm + other.firm,
        )


@dataclass(frozen=True, slots=True)
class Use:
    """What is held now, by node and by pool."""

    nodes: Mapping[str, Held]
    pools: Mapping[str, Held]


def in_use(services: Services) -> Use:
    """Read from the store, page by page."""
    nodes: dict[str, Held] = {}
    pools: dict[str, Held] = {}
    offset = 0
    while rows := services.store.list_tasks(TaskQuery(statuses=HOLDING, offset=offset, limit=1000)):
        for row in rows:
            nodes[row.task.node] = nodes.get(row.task.node, Held()).plus(row)
            pools[row.pool] = pools.get(row.pool, Held()).plus(row)
        offset += len(rows)
        if len(rows) < 1000:
            break
    return Use(nodes, pools)


def alive_nodes(services: Services) -> Sequence[NodeReport]:
    """Nodes heard of in the last two minutes."""
    now = services.clock()
    return [n for _, at, n in services.store.nodes() if n.alive and now - at < NODE_SILENT]


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["pool"])

    @router.get("/api/pool")
    def pools(all_pools: bool = True, pools: Many = None) -> PoolList:
        nodes = alive_nodes(services)
        return PoolList(pools={name: pool_view(services, name, nodes) for name in _wanted(services, pools)})

    @router.get("/api/pool_quota")
    def quota(all_pools: bool = True, pools: Many = None) -> PoolQuota:
        nodes, use = alive_nodes(services), in_use(services)
        found = [
            PoolWithUsage(
                **pool_view(services, name, nodes).model_dump(), resource_usage=_usage(services, name, nodes, use)
            )
            for name in _wanted(services, pools)
        ]
        sets = [NodeSet(pools=found)] if found else []
        return PoolQuota(node_sets=sets, resource_sum=_sum(services, [p.name for p in found], nodes, use))

    @router.get("/api/resources")
    def resources(
        user: User, pools: Many = None, platforms: Many = None, all_pools: bool = False, concise: bool = False
    ) -> ResourceList | ConciseList:
        names = _wanted(services, pools)
        held = in_use(services).nodes
        nodes = [n for n in alive_nodes(services) if not platforms or n.platform in platforms]
        if concise:
            return ConciseList(pools=[c for name in names for c in _concise(services, name, nodes, held)])
        return ResourceList(resources=[_resource(services, names, n, held.get(n.name, Held())) for n in nodes])

    @router.get("/api/resources/{name}")
    def resource(name: str) -> ResourceList:
        held = in_use(services).nodes
        found = [n for n in alive_nodes(services) if n.name == name]
        if not found:
            raise ApiError(f"There is no node {name!r}; see osmo resource list.", "RESOURCE")
        names = pool_names(services)
        return ResourceList(resources=[_resource(services, names, n, held.get(n.name, Held())) for n in found])

    return router


def _wanted(services: Services, names: list[str] | None) -> list[str]:
    for name in names or ():
        check_pool(services, name)
    return list(dict.fromkeys(names or pool_names(services)))


def pool_view(services: Services, pool: str, nodes: Sequence[NodeReport]) -> PoolView:
    """A pool as clients know it."""
    share = grounds.share(services, pool) or (UNLIMITED, UNLIMITED, 1.0)
    guarantee, maximum, weight = (int(n) if n == int(n) else n for n in share)
    written = configured(services, pool)
    default, most = (grounds.limits(services, written, spec) for spec in (_NOTHING, _EVERYTHING))
    names = sorted({n.platform for n in nodes} | written.platforms.keys())
    status = "MAINTENANCE" if written.maintenance else "ONLINE" if nodes else "OFFLINE"
    return PoolView(
        name=pool,
        description=written.description or "Every node of this platform",
        status=status,
        enable_maintenance=written.maintenance,
        backend=written.backend,
        default_platform=written.default_platform or None,
        default_exec_timeout=show_seconds(default.exec_timeout),
        default_queue_timeout=show_seconds(default.queue_timeout),
        max_exec_timeout=show_seconds(most.exec_timeout),
        max_queue_timeout=show_seconds(most.queue_timeout),
        default_exit_actions=dict(written.exit_actions),
        resources=PoolShares(gpu=GpuShare(guarantee=guarantee, maximum=maximum, weight=weight)),
        topology_keys=[TopologyKey(key=key, label=label) for key, label in written.topology.items()],
        platforms={name: _platform(written.platform(name)) for name in names},
    )


def _platform(found: PlatformSpec) -> PlatformView:
    return PlatformView(
        description=found.description,
        host_network_allowed=found.host_network,
        privileged_allowed=found.privileged,
        allowed_mounts=list(found.allowed_mounts),
        default_mounts=list(found.default_mounts),
    )


def _limit(services: Services, pool: str, capacity: int) -> float:
    """GPUs that are the pool's own: its guarantee, or all there are."""
    share = grounds.share(services, pool)
    return float(capacity) if share is None or share[0] == UNLIMITED else share[0]


def _usage(services: Services, pool: str, nodes: Sequence[NodeReport], use: Use) -> Usage:
    capacity = sum(n.gpu for n in nodes)
    held = use.pools.get(pool, Held())
    taken = sum(h.gpu for h in use.nodes.values())
    limit = _limit(services, pool, capacity)
    return _figures(held.firm, limit, held.gpu, capacity, capacity - taken)


def _sum(services: Services, pools: Sequence[str], nodes: Sequence[NodeReport], use: Use) -> Usage:
    """Over these pools; the nodes below them count once."""
    capacity = sum(n.gpu for n in nodes) if pools else 0
    taken = sum(h.gpu for h in use.nodes.values()) if pools else 0
    held = sum((use.pools.get(p, Held()) for p in pools), Held())
    limit = sum(_limit(services, p, capacity) for p in pools)
    return _figures(held.firm, min(limit, float(capacity)), held.gpu, capacity, capacity - taken)


def _figures(used: float, limit: float, total: float, capacity: float, free: float) -> Usage:
    return Usage(
        quota_used=f"{used:g}",
        quota_free=f"{limit - used:g}",
        quota_limit=f"{limit:g}",
        total_usage=f"{total:g}",
        total_capacity=f"{capacity:g}",
        total_free=f"{max(free, 0):g}",
    )


def _fields(cpu: float, memory: int, gpu: int, storage: int) -> dict[str, str]:
    return {"storage": f"{gibi(storage)}Gi", "cpu": f"{cpu:g}", "memory": f"{gibi(memory)}Gi", "gpu": str(gpu)}


def _allocatable(node: NodeReport) -> dict[str, str]:
    """Rounded down: what is promised is there."""
    return {
        "storage": f"{node.storage >> 30}Gi",
        "cpu": f"{node.cpu:g}",
        "memory": f"{node.memory >> 30}Gi",
        "gpu": str(node.gpu),
    }


def _resource(services: Services, pools: Sequence[str], node: NodeReport, held: Held) -> Resource:
    platform, allocatable = node.platform, _allocatable(node)
    free = _fields(
        max(node.cpu - held.cpu, 0),
        max(node.memory - held.memory, 0),
        max(node.gpu - held.gpu, 0),
        max(node.storage - held.storage, 0),
    )
    every = pool_names(services)
    return Resource(
        hostname=node.name,
        exposed_fields={
            "node": node.name,
            "pool/platform": [f"{pool}/{platform}" for pool in pools],
            **{name: amount.removesuffix("Gi") for name, amount in allocatable.items()},
        },
        usage_fields=_fields(held.cpu, held.memory, held.gpu, held.storage),
        allocatable_fields=allocatable,
        non_workflow_usage_fields=_fields(0, 0, 0, 0),
        platform_allocatable_fields={pool: {platform: allocatable} for pool in pools},
        platform_available_fields={pool: {platform: free} for pool in pools},
        platform_workflow_allocatable_fields={pool: {platform: allocatable} for pool in pools},
        config_fields={pool: {platform: PlatformConfig()} for pool in pools},
        backend=services.settings.backend,
        label_fields=dict(node.labels) or None,
        pool_platform_labels={pool: [platform] for pool in pools},
        resource_type="SHARED" if len(every) > 1 else "RESERVED",
    )


def _concise(services: Services, pool: str, nodes: Sequence[NodeReport], held: Mapping[str, Held]) -> list[ConcisePool]:
    shown = []
    for platform in sorted({n.platform for n in nodes}):
        mine = [n for n in nodes if n.platform == platform]
        used = sum((held.get(n.name, Held()) for n in mine), Held())
        shown.append(
            ConcisePool(
                pool=pool,
                platform=platform,
                status="ONLINE",
                usage_fields=_fields(used.cpu, used.memory, used.gpu, used.storage),
                allocatable_fields=_fields(
                    sum(n.cpu for n in mine),
                    sum(n.memory for n in mine),
                    sum(n.gpu for n in mine),
                    sum(n.storage for n in mine),
                ),
                backend=services.settings.backend,
            )
        )
    return shown
