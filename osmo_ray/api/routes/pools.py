"""Pools, their use, and the nodes behind them, as clients read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fastapi import APIRouter

from osmo_ray.api import grounds
from osmo_ray.api.errors import ApiError
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
from osmo_ray.api.services import Services
from osmo_ray.api.standing import Held, Standing, Use, in_use, node_sets, standings
from osmo_ray.api.submission import check_pool, pool_names
from osmo_ray.api.views import gibi
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.model import Timeouts, WorkflowSpec
from osmo_ray.spec.pools import PlatformSpec
from osmo_ray.spec.quantity import show_seconds

UNLIMITED = -1.0
_NOTHING = WorkflowSpec("", ())
_EVERYTHING = WorkflowSpec("", (), timeout=Timeouts(float("inf"), float("inf")))


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["pool"])

    @router.get("/api/pool")
    def pools(all_pools: bool = True, pools: Many = None) -> PoolList:
        found = standings(services, _wanted(services, pools))
        return PoolList(pools={one.pool.name: pool_view(services, one) for one in found})

    @router.get("/api/pool_quota")
    def quota(all_pools: bool = True, pools: Many = None) -> PoolQuota:
        found, use = node_sets(standings(services, _wanted(services, pools))), in_use(services)
        sets = [NodeSet(pools=[_with_usage(services, one, use) for one in together]) for together in found]
        return PoolQuota(node_sets=sets, resource_sum=_sum(services, found, use))

    @router.get("/api/resources")
    def resources(
        user: User, pools: Many = None, platforms: Many = None, all_pools: bool = False, concise: bool = False
    ) -> ResourceList | ConciseList:
        names = _wanted(services, pools)
        use = in_use(services)
        if concise:
            found = standings(services, names)
            return ConciseList(pools=[c for one in found for c in _concise(one, use, platforms)])
        return ResourceList(resources=_resources(services, names, use, platforms))

    @router.get("/api/resources/{name:path}")
    def resource(name: str) -> ResourceList:
        found = [r for r in _resources(services, pool_names(services), in_use(services)) if r.hostname == name]
        if not found:
            raise ApiError(f"There is no node {name!r}; see osmo resource list.", "RESOURCE")
        return ResourceList(resources=found)

    return router


def _wanted(services: Services, names: list[str] | None) -> list[str]:
    for name in names or ():
        check_pool(services, name)
    return list(dict.fromkeys(names or pool_names(services)))


def pool_view(services: Services, standing: Standing) -> PoolView:
    """A pool as clients know it."""
    written, nodes = standing.pool, standing.nodes
    share = grounds.share(services, written.name) or (UNLIMITED, UNLIMITED, 1.0)
    guarantee, maximum, weight = (int(n) if n == int(n) else n for n in share)
    default, most = (grounds.limits(services, written, spec) for spec in (_NOTHING, _EVERYTHING))
    names = sorted({n.platform for n in nodes} | written.platforms.keys())
    status = "MAINTENANCE" if written.maintenance else "ONLINE" if nodes else "OFFLINE"
    return PoolView(
        name=written.name,
        description=written.description or _usual(services, written.backend),
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


def _usual(services: Services, backend: str) -> str:
    own = backend == services.settings.backend
    return "Every node of this platform" if own else f"Every node of the cluster {backend}"


def _with_usage(services: Services, standing: Standing, use: Use) -> PoolWithUsage:
    held = use.pools.get(standing.pool.name, Held())
    limit = _limit(services, standing.pool.name, standing.gpus)
    free = standing.gpus - use.of(standing.nodes).gpu
    usage = _figures(held.firm, limit, held.gpu, standing.gpus, free)
    return PoolWithUsage(**pool_view(services, standing).model_dump(), resource_usage=usage)


def _sum(services: Services, sets: Sequence[Sequence[Standing]], use: Use) -> Usage:
    """Over these pools; the nodes below them count once."""
    capacity = sum(together[0].gpus for together in sets)
    free = sum(max(together[0].gpus - use.of(together[0].nodes).gpu, 0) for together in sets)
    pools = [one for together in sets for one in together]
    held = sum((use.pools.get(one.pool.name, Held()) for one in pools), Held())
    limit = sum(_limit(services, one.pool.name, one.gpus) for one in pools)
    return _figures(held.firm, min(limit, float(capacity)), held.gpu, capacity, free)


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


def _resources(
    services: Services, pools: Sequence[str], use: Use, platforms: Sequence[str] | None = None
) -> list[Resource]:
    """The nodes of these pools, each once."""
    every = Counter(one.pool.backend for one in standings(services, pool_names(services)))
    return [
        _resource(together, node, use.nodes.get(node.name, Held()), every[together[0].pool.backend] > 1)
        for together in node_sets(standings(services, pools))
        for node in together[0].nodes
        if not platforms or node.platform in platforms
    ]


def _resource(pools: Sequence[Standing], node: NodeReport, held: Held, shared: bool) -> Resource:
    platform, allocatable = node.platform, _allocatable(node)
    names = [one.pool.name for one in pools]
    free = _fields(
        max(node.cpu - held.cpu, 0),
        max(node.memory - held.memory, 0),
        max(node.gpu - held.gpu, 0),
        max(node.storage - held.storage, 0),
    )
    return Resource(
        hostname=node.name,
        exposed_fields={
            "node": node.name,
            "pool/platform": [f"{pool}/{platform}" for pool in names],
            **{name: amount.removesuffix("Gi") for name, amount in allocatable.items()},
        },
        usage_fields=_fields(held.cpu, held.memory, held.gpu, held.storage),
        allocatable_fields=allocatable,
        non_workflow_usage_fields=_fields(0, 0, 0, 0),
        platform_allocatable_fields={pool: {platform: allocatable} for pool in names},
        platform_available_fields={pool: {platform: free} for pool in names},
        platform_workflow_allocatable_fields={pool: {platform: allocatable} for pool in names},
        config_fields={one.pool.name: {platform: _config(one.pool.platform(platform))} for one in pools},
        backend=pools[0].pool.backend,
        label_fields=dict(node.labels) or None,
        pool_platform_labels={pool: [platform] for pool in names},
        resource_type="SHARED" if shared else "RESERVED",
    )


def _config(found: PlatformSpec) -> PlatformConfig:
    return PlatformConfig(
        host_network=found.host_network,
        privileged=found.privileged,
        default_mounts=list(found.default_mounts),
        allowed_mounts=list(found.allowed_mounts),
    )


def _concise(standing: Standing, use: Use, platforms: Sequence[str] | None) -> list[ConcisePool]:
    shown = []
    for platform in sorted({n.platform for n in standing.nodes}):
        if platforms and platform not in platforms:
            continue
        mine = [n for n in standing.nodes if n.platform == platform]
        used = use.of(mine)
        shown.append(
            ConcisePool(
                pool=standing.pool.name,
                platform=platform,
                status="ONLINE",
                usage_fields=_fields(used.cpu, used.memory, used.gpu, used.storage),
                allocatable_fields=_fields(
                    sum(n.cpu for n in mine),
                    sum(n.memory for n in mine),
                    sum(n.gpu for n in mine),
                    sum(n.storage for n in mine),
                ),
                backend=standing.pool.backend,
            )
        )
    return shown
