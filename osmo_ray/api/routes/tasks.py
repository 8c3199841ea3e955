"""Tasks over all workflows, in three forms, and one task's place."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated

from fastapi import APIRouter, Query

from osmo_ray.api import cancel
from osmo_ray.api.errors import ApiError
from osmo_ray.api.routes.common import Base, User
from osmo_ray.api.routes.workflows import parse_moment
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import Summary, SummaryList, TaskList, TaskPlace, stamp
from osmo_ray.api.views import amounts, gibi, task_entry
from osmo_ray.store.protocol import TaskQuery, TaskRow

Many = Annotated[list[str] | None, Query()]
MAX_PAGE = 1000


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["task"])
    store = services.store

    @router.get("/api/task", response_model=None)
    def list_tasks(
        user: User,
        links: Base,
        workflow_id: str = "",
        statuses: Many = None,
        users: Many = None,
        all_users: bool = False,
        pools: Many = None,
        all_pools: bool = False,
        nodes: Many = None,
        started_after: str | None = None,
        started_before: str | None = None,
        offset: int = 0,
        limit: int = 20,
        order: str = "DESC",
        summary: bool = False,
        aggregate_by_workflow: bool = False,
        priority: Many = None,
    ) -> TaskList | SummaryList:
        if limit < 1 or offset < 0:
            raise ApiError("limit must be at least 1 and offset not negative.")
        query = TaskQuery(
            workflow=workflow_id or "",
            statuses=statuses or (),
            users=users or ([] if all_users else [user.user]),
            pools=pools or ([] if all_pools else [store.profile(user.user).pool or services.settings.pool]),
            nodes=nodes or (),
            priorities=[p.upper() for p in priority or ()],
            started_after=parse_moment("started_after", started_after),
            started_before=parse_moment("started_before", started_before),
            offset=offset,
            limit=min(limit, MAX_PAGE),
        )
        rows = list(store.list_tasks(query))
        if summary or aggregate_by_workflow:
            return SummaryList(summaries=_sum(rows, aggregate_by_workflow))
        if order.upper() == "ASC":
            rows.reverse()
        now = services.clock()
        return TaskList(tasks=[task_entry(row, links, now) for row in rows])

    @router.get("/api/workflow/{name}/task/{task}")
    def task_place(name: str, task: str) -> TaskPlace:
        workflow = cancel.find(services, name)
        found = next((t for g in workflow.groups for t in g.tasks if t.name == task), None)
        if found is None:
            raise ApiError(f"Workflow {workflow.id} has no task {task!r}.", workflow_id=workflow.id, status=404)
        asked = amounts(workflow, task)
        return TaskPlace(
            workflow_id=workflow.id,
            task_name=found.name,
            node=found.node or None,
            start_time=stamp(found.times.running),
            end_time=stamp(found.times.ended),
            status=found.status.value,
            storage=gibi(asked.storage),
            cpu=asked.cpu,
            memory=gibi(asked.memory),
            gpu=asked.gpu,
        )

    return router


def _sum(rows: list[TaskRow], by_workflow: bool) -> list[Summary]:
    grouped: dict[tuple[str, str, str, str], list[TaskRow]] = defaultdict(list)
    for row in rows:
        grouped[(row.user, row.pool, row.priority, row.workflow_id if by_workflow else "")].append(row)
    return [
        Summary(
            user=user,
            workflow_id=workflow or None,
            pool=pool or None,
            storage=sum(gibi(r.storage) for r in held),
            cpu=sum(round(r.cpu) for r in held),
            memory=sum(gibi(r.memory) for r in held),
            gpu=sum(r.gpu for r in held),
            priority=priority,
        )
        for (user, pool, priority, workflow), held in grouped.items()
    ]
