"""Filters of lists as SQL.

Each list is one walk along an index in the order of the page, so its cost follows the page and not the table. Lists
of workflows read no spec and no group; what they count stands in the workflow's row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, func, literal, select

from osmo_ray.engine.status import WorkflowStatus
from osmo_ray.store import rows
from osmo_ray.store.protocol import TaskQuery, WorkflowQuery
from osmo_ray.store.schema import tags, tasks, workflow_apps, workflows

FEW_WORKFLOWS = 200
"""Up to so many matching workflows, tasks are found through them; with more, along the list until the page is full."""


def part(column: Column[str], text: str) -> ColumnElement[bool]:
    """The column contains `text`, taken literally and with its case (LIKE would do neither on SQLite)."""
    return func.replace(column, text, "") != column


def one_of(column: Column[str], values: Sequence[str]) -> list[ColumnElement[bool]]:
    return [column.in_([str(v) for v in values])] if values else []


def workflow_page(query: WorkflowQuery) -> Select[Any]:
    """One row more than the page, to see whether there is more."""
    w, a = workflows.c, workflow_apps.c
    with_app = workflows.outerjoin(workflow_apps, a.workflow_uuid == w.uuid)
    columns = (*(w[name] for name in rows.WORKFLOW_LIST), *(a[name] for name in rows.WORKFLOW_APP))
    found = select(*columns).select_from(with_app).where(*_workflow_filters(query))
    order = (w.submitted.desc(), w.uuid.desc()) if query.descending else (w.submitted, w.uuid)
    return found.order_by(*order).offset(query.offset).limit(query.limit + 1)


def _workflow_filters(query: WorkflowQuery) -> list[ColumnElement[bool]]:
    w = workflows.c
    found = [*one_of(w.user_name, query.users), *one_of(w.pool, query.pools), *one_of(w.priority, query.priorities)]
    found += one_of(w.status, query.statuses) or [w.status != WorkflowStatus.FAILED_SUBMISSION.value]
    if query.name:
        found.append(part(w.id, query.name))
    if query.tags:
        found.append(w.uuid.in_(select(tags.c.workflow_uuid).where(tags.c.tag.in_(query.tags))))
    if query.app:
        found.append(workflow_apps.c.name == query.app)
    if query.app_version is not None:
        found.append(workflow_apps.c.version == query.app_version)
    if query.submitted_before is not None:
        found.append(w.submitted < query.submitted_before)
    if query.submitted_after is not None:
        found.append(w.submitted >= query.submitted_after)
    return found


def workflows_like(text: str) -> Select[Any]:
    return select(workflows.c.uuid).where(part(workflows.c.id, text)).limit(FEW_WORKFLOWS + 1)


def task_page(query: TaskQuery, few: Sequence[str] | None) -> Select[Any]:
    """A page of attempts with the ids of their workflows. `few` are the workflows that match `query.workflow`, None
    if there are many."""
    t = tasks.c
    found = select(t.n).where(*_task_filters(query))
    if few is not None:
        found = found.where(t.workflow_uuid.in_(few))
    elif query.workflow:
        match = select(workflows.c.uuid).where(
            workflows.c.uuid == t.workflow_uuid, part(workflows.c.id, query.workflow)
        )
        found = found.where(match.exists())
    page = found.order_by(t.place, t.n).offset(query.offset).limit(query.limit).subquery()
    return with_workflow().where(t.n.in_(select(page.c.n))).order_by(t.place, t.n)


def task_sums(query: TaskQuery, *, by_workflow: bool) -> Select[Any]:
    """In the order of the fields of `TaskSum`."""
    t, w = tasks.c, workflows.c
    joined = tasks.join(workflows, w.uuid == t.workflow_uuid)
    keys = (t.user_name, t.pool, t.priority, *((w.id,) if by_workflow else ()))
    shown = keys if by_workflow else (*keys, literal(""))
    sums = (func.sum(t.cpu), func.sum(t.memory), func.sum(t.gpu), func.sum(t.storage))
    found = select(*shown, *sums).select_from(joined).where(*_task_filters(query))
    if query.workflow:
        found = found.where(part(w.id, query.workflow))
    return found.group_by(*keys).order_by(*keys)


def with_workflow() -> Select[Any]:
    """Rows for `rows.task_row`."""
    joined = tasks.join(workflows, workflows.c.uuid == tasks.c.workflow_uuid)
    return select(*(tasks.c[name] for name in rows.TASK_LIST), workflows.c.id).select_from(joined)


def _task_filters(query: TaskQuery) -> list[ColumnElement[bool]]:
    t = tasks.c
    found = [*one_of(t.status, query.statuses), *one_of(t.user_name, query.users), *one_of(t.pool, query.pools)]
    found += [*one_of(t.node, query.nodes), *one_of(t.priority, query.priorities)]
    if query.started_after is not None:
        found.append(t.running >= query.started_after)
    if query.started_before is not None:
        found += [t.running < query.started_before, t.running > 0]
    return found
