"""What the end of one part means for the others: lead to members, group to group."""

from __future__ import annotations

from osmo_ray.engine.draft import Draft
from osmo_ray.engine.exits import UPSTREAM_FAILED
from osmo_ray.engine.folds import fold_group, placed_any
from osmo_ray.engine.model import ApplyGroup, DeleteGroup, Group, Task
from osmo_ray.engine.status import ALIVE, TaskStatus
from osmo_ray.spec.model import GroupSpec, WorkflowSpec
from osmo_ray.spec.reason import Reason

_S = TaskStatus


def spec_of(spec: WorkflowSpec, group: Group) -> GroupSpec:
    """The group's spec; KeyError if the state and the spec disagree."""
    found = spec.groups[group.index]
    if found.name != group.name:
        raise KeyError(group.name)
    return found


def end_group(draft: Draft, name: str, status: TaskStatus, reason: Reason, grace: float) -> None:
    """End a whole group from outside (cancel, timeout): its tasks get this status and no exit code.

    Nothing is propagated from here: the caller ends every unfinished group of the workflow, or what depends on it."""
    group = draft.group(name)
    if any(_may_run(task) for task in group.tasks):
        draft.command(DeleteGroup(name, grace))
    for task in group.tasks:
        draft.move_task(name, task, status, reason=reason)
    draft.move_group(name, status, reason=reason)


def _may_run(task: Task) -> bool:
    """Whether something of this unfinished task may be on a node: its attempt, or an older one not yet ended there."""
    return not task.status.finished and bool(task.node or task.retry_id)


def settle_group(draft: Draft, name: str, grace: float) -> None:
    """Bring a group's status in line with its tasks, and tell those that depend on it."""
    group = draft.group(name)
    if group.status.finished:
        return
    ignore = spec_of(draft.workflow.spec, group).ignore_nonlead_status
    group = _end_members(draft, group, ignore, grace)
    _open_barrier(draft, group)
    if not placed_any(group.tasks):
        return
    status = fold_group(group.tasks, ignore)
    if not draft.move_group(name, status) or not status.finished:
        return
    if draft.withdraw(ApplyGroup, name):
        # An end that was decided here (a limit, a preemption) and not seen there: the attempt still has to go.
        draft.command(DeleteGroup(name, grace))
    group = draft.group(name)
    if status is _S.COMPLETED:
        draft.set_group(name, reason=None)
        _release_downstream(draft, group)
    else:
        failed = [t for t in group.tasks if t.status.failed and t.reason]
        draft.set_group(name, reason=failed[0].reason if failed else None)
        fail_downstream(draft, group)


def _end_members(draft: Draft, group: Group, ignore_nonlead: bool, grace: float) -> Group:
    """The end of the lead ends everybody; so does a failed member when the group minds."""
    if len(group.tasks) == 1:
        return group
    lead = next((t for t in group.tasks if t.lead), group.tasks[0])
    failed = next((t for t in group.tasks if t.status.failed), None)
    if lead.status.finished and lead.status is not _S.RESCHEDULED:
        status = _S.COMPLETED if lead.status is _S.COMPLETED else _S.FAILED
        reason = Reason("LeadEnded", f"the group's lead {lead.name} ended {lead.status.value}")
    elif failed is not None and not ignore_nonlead:
        status = _S.FAILED
        reason = Reason("MemberFailed", f"{failed.name} of the same group ended {failed.status.value}")
    else:
        return group
    running = [t for t in group.tasks if not t.status.finished]
    for task in running:
        draft.move_task(group.name, task, status, reason=reason)
    if any(_may_run(task) for task in running):
        draft.command(DeleteGroup(group.name, grace))
    return draft.group(group.name)


def _open_barrier(draft: Draft, group: Group) -> None:
    """Open the start barrier when every unfinished member of this generation waits at it."""
    if len(group.tasks) == 1 or group.released >= group.barrier:
        return
    if not spec_of(draft.workflow.spec, group).barrier:
        return
    unfinished = [t for t in group.tasks if not t.status.finished]
    if unfinished and all(t.ready >= group.barrier for t in unfinished if t.restarts >= group.barrier):
        draft.set_group(group.name, released=group.barrier)
        draft.command(ApplyGroup(group.name))


def _release_downstream(draft: Draft, group: Group) -> None:
    for name in group.downstream:
        waiting = draft.group(name)
        pending = waiting.pending - {group.name}
        draft.set_group(name, pending=pending)
        if not pending and draft.move_group(name, _S.PROCESSING):
            for task in waiting.tasks:
                draft.move_task(name, task, _S.PROCESSING)


def fail_downstream(draft: Draft, group: Group) -> None:
    """What waits for this group, which failed, will never run."""
    for name in group.downstream:
        below = draft.group(name)
        if below.status not in ALIVE:
            continue
        reason = Reason("UpstreamFailed", f"waits for {group.name}, which ended {group.status.value}")
        for task in below.tasks:
            draft.move_task(name, task, _S.FAILED_UPSTREAM, exit_code=UPSTREAM_FAILED, reason=reason)
        draft.move_group(name, _S.FAILED_UPSTREAM, reason=reason)
        fail_downstream(draft, draft.group(name))
