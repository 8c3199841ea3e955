"""Queues as people ask for them: what each is owed, what it has, and what it borrowed.

What is owed comes from the quotas, read here; what a queue has and its fair share come from the controller's newest
cycle, since only the scheduler knows them. While it does not answer they are null, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastapi import APIRouter
from pydantic import ConfigDict
from pydantic.config import JsonDict

from osmo_ray.api.services import Services
from osmo_ray.api.shapes import Shape
from osmo_ray.api.submission import pool_names
from osmo_ray.providers.quota import QuotaQueue, QuotaSnapshot, Resource
from osmo_ray.scheduler.model import Standing

_GPU: JsonDict = {"quota": 2, "limit": 4, "weight": 1, "fair_share": 3, "held": 3, "held_firm": 2, "borrowed": 1}
_FREE: JsonDict = {"quota": -1, "limit": -1, "weight": 1}


class OwedView(Shape):
    """What a queue is owed of cores or bytes; -1 means unlimited."""

    quota: float
    limit: float
    weight: float


class GpuView(OwedView):
    """The same of GPUs, and what it has. Null: the controller has not planned with this queue, or does not answer."""

    fair_share: float | None = None
    held: float | None = None
    held_firm: float | None = None
    borrowed: float | None = None


class QueueView(Shape):
    """One queue. `pools` are those whose work goes into it; only queues with none below them run work. `shard` are the
    nodes that it divides; empty: those of no shard."""

    name: str
    parent: str
    shard: str = ""
    priority: int
    pools: list[str]
    gpu: GpuView
    cpu: OwedView
    memory: OwedView


class QueueList(Shape):
    """Queues in the order of their source. `set` is false where nobody set quotas; `error` says why `stale`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "set": True,
                    "stale": False,
                    "error": "",
                    "queues": [
                        {
                            "name": "training",
                            "parent": "all",
                            "priority": 100,
                            "pools": ["default"],
                            "gpu": _GPU,
                            "cpu": _FREE,
                            "memory": _FREE,
                        }
                    ],
                }
            ]
        }
    )

    set: bool
    stale: bool
    error: str
    queues: list[QueueView]


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["pool"])

    @router.get("/api/x/queues")
    async def queues() -> QueueList:
        quota = services.quota.snapshot() if services.quota else None
        error = services.quota.error if services.quota else ""
        if quota is None:
            return QueueList(set=False, stale=bool(error), error=error, queues=[])
        standings = {standing.queue: standing for standing in await services.standings()}
        shown = _views(quota, standings, pool_names(services))
        return QueueList(set=True, stale=quota.stale, error=quota.error, queues=shown)

    return router


def _views(quota: QuotaSnapshot, standings: Mapping[str, Standing], pools: Sequence[str]) -> list[QueueView]:
    """A queue that quotas no longer name is gone, even if the controller still plans with it for a moment."""
    of: dict[str, list[str]] = {}
    for pool in pools:
        of.setdefault(quota.resolve(pool), []).append(pool)
    return [_view(queue, standings.get(queue.name), of.get(queue.name, [])) for queue in quota.queues]


def _view(queue: QuotaQueue, standing: Standing | None, pools: list[str]) -> QueueView:
    return QueueView(
        name=queue.name,
        parent=queue.parent,
        shard=queue.shard,
        priority=queue.priority,
        pools=pools,
        gpu=_gpu(queue.gpu, standing),
        cpu=_owed(queue.cpu),
        memory=_owed(queue.memory),
    )


def _owed(resource: Resource) -> OwedView:
    quota, limit, weight = resource
    return OwedView(quota=quota, limit=limit, weight=weight)


def _gpu(resource: Resource, standing: Standing | None) -> GpuView:
    quota, limit, weight = resource
    if standing is None:
        return GpuView(quota=quota, limit=limit, weight=weight)
    return GpuView(
        quota=quota,
        limit=limit,
        weight=weight,
        fair_share=standing.fair,
        held=standing.held,
        held_firm=standing.firm,
        borrowed=0.0 if quota < 0 else max(0.0, standing.held - quota),
    )
