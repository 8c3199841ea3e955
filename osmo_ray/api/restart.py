"""Running the failed part of a workflow again: groups that completed are not repeated, their outputs are read."""

from __future__ import annotations

from dataclasses import replace

from osmo_ray.api.errors import ApiError
from osmo_ray.engine.model import Workflow
from osmo_ray.spec.model import GroupSpec, Input, TaskInput, TaskSpec, WorkflowSpec


def remaining(workflow: Workflow) -> WorkflowSpec:
    """The groups that failed (cancelled and never started ones too); what they read from completed groups is read
    from `workflow`. Raises `ApiError` for a workflow that did not fail."""
    if not workflow.status.failed:
        message = f"Workflow {workflow.id} is {workflow.status.value}; only failed workflows can be restarted."
        raise ApiError(message, "SUBMISSION", workflow_id=workflow.id)
    failed = {group.name for group in workflow.groups if group.status.failed}
    done = {task.name for group in workflow.groups if group.name not in failed for task in group.tasks}
    groups = (_group(g, done, workflow.id) for g in workflow.spec.groups if g.name in failed)
    return replace(workflow.spec, groups=tuple(groups))


def _group(group: GroupSpec, done: set[str], old: str) -> GroupSpec:
    return replace(group, tasks=tuple(_task(task, done, old) for task in group.tasks))


def _task(task: TaskSpec, done: set[str], old: str) -> TaskSpec:
    return replace(task, inputs=tuple(_input(i, done, old) for i in task.inputs))


def _input(wanted: Input, done: set[str], old: str) -> Input:
    if isinstance(wanted, TaskInput) and not wanted.workflow and wanted.task in done:
        return replace(wanted, workflow=old)
    return wanted
