"""One attempt of a task: the plan that a node gets, and what is seen of it.

These values cross every door between the engine, the backends and the program beside a task, so they live with the
nouns. They are made by `engine.plans`, carried out by `runtime`, reported by `backends`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from osmo_ray.spec.model import RaySpec, Sandbox
from osmo_ray.spec.reason import Reason


@dataclass(frozen=True, slots=True, order=True)
class AttemptKey:
    """One attempt of one task. `str(key)` is `<task uuid>-<retry id>`: file and job names are made of it."""

    task_uuid: str
    retry_id: int

    def __str__(self) -> str:
        return f"{self.task_uuid}-{self.retry_id}"

    @staticmethod
    def parse(text: str) -> AttemptKey:
        uuid, _, retry = text.rpartition("-")
        return AttemptKey(uuid, int(retry))


@dataclass(frozen=True, slots=True)
class DatasetPlan:
    """A dataset in its bucket. `url` is the bucket's place as users write it, or a key prefix of the platform's storage
    when it names no scheme. To be read, `version` is its number; to be written, `selector` is the tag that the new
    version gets, or what an update is put on."""

    bucket: str
    url: str
    name: str
    version: int = 0
    selector: str = ""

    def __str__(self) -> str:
        return f"{self.bucket}/{self.name}" + (f":{self.version}" if self.version else "")


@dataclass(frozen=True, slots=True)
class InputPlan:
    """A folder to fill before the command starts. `source` is a store key prefix when `kind` is `prefix`, a whole
    URL when it is `url`, the name as it was written when it is `dataset`. `alias` is the task name that
    `{{input:<task>}}` may use. `datasets` are the versions to restore, each into a folder of its name; `missing` is a
    sentence about why they cannot be had. With `mount` they are mounted where the host can, instead of fetched."""

    kind: str
    source: str
    alias: str = ""
    regex: str = ""
    datasets: tuple[DatasetPlan, ...] = ()
    missing: str = ""
    mount: bool = False


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """Where `{{output}}` goes when the command ends: `kind` is `prefix` (a store key prefix), `url`, `dataset` or
    `update_dataset`. For the last two, `paths` are what of it goes in (`local[:remote]` for updates), and `metadata`
    and `labels` are files below it; `missing` is a sentence about why nothing can be written."""

    kind: str
    target: str
    regex: str = ""
    dataset: DatasetPlan | None = None
    paths: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    missing: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointPlan:
    """`path` in the task is copied to `url` while the command runs, `frequency` seconds after the last time, and when
    it has ended; tokens in both are still unexpanded."""

    path: str
    url: str
    frequency: float
    regex: str = ""


@dataclass(frozen=True, slots=True)
class KpiPlan:
    """A file of the output folder that holds key figures; they are kept with the attempt, named after `index`."""

    index: str
    path: str


@dataclass(frozen=True, slots=True)
class FilePlan:
    """A read-only file in the task; tokens in `path` and in text contents are still unexpanded."""

    path: str
    contents: str
    base64: bool = False


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key for what lies below `endpoint` (`s3://bucket/prefix`); `region`, `override_url` and `addressing` (of S3:
    `path`, `virtual` or `auto`) may be empty. `encryption_key` (64 hex digits) opens datasets that are encrypted."""

    endpoint: str
    access_key_id: str
    access_key: str
    region: str = ""
    override_url: str = ""
    addressing: str = ""
    encryption_key: str = ""


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """How to log in to the registry that an image comes from."""

    registry: str
    username: str
    auth: str


@dataclass(frozen=True, slots=True)
class Secrets:
    """What an attempt gets of its user's credentials; never printed, and never written beside the plan.

    `environment` and `files` go into the task as they are: no token in them means anything. `masked` is what must not
    be read in its log. `missing` is a sentence about a credential that is not there any more, or empty."""

    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[FilePlan, ...] = ()
    masked: tuple[str, ...] = ()
    registry: RegistryLogin | None = None
    data: tuple[DataKey, ...] = ()
    missing: str = ""

    def __repr__(self) -> str:
        return f"<Secrets: {len(self.environment)} variables, {len(self.files)} files>"


