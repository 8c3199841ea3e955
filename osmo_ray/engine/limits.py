"""Limits of time: in the queue, while starting, while running."""

from __future__ import annotations

from osmo_ray.engine.attempts import ended
from osmo_ray.engine.draft import Draft
from osmo_ray.engine.events import Policy
from osmo_ray.engine.exits import START_TIMEOUT
from osmo_ray.engine.model import ApplyGroup, Group, Task, Workflow
from osmo_ray.engine.propagate import end_group, fail_downstream
from osmo_ray.engine.status import IN_QUEUE, PRE_RUNNING, PRESCHEDULING, TaskStatus, WorkflowStatus
from osmo_ray.spec.attempt import ANYWHERE
from osmo_ray.spec.quantity import show_seconds
from osmo_ray.spec.reason import Reason

PER_GROUP = "per-group"


def tick(draft: Draft, policy: Policy) -> None:
    """End what has reached a limit at `draft.now`."""
    workflow = draft.workflow
    over = None if policy.timeouts == PER_GROUP else _workflow_limit(workflow, draft.now)
    if over is not None:
        status, reason = over
        for group in draft.groups:
            if not group.status.finished:
                end_group(draft, group.name, status, reason, policy.grace)
        draft.set_workflow(reason=reason)
        draft.record("TimedOut", reason.sentence)
        return
    if policy.timeouts == PER_GROUP:
        _groups(draft, policy)
    _starts(draft, policy)


def next_limit(workflow: Workflow, policy: Policy) -> float:
    """When `tick` has to look at this workflow next, in seconds since the epoch; infinity for never."""
    times = [float("inf")]
    if policy.timeouts == PER_GROUP:
        times += [_group_limit(workflow, group) for group in workflow.groups]
    elif workflow.status is WorkflowStatus.PENDING and workflow.queue_timeout:
        times.append(workflow.submitted + workflow.queue_timeout)
    elif workflow.status is WorkflowStatus.RUNNING and workflow.exec_timeout:
        times.append(workflow.started + workflow.exec_timeout)
    for group in workflow.groups:
        for task in group.tasks:
            if _starts_still(task):
                times.append(task.times.scheduling + policy.start_timeout)
    return min(times)


def _group_limit(workflow: Workflow, group: Group) -> float:
    """When a group reaches its limit: of the queue from when it could start until it starts, then of running."""
    if group.status.finished or group.pending:
        return float("inf")
    if group.status in IN_QUEUE:
        began, limit = group.times.processing, workflow.queue_timeout
    else:
        began, limit = group.times.running, workflow.exec_timeout
    return began + limit if began and limit else float("inf")


def _groups(draft: Draft, policy: Policy) -> None:
    """End the groups that have reached their limit; what depends on them fails, and the others go on."""
    workflow = draft.workflow
    for group in draft.groups:
        if draft.now < _group_limit(workflow, group):
            continue
        waits = group.status in IN_QUEUE
        status = TaskStatus.FAILED_QUEUE_TIMEOUT if waits else TaskStatus.FAILED_EXEC_TIMEOUT
        limit = workflow.queue_timeout if waits else workflow.exec_timeout
        did, what = ("waited", "queue_timeout") if waits else ("ran", "exec_timeout")
        reason = Reason(
            "QueueTimeout" if waits else "ExecTimeout",
            f"group {group.name} {did} longer than {what} {show_seconds(limit)}",
        )
        end_group(draft, group.name, status, reason, policy.grace)
        fail_downstream(draft, draft.group(group.name))
        draft.record("TimedOut", reason.sentence, group.name)


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
    """Placed and on its way. Who has come to the barrier has started: how long it waits there is up to others; and who
    waits in a cluster's own queue has no place yet."""
    placed = task.status in PRE_RUNNING - PRESCHEDULING and bool(task.times.scheduling)
    return placed and task.ready < 0 and not task.node.endswith(ANYWHERE)


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
