"""`decide(workflow, event, now) -> Decision`: the only place where a workflow changes.

Pure: same workflow, same events, same time, same answer. What a late or doubled event finds already done, it leaves
as it is. `decide_all` takes several events of one workflow at once, which is one commit instead of many.
"""

from __future__ import annotations

from collections.abc import Iterable

from osmo_ray.engine import attempts, limits
from osmo_ray.engine.cache import is_open
from osmo_ray.engine.draft import Draft
from osmo_ray.engine.events import CancelRequested, Event, Held, Observed, Placed, Policy, Preempted, Recalled, Tick
from osmo_ray.engine.exits import PREEMPTED
from osmo_ray.engine.folds import fold_workflow
from osmo_ray.engine.model import ApplyGroup, Decision, Task, Workflow
from osmo_ray.engine.propagate import end_group, fail_downstream, settle_group
from osmo_ray.engine.status import IN_QUEUE, TaskStatus, WorkflowStatus
from osmo_ray.spec.reason import Reason

_S = TaskStatus


def decide(workflow: Workflow, event: Event, now: float, policy: Policy | None = None) -> Decision:
    """What one event changes."""
    return decide_all(workflow, (event,), now, policy)


def decide_all(workflow: Workflow, events: Iterable[Event], now: float, policy: Policy | None = None) -> Decision:
    """What these events change, in their order, as one decision."""
    if workflow.status.finished:
        return Decision(workflow)
    rules = policy or Policy()
    draft = Draft(workflow, now)
    for event in events:
        _one(draft, event, rules)
    _fold(draft, rules)
    return draft.done()


def _one(draft: Draft, event: Event, policy: Policy) -> None:
    match event:
        case Observed(observation, group):
            attempts.observed(draft, observation, policy, group)
        case Placed():
            _placed(draft, event)
        case Held(group, reason):
            _held(draft, group, reason)
        case Preempted(name, reason):
            _preempted(draft, name, reason, policy)
        case Recalled():
            _recalled(draft, event)
        case CancelRequested():
            _canceled(draft, event, policy)
        case Tick():
            limits.tick(draft, policy)


def _placed(draft: Draft, event: Placed) -> None:
    group = draft.find(event.group)
    if group is None or group.status.finished or group.pending:
        return
    moved = False
    for task in group.tasks:
        node = event.nodes.get(task.uuid)
        if node and draft.move_task(
            group.name, task, _S.SCHEDULING, node=node, address="", reason=event.why.get(task.uuid)
        ):
            draft.record("Placed", f"on {node}", group.name, task)
            moved = True
    if not moved:
        return
    draft.move_group(group.name, _S.SCHEDULING)
    if draft.group(group.name).reason is not None:
        draft.set_group(group.name, reason=None)
    draft.command(ApplyGroup(group.name))


def _held(draft: Draft, name: str, reason: Reason) -> None:
    group = draft.find(name)
    if group is not None and group.status in IN_QUEUE | {_S.RUNNING, _S.INITIALIZING} and group.reason != reason:
        draft.set_group(name, reason=reason)


def _preempted(draft: Draft, name: str, reason: Reason, policy: Policy) -> None:
    group = draft.find(name)
    if group is None or group.status.finished:
        return
    placed = [task for task in group.tasks if not task.status.finished and task.node]
    for task in placed:
        attempts.ended(draft, name, task.uuid, PREEMPTED, reason, draft.now, policy)
    if placed:
        draft.command(ApplyGroup(name))


def _recalled(draft: Draft, event: Recalled) -> None:
    """Nothing runs: each task has the output of the one that stands for it."""
    group = draft.find(event.group)
    if group is None or not is_open(group) or any(task.uuid not in event.earlier for task in group.tasks):
        return
    for task in group.tasks:
        found = event.earlier[task.uuid]
        reason = Reason(
            "Cached",
            f"not run: a task of {found.workflow} was the same, and its output is used",
            {"workflow": found.workflow, "task": found.uuid},
        )
        draft.move_task(group.name, task, _S.COMPLETED, exit_code=0, output=found.output, reason=reason)
        draft.record("Cached", reason.sentence, group.name, task)


def _canceled(draft: Draft, event: CancelRequested, policy: Policy) -> None:
    text = f"canceled by {event.user}" + (f": {event.message}" if event.message else "")
    reason = Reason("Canceled", text)
    grace = 0.0 if event.force else policy.grace
    wanted = [g.name for g in draft.groups if event.groups is None or g.name in event.groups]
    for name in wanted:
        if not draft.group(name).status.finished:
            end_group(draft, name, _S.FAILED_CANCELED, reason, grace)
    if event.groups is not None:
        for name in wanted:
            if draft.group(name).status is _S.FAILED_CANCELED:
                fail_downstream(draft, draft.group(name))
        draft.record("Canceled", f"{', '.join(wanted[:5])}{' ...' if len(wanted) > 5 else ''}: {text}")
        return
    draft.set_workflow(cancelled_by=event.user, reason=reason)
    draft.record("Canceled", text)


def _fold(draft: Draft, policy: Policy) -> None:
    for name in sorted(draft.touched):
        settle_group(draft, name, policy.grace)
    workflow = draft.workflow
    # A task may begin and end between two looks, so its own time counts: a workflow that has run anything is RUNNING.
    began = workflow.started or min((t.times.running for t in _tasks(draft) if t.times.running), default=0.0)
    status = fold_workflow(draft.groups, WorkflowStatus.RUNNING if began else workflow.status)
    if status is workflow.status:
        return
    if not status.finished:
        draft.set_workflow(status=status, started=began or draft.now)
        return
    reason = workflow.reason or _first_failure(draft)
    draft.set_workflow(status=status, started=began, ended=draft.now, reason=reason)
    draft.record("Ended", f"{workflow.id} ended {status.value}")


def _first_failure(draft: Draft) -> Reason | None:
    """The reason of the task that failed first: the cause, rather than what followed from it."""
    failed = [t for t in _tasks(draft) if t.status.failed and t.status is not _S.FAILED_UPSTREAM and t.reason]
    return min(failed, key=lambda t: t.times.ended).reason if failed else None


def _tasks(draft: Draft) -> list[Task]:
    return [task for group in draft.groups for task in group.tasks]
