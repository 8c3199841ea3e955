"""The door to durable state.

Nothing outside this room holds a row or a connection. All verbs are synchronous and short; callers on an event loop
run them in a thread. One transaction writes state, history and outbox.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from osmo_ray.engine.model import Command, Decision, Record, Task, Workflow
from osmo_ray.spec.attempt import NodeReport, UsageSample


class StoreError(Exception):
    """The database refused or cannot be reached. `permanent` says that trying again cannot help."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class LeaseLost(StoreError):
    """Another holder has the lease now; whatever was about to be written was not."""


class StorageFull(StoreError):
    """The disk of the database is full (or nearly so); nothing was written."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to lead until `expires` by the database's clock. `epoch` grows with each new holder."""

    name: str
    holder: str
    epoch: int
    expires: float


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A command that was committed and not yet settled, oldest first, in order per group."""

    seq: int
    workflow_uuid: str
    command: Command


@dataclass(frozen=True, slots=True)
class WorkflowQuery:
    """Filters of `osmo workflow list`; an empty sequence does not filter. Times are seconds since the epoch."""

    users: Sequence[str] = ()
    name: str = ""
    """A part of the id, literally."""
    statuses: Sequence[str] = ()
    """Empty: all but FAILED_SUBMISSION."""
    pools: Sequence[str] = ()
    priorities: Sequence[str] = ()
    tags: Sequence[str] = ()
    submitted_before: float | None = None
    submitted_after: float | None = None
    offset: int = 0
    limit: int = 20
    descending: bool = False


@dataclass(frozen=True, slots=True)
class WorkflowRow:
    """A line of a list: no groups, no spec."""

    uuid: str
    id: str
    user: str
    pool: str
    priority: str
    status: str
    submitted: float
    started: float
    ended: float
    tasks: int = 0
    """Tasks of the workflow, each counted once over its attempts."""
    finished: int = 0
    """Those whose newest attempt has ended; the failed are among them."""
    failed: int = 0


@dataclass(frozen=True, slots=True)
class TaskQuery:
    """Filters of `osmo task list`; an empty sequence does not filter."""

    workflow: str = ""
    """A part of the workflow's id, literally."""
    statuses: Sequence[str] = ()
    users: Sequence[str] = ()
    pools: Sequence[str] = ()
    nodes: Sequence[str] = ()
    priorities: Sequence[str] = ()
    started_after: float | None = None
    started_before: float | None = None
    offset: int = 0
    limit: int = 20


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One attempt with what a list shows of its workflow."""

    workflow_id: str
    workflow_uuid: str
    user: str
    pool: str
    priority: str
    group: str
    task: Task
    cpu: float = 0.0
    memory: int = 0
    gpu: int = 0
    storage: int = 0


@dataclass(frozen=True, slots=True)
class Profile:
    """Per-user settings."""

    user: str
    pool: str = ""
    bucket: str = ""
    email_notification: bool = False
    slack_notification: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """An access token; only its SHA-256 is stored."""

    name: str
    user: str
    sha256: str
    expires: float
    roles: tuple[str, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts kept of a submission: rendered YAML and what the user wrote."""

    rendered: str
    template: str = ""
    tags: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A registered cluster. `sealed` is its kubeconfig as a vault sealed it, in base64; `settings` is JSON that
    `control.clusters` understands."""

    name: str
    sealed: str
    settings: str
    created: float


class Store(Protocol):
    """State of one platform. `SqlStore(url)` is it, on SQLite and PostgreSQL."""

    # -- life
    def migrate(self) -> None:
        """Bring the schema to the newest revision; safe to repeat and to race."""
        ...

    def database_id(self) -> str:
        """A random id made with the database, by which replicas see that they share one."""
        ...

    def ping(self) -> None:
        """Raises `StoreError` when the database does not answer."""
        ...

    def backup(self, target: str) -> None:
        """A consistent copy into the file `target` while everything runs."""
        ...

    def close(self) -> None: ...

    # -- leading
    def acquire(self, name: str, holder: str, ttl: float) -> Lease | None:
        """The lease if it is free, expired, or already this holder's (then renewed, same epoch); None otherwise."""
        ...

    def release(self, lease: Lease) -> None: ...

    # -- writing
    def submit(self, name: str, build: Callable[[str], Decision], texts: Texts) -> Workflow:
        """Allocate `<name>-<n>` and store what `build(id)` decides, in one transaction."""
        ...

    def commit(
        self, decisions: Sequence[Decision], lease: Lease | None = None, settled: Sequence[int] = ()
    ) -> Sequence[str]:
        """Write these decisions in one transaction, each only if its workflow is still at the version it was made
        from. Returns the uuids of those that were not written because of that. With a lease, raises `LeaseLost`
        unless it is still held. A written workflow is at `version + 1`. `settled` are commands that were carried
        out, as for `settle`."""
        ...

    def outgoing(self, limit: int = 1000) -> Sequence[Outgoing]:
        """Commands to send, oldest first."""
        ...

    def settle(self, seqs: Sequence[int], lease: Lease | None = None) -> None:
        """These commands were carried out."""
        ...

    def delete_workflows(self, uuids: Sequence[str]) -> int:
        """Remove finished workflows with all that belongs to them; unfinished ones, and those with commands still to
        send, are passed over. Returns how many went."""
        ...

    def finished_before(self, at: float, limit: int = 1000) -> Sequence[WorkflowRow]:
        """Finished workflows that ended before `at`, oldest first: what retention may remove."""
        ...

    def tag(self, uuid: str, add: Iterable[str], remove: Iterable[str]) -> None: ...

    # -- reading
    def alive(self) -> Mapping[str, int]:
        """uuid -> version of every workflow that has not finished, or has commands to send."""
        ...

    def load(self, uuids: Sequence[str]) -> Sequence[Workflow]:
        """The whole state of these workflows; unknown ones are passed over."""
        ...

    def find(self, name: str) -> Workflow | None:
        """By id or uuid."""
        ...

    def texts(self, uuid: str) -> Texts: ...

    def list_workflows(self, query: WorkflowQuery) -> tuple[Sequence[WorkflowRow], bool]:
        """A page, and whether there is more."""
        ...

    def list_tasks(self, query: TaskQuery) -> Sequence[TaskRow]:
        """A page of attempts: scheduling, initializing, running, then the rest; newest start first."""
        ...

    def attempts(self, workflow_uuid: str) -> Sequence[TaskRow]:
        """Every attempt of a workflow, in order of group, task and retry."""
        ...

    def records(self, workflow_uuid: str, after: int = 0, limit: int = 1000) -> Sequence[tuple[int, Record]]:
        """History with sequence numbers greater than `after`, oldest first."""
        ...

    def count_by_status(self) -> Mapping[str, Mapping[str, int]]:
        """`{"workflow": {status: n}, "task": {status: n}}` of what is alive or ended in the last day."""
        ...

    # -- around
    def save_nodes(self, backend: str, nodes: Sequence[NodeReport], at: float) -> None:
        """These nodes were seen at `at`; others of this backend stay until they were not seen for a day."""
        ...

    def nodes(self) -> Sequence[tuple[str, float, NodeReport]]:
        """(backend, seen at, report) of all nodes."""
        ...

    def profile(self, user: str) -> Profile: ...

    def save_profile(self, profile: Profile) -> None: ...

    def add_usage(self, samples: Sequence[UsageSample]) -> None: ...

    def usage(self, task_uuid: str, retry_id: int) -> Sequence[UsageSample]: ...

    def save_token(self, token: Token) -> None: ...

    def token(self, sha256: str) -> Token | None: ...

    def tokens(self, user: str) -> Sequence[Token]: ...

    def delete_token(self, user: str, name: str) -> bool: ...

    def save_cluster(self, cluster: Cluster) -> None:
        """Replaces the cluster of that name."""
        ...

    def clusters(self) -> Sequence[Cluster]:
        """All registered clusters, by name."""
        ...

    def delete_cluster(self, name: str) -> bool: ...