@dataclass(frozen=True, slots=True)
class AttemptPlan:
    """Everything a node needs to run one attempt. Texts still hold the special tokens."""

    key: AttemptKey
    workflow_id: str
    workflow_uuid: str
    group: str
    group_uuid: str
    task: str
    user: str
    node: str
    image: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[FilePlan, ...] = ()
    inputs: tuple[InputPlan, ...] = ()
    outputs: tuple[OutputPlan, ...] = ()
    checkpoints: tuple[CheckpointPlan, ...] = ()
    kpis: tuple[KpiPlan, ...] = ()
    cpu: float = 1.0
    memory: int = 1 << 30
    gpu: int = 0
    storage: int = 1 << 30
    sandbox: Sandbox = Sandbox.AUTO
    network: str = "private"
    """`private`: an address of its own; `node`: the node's network, when a group spans several nodes."""
    mounts: tuple[str, ...] = ()
    """`source[:target]`: what of the node the task sees and may write; the pool allowed it."""
    privileged: bool = False
    host_network: bool = False
    """The task asked for the node's network. Where tasks have addresses of their own on any node, only this counts."""
    barrier: bool = False
    """The command waits for `go` after the inputs are there."""
    restart: int = 0
    """Generation: a higher one than the last kills the command and begins it again in place."""
    go: bool = True
    """The barrier of generation `restart` is open."""
    hosts: Mapping[str, str] = field(default_factory=dict)
    """Task name of the group -> its address, as far as known. `{{host:name}}` becomes `<name>.<workflow_id>.osmo`,
    which stands in the task's hosts file, or the address itself where there is no private hosts file."""
    peers: tuple[str, ...] = ()
    """Names of all tasks of the group: `{{host:x}}` of another name stays as it is."""
    hold: float = 0.0
    """Seconds to stay after a failure."""
    ray: RaySpec | None = None
    requirements: tuple[str, ...] = ()
    """Python packages to have without a container; a container's image brings its own."""
    secrets: Secrets = Secrets()
    """Put in where the plan is sent, by whoever holds the key."""
    pool: str = ""
    trusted: bool = False
    """The pool allows Ray programs, which run outside the sandbox."""


ANYWHERE = "/*"
"""How the node of an attempt ends that its cluster has not placed yet: `<cluster>/*`."""


@dataclass(frozen=True, slots=True)
class Near:
    """Attempts that a cluster places together: within one domain of the node label `required`, or if it can be of
    `preferred`. `parts` are within it, by finer labels. Those of a group stay the same while its tasks end."""

    name: str
    keys: tuple[AttemptKey, ...] = ()
    required: str = ""
    preferred: str = ""
    parts: tuple[Near, ...] = ()


@dataclass(frozen=True, slots=True)
class Delegated:
    """What a cluster that places groups by itself has to know of one."""

    pool: str
    priority: str
    share: tuple[float, float, float] = (-1.0, -1.0, 1.0)
    """GPUs of the pool: guarantee, maximum (-1: no bound), weight."""
    levels: tuple[str, ...] = ()
    """The pool's topology: labels of nodes, coarse to fine."""
    parts: tuple[Near, ...] = ()
    platforms: Mapping[AttemptKey, str] = field(default_factory=dict)
    excluded: Mapping[AttemptKey, tuple[str, ...]] = field(default_factory=dict)
    """Names of nodes that an attempt must not go to."""


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """What should run of one group: exactly these attempts, no older ones."""

    uuid: str
    workflow_id: str
    name: str
    attempts: tuple[AttemptPlan, ...]
    delegated: Delegated | None = None
    """Only for clusters that place by themselves."""


class Phase(StrEnum):
    """What a backend sees of an attempt, in the order in which it happens."""

    PENDING = "pending"  # a cluster has the plan, no node yet; or only news: the reason is an event of the cluster
    ACCEPTED = "accepted"  # the node has the plan
    PREPARING = "preparing"  # inputs, files, environment
    READY = "ready"  # waits at the barrier
    RUNNING = "running"  # the command runs
    UPLOADING = "uploading"  # the command ended, outputs are being kept
    FINISHED = "finished"  # outputs are kept, the exit code is final
    LOST = "lost"  # proven dead without a result of its own


@dataclass(frozen=True, slots=True)
class Observation:
    """One thing a backend saw. `restart` is the generation it belongs to.

    For FINISHED: `exit_code` follows the platform's table (0-255 the command's own, 128 + signal when killed, 2010
    download failed, 2012 upload failed, 3003 start error, 3004 evicted (out of memory), 302 image pull), `output`
    is the store prefix that was written, `usage` has `memory_peak`, `cpu_seconds`, `disk_peak`, and `reason`
    explains any failure. For LOST: `reason` says how it was proven.
    """

    key: AttemptKey
    phase: Phase
    at: float
    node: str = ""
    address: str = ""
    restart: int = 0
    exit_code: int | None = None
    output: str = ""
    reason: Reason | None = None
    usage: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node's capacity and what it can do. Amounts are what workflows may use: cores, bytes, whole GPUs."""

    name: str
    address: str
    cpu: float
    memory: int
    gpu: int
    storage: int
    alive: bool = True
    platform: str = "local"
    labels: Mapping[str, str] = field(default_factory=dict)
    sandbox: str = ""
    """`namespaces`, `container` or `none`, and why, in one sentence."""
    reasons: tuple[Reason, ...] = ()
    backend_id: str = ""
    """The backend's own id of the node (for Ray, the node id)."""
    backend: str = ""
    """The registered cluster that it belongs to; empty for the platform's own nodes."""


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Raw log bytes from `offset`; `next` is where to go on; `end` says that nothing more will come.

    Each line is `<milliseconds since the epoch> <kind> <text>\\n`, kind `O` for output of the command and `P` for
    the platform's own lines.
    """

    data: bytes
    next: int
    end: bool


@dataclass(frozen=True, slots=True)
class UsageSample:
    """CPU cores, bytes and GPU share of one attempt at one time."""

    task_uuid: str
    retry_id: int
    at: float
    cpu: float = 0.0
    memory: float = 0.0
    gpu: float = 0.0
