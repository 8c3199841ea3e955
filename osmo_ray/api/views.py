"""The state of workflows as the JSON that clients read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from osmo_ray.api.shapes import (
    GroupView,
    ReasonView,
    TaskEntry,
    TaskView,
    WorkflowEntry,
    WorkflowView,
    stamp,
)
from osmo_ray.engine.explain import explain
from osmo_ray.engine.model import Group, Task, Workflow
from osmo_ray.engine.status import TaskStatus
from osmo_ray.spec.model import ResourceSpec
from osmo_ray.spec.quantity import to_bytes
from osmo_ray.spec.reason import Reason
from osmo_ray.store.protocol import TaskRow, Texts, WorkflowRow

DEFAULT = ResourceSpec(cpu=1, gpu=0, memory="1Gi", storage="1Gi")
_S = TaskStatus
_NO_ERROR_LOG = frozenset(
    {
        _S.FAILED_CANCELED,
        _S.FAILED_EXEC_TIMEOUT,
        _S.FAILED_QUEUE_TIMEOUT,
        _S.FAILED_SERVER_ERROR,
        _S.FAILED_EVICTED,
        _S.FAILED_START_ERROR,
        _S.FAILED_IMAGE_PULL,
        _S.FAILED_UPSTREAM,
    }
)


@dataclass(frozen=True, slots=True)
class Links:
    """Addresses below the one that the client used."""

    base: str

    def overview(self, workflow: str) -> str:
        return f"{self.base}/workflows/{workflow}"

    def api(self, workflow: str, rest: str) -> str:
        return f"{self.base}/api/workflow/{workflow}/{rest}"

    def logs(self, workflow: str) -> str:
        return self.api(workflow, "logs?last_n_lines=1000")

    def task(self, workflow: str, kind: str, task: str, retry_id: int) -> str:
        lines = "last_n_lines=1000&" if kind != "events" else ""
        return self.api(workflow, f"{kind}?{lines}task_name={quote(task)}&retry_id={retry_id}")


def reason_view(reason: Reason | None) -> ReasonView | None:
    """The wire form of a reason."""
    if reason is None:
        return None
    return ReasonView(
        code=reason.code,
        sentence=reason.sentence,
        evidence=dict(reason.evidence),
        next_command=reason.next_command,
    )


def _queued(submitted: float, started: float, ended: float, now: float) -> float:
    return max((started or ended or now) - submitted, 0.0)


def _duration(started: float, ended: float, now: float) -> float | None:
    return max((ended or now) - started, 0.0) if started else None


def entry(row: WorkflowRow, links: Links, now: float) -> WorkflowEntry:
    """A line of `osmo workflow list`."""
    return WorkflowEntry(
        user=row.user,
        name=row.id,
        workflow_uuid=row.uuid,
        submit_time=stamp(row.submitted) or "",
        start_time=stamp(row.started),
        end_time=stamp(row.ended),
        queued_time=_queued(row.submitted, row.started, row.ended, now),
        duration=_duration(row.started, row.ended, now),
        status=row.status,
        overview=links.overview(row.id),
        logs=links.logs(row.id),
        error_logs=links.api(row.id, "error_logs") if row.status.startswith("FAILED") else None,
        pool=row.pool or None,
        app_owner=row.app_owner,
        app_name=row.app_name,
        app_version=row.app_version,
        priority=row.priority,
    )


def workflow_view(
    workflow: Workflow, texts: Texts, attempts: Mapping[str, Sequence[Task]] | None, links: Links, now: float
) -> WorkflowView:
    """The whole workflow; `attempts` (task uuid -> every attempt) takes the place of the newest ones when given.
    With `groups` left out by the caller, the list of groups is what it passes."""
    name = workflow.id
    return WorkflowView(
        name=name,
        uuid=workflow.uuid,
        submitted_by=workflow.user,
        cancelled_by=workflow.cancelled_by or None,
        spec=links.api(name, "spec"),
        template_spec=links.api(name, "spec?use_template=true"),
        logs=links.logs(name),
        events=links.api(name, "events"),
        overview=links.overview(name),
        parent_name=workflow.parent or None,
        tags=list(texts.tags),
        submit_time=stamp(workflow.submitted) or "",
        start_time=stamp(workflow.started),
        end_time=stamp(workflow.ended),
        exec_timeout=workflow.exec_timeout or None,
        queue_timeout=workflow.queue_timeout or None,
        duration=_duration(workflow.started, workflow.ended, now),
        queued_time=_queued(workflow.submitted, workflow.started, workflow.ended, now),
        status=workflow.status.value,
        outputs=f"{links.base}/api/x/workflow/{name}/outputs",
        groups=[group_view(workflow, g, attempts or {}, links) for g in workflow.groups],
        pool=workflow.pool or None,
        backend=workflow.backend or None,
        app_owner=texts.app.owner if texts.app else None,
        app_name=texts.app.name if texts.app else None,
        app_version=texts.app.version if texts.app else None,
        priority=workflow.priority.value,
    )


def group_view(workflow: Workflow, group: Group, attempts: Mapping[str, Sequence[Task]], links: Links) -> GroupView:
    """One group with its tasks."""
    times = group.times
    tasks = [t for newest in group.tasks for t in attempts.get(newest.uuid, (newest,))]
    return GroupView(
        name=group.name,
        status=group.status.value,
        start_time=stamp(times.running),
        end_time=stamp(times.ended),
        processing_start_time=stamp(times.processing),
        scheduling_start_time=stamp(times.scheduling),
        initializing_start_time=stamp(times.initializing),
        remaining_upstream_groups=sorted(group.pending) or None,
        downstream_groups=list(group.downstream) or None,
        failure_message=group.reason.sentence if group.reason and group.status.failed else None,
        tasks=[task_view(workflow, group, t, links) for t in tasks],
    )


def task_view(workflow: Workflow, group: Group, task: Task, links: Links) -> TaskView:
    """One attempt of a task."""
    name, times = workflow.id, task.times
    reason = explain(workflow, group, task) if task.status.failed else task.reason
    told = task.status.failed or task.status is _S.RESCHEDULED
    return TaskView(
        name=task.name,
        retry_id=task.retry_id,
        status=task.status.value,
        failure_message=reason.sentence if reason and told else None,
        exit_code=task.exit_code,
        logs=links.task(name, "logs", task.name, task.retry_id),
        error_logs=_error_logs(name, task, links),
        processing_start_time=stamp(times.processing),
        scheduling_start_time=stamp(times.scheduling),
        initializing_start_time=stamp(times.initializing),
        events=links.task(name, "events", task.name, task.retry_id),
        start_time=stamp(times.running),
        end_time=stamp(times.ended),
        input_download_start_time=stamp(times.download_start),
        input_download_end_time=stamp(times.download_end),
        output_upload_start_time=stamp(times.upload_start),
        pod_name=f"{task.uuid}-{task.retry_id}",
        pod_ip=task.address or None,
        task_uuid=task.uuid,
        node_name=task.node or None,
        lead=task.lead,
    )


def _error_logs(workflow: str, task: Task, links: Links) -> str | None:
    has = task.status is _S.RESCHEDULED or (task.status.failed and task.status not in _NO_ERROR_LOG)
    return links.task(workflow, "error_logs", task.name, task.retry_id) if has else None


def task_entry(row: TaskRow, links: Links, now: float) -> TaskEntry:
    """A line of `osmo task list`."""
    task = row.task
    return TaskEntry(
        user=row.user,
        workflow_id=row.workflow_id,
        workflow_uuid=row.workflow_uuid,
        task_name=task.name,
        retry_id=task.retry_id,
        pool=row.pool or None,
        node=task.node or None,
        start_time=stamp(task.times.running),
        end_time=stamp(task.times.ended),
        duration=_duration(task.times.running, task.times.ended, now),
        status=task.status.value,
        overview=links.overview(row.workflow_id),
        logs=links.task(row.workflow_id, "logs", task.name, task.retry_id),
        error_logs=_error_logs(row.workflow_id, task, links),
        storage=gibi(row.storage),
        cpu=round(row.cpu),
        memory=gibi(row.memory),
        gpu=row.gpu,
        priority=row.priority,
    )


def gibi(amount: float) -> int:
    """Bytes as whole Gi, rounded up, so that something never shows as nothing."""
    return -(-int(amount) // (1 << 30))


@dataclass(frozen=True, slots=True)
class Amounts:
    """What a task asks for, with the platform's defaults put in."""

    cpu: int
    gpu: int
    memory: int
    storage: int


def amounts(workflow: Workflow, task: str) -> Amounts:
    """What `task` asks for."""
    asked = workflow.spec.resources.get(workflow.spec.task(task).resource, DEFAULT)
    return Amounts(
        cpu=1 if asked.cpu is None else asked.cpu,
        gpu=asked.gpu or 0,
        memory=to_bytes(asked.memory or "1Gi"),
        storage=to_bytes(asked.storage or "1Gi"),
    )
