"""The state of a running workflow, as frozen values.

Times are seconds since the epoch, UTC. A `Task` here is its newest attempt; older attempts are rows of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from osmo_ray.engine.status import TaskStatus, WorkflowStatus
from osmo_ray.spec.model import Priority, WorkflowSpec
from osmo_ray.spec.reason import Reason


@dataclass(frozen=True, slots=True)
class Times:
    """When each phase of an attempt or group began; each is written once, 0.0 means not yet."""

    processing: float = 0.0
    scheduling: float = 0.0
    initializing: float = 0.0
    running: float = 0.0
    ended: float = 0.0
    download_start: float = 0.0
    download_end: float = 0.0
    upload_start: float = 0.0


@dataclass(frozen=True, slots=True)
class Task:
    """The newest attempt of one task.

    `uuid` stays the same over attempts; `(uuid, retry_id)` names one attempt and `retry_id` is its fencing number: a
    report with a smaller one is refused. `output` is the store prefix whose contents were accepted as the result.
    """

    uuid: str
    name: str
    lead: bool
    status: TaskStatus = TaskStatus.WAITING
    retry_id: int = 0
    user_retries: int = 0
    platform_retries: int = 0
    restarts: int = 0
    """How often the command was begun again in place, because another task of the group was rescheduled."""
    ready: int = -1
    """The barrier generation at which the attempt said that it is ready, -1 for none."""
    node: str = ""
    address: str = ""
    exit_code: int | None = None
    reason: Reason | None = None
    output: str = ""
    usage: Mapping[str, float] = field(default_factory=dict)
    """Figures kept after the end: `memory_peak` bytes, `cpu_seconds`, `disk_peak` bytes."""
    times: Times = Times()


@dataclass(frozen=True, slots=True)
class Group:
    """Tasks that are placed together. `pending` names the upstream groups that have not completed yet."""

    name: str
    uuid: str
    status: TaskStatus
    tasks: tuple[Task, ...]
    upstream: tuple[str, ...] = ()
    downstream: tuple[str, ...] = ()
    pending: frozenset[str] = frozenset()
    barrier: int = 0
    """Generation of the start barrier; it grows when the tasks have to meet again after a reschedule."""
    released: int = -1
    """The newest barrier generation that was opened."""
    reason: Reason | None = None
    times: Times = Times()
    index: int = 0
    """Position in the workflow, and so in its spec."""

    def task(self, uuid: str) -> Task | None:
        for task in self.tasks:
            if task.uuid == uuid:
                return task
        return None


@dataclass(frozen=True, slots=True)
class Workflow:
    """One submission. `version` counts commits, for optimistic concurrency; the store sets it."""

    uuid: str
    id: str
    spec: WorkflowSpec
    user: str
    pool: str
    backend: str
    priority: Priority
    submitted: float
    groups: tuple[Group, ...]
    status: WorkflowStatus = WorkflowStatus.PENDING
    started: float = 0.0
    ended: float = 0.0
    exec_timeout: float = 0.0
    """Seconds; 0.0 means none."""
    queue_timeout: float = 0.0
    cancelled_by: str = ""
    reason: Reason | None = None
    parent: str = ""
    version: int = 0

    def group(self, name: str) -> Group | None:
        for group in self.groups:
            if group.name == name:
                return group
        return None

    def group_of(self, task_uuid: str) -> Group | None:
        for group in self.groups:
            if group.task(task_uuid) is not None:
                return group
        return None


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a workflow's history, kept for ever and shown by `osmo workflow events`."""

    at: float
    kind: str
    """`Submitted`, `Placed`, `Started`, `Exited`, `Rescheduled`, `Canceled` ... CamelCase."""
    message: str
    group: str = ""
    task: str = ""
    retry_id: int = 0


@dataclass(frozen=True, slots=True)
class ApplyGroup:
    """Make the backend run what the state says of this group, whatever it runs now."""

    group: str


@dataclass(frozen=True, slots=True)
class DeleteGroup:
    """End everything of this group; `grace` seconds between TERM and KILL."""

    group: str
    grace: float = 30.0


Command = ApplyGroup | DeleteGroup


@dataclass(frozen=True, slots=True)
class Decision:
    """What one event changes: the next state, the parts of it that differ, history to keep, commands to send.

    `retired` holds attempts that ended and were replaced (their rows keep the final status).
    """

    workflow: Workflow
    changed_groups: frozenset[str] = frozenset()
    changed_tasks: frozenset[str] = frozenset()
    retired: tuple[Task, ...] = ()
    records: tuple[Record, ...] = ()
    commands: tuple[Command, ...] = ()
    changed: bool = False

    def then(self, later: Decision) -> Decision:
        """Both as one, `later` having been made from this one's workflow."""
        commands = {(type(c), c.group): c for c in (*self.commands, *later.commands)}
        return Decision(
            workflow=later.workflow,
            changed_groups=self.changed_groups | later.changed_groups,
            changed_tasks=self.changed_tasks | later.changed_tasks,
            retired=(*self.retired, *later.retired),
            records=(*self.records, *later.records),
            commands=tuple(commands.values()),
            changed=self.changed or later.changed,
        )
