"""Why a task is where it is: the stored reason, or the one that follows from the state."""

from __future__ import annotations

from osmo_ray.engine.model import Group, Task, Workflow
from osmo_ray.engine.status import TaskStatus
from osmo_ray.spec.reason import Reason

_S = TaskStatus


def explain(workflow: Workflow, group: Group, task: Task) -> Reason | None:
    """One reason for a task that waits or failed; for one that runs or completed what is to be said of it, or None."""
    if task.status is _S.RESCHEDULED:
        return None
    if task.status in (_S.RUNNING, _S.COMPLETED):
        return task.reason
    if task.status.failed:
        return task.reason or group.reason or workflow.reason
    if task.status in (_S.WAITING, _S.SUBMITTING):
        return _waits_for(workflow, group)
    if task.status is _S.PROCESSING:
        return group.reason or task.reason or Reason("Queued", f"in the queue of pool {workflow.pool}")
    if task.status is _S.SCHEDULING:
        return task.reason or Reason("Starting", f"sent to {task.node}, not yet accepted there")
    return _initializing(group, task)


def _waits_for(workflow: Workflow, group: Group) -> Reason:
    parts = []
    for name in sorted(group.pending):
        other = workflow.group(name)
        parts.append(f"{name} ({other.status.value})" if other else name)
    return Reason("WaitsForUpstream", f"waits for {', '.join(parts)}", {"groups": str(len(parts))})


def _initializing(group: Group, task: Task) -> Reason:
    if task.ready >= group.barrier:
        late = [t.name for t in group.tasks if not t.status.finished and t.ready < group.barrier]
        if late:
            return Reason("AtBarrier", f"ready, waits at the start barrier for {', '.join(late)}")
    return task.reason or Reason("Preparing", f"inputs and files are being brought to {task.node}")
