"""Between the engine's values and plain rows; pure, and the only place that knows the order of columns.

A row is a tuple in the order of the tuples of names below. Statements are compiled from the same names, so neither
side ever spells an order twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from osmo_ray.engine.model import ApplyGroup, Command, DeleteGroup, Group, Record, Task, Times, Workflow
from osmo_ray.engine.status import ALIVE, TaskStatus, WorkflowStatus
from osmo_ray.spec import codec
from osmo_ray.spec.model import Priority, ResourceSpec, WorkflowSpec
from osmo_ray.spec.quantity import to_bytes
from osmo_ray.spec.reason import Reason
from osmo_ray.store.protocol import Outgoing, TaskRow, WorkflowRow
from osmo_ray.store.schema import TIMES, TRANSFERS

Row = tuple[Any, ...]

_TIMES = TIMES + TRANSFERS

WORKFLOW_KEPT = ("uuid", "id", "user_name", "pool", "backend", "priority", "submitted", "parent")
WORKFLOW_MOVES = (
    *("status", "started", "ended", "exec_timeout", "queue_timeout", "cancelled_by", "reason", "version"),
    *("tasks", "finished", "failed"),
)
WORKFLOW = WORKFLOW_KEPT + WORKFLOW_MOVES

GROUP_KEPT = ("workflow_uuid", "position", "name", "uuid", "upstream", "downstream")
GROUP_MOVES = ("status", "pending", "barrier", "released", "reason", *_TIMES)
GROUP = GROUP_KEPT + GROUP_MOVES

TASK_KEY = ("uuid", "retry_id")
TASK_KEPT = (
    *("workflow_uuid", "group_position", "position", "group_name", "name", "lead"),
    *("user_name", "pool", "priority", "cpu", "memory", "gpu", "storage"),
)
TASK_STATE = (
    *("status", "user_retries", "platform_retries", "restarts", "ready", "node", "address", "exit_code", "reason"),
    *("output", "usage", *_TIMES),
)
TASK_MOVES = (*TASK_STATE, "place")
TASK = TASK_KEY + TASK_KEPT + TASK_MOVES
TASK_LOAD = ("workflow_uuid", "group_position", "position", "name", "lead", *TASK_KEY, *TASK_STATE)
"""What `task` reads, after the three columns that say where it belongs."""

RECORD = ("workflow_uuid", "seq", "at", "kind", "message", "group_name", "task", "retry_id")
OUTBOX = ("workflow_uuid", "group_name", "kind", "grace")
SUBMISSION = ("workflow_uuid", "spec", "rendered", "template", "extra")

ALIVE_WORKFLOWS = ("PENDING", "RUNNING", "WAITING")
ALIVE_TASKS = tuple(sorted(s.value for s in ALIVE))

_RANK = {TaskStatus.SCHEDULING: 0, TaskStatus.INITIALIZING: 1, TaskStatus.RUNNING: 2}
_RANK_WIDTH = 1e11
_OPEN = ALIVE | {TaskStatus.RESCHEDULED}
_FAILED = frozenset(s for s in TaskStatus if s.failed)
_RECORDS_PER_COMMIT = 1 << 20


def place(status: TaskStatus, running: float) -> float:
    """Ascending, this is the order of a list of tasks: scheduling, initializing, running, then the rest; within each
    the newest start first, those without a start last."""
    return _RANK.get(status, 3) * _RANK_WIDTH - running


def record_seq(version: int, index: int) -> int:
    """The number of the `index`-th record of the commit that made `version`. Versions of one workflow are committed
    in order, under the lock of its row, so a reader that has seen a number never misses a smaller one; no counter
    has to be read, and a sequence, which may commit out of order, is not needed."""
    return version * _RECORDS_PER_COMMIT + index


def dumps(value: object) -> str:
    """Compact ASCII: any text survives in it, also NUL and lone surrogates, which databases refuse."""
    return json.dumps(value, separators=(",", ":"))


def clean(text: str) -> str:
    """Text that both databases take. What tasks print may hold NUL or broken UTF-8; it must not block a commit."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _reason(reason: Reason | None) -> str | None:
    return None if reason is None else dumps(reason.to_json())


def _read_reason(text: str | None) -> Reason | None:
    return None if text is None else Reason.from_json(json.loads(text))


