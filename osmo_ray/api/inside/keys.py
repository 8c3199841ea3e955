"""Who may begin which session: keys are made for a user and an attempt, stand in the store, and are used once."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

from osmo_ray.api import cancel
from osmo_ray.api.errors import ApiError
from osmo_ray.api.services import Services
from osmo_ray.engine.model import Task, Workflow
from osmo_ray.engine.status import TaskStatus
from osmo_ray.store.protocol import SessionKey

EXEC, FORWARD, RSYNC = "exec", "portforward", "rsync"
CONTROL = "-control"
WAIT = 60.0
"""Seconds for which the two halves of a session wait for each other."""
_NAME = re.compile(r"[A-Za-z]{1,20}-[0-9A-Za-z-]{16,64}")


def running_task(services: Services, name: str, task: str) -> tuple[Workflow, Task]:
    """A task that one can look into. Raises `ApiError` in the words and codes of the contract."""
    workflow = _unfinished(services, name)
    found = next((t for g in workflow.groups for t in g.tasks if t.name == task), None)
    if found is None:
        raise ApiError(f"Workflow {workflow.id} has no task {task!r}.", "USER", 404, workflow.id)
    _check(workflow, found)
    return workflow, found


def running_group(services: Services, name: str, group: str) -> tuple[Workflow, list[Task]]:
    """The running tasks of a group, at least one. Raises `ApiError`."""
    workflow = _unfinished(services, name)
    found = next((g for g in workflow.groups if g.name == group), None)
    if found is None:
        raise ApiError(f"Workflow {workflow.id} has no group {group!r}.", "USER", 404, workflow.id)
    tasks = [t for t in found.tasks if t.status is TaskStatus.RUNNING]
    if not tasks:
        _check(workflow, found.tasks[0])
    return workflow, tasks


def _unfinished(services: Services, name: str) -> Workflow:
    workflow = cancel.find(services, name)
    if workflow.status.finished:
        message = f"Workflow {workflow.id} has finished ({workflow.status.value}); nothing of it runs any more."
        raise ApiError(message, "USER", 410, workflow.id)
    return workflow


def _check(workflow: Workflow, task: Task) -> None:
    if task.status is TaskStatus.RUNNING:
        return
    if task.status.finished:
        message = f"Task {task.name} of {workflow.id} does not run any more ({task.status.value})."
        raise ApiError(message, "USER", 404, workflow.id)
    message = f"Task {task.name} of {workflow.id} does not run yet ({task.status.value}); osmo explain says why."
    raise ApiError(message, "USER", 425, workflow.id)


def make(
    services: Services, user: str, workflow: Workflow, task: Task, kind: str, *, argv: tuple[str, ...] = (),
    port: int = 0, udp: bool = False,
) -> SessionKey:  # fmt: skip
    """A key that waits for its client."""
    now = services.clock()
    name = f"{kind.removesuffix(CONTROL).upper()}-{services.new_id()}"
    key = SessionKey(
        name, user, workflow.uuid, task.uuid, task.retry_id, task.node, kind, argv, port, udp, now + WAIT
    )  # fmt: skip
    services.store.save_session_key(key, now)
    return key


def announce(services: Services, control: SessionKey, name: str) -> bool:
    """A key that a client made up and announced over its control socket; False when it is none, or taken."""
    if not _NAME.fullmatch(name):
        return False
    now = services.clock()
    kind = control.kind.removesuffix(CONTROL)
    return services.store.save_session_key(replace(control, key=name, kind=kind, expires=now + WAIT), now)


async def take(services: Services, name: str, kind: str, user: str) -> SessionKey | None:
    """The key for this user and kind of socket, used up; waits for one that is only being announced. None when there
    is none: an unknown key, and another user's, look the same."""
    deadline, pause = asyncio.get_running_loop().time() + WAIT, 0.01
    while True:
        found = await asyncio.to_thread(services.store.take_session_key, name, services.clock())
        if found is not None:
            return found if found.user == user and found.kind.removesuffix(CONTROL) == kind else None
        if kind == EXEC or asyncio.get_running_loop().time() > deadline:
            return None
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, 1.0)


def still_runs(services: Services, key: SessionKey) -> bool:
    """Whether the attempt that a key is for goes on."""
    workflow = next(iter(services.store.load([key.workflow_uuid])), None)
    tasks = [t for g in workflow.groups for t in g.tasks if t.uuid == key.task_uuid] if workflow else []
    return any(t.retry_id == key.retry_id and not t.status.finished for t in tasks)
