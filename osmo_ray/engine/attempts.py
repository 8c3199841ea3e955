"""The life of one attempt: what a backend sees, what the exit code means, whether it is tried again."""

from __future__ import annotations

from dataclasses import replace

from osmo_ray.engine.draft import Draft
from osmo_ray.engine.events import Policy
from osmo_ray.engine.exits import BACKEND_ERROR, PREEMPTED, ExitAction, action_for, status_of
from osmo_ray.engine.model import ApplyGroup, Group, Task, Times
from osmo_ray.engine.propagate import spec_of
from osmo_ray.engine.status import TaskStatus
from osmo_ray.spec.attempt import ANYWHERE, Observation, Phase
from osmo_ray.spec.model import TaskSpec
from osmo_ray.spec.reason import Reason

_S = TaskStatus


def observed(draft: Draft, seen: Observation, policy: Policy, group_name: str = "") -> None:
    """Take in one observation; one of an older or unknown attempt changes nothing (that is the fence), nor does one
    of an attempt that was never sent anywhere."""
    group, task = _locate(draft, seen.key.task_uuid, group_name)
    if group is None or task is None or task.retry_id != seen.key.retry_id or task.status.finished or not task.node:
        return
    if seen.node and task.node.endswith(ANYWHERE):
        # Its own cluster has placed it: from now on it is late when it does not start.
        task = draft.set_task(group.name, task.uuid, node=seen.node, times=replace(task.times, scheduling=seen.at))
        draft.record("Bound", f"to {seen.node}", group.name, task, seen.at)
        group = draft.group(group.name)
    match seen.phase:
        case Phase.PENDING:
            _news(draft, group, task, seen)
        case Phase.ACCEPTED | Phase.PREPARING:
            _preparing(draft, group, task, seen)
        case Phase.READY:
            _ready(draft, group, task, seen)
        case Phase.RUNNING:
            _running(draft, group, task, seen)
        case Phase.UPLOADING:
            if not task.times.upload_start:
                draft.set_task(group.name, task.uuid, times=replace(task.times, upload_start=seen.at))
        case Phase.FINISHED:
            _finished(draft, group, task, seen, policy)
        case Phase.LOST:
            _lost(draft, group, task, seen, policy)


def _locate(draft: Draft, uuid: str, hint: str) -> tuple[Group | None, Task | None]:
    name = hint or draft.home(uuid)
    if name is None:
        return None, None
    group = draft.group(name)
    return group, group.task(uuid)


def _news(draft: Draft, group: Group, task: Task, seen: Observation) -> None:
    """A warning of the cluster: it is told, and stays the reason of the task until something else is."""
    if seen.reason is None or seen.reason == task.reason:
        return
    draft.record(seen.reason.code, seen.reason.sentence, group.name, task, seen.at)
    draft.set_task(group.name, task.uuid, reason=seen.reason)


def _preparing(draft: Draft, group: Group, task: Task, seen: Observation) -> None:
    times = task.times
    if seen.phase is Phase.PREPARING and not times.download_start:
        times = replace(times, download_start=seen.at)
    moved = draft.move_task(
        group.name,
        task,
        _S.INITIALIZING,
        seen.at,
        times=times,
        reason=seen.reason,
    )
    if not moved and times is not task.times:
        draft.set_task(group.name, task.uuid, times=times)
    _keep_address(draft, group, task, seen)


def _ready(draft: Draft, group: Group, task: Task, seen: Observation) -> None:
    if seen.restart <= task.ready:
        return
    times = task.times if task.times.download_end else replace(task.times, download_end=seen.at)
    values = {"ready": seen.restart, "address": seen.address or task.address}
    if not draft.move_task(group.name, task, _S.INITIALIZING, seen.at, times=times, **values):
        draft.set_task(group.name, task.uuid, times=times, **values)


def _running(draft: Draft, group: Group, task: Task, seen: Observation) -> None:
    times = task.times if task.times.download_end else replace(task.times, download_end=seen.at)
    if draft.move_task(group.name, task, _S.RUNNING, seen.at, times=times, reason=seen.reason):
        draft.record("Started", f"running on {task.node}", group.name, task, seen.at)
    elif seen.reason != task.reason and seen.reason is not None:
        draft.set_task(group.name, task.uuid, reason=seen.reason)
    _keep_address(draft, group, task, seen)


def _keep_address(draft: Draft, group: Group, task: Task, seen: Observation) -> None:
    """Without a barrier nobody waits for addresses, so the others hear of a new one as soon as it is known."""
    if not seen.address or seen.address == task.address:
        return
    draft.set_task(group.name, task.uuid, address=seen.address)
    if len(group.tasks) > 1:
        draft.command(ApplyGroup(group.name))