def _times(times: Times) -> Row:
    return (
        times.processing,
        times.scheduling,
        times.initializing,
        times.running,
        times.ended,
        times.download_start,
        times.download_end,
        times.upload_start,
    )


# -- writing


def workflow_kept(w: Workflow) -> Row:
    return (w.uuid, w.id, w.user, w.pool, w.backend, w.priority.value, w.submitted, w.parent)


def workflow_moves(w: Workflow, version: int) -> Row:
    return (
        *(w.status.value, w.started, w.ended, w.exec_timeout, w.queue_timeout, clean(w.cancelled_by)),
        *(_reason(w.reason), version, *counts(w)),
    )


def counts(w: Workflow) -> tuple[int, int, int]:
    """(tasks, finished, failed), each task counted once by its newest attempt; the failed are also finished."""
    statuses = [task.status for group in w.groups for task in group.tasks]
    open_ = sum([status in _OPEN for status in statuses])
    return len(statuses), len(statuses) - open_, sum([status in _FAILED for status in statuses])


def group_kept(workflow_uuid: str, position: int, g: Group) -> Row:
    return (workflow_uuid, position, g.name, g.uuid, dumps(g.upstream), dumps(g.downstream))


def group_moves(g: Group) -> Row:
    return (g.status.value, dumps(sorted(g.pending)), g.barrier, g.released, _reason(g.reason), *_times(g.times))


def task_moves(t: Task) -> Row:
    return (
        *(t.status.value, t.user_retries, t.platform_retries, t.restarts, t.ready, t.node, t.address, t.exit_code),
        *(_reason(t.reason), t.output, dumps(dict(t.usage)) if t.usage else "", *_times(t.times)),
        place(t.status, t.times.running),
    )


class TaskRows:
    """Whole rows for new attempts of one workflow."""

    def __init__(self, w: Workflow) -> None:
        self._workflow = w
        self._specs = {t.name: t for g in w.spec.groups for t in g.tasks}

    def row(self, group_position: int, position: int, t: Task) -> Row:
        w = self._workflow
        return (
            *(t.uuid, t.retry_id, w.uuid, group_position, position, w.groups[group_position].name, t.name, t.lead),
            *(w.user, w.pool, w.priority.value, *self._amounts(t.name)),
            *task_moves(t),
        )

    def _amounts(self, name: str) -> tuple[float, int, int, int]:
        spec = self._specs.get(name)
        resource = self._workflow.spec.resources.get(spec.resource) if spec else None
        return _amounts(resource or ResourceSpec())


def _amounts(r: ResourceSpec) -> tuple[float, int, int, int]:
    """cpu, memory, gpu, storage; what is not given is the platform's default."""
    cpu = 1.0 if r.cpu is None else float(r.cpu)
    return cpu, to_bytes(r.memory or "1Gi"), r.gpu or 0, to_bytes(r.storage or "1Gi")


def record_rows(workflow_uuid: str, version: int, records: Iterable[Record]) -> list[Row]:
    return [
        (workflow_uuid, record_seq(version, i), r.at, r.kind, clean(r.message), r.group, r.task, r.retry_id)
        for i, r in enumerate(records)
    ]


def outbox_rows(workflow_uuid: str, commands: Iterable[Command]) -> list[Row]:
    return [
        (workflow_uuid, c.group, type(c).__name__, c.grace if isinstance(c, DeleteGroup) else 0.0) for c in commands
    ]


def spec_text(spec: WorkflowSpec) -> str:
    return dumps(codec.to_json(spec))


# -- reading


def read_spec(text: str) -> WorkflowSpec:
    return codec.from_json(json.loads(text))


def task(row: Sequence[Any]) -> Task:
    """From the columns of `TASK_LOAD` without the first three."""
    name, lead, uuid, retry_id, status, user_retries, platform_retries, restarts, ready = row[:9]
    node, address, exit_code, reason, output, usage, *times = row[9:]
    return Task(
        uuid=uuid,
        name=name,
        lead=bool(lead),
        status=TaskStatus(status),
        retry_id=retry_id,
        user_retries=user_retries,
        platform_retries=platform_retries,
        restarts=restarts,
        ready=ready,
        node=node,
        address=address,
        exit_code=exit_code,
        reason=_read_reason(reason),
        output=output,
        usage=json.loads(usage) if usage else {},
        times=Times(*times),
    )


