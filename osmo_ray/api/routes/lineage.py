"""Lineage, seen from the workflow: which versions of datasets it read, and which it made.

What it read was fixed when each group was first sent. What it made stands in the versions, so their datasets are looked
at first: those that the plans of its groups named.
"""

from __future__ import annotations

import asyncio
import logging

from fastapi import APIRouter

from osmo_ray.api import cancel
from osmo_ray.api.dataset_shapes import Made, WorkflowDatasets
from osmo_ray.api.datasets import Shelf, made, reader
from osmo_ray.api.routes.common import User
from osmo_ray.api.services import Services
from osmo_ray.data.errors import DataError
from osmo_ray.engine.model import Workflow
from osmo_ray.objects.protocol import ObjectError

_log = logging.getLogger(__name__)


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["dataset"])

    @router.get("/api/x/workflow/{name}/datasets")
    async def workflow_datasets(name: str, user: User) -> WorkflowDatasets:
        workflow = await asyncio.to_thread(cancel.find, services, name)
        reads = await asyncio.to_thread(services.store.reads_of, workflow.uuid)
        seen = dict.fromkeys((r.bucket, r.name, r.version) for r in reads)
        first = [next(r for r in reads if (r.bucket, r.name, r.version) == one) for one in seen]
        written = await asyncio.to_thread(_written, services, workflow, user.user)
        return WorkflowDatasets(read=[reader(one) for one in first], written=written)

    return router


def _written(services: Services, workflow: Workflow, user: str) -> list[Made]:
    names: dict[str, set[str]] = {}
    for one in services.store.writes_of(workflow.uuid):
        names.setdefault(one.bucket, set()).add(one.name)
    shelves: dict[str, str] = {}
    for bucket, some in names.items():
        try:
            shelf = Shelf.of(services, bucket, user)
            shelves[shelf.key] = bucket
            shelf.refresh(*sorted(some))
        except (DataError, ObjectError, OSError) as error:
            _log.warning("what %s wrote to bucket %s may not all be told: %s", workflow.id, bucket, error)
    found = services.store.written_by(workflow.id)
    return [made(one.version, bucket=shelves[one.shelf], name=one.name) for one in found if one.shelf in shelves]
