"""What the original has not: why things wait, what they used, bulk verbs, the state of the platform."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from fastapi import APIRouter

from osmo_ray import __version__
from osmo_ray.api import cancel
from osmo_ray.api.errors import ApiError
from osmo_ray.api.loglines import AttemptLog
from osmo_ray.api.routes.common import User
from osmo_ray.api.services import Services
from osmo_ray.api.shapes import (
    BulkCancel,
    BulkCanceled,
    Explained,
    Explanation,
    Named,
    NodeView,
    PlanView,
    ReasonView,
    StatusView,
    SweepList,
    UsagePoint,
    UsageView,
    stamp,
)
from osmo_ray.api.standing import NODE_SILENT
from osmo_ray.api.sweeps import views
from osmo_ray.api.views import amounts, reason_view
from osmo_ray.engine.explain import explain
from osmo_ray.engine.model import Group, Task, Workflow
from osmo_ray.engine.status import TaskStatus
from osmo_ray.scheduler.model import Outlook
from osmo_ray.store.protocol import TaskRow, WorkflowQuery

LAST_LINES = 5
MAX_IMAGES = 20
"""Images that a node is asked about: each may cost it a question to its container engine."""
MAX_TAILS = 10
"""Failed tasks whose last lines are shown; the others have theirs in their logs."""


def routes(services: Services) -> APIRouter:
    router = APIRouter(tags=["x"], prefix="/api/x")
    store = services.store

    @router.get("/workflow/{name}/explain")
    async def explain_workflow(name: str, all_tasks: bool = False) -> Explanation:
        workflow = await asyncio.to_thread(cancel.find, services, name)
        told = [(g, t) for g in workflow.groups for t in g.tasks if all_tasks or _worth(t)]
        tails = await _tails(services, workflow, [t for _, t in told])
        outlook = await services.outlook(workflow.uuid) if any(_queued(t) for _, t in told) else {}
        tasks = [_explained(workflow, g, t, tails.get(t.uuid, ()), outlook.get(g.name)) for g, t in told]
        return Explanation(
            name=workflow.id, status=workflow.status.value, reason=reason_view(workflow.reason), tasks=tasks
        )

    @router.get("/workflow/{name}/plan")
    async def plan(name: str) -> PlanView:
        workflow = await asyncio.to_thread(cancel.find, services, name)
        images = dict.fromkeys(t.image for g in workflow.spec.groups for t in g.tasks if t.image and t.ray is None)
        told = await services.preview(list(images)[:MAX_IMAGES]) if images else {}
        return PlanView(name=workflow.id, images=dict(told))

    @router.get("/workflow/{name}/sweeps")
    def sweeps(name: str) -> SweepList:
        return SweepList(sweeps=views(cancel.find(services, name), services.clock()))

    @router.get("/workflow/{name}/usage/{task}")
    def usage(name: str, task: str, retry_id: int | None = None) -> UsageView:
        workflow = cancel.find(services, name)
        rows = [r for r in store.attempts(workflow.uuid) if r.task.name == task and retry_id in (None, r.task.retry_id)]
        if not rows:
            raise ApiError(f"Workflow {workflow.id} has no such attempt of {task!r}.", workflow_id=workflow.id)
        found = max(rows, key=lambda r: r.task.retry_id).task
        points = [
            UsagePoint(at=stamp(s.at) or "", cpu=s.cpu, memory=s.memory, gpu=s.gpu)
            for s in store.usage(found.uuid, found.retry_id)
        ]
        return UsageView(task=task, retry_id=found.retry_id, figures=dict(found.usage), samples=points)

    @router.post("/workflows/cancel")
    def cancel_many(user: User, body: BulkCancel) -> BulkCanceled:
        names = list(body.names)
        if body.all_mine:
            query = WorkflowQuery(users=[user.user], statuses=("PENDING", "RUNNING", "WAITING"), limit=1000)
            names += [row.id for row in store.list_workflows(query)[0]]
        canceled: list[str] = []
        failed: dict[str, str] = {}
        for name in dict.fromkeys(names):
            try:
                canceled.append(cancel.cancel(services, name, user.user, body.message, body.force))
            except ApiError as error:
                failed[name] = str(error)
        return BulkCanceled(canceled=canceled, failed=failed)

    @router.delete("/workflow/{name}")
    def delete(name: str) -> Named:
        return Named(name=_delete(services, name))

    @router.get("/status")
    def status(user: User) -> StatusView:
        return StatusView(
            version=__version__,
            database_id=store.database_id(),
            user=user.user,
            pool=services.settings.pool,
            nodes=node_views(services),
            counts={kind: dict(c) for kind, c in store.count_by_status().items()},
        )

    return router


def _delete(services: Services, name: str) -> str:
    """Remove a finished workflow with all that it wrote; returns its id. Raises `ApiError`."""
    workflow = cancel.find(services, name)
    if not workflow.status.finished:
        message = f"Workflow {workflow.id} is {workflow.status.value}; cancel it before it is deleted."
        raise ApiError(message, workflow_id=workflow.id)
    if workflow.uuid in services.store.alive():
        message = f"The nodes are still cleaning up after {workflow.id}; try again in a moment."
        raise ApiError(message, "USER", 409, workflow.id)
    if used := services.store.forget_results([workflow.uuid]).get(workflow.uuid):
        message = f"Outputs of {workflow.id} are used by {', '.join(used[:5])}; delete those first."
        raise ApiError(message, "USER", 409, workflow.id)
    # Bytes first, the row last: a crash between leaves nothing that nobody knows of.
    for prefix in (f"workflows/{workflow.uuid}", f"logs/{workflow.uuid}"):
        services.objects.delete([info.key for info in services.objects.list(prefix)])
    services.store.delete_workflows([workflow.uuid])
    return workflow.id


def _worth(task: Task) -> bool:
    return task.status not in (TaskStatus.COMPLETED, TaskStatus.RUNNING) or task.reason is not None


def _queued(task: Task) -> bool:
    return task.status is TaskStatus.PROCESSING


def _explained(
    workflow: Workflow, group: Group, task: Task, tail: Sequence[str], outlook: Outlook | None = None
) -> Explained:
    """A stored reason is told when its code changes; whoever waits is told with the numbers of this moment."""
    asked = amounts(workflow, task.name)
    hopes = outlook if _queued(task) else None
    fresh = hopes.reason if hopes else None
    return Explained(
        group=group.name,
        task=task.name,
        retry_id=task.retry_id,
        status=task.status.value,
        exit_code=task.exit_code,
        node=task.node or None,
        reason=reason_view(fresh or explain(workflow, group, task)),
        expected_start=stamp(hopes.start) if hopes and hopes.start else None,
        expected_why=hopes.why if hopes else "",
        usage=dict(task.usage),
        limits={"cpu": asked.cpu, "memory": asked.memory, "gpu": asked.gpu, "storage": asked.storage},
        last_lines=list(tail),
    )


async def _tails(services: Services, workflow: Workflow, tasks: Sequence[Task]) -> dict[str, list[str]]:
    """Task uuid -> its last lines, for the first tasks that failed by themselves."""
    failed = [t for t in tasks if t.status.failed and t.node and t.status is not TaskStatus.FAILED_UPSTREAM]
    chosen = {t.uuid for t in sorted(failed, key=lambda t: t.times.ended)[:MAX_TAILS]}
    rows = await asyncio.to_thread(services.store.attempts, workflow.uuid) if chosen else ()
    newest = {r.task.uuid: r for r in sorted(rows, key=lambda r: r.task.retry_id) if r.task.uuid in chosen}
    found = await asyncio.gather(*(_tail(services, row) for row in newest.values()))
    return dict(zip(newest, found, strict=True))


async def _tail(services: Services, row: TaskRow) -> list[str]:
    log = AttemptLog(services, row, bare=True)
    kept: deque[bytes] = deque(maxlen=LAST_LINES)
    while not log.done:
        await log.fill(1 << 20, 0.0)
        kept.extend(line for _, line in log.lines if line.strip())
        log.lines = []
        if log.caught_up:
            break
    return [line.decode(errors="replace").rstrip()[:200] for line in kept]


def node_views(services: Services) -> list[NodeView]:
    """Every node the store knows of."""
    now = services.clock()
    return [
        NodeView(
            name=node.name,
            address=node.address,
            backend=backend,
            platform=node.platform,
            alive=node.alive and now - at < NODE_SILENT,
            seen=stamp(at),
            cpu=node.cpu,
            memory=node.memory,
            gpu=node.gpu,
            storage=node.storage,
            sandbox=node.sandbox,
            reasons=[
                ReasonView(code=r.code, sentence=r.sentence, evidence=dict(r.evidence), next_command=r.next_command)
                for r in node.reasons
            ],
        )
        for backend, at, node in services.store.nodes()
    ]