def _finished(draft: Draft, group: Group, task: Task, seen: Observation, policy: Policy) -> None:
    code = seen.exit_code if seen.exit_code is not None else 4000
    draft.set_task(group.name, task.uuid, output=seen.output, usage=seen.usage)
    draft.record("Exited", f"exit code {code}", group.name, task, seen.at)
    ended(draft, group.name, task.uuid, code, seen.reason, seen.at, policy)


def ended(draft: Draft, name: str, uuid: str, code: int, reason: Reason | None, at: float, policy: Policy) -> None:
    """An attempt ended with a code: the task's own exit actions, then the pool's, then the table decide."""
    group = draft.group(name)
    task = group.task(uuid)
    if task is None:
        return
    spec = _task_spec(draft, name, task.name)
    action = action_for(code, spec.exit_actions) or action_for(code, policy.exit_actions)
    if action is None and spec.retries and 0 < code < 256:
        action = ExitAction.RESCHEDULE
    if action is ExitAction.RESCHEDULE and code == PREEMPTED:  # nobody's failure, so no retry is spent
        _again(draft, group, task, code, reason)
        return
    if action is ExitAction.RESCHEDULE:
        budget = policy.task_retries if spec.retries is None else spec.retries
        if task.user_retries < budget:
            _again(draft, group, replace(task, user_retries=task.user_retries + 1), code, reason)
            return
        reason = _with_note(reason, f"not rescheduled: {budget} retries allowed")
    status = status_of(code)
    if action is ExitAction.COMPLETE:
        status = _S.COMPLETED
    elif status is _S.COMPLETED and action is ExitAction.FAIL:
        status, reason = _S.FAILED, Reason("ExitAction", f"exit code {code} counts as a failure (exitActions)")
    if status.failed and reason is None:
        reason = Reason("CommandFailed", f"the command ended with exit code {code}", {"exit code": str(code)})
    kept = None if status is _S.COMPLETED else reason
    draft.move_task(name, task, status, at, exit_code=code, reason=kept)


def _lost(draft: Draft, group: Group, task: Task, seen: Observation, policy: Policy) -> None:
    """Work lost with a part of the platform is not the user's failure: it has a budget of its own."""
    reason = seen.reason or Reason("AttemptLost", f"the attempt on {task.node} was lost")
    draft.record("Lost", reason.sentence, group.name, task, seen.at)
    if task.platform_retries < policy.platform_retries:
        _again(draft, group, replace(task, platform_retries=task.platform_retries + 1), BACKEND_ERROR, reason)
        return
    tried = Reason(reason.code, f"{reason.sentence}; run again {task.platform_retries} times already", reason.evidence)
    ended(draft, group.name, task.uuid, BACKEND_ERROR, tried, seen.at, policy)


def _again(draft: Draft, group: Group, task: Task, code: int, reason: Reason | None) -> None:
    """The next attempt of a task, with the retries counted in `task`, and in the same place again for those of its
    group that depend on it."""
    old = replace(
        task, status=_S.RESCHEDULED, exit_code=code, reason=reason, times=replace(task.times, ended=draft.now)
    )
    together = len(group.tasks) > 1
    spec = spec_of(draft.workflow.spec, group)
    all_again = together and (task.lead or not spec.ignore_nonlead_status)
    generation = group.barrier + 1 if all_again else group.barrier
    fresh = Task(
        uuid=task.uuid,
        name=task.name,
        lead=task.lead,
        status=_S.PROCESSING,
        retry_id=task.retry_id + 1,
        user_retries=task.user_retries,
        platform_retries=task.platform_retries,
        restarts=generation,
        reason=Reason("Rescheduled", f"attempt {task.retry_id} ended with code {code}; it runs again"),
        times=Times(processing=draft.now),
    )
    draft.replace_attempt(group.name, old, fresh)
    draft.record("Rescheduled", reason.sentence if reason else f"exit code {code}", group.name, old)
    if all_again:
        draft.set_group(group.name, barrier=generation)
        for other in group.tasks:
            if other.uuid != task.uuid and not other.status.finished:
                draft.set_task(group.name, other.uuid, restarts=generation)
    draft.command(ApplyGroup(group.name))


def _task_spec(draft: Draft, group: str, task: str) -> TaskSpec:
    return next(t for t in spec_of(draft.workflow.spec, draft.group(group)).tasks if t.name == task)


def _with_note(reason: Reason | None, note: str) -> Reason:
    if reason is None:
        return Reason("CommandFailed", note)
    return Reason(reason.code, f"{reason.sentence}; {note}", reason.evidence, reason.next_command)
