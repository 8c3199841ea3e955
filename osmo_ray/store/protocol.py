"""The door to durable state.

Nothing outside this room holds a row or a connection. All verbs are synchronous and short; callers on an event loop
run them in a thread. One transaction writes state, history and outbox.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from osmo_ray.engine.cache import Earlier
from osmo_ray.engine.model import Decision, Record, Workflow
from osmo_ray.spec.attempt import NodeReport, UsageSample
from osmo_ray.spec.roles import Role
from osmo_ray.store.dataset_door import DatasetVerbs
from osmo_ray.store.dataset_nouns import DatasetRead
from osmo_ray.store.nouns import (
    Advance,
    App,
    AppQuery,
    AppUse,
    AppVersion,
    Assigned,
    AuditLine,
    AuditQuery,
    Cluster,
    Config,
    ConfigQuery,
    Conflicted,
    Credential,
    Ended,
    Lease,
    LeaseLost,
    NameTaken,
    Outgoing,
    Profile,
    SessionKey,
    StorageFull,
    StoreError,
    TaskQuery,
    TaskRow,
    TaskSum,
    Texts,
    Token,
    User,
    UserQuery,
    WorkflowQuery,
    WorkflowRow,
)

__all__ = [
    "Advance",
    "App",
    "AppQuery",
    "AppUse",
    "AppVersion",
    "Assigned",
    "AuditLine",
    "AuditQuery",
    "Cluster",
    "Config",
    "ConfigQuery",
    "Conflicted",
    "Credential",
    "DatasetRead",
    "Ended",
    "Lease",
    "LeaseLost",
    "NameTaken",
    "Outgoing",
    "Profile",
    "SessionKey",
    "StorageFull",
    "Store",
    "StoreError",
    "TaskQuery",
    "TaskRow",
    "TaskSum",
    "Texts",
    "Token",
    "User",
    "UserQuery",
    "WorkflowQuery",
    "WorkflowRow",
]


class Store(DatasetVerbs, Protocol):
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

    def advance(self, decisions: Sequence[Decision], lease: Lease | None, settled: Sequence[int] = ()) -> Advance:
        """`commit`, for who sends the commands too: spares it the look at the outbox."""
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
        """Finished workflows that ended before `at` and of which no other uses outputs, oldest first: what retention
        may remove."""
        ...

    # -- results that later tasks may use
    def remember(self, workflow_uuid: str, found: Mapping[str, tuple[str, str, float]]) -> None:
        """Results of a workflow: key -> task uuid, store prefix of the output, when it completed."""
        ...

    def recall(self, keys: Collection[str]) -> Mapping[str, Earlier]:
        """Those of these keys that a workflow still stands for."""
        ...

    def use_outputs(self, workflow_uuid: str, sources: Collection[str]) -> None:
        """A workflow reads or has outputs of these others (uuids), which stay as long as it does."""
        ...

    def used_code(self, digests: Collection[str]) -> Collection[str]:
        """Those of these archives of code that some workflow names."""
        ...

    def forget_results(self, uuids: Collection[str]) -> Mapping[str, Sequence[str]]:
        """Before the data of these workflows goes: nobody recalls them from now on. Returns those of them whose outputs
        are in use, with the ids of their users; their data has to stay."""
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

    def sum_tasks(self, query: TaskQuery, *, by_workflow: bool) -> Sequence[TaskSum]:
        """What all attempts that match ask for, per user, pool and priority (and workflow); no page."""
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

    # -- users, roles, who changed what

    def add_user(self, user: User, given: Sequence[Assigned] = ()) -> bool:
        """With these roles; False when there is one of that id already."""
        ...

    def user(self, id: str) -> User | None: ...

    def users(self, query: UserQuery) -> tuple[Sequence[User], int]:
        """A page, newest first, and how many there are in all."""
        ...

    def delete_user(self, id: str) -> bool: ...

    def roles_of(self, user: str) -> Sequence[Assigned]: ...

    def holders(self, role: str) -> Sequence[Assigned]: ...

    def assign(self, given: Assigned) -> bool:
        """False when there is no such user."""
        ...

    def unassign(self, user: str, role: str) -> bool: ...

    def roles(self) -> Sequence[Role]:
        """Those that administrators wrote."""
        ...

    def save_role(self, role: Role) -> None: ...

    def delete_role(self, name: str) -> bool: ...

    def note(self, line: AuditLine) -> None: ...

    def audit(self, query: AuditQuery) -> Sequence[AuditLine]:
        """Newest first."""
        ...

    # -- apps
    def create_app(self, app: App, spec: str) -> None:
        """A new app with version 1. Raises `NameTaken`."""
        ...

    def add_app_version(self, name: str, user: str, at: float, spec: str) -> tuple[App, int] | None:
        """One more version; None for an unknown app."""
        ...

    def app(self, name: str) -> App | None: ...

    def app_by_uuid(self, uuid: str) -> App | None: ...

    def app_versions(self, uuid: str) -> Sequence[AppVersion]:
        """Every version, newest first, deleted ones too."""
        ...

    def app_spec(self, uuid: str, version: int) -> str | None:
        """The text of a version; None when it is deleted or there is none."""
        ...

    def list_apps(self, query: AppQuery) -> tuple[Sequence[App], bool]:
        """A page in order of creation, and whether there is more. Apps without a READY version are left out."""
        ...

    def delete_app(self, uuid: str, version: int | None) -> Sequence[int]:
        """Mark one version (None: all of them) as deleted and drop its text. The app goes with its last version,
        and its name is free again. Returns the versions that went."""
        ...

    def rename_app(self, uuid: str, name: str) -> None:
        """Raises `NameTaken`."""
        ...

    # -- credentials
    def save_credential(self, credential: Credential) -> None:
        """Replaces the user's credential of that name, and the one for the same profile."""
        ...

    def credentials(self, user: str) -> Sequence[Credential]:
        """In order of name."""
        ...

    def delete_credential(self, user: str, name: str) -> Credential | None:
        """What was removed; None when there was none."""
        ...

    # -- configuration
    def config(self, type: str, revision: int = 0) -> Config | None:
        """The newest revision of a type, or this one."""
        ...

    def save_config(self, config: Config) -> int:
        """Add a revision, which has to be the next one. Raises `Conflicted`."""
        ...

    def config_history(self, query: ConfigQuery) -> Sequence[Config]: ...

    def mark_config(self, type: str, revision: int, *, deleted_by: str = "", tags: Sequence[str] | None = None) -> bool:
        """Hide a revision from the history, or give it other tags; False if there is none."""
        ...

    # -- notices
    def unannounced(self, channel: str, since: float, limit: int = 100) -> Sequence[Ended]:
        """Workflows that ended at `since` or later, whose users want word by `channel`, oldest first."""
        ...

    def mute(self, user: str, channel: str, since: float) -> None:
        """What ended until now is not announced any more: the user asks for word of what comes."""
        ...

    def announced(self, uuid: str, channel: str, at: float, error: str = "") -> None:
        """Word went out, or never can; also for a workflow that is gone by now."""

    # -- sessions inside tasks

    def save_session_key(self, key: SessionKey, now: float) -> bool:
        """False when there is such a key already, which then stays as it is."""
        ...

    def take_session_key(self, key: str, now: float) -> SessionKey | None:
        """The key, which is then used up; None when there is none, or its time is over."""
        ...

    def save_cluster(self, cluster: Cluster) -> None:
        """Replaces the cluster of that name."""
        ...

    def clusters(self) -> Sequence[Cluster]:
        """All registered clusters, by name."""
        ...

    def delete_cluster(self, name: str) -> bool: ...
