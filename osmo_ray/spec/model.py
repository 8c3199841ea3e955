"""The nouns that users write, as frozen values.

A workflow is a list of groups; a group is a list of tasks that start together; a task is one command with its
inputs, outputs and resources. The reader turns YAML into these, `dump` turns them back. Special tokens
(`{{output}}`, `{{input:0}}`, `{{host:x}}`, `{{workflow_id}}`) stay in the text: where a task runs decides what they
mean, so the runtime expands them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Priority(StrEnum):
    """Order in the queue; LOW may borrow idle capacity and may be preempted."""

    HIGH = "HIGH"
    NORMAL = "NORMAL"
    LOW = "LOW"


class Sandbox(StrEnum):
    """How a task runs on a host: in a container, as a process in private namespaces, or whichever is possible."""

    AUTO = "auto"
    PROCESS = "process"
    CONTAINER = "container"


@dataclass(frozen=True, slots=True)
class TaskInput:
    """The output folder of another task; `workflow` is the id of another, finished workflow or empty."""

    task: str
    workflow: str = ""
    regex: str = ""


@dataclass(frozen=True, slots=True)
class DatasetInput:
    """A version of a dataset: `name` is `[bucket/]name[:tag]`. With `mount` its files are fetched as they are read."""

    name: str
    regex: str = ""
    localpath: str = ""
    mount: bool = False


@dataclass(frozen=True, slots=True)
class UrlInput:
    """Files below a storage URL (`s3://bucket/prefix`)."""

    url: str
    regex: str = ""


@dataclass(frozen=True, slots=True)
class CodeInput:
    """An archive of Python code that was sent before, by the SHA-256 of its bytes: 64 hex digits. It lands as
    `code.zip` in the input's folder."""

    digest: str


Input = TaskInput | DatasetInput | UrlInput | CodeInput


@dataclass(frozen=True, slots=True)
class UrlOutput:
    """Everything in `{{output}}` that matches `regex` goes below `url`."""

    url: str
    regex: str = ""


@dataclass(frozen=True, slots=True)
class DatasetOutput:
    """A new version of a dataset from `{{output}}/path`."""

    name: str
    path: str = ""
    regex: str = ""
    metadata: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class UpdateDatasetOutput:
    """A new version of a dataset: the old one with `paths` (each `local[:remote]`) added."""

    name: str
    paths: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


Output = UrlOutput | DatasetOutput | UpdateDatasetOutput


@dataclass(frozen=True, slots=True)
class FileSpec:
    """A file put into the task before it starts, read-only. `contents` is text, or base64 when `base64` is set."""

    path: str
    contents: str
    base64: bool = False


@dataclass(frozen=True, slots=True)
class Kpi:
    """A file of the output folder that is kept as a key figure of the run."""

    index: str
    path: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`path` in the task is copied to `url` every `frequency` seconds, and once when the command ends."""

    path: str
    url: str
    frequency: float
    regex: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """Tasks that share `group` at the level `key` are placed together."""

    key: str
    group: str = "default"
    required: bool = True


@dataclass(frozen=True, slots=True)
class ResourceSpec:
    """What each task asks for. None takes the platform's default (stock: 1 cpu, 0 gpu, 1Gi, 1Gi).

    `memory` and `storage` are quantities as written (`4Gi`); `spec.quantity.to_bytes` reads them.
    """

    cpu: int | None = None
    gpu: int | None = None
    memory: str | None = None
    storage: str | None = None
    platform: str | None = None
    nodes_excluded: tuple[str, ...] = ()
    topology: tuple[Topology, ...] = ()


@dataclass(frozen=True, slots=True)
class RayWorkers:
    """The workers of a Ray program: how many, and what each has."""

    count: int = 0
    cpu: float = 1.0
    gpu: float = 0.0
    memory: str | None = None


@dataclass(frozen=True, slots=True)
class RaySpec:
    """Marks a task as a Ray program: its command calls `ray.init()` and gets a driver and workers of its own."""

    runtime_env: Mapping[str, object] = field(default_factory=dict)
    workers: RayWorkers = RayWorkers()


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a task is one of: the task with a matrix that it came from, and its own values of the axes."""

    name: str
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One command. `command + args` is what runs; an image's entry point is never used."""

    name: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...] = ()
    lead: bool = False
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()
    kpis: tuple[Kpi, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    files: tuple[FileSpec, ...] = ()
    credentials: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    resource: str = "default"
    privileged: bool = False
    host_network: bool = False
    volume_mounts: tuple[str, ...] = ()
    checkpoint: tuple[Checkpoint, ...] = ()
    exit_actions: Mapping[str, str] = field(default_factory=dict)
    download_type: str | None = None
    cache_size: str | None = None
    # Extensions of ours, each in docs/language.md.
    ray: RaySpec | None = None
    sandbox: Sandbox = Sandbox.AUTO
    hold: float = 0.0
    """Minutes that the task stays after a failure, for a look inside."""
    retries: int | None = None
    """How often a command that failed is run again; None leaves it to exit actions and the pool's budget."""
    requirements: tuple[str, ...] = ()
    """Python packages that a node adds to a task without a container."""
    cache: bool = False
    """An earlier task that was the same in all that counts may stand for this one (`engine.cache`)."""
    matrix: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Axis -> its values, for a task that is many; `spec.matrix` makes them, and nothing past reading has one."""
    sweep: Sweep | None = None


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """Tasks that are placed together, start together behind the barrier, and end with their lead."""

    name: str
    tasks: tuple[TaskSpec, ...]
    barrier: bool = True
    ignore_nonlead_status: bool = True


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, or None for the pool's default."""

    exec_timeout: float | None = None
    queue_timeout: float | None = None


@dataclass(frozen=True, slots=True)
class WorkflowSpec:
    """A whole workflow; loose tasks have already become groups named `<task>-group`."""

    name: str
    groups: tuple[GroupSpec, ...]
    resources: Mapping[str, ResourceSpec] = field(default_factory=lambda: {"default": ResourceSpec()})
    timeout: Timeouts = Timeouts()
    labels: Mapping[str, str] = field(default_factory=dict)

    def task(self, name: str) -> TaskSpec:
        """The task called `name`; KeyError if there is none."""
        for group in self.groups:
            for task in group.tasks:
                if task.name == name:
                    return task
        raise KeyError(name)
