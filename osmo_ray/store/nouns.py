"""What goes through the store's door: rows as frozen values, questions to it, and its errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from osmo_ray.engine.model import Command, Task


class StoreError(Exception):
    """The database refused or cannot be reached. `permanent` says that trying again cannot help."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.permanent = permanent


class LeaseLost(StoreError):
    """Another holder has the lease now; whatever was about to be written was not."""


class Conflicted(StoreError):
    """Somebody else wrote first; nothing was written. Read it again and decide anew."""


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
class Advance:
    """What a leader's commit came to: uuids of the decisions that were not written, and all commands to send as they
    stood then, if it added any."""

    conflicts: Sequence[str] = ()
    outgoing: Sequence[Outgoing] = ()


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
    app: str = ""
    """An app's name; with `app_version` only what came of that version."""
    app_version: int | None = None
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
    app_owner: str | None = None
    app_name: str | None = None
    app_version: int | None = None


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
class TaskSum:
    """What the attempts of one user (or of one workflow) in one pool ask for together: cores, bytes, GPUs."""

    user: str
    pool: str
    priority: str
    workflow_id: str
    cpu: float
    memory: int
    gpu: int
    storage: int


class NameTaken(StoreError):
    """There is something of that name already; nothing was written."""

    def __init__(self, message: str) -> None:
        super().__init__(message, permanent=True)


@dataclass(frozen=True, slots=True)
class AppVersion:
    """One version of an app; `status` is READY or DELETED. Versions count from 1."""

    version: int
    created_by: str
    created: float
    status: str = "READY"


@dataclass(frozen=True, slots=True)
class App:
    """A named spec; `latest` is the newest version that is READY, 0 when there is none."""

    uuid: str
    name: str
    description: str
    owner: str
    created: float
    latest: int = 0


@dataclass(frozen=True, slots=True)
class AppUse:
    """The app that a workflow came of."""

    uuid: str
    owner: str
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class AppQuery:
    """Filters of `osmo app list`; empty ones do not filter."""

    name: str = ""
    """A part of the name, literally."""
    owners: Sequence[str] = ()
    involved: str = ""
    """Who made it, changed it, or ran it."""
    offset: int = 0
    limit: int = 20
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Credential:
    """A secret of one user, sealed. `kind` is GENERIC, REGISTRY or DATA; `profile` is a registry's host or an
    endpoint, None for GENERIC. A user has one credential per profile."""

    user: str
    name: str
    kind: str
    profile: str | None
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished workflow whose user wants to hear of it by `channel` (`mail` or `hook`) and has not yet."""

    uuid: str
    id: str
    user: str
    status: str
    channel: str


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
class User:
    """Somebody whom administrators know. Times are seconds since the epoch."""

    id: str
    created: float
    created_by: str


@dataclass(frozen=True, slots=True)
class UserQuery:
    """`roles`: who has any of them."""

    prefix: str = ""
    roles: Sequence[str] = ()
    offset: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Assigned:
    """A role that a user has."""

    user: str
    role: str
    by: str
    at: float


@dataclass(frozen=True, slots=True)
class AuditLine:
    """A change, or one that was refused: who, by what right (`token`, `development`), what, and the status of the
    answer."""

    at: float
    user: str
    how: str
    action: str
    method: str
    path: str
    status: int


@dataclass(frozen=True, slots=True)
class AuditQuery:
    user: str = ""
    since: float = 0.0
    offset: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class SessionKey:
    """The right to begin one session inside one attempt, once, until `expires`. `kind` is `exec`, `portforward` or
    `rsync`, with `control` behind a dash for the socket that announces further ones."""

    key: str
    user: str
    workflow_uuid: str
    task_uuid: str
    retry_id: int
    node: str
    kind: str
    argv: tuple[str, ...] = ()
    port: int = 0
    udp: bool = False
    expires: float = 0.0


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts kept of a submission: rendered YAML and what the user wrote."""

    rendered: str
    template: str = ""
    tags: tuple[str, ...] = ()
    extra: Mapping[str, str] = field(default_factory=dict)
    app: AppUse | None = None
    sources: tuple[str, ...] = ()
    """Other workflows, by uuid, whose outputs this one reads: they are kept as long as it is."""
    code: tuple[str, ...] = ()
    """Archives of code that it names, kept as long as it is."""


@dataclass(frozen=True, slots=True)
class Config:
    """One revision of one type of configuration. `body` is the whole type, `name` what of it was changed, or empty."""

    type: str
    revision: int
    body: Mapping[str, object]
    user: str
    at: float
    name: str = ""
    description: str = ""
    tags: tuple[str, ...] = ()
    deleted: str = ""


@dataclass(frozen=True, slots=True)
class ConfigQuery:
    """Which revisions; times are seconds since the epoch, 0.0 for any."""

    types: tuple[str, ...] = ()
    name: str = ""
    revision: int = 0
    after: float = 0.0
    before: float = 0.0
    offset: int = 0
    limit: int = 20
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """A registered cluster. `sealed` is its kubeconfig as a vault sealed it, in base64; `settings` is JSON that
    `control.clusters` understands."""

    name: str
    sealed: str
    settings: str
    created: float
