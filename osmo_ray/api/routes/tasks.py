"""Tasks over all workflows, in three forms, and one task's place."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from osmo_ray.api import cancel
from osmo_ray.api.errors import ApiError
from osmo_ray.api.routes.common import MAX_OFFSET, MAX_PAGE, Base, Many, User, parse_moment
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import (
    Summary,
    SummaryList,
    TaskList,
    TaskPlace,
    WorkflowSummary,
    WorkflowSummaryList,
    stamp,
)
from osmo_ray.api.views import amounts, gibi, task_entry
from osmo_ray.store.protocol import TaskQuery, TaskSum

HOLDING = ("SCHEDULING", "INITIALIZING", "RUNNING")
"""What sums are over, when nobody asks for other states: attempts that hold what they asked for."""


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["task"])
    store = services.store

    @router.get("/api/task")
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
    ) -> TaskList | SummaryList | WorkflowSummaryList:
        if limit < 1 or not 0 <= offset <= MAX_OFFSET:
            raise ApiError("limit must be at least 1 and offset not negative.")
        query = TaskQuery(
            workflow=workflow_id or "",
            statuses=statuses or (HOLDING if summary or aggregate_by_workflow else ()),
            users=users or ([] if all_users else [user.user]),
            pools=pools or ([] if all_pools else [store.profile(user.user).pool or services.settings.pool]),
            nodes=nodes or (),
            priorities=[p.upper() for p in priority or ()],
            started_after=parse_moment("started_after", started_after),
            started_before=parse_moment("started_before", started_before),
            offset=offset,
            limit=min(limit, MAX_PAGE),
        )
        if summary or aggregate_by_workflow:
            sums = store.sum_tasks(query, by_workflow=aggregate_by_workflow)
            if aggregate_by_workflow:
                return WorkflowSummaryList(
                    summaries=[WorkflowSummary(workflow_id=s.workflow_id, **_amounts(s)) for s in sums]
                )
            return SummaryList(summaries=[Summary(**_amounts(s)) for s in sums])
        rows = list(store.list_tasks(query))
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


def _amounts(one: TaskSum) -> dict[str, Any]:
    return {
        "user": one.user,
        "pool": one.pool or None,
        "storage": gibi(one.storage),
        "cpu": round(one.cpu),
        "memory": gibi(one.memory),
        "gpu": one.gpu,
        "priority": one.priority,
    }
