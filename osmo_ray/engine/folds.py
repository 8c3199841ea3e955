"""Status of the whole from the status of the parts: tasks to group, groups to workflow.

The order of the questions matters and is the language's own: see docs/language.md, "What a status means".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from osmo_ray.engine.model import Group, Task
from osmo_ray.engine.status import PRESCHEDULING, TaskStatus, WorkflowStatus

_S = TaskStatus


def fold_group(tasks: Sequence[Task], ignore_nonlead_status: bool) -> TaskStatus:
    """A group's status from its tasks' newest attempts, once at least one of them was placed."""
    statuses = {task.status for task in tasks}
    if any(not s.finished or s is _S.RESCHEDULED for s in statuses):
        return _S.RUNNING if _S.RUNNING in statuses else _S.INITIALIZING
    for whole in (_S.FAILED_UPSTREAM, _S.FAILED_SERVER_ERROR, _S.FAILED_PREEMPTED):
        if whole in statuses:
            return whole
    considered = {t.status for t in tasks if t.lead or not ignore_nonlead_status}
    if _S.FAILED_EVICTED in considered:
        return _S.FAILED_EVICTED
    return _S.FAILED if any(s.failed for s in considered) else _S.COMPLETED


def fold_workflow(groups: Iterable[Group], stored: WorkflowStatus) -> WorkflowStatus:
    """A workflow's status from its groups'. RUNNING never goes back to PENDING; a group that completed has run, even
    if nobody saw it running."""
    statuses = [group.status for group in groups]
    if any(not s.finished for s in statuses):
        running = _S.RUNNING in statuses or _S.COMPLETED in statuses or stored is WorkflowStatus.RUNNING
        return WorkflowStatus.RUNNING if running else WorkflowStatus.PENDING
    for whole in (_S.FAILED_CANCELED, _S.FAILED_SERVER_ERROR, _S.FAILED_EXEC_TIMEOUT, _S.FAILED_QUEUE_TIMEOUT):
        if whole in statuses:
            return WorkflowStatus(whole.value)
    own = {s for s in statuses if s.failed and s is not _S.FAILED_UPSTREAM}
    if not own:
        # That only an upstream failed, and none is there, cannot be; if it were, it would be no success.
        return WorkflowStatus.FAILED if _S.FAILED_UPSTREAM in statuses else WorkflowStatus.COMPLETED
    return WorkflowStatus(own.pop().value) if len(own) == 1 else WorkflowStatus.FAILED


def placed_any(tasks: Iterable[Task]) -> bool:
    """Whether any attempt got past the queue, so that the fold applies."""
    return any(task.status not in PRESCHEDULING and task.status is not _S.SCHEDULING for task in tasks)