def group(row: Sequence[Any], members: tuple[Task, ...]) -> Group:
    """From the columns of `GROUP`."""
    _, index, name, uuid, upstream, downstream, status, pending, barrier, released, reason, *times = row
    return Group(
        name=name,
        uuid=uuid,
        status=TaskStatus(status),
        tasks=members,
        upstream=tuple(json.loads(upstream)),
        downstream=tuple(json.loads(downstream)),
        pending=frozenset(json.loads(pending)),
        barrier=barrier,
        released=released,
        reason=_read_reason(reason),
        times=Times(*times),
        index=index,
    )


@dataclass(slots=True)
class Parts:
    """The rows of one workflow, as they come out of the database in order of group, task and retry."""

    groups: list[Row]
    tasks: list[dict[int, Row]]
    """Per group: position -> the row of the newest attempt."""


def gather(group_rows: Iterable[Row], task_rows: Iterable[Row]) -> dict[str, Parts]:
    """By workflow. A later row of the same task is a newer attempt and wins."""
    found: dict[str, Parts] = {}
    for row in group_rows:
        parts = found.setdefault(row[0], Parts([], []))
        parts.groups.append(row)
        parts.tasks.append({})
    for row in task_rows:
        found[row[0]].tasks[row[1]][row[2]] = row
    return found


def workflow(row: Sequence[Any], spec: str, parts: Parts) -> Workflow:
    """From the columns of `WORKFLOW`, the JSON of its spec and the rows of its groups and tasks."""
    v: Mapping[str, Any] = dict(zip(WORKFLOW, row, strict=True))
    members = (tuple([task(r[3:]) for r in by_position.values()]) for by_position in parts.tasks)
    return Workflow(
        uuid=v["uuid"],
        id=v["id"],
        spec=read_spec(spec),
        user=v["user_name"],
        pool=v["pool"],
        backend=v["backend"],
        priority=Priority(v["priority"]),
        submitted=v["submitted"],
        groups=tuple([group(r, tasks) for r, tasks in zip(parts.groups, members, strict=True)]),
        status=WorkflowStatus(v["status"]),
        started=v["started"],
        ended=v["ended"],
        exec_timeout=v["exec_timeout"],
        queue_timeout=v["queue_timeout"],
        cancelled_by=v["cancelled_by"],
        reason=_read_reason(v["reason"]),
        parent=v["parent"],
        version=v["version"],
    )


WORKFLOW_LIST = (
    *("uuid", "id", "user_name", "pool", "priority", "status", "submitted", "started", "ended"),
    *("tasks", "finished", "failed"),
)
TASK_LIST = (*TASK_LOAD, "group_name", "user_name", "pool", "priority", "cpu", "memory", "gpu", "storage")


WORKFLOW_APP = ("owner", "name", "version")
"""Columns of `workflow_apps` after those of a line of the list."""


def workflow_row(row: Sequence[Any]) -> WorkflowRow:
    """From the columns of `WORKFLOW_LIST` and `WORKFLOW_APP`."""
    return WorkflowRow(*row)


def task_row(row: Sequence[Any]) -> TaskRow:
    """From the columns of `TASK_LIST` and the workflow's id."""
    end = len(TASK_LOAD)
    group_name, user, pool, priority, cpu, memory, gpu, storage, workflow_id = row[end:]
    return TaskRow(
        workflow_id=workflow_id,
        workflow_uuid=row[0],
        user=user,
        pool=pool,
        priority=priority,
        group=group_name,
        task=task(row[3:end]),
        cpu=cpu,
        memory=memory,
        gpu=gpu,
        storage=storage,
    )


def outgoing(row: Sequence[Any]) -> Outgoing:
    """From seq and the columns of `OUTBOX`."""
    seq, workflow_uuid, group_name, kind, grace = row
    if kind == ApplyGroup.__name__:
        return Outgoing(seq, workflow_uuid, ApplyGroup(group_name))
    if kind == DeleteGroup.__name__:
        return Outgoing(seq, workflow_uuid, DeleteGroup(group_name, grace))
    raise ValueError(f"the outbox holds a command of a kind that this version does not know: {kind!r}")


def read_record(row: Sequence[Any]) -> tuple[int, Record]:
    """From the columns of `RECORD` without the first."""
    seq, at, kind, message, group_name, name, retry_id = row
    return seq, Record(at, kind, message, group_name, name, retry_id)
