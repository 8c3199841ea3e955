"""What the core is told about a cluster: nodes, queues, topologies, claims and jobs, as frozen values.

Units: GPUs (whole or fractions), millicores, bytes; memory of a GPU in MiB. `EVERYTHING` (-1) means unlimited in a
quota or limit. Extra resources are counted by name: MIG profiles, disk, devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EVERYTHING = -1.0
Three = tuple[float, float, float]
"""GPUs, millicores, bytes."""


@dataclass(frozen=True, slots=True)
class NodeIn:
    """A node that may take work. `gpu` are plain GPUs; `devices` maps a device class of claims to its count."""

    name: str
    gpu: float = 0
    cpu: float = 0
    memory: float = 0
    gpu_memory: int = 100
    extra: Mapping[str, float] = field(default_factory=dict)
    devices: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: frozenset[str] = frozenset()
    sliced: bool = False
    """Its GPUs are cut into MIG devices: no fractions here."""


@dataclass(frozen=True, slots=True)
class QueueIn:
    """A queue; only leaves run jobs. Minimum runtimes in seconds; None looks further up."""

    name: str
    parent: str | None = None
    priority: int = 100
    created: float = 0.0
    quota: Three = (EVERYTHING, EVERYTHING, EVERYTHING)
    limit: Three = (EVERYTHING, EVERYTHING, EVERYTHING)
    weight: Three = (1.0, 1.0, 1.0)
    preempt_min_runtime: float | None = None
    reclaim_min_runtime: float | None = None


@dataclass(frozen=True, slots=True)
class Near:
    """Levels of a topology that a group must share or would like to share."""

    topology: str
    required: str = ""
    preferred: str = ""


@dataclass(frozen=True, slots=True)
class PodSetIn:
    """Tasks of one kind within a job: fewer than `minimum` never start."""

    name: str = "default"
    minimum: int = 1
    near: Near | None = None


@dataclass(frozen=True, slots=True)
class GroupIn:
    """A node of a job's tree of sub-groups."""

    name: str = ""
    near: Near | None = None
    pod_sets: tuple[PodSetIn, ...] = (PodSetIn(),)
    groups: tuple[GroupIn, ...] = ()


@dataclass(frozen=True, slots=True)
class Term:
    """A node's label must be (or, `negated`, must not be) one of these values; the key "" is the node's name."""

    key: str
    values: frozenset[str]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Company:
    """Which pods a task wants beside it or away from it: those that carry its own labels, per node label."""

    labels: tuple[tuple[str, str], ...]
    with_key: str = ""
    apart_key: str = ""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a task asks of a node; equal asks are one class. At most one of gpu, fraction and gpu_memory."""

    gpu: float = 0
    cpu: float = 0
    memory: float = 0
    fraction: float = 0.0
    gpu_memory: int = 0
    devices: int = 1
    extra: tuple[tuple[str, float], ...] = ()
    where: tuple[Term, ...] = ()
    tolerates: frozenset[str] = frozenset()
    company: Company | None = None
    claims: tuple[str, ...] = ()
    refused: str = ""
    """Why no node may ever take it; empty for an ordinary ask."""


@dataclass(frozen=True, slots=True)
class TaskIn:
    name: str
    ask: Ask
    state: int = 0
    node: str | None = None
    pod_set: str = "default"
    priority: int | None = None
    shared: tuple[str, ...] = ()
    """The shared GPUs of its node it sits on."""


@dataclass(frozen=True, slots=True)
class JobIn:
    """Tasks that start together. `started` and `stale` are moments on the same clock as the session's `now`."""

    name: str
    queue: str
    tasks: tuple[TaskIn, ...]
    priority: int = 50
    preemptible: bool = True
    created: float = 0.0
    started: float | None = None
    stale: float | None = None
    tree: GroupIn = GroupIn()
    promised: frozenset[str] = frozenset()
    """Nodes that an earlier cycle made others leave for it."""


@dataclass(frozen=True, slots=True)
class ClaimIn:
    """Devices of one class for whoever holds the claim; `others` are its consumers outside the known tasks."""

    name: str
    device_class: str
    count: int = 1
    queue: str = ""
    gpu: bool = True
    others: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """How a cycle is run. Bounds are counts, since the core reads no clock."""

    spread_gpu: bool = False
    spread_cpu: bool = False
    spread_shared: bool = False
    shared_first: bool = True
    """Prefer nodes where a part of a GPU fits beside others."""
    together: bool = False
    """Try to keep a gang on one node, or beside its members that run, before spreading it."""
    victims_per_move: int | None = 16
    """Most tasks that one consolidation may move; None: no bound, 0: never."""
    count_moved: bool = False
    """Whether tasks that a reclaim only moves count as taken."""
    smallest_gpu: int = 0
    """MiB that a request by GPU memory is measured with in quotas; 0: the smallest GPU of the nodes."""
    grace: float = 60.0
    """Seconds a gang may stay below its minimum; negative: for ever."""
    saturation: float = 1.0
    usage_factor: float = 1.0
    tries: int | None = None
    """Most jobs per action for which victims are searched; None: all."""
    scenarios: int = 2000
    """Most simulations for one job."""
    signatures: bool = True
    """Skip a job when an equal one of its queue has just failed."""
