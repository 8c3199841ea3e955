"""Limits of time: in the queue, while starting, while running."""

from __future__ import annotations

from osmo_ray.engine.attempts import ended
from osmo_ray.engine.draft import Draft
from osmo_ray.engine.events import Policy
from osmo_ray.engine.exits import START_TIMEOUT
from osmo_ray.engine.model import ApplyGroup, Task, Workflow
from osmo_ray.engine.propagate import end_group
from osmo_ray.engine.status import PRE_RUNNING, PRESCHEDULING, TaskStatus, WorkflowStatus
from osmo_ray.spec.quantity import show_seconds
from osmo_ray.spec.reason import Reason


def tick(draft: Draft, policy: Policy) -> None:
    """End what has reached a limit at `draft.now`."""
    workflow = draft.workflow
    over = _workflow_limit(workflow, draft.now)
    if over is not None:
        status, reason = over
        for group in draft.groups:
            if not group.status.finished:
                end_group(draft, group.name, status, reason, policy.grace)
        draft.set_workflow(reason=reason)
        draft.record("TimedOut", reason.sentence)
        return
    _starts(draft, policy)


def next_limit(workflow: Workflow, policy: Policy) -> float:
    """When `tick` has to look at this workflow next, in seconds since the epoch; infinity for never."""
    times = [float("inf")]
    if workflow.status is WorkflowStatus.PENDING and workflow.queue_timeout:
        times.append(workflow.submitted + workflow.queue_timeout)
    if workflow.status is WorkflowStatus.RUNNING and workflow.exec_timeout:
        times.append(workflow.started + workflow.exec_timeout)
    for group in workflow.groups:
        for task in group.tasks:
            if _starts_still(task):
                times.append(task.times.scheduling + policy.start_timeout)
    return min(times)


def _workflow_limit(workflow: Workflow, now: float) -> tuple[TaskStatus, Reason] | None:
    waited, ran = now - workflow.submitted, now - workflow.started
    if workflow.status is WorkflowStatus.PENDING and 0 < workflow.queue_timeout <= waited:
        return TaskStatus.FAILED_QUEUE_TIMEOUT, Reason(
            "QueueTimeout",
            f"waited longer than queue_timeout {show_seconds(workflow.queue_timeout)}",
            {"waited": show_seconds(waited)},
        )
    if workflow.status is WorkflowStatus.RUNNING and 0 < workflow.exec_timeout <= ran:
        return TaskStatus.FAILED_EXEC_TIMEOUT, Reason(
            "ExecTimeout",
            f"ran longer than exec_timeout {show_seconds(workflow.exec_timeout)}",
            {"ran": show_seconds(ran)},
        )
    return None


def _starts_still(task: Task) -> bool:
    """Placed and on its way. Who has come to the barrier has started: how long it waits there is up to others."""
    return task.status in PRE_RUNNING - PRESCHEDULING and bool(task.times.scheduling) and task.ready < 0


def _starts(draft: Draft, policy: Policy) -> None:
    for group in draft.groups:
        for task in group.tasks:
            if not _starts_still(task) or draft.now - task.times.scheduling < policy.start_timeout:
                continue
            reason = Reason(
                "StartTimeout",
                f"did not start within {show_seconds(policy.start_timeout)} on {task.node}",
            )
            ended(draft, group.name, task.uuid, START_TIMEOUT, reason, draft.now, policy)
            draft.command(ApplyGroup(group.name))
