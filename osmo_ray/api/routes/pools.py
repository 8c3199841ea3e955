"""Pools, their use, and the nodes behind them.

There is one pool so far, named by the settings, over every node of the backend; its quota is what the nodes have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query

from osmo_ray.api.errors import ApiError
from osmo_ray.api.routes.common import User
from osmo_ray.api.routes.service import NODE_SILENT
from osmo_ray.api.services import Services
from osmo_ray.api.views import gibi
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.quantity import show_seconds
from osmo_ray.store.protocol import TaskQuery, TaskRow

Many = Annotated[list[str] | None, Query()]
HOLDING = ("SCHEDULING", "INITIALIZING", "RUNNING")


@dataclass(frozen=True, slots=True)
class Held:
    """What tasks hold on a node."""

    cpu: float = 0.0
    memory: int = 0
    gpu: int = 0
    storage: int = 0

    def plus(self, row: TaskRow) -> Held:
        return Held(self.cpu + row.cpu, self.memory + row.memory, self.gpu + row.gpu, self.storage + row.storage)


def held_by_node(services: Services) -> Mapping[str, Held]:
    """Node name -> what the tasks on it hold."""
    found: dict[str, Held] = {}
    offset = 0
    while rows := services.store.list_tasks(TaskQuery(statuses=HOLDING, offset=offset, limit=1000)):
        for row in rows:
            found[row.task.node] = found.get(row.task.node, Held()).plus(row)
        offset += len(rows)
        if len(rows) < 1000:
            break
    return found


def alive_nodes(services: Services) -> Sequence[NodeReport]:
    """Nodes heard of in the last two minutes."""
    now = services.clock()
    return [n for _, at, n in services.store.nodes() if n.alive and now - at < NODE_SILENT]


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["pool"])

    @router.get("/api/pool")
    def pools(all_pools: bool = True, pools: Many = None) -> dict[str, Any]:
        wanted = _wanted(services, pools)
        return {"pools": {name: pool_view(services) for name in wanted}}

    @router.get("/api/pool_quota")
    def quota(all_pools: bool = True, pools: Many = None) -> dict[str, Any]:
        usage = _usage(services)
        shown = [{**pool_view(services), "resource_usage": usage} for _ in _wanted(services, pools)]
        return {"node_sets": [{"pools": shown}] if shown else [], "resource_sum": usage}

    @router.get("/api/resources")
    def resources(
        user: User, pools: Many = None, platforms: Many = None, all_pools: bool = False, concise: bool = False
    ) -> dict[str, Any]:
        _wanted(services, pools)
        held = held_by_node(services)
        nodes = [n for n in alive_nodes(services) if not platforms or n.platform in platforms]
        if concise:
            return {"pools": _concise(services, nodes, held)}
        return {"resources": [_resource(services, n, held.get(n.name, Held())) for n in nodes]}

    @router.get("/api/resources/{name}")
    def resource(name: str) -> dict[str, Any]:
        held = held_by_node(services)
        found = [n for n in alive_nodes(services) if n.name == name]
        if not found:
            raise ApiError(f"There is no node {name!r}; see osmo resource list.", "RESOURCE")
        return {"resources": [_resource(services, n, held.get(n.name, Held())) for n in found]}

    return router


def _wanted(services: Services, names: list[str] | None) -> list[str]:
    known = services.settings.pool
    for name in names or ():
        if name != known:
            raise ApiError(f"There is no pool {name!r}; pools: {known}.")
    return [known]


def pool_view(services: Services) -> dict[str, Any]:
    """A pool as clients know it."""
    settings = services.settings
    nodes = alive_nodes(services)
    platforms = {n.platform for n in nodes} | {settings.platform}
    nothing = {
        "description": "",
        "host_network_allowed": False,
        "privileged_allowed": False,
        "allowed_mounts": [],
        "default_mounts": [],
    }
    return {
        "name": settings.pool,
        "description": "Every node of this platform",
        "status": "ONLINE" if nodes else "OFFLINE",
        "download_type": "download",
        "enable_maintenance": False,
        "backend": settings.backend,
        "default_platform": settings.platform,
        "default_exec_timeout": show_seconds(settings.exec_timeout),
        "default_queue_timeout": show_seconds(settings.queue_timeout),
        "max_exec_timeout": show_seconds(settings.exec_timeout),
        "max_queue_timeout": show_seconds(settings.queue_timeout),
        "default_exit_actions": {},
        "resources": {"gpu": {"guarantee": -1, "maximum": -1, "weight": 1}},
        "topology_keys": [],
        "platforms": dict.fromkeys(sorted(platforms), nothing),
    }


def _usage(services: Services) -> dict[str, str]:
    capacity = sum(n.gpu for n in alive_nodes(services))
    used = sum(h.gpu for h in held_by_node(services).values())
    figures = {
        "quota_used": used,
        "quota_free": capacity - used,
        "quota_limit": capacity,
        "total_usage": used,
        "total_capacity": capacity,
        "total_free": capacity - used,
    }
    return {name: str(value) for name, value in figures.items()}


def _fields(cpu: float, memory: int, gpu: int, storage: int) -> dict[str, str]:
    return {"storage": f"{gibi(storage)}Gi", "cpu": f"{cpu:g}", "memory": f"{gibi(memory)}Gi", "gpu": str(gpu)}


def _resource(services: Services, node: NodeReport, held: Held) -> dict[str, Any]:
    pool, platform = services.settings.pool, node.platform
    usage = _fields(held.cpu, held.memory, held.gpu, held.storage)
    allocatable = {
        "storage": f"{node.storage >> 30}Gi",
        "cpu": f"{node.cpu:g}",
        "memory": f"{node.memory >> 30}Gi",
        "gpu": str(node.gpu),
    }
    free = _fields(
        node.cpu - held.cpu, node.memory - held.memory, node.gpu - held.gpu, max(node.storage - held.storage, 0)
    )
    config = {"host_network": False, "privileged": False, "default_mounts": [], "allowed_mounts": []}
    return {
        "hostname": node.name,
        "exposed_fields": {
            "node": node.name,
            "pool/platform": [f"{pool}/{platform}"],
            "storage": str(node.storage >> 30),
            "cpu": f"{node.cpu:g}",
            "memory": str(node.memory >> 30),
            "gpu": str(node.gpu),
        },
        "taints": [],
        "usage_fields": usage,
        "allocatable_fields": allocatable,
        "non_workflow_usage_fields": _fields(0, 0, 0, 0),
        "conditions": None,
        "platform_allocatable_fields": {pool: {platform: allocatable}},
        "platform_available_fields": {pool: {platform: free}},
        "platform_workflow_allocatable_fields": {pool: {platform: allocatable}},
        "config_fields": {pool: {platform: config}},
        "backend": services.settings.backend,
        "label_fields": dict(node.labels) or None,
        "pool_platform_labels": {pool: [platform]},
        "resource_type": "SHARED",
    }


def _concise(services: Services, nodes: Sequence[NodeReport], held: Mapping[str, Held]) -> list[dict[str, Any]]:
    shown = []
    for platform in sorted({n.platform for n in nodes}):
        mine = [n for n in nodes if n.platform == platform]
        used = [held.get(n.name, Held()) for n in mine]
        shown.append(
            {
                "pool": services.settings.pool,
                "platform": platform,
                "status": "ONLINE",
                "usage_fields": _fields(
                    sum(h.cpu for h in used),
                    sum(h.memory for h in used),
                    sum(h.gpu for h in used),
                    sum(h.storage for h in used),
                ),
                "allocatable_fields": _fields(
                    sum(n.cpu for n in mine),
                    sum(n.memory for n in mine),
                    sum(n.gpu for n in mine),
                    sum(n.storage for n in mine),
                ),
                "backend": services.settings.backend,
            }
        )
    return shown
