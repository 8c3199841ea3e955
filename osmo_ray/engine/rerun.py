"""Running a part of a workflow again: which groups run, and from where they read what is not run again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from osmo_ray.engine.admit import edges
from osmo_ray.engine.model import Workflow
from osmo_ray.engine.status import TaskStatus
from osmo_ray.spec.model import GroupSpec, Input, TaskInput, TaskSpec, WorkflowSpec


class CannotRerun(ValueError):
    """Why there is nothing to run again, as one sentence."""


def failed_part(workflow: Workflow) -> WorkflowSpec:
    """The groups that failed (cancelled and never started ones too). Raises CannotRerun for a workflow that did not
    fail."""
    if not workflow.status.failed:
        raise CannotRerun(f"Workflow {workflow.id} is {workflow.status.value}; only failed workflows can be restarted.")
    return _part(workflow.spec, {g.name for g in workflow.groups if g.status.failed}, workflow)


def part_from(workflow: Workflow, spec: WorkflowSpec, tasks: Collection[str]) -> WorkflowSpec:
    """The groups of `tasks` and all that depends on them, as `spec` says them, which may be newer than what ran; with
    them whatever `spec` has that did not complete. Raises CannotRerun."""
    if not workflow.status.finished:
        raise CannotRerun(f"Workflow {workflow.id} is {workflow.status.value}; it has to end before it is run again.")
    home = {t.name: g.name for g in spec.groups for t in g.tasks}
    if unknown := sorted(set(tasks) - set(home)):
        known = ", ".join(sorted(home))
        raise CannotRerun(f"Workflow {workflow.id} has no task {unknown[0]!r} to run again from; tasks: {known}.")
    complete = {t.name for g in workflow.groups if g.status is TaskStatus.COMPLETED for t in g.tasks}
    chosen = {home[name] for name in tasks}
    chosen |= {g.name for g in spec.groups if not complete.issuperset(t.name for t in g.tasks)}
    if not chosen:
        raise CannotRerun(f"Everything in {workflow.id} completed; name a task to run again from.")
    return _part(spec, _with_dependents(spec, chosen), workflow)


def _with_dependents(spec: WorkflowSpec, chosen: set[str]) -> set[str]:
    upstream = edges(spec)
    while more := {name for name, above in upstream.items() if chosen.intersection(above)} - chosen:
        chosen = chosen | more
    return chosen


def _part(spec: WorkflowSpec, names: Collection[str], old: Workflow) -> WorkflowSpec:
    """The named groups; what they read from other groups is read from `old`."""
    kept = {task.name for group in spec.groups if group.name not in names for task in group.tasks}
    return replace(spec, groups=tuple(_group(g, kept, old.id) for g in spec.groups if g.name in names))


def _group(group: GroupSpec, kept: set[str], old: str) -> GroupSpec:
    return replace(group, tasks=tuple(_task(task, kept, old) for task in group.tasks))


def _task(task: TaskSpec, kept: set[str], old: str) -> TaskSpec:
    return replace(task, inputs=tuple(_input(i, kept, old) for i in task.inputs))


def _input(wanted: Input, kept: set[str], old: str) -> Input:
    if isinstance(wanted, TaskInput) and not wanted.workflow and wanted.task in kept:
        return replace(wanted, workflow=old)
    return wanted
