"""What the scheduler sees and what it answers: a snapshot in, a plan out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from osmo_ray.spec.reason import Reason


@dataclass(frozen=True, slots=True)
class Amount:
    """Cores, bytes of memory, whole GPUs, bytes of disk."""

    cpu: float = 0.0
    memory: int = 0
    gpu: int = 0
    storage: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.cpu + other.cpu, self.memory + other.memory, self.gpu + other.gpu, self.storage + other.storage
        )

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            self.cpu - other.cpu, self.memory - other.memory, self.gpu - other.gpu, self.storage - other.storage
        )

    def holds(self, other: Amount) -> bool:
        """Whether `other` fits into this. Cores are compared with a tolerance far below a millicore."""
        return (
            self.cpu + 1e-6 >= other.cpu
            and self.memory >= other.memory
            and self.gpu >= other.gpu
            and self.storage >= other.storage
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A node that may take work; `total` is what workflows may use of it, `used` what they use now."""

    name: str
    total: Amount
    used: Amount = Amount()
    platform: str = "local"
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Queue:
    """A pool's quota, or a group of pools. GPUs may be fractions; -1 means unlimited; minimum runtimes in seconds."""

    name: str
    parent: str = ""
    priority: int = 100
    created: float = 0.0
    gpu: tuple[float, float, float] = (-1.0, -1.0, 1.0)
    """Quota, limit, weight for what is over all quotas."""
    cpu: tuple[float, float, float] = (-1.0, -1.0, 1.0)
    """The same in cores."""
    memory: tuple[float, float, float] = (-1.0, -1.0, 1.0)
    """The same in bytes."""
    preempt_min_runtime: float | None = None
    reclaim_min_runtime: float | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """One task that wants a place."""

    uuid: str
    name: str
    amount: Amount
    platform: str = "local"
    excluded: frozenset[str] = frozenset()
    tolerates: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Seat:
    """A task that has its place; `leaving` once it has been asked to go."""

    need: Need
    node: str
    leaving: bool = False


@dataclass(frozen=True, slots=True)
class Nearness:
    """Node labels that a gang must share, or would like to; the topology is one of the snapshot's."""

    topology: str
    required: str = ""
    preferred: str = ""


@dataclass(frozen=True, slots=True)
class Part:
    """Tasks of a group that want to stand near each other, and smaller parts of it that want it more closely.

    `tasks` are uuids; a task is in one part only.
    """

    name: str = ""
    near: Nearness | None = None
    tasks: frozenset[str] = frozenset()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """The tasks of one group that have to be placed together. `rank` orders: smaller first."""

    workflow: str
    group: str
    needs: tuple[Need, ...]
    rank: tuple[int, float, str]
    near: str = ""
    """A node where members of the group run already: preferred."""
    told: str = ""
    """Code of the reason that is known already, so that only a change of it is news."""
    title: str = ""
    """What reasons call it; empty: `workflow/group`."""
    queue: str = ""
    priority: int = 50
    preemptible: bool | None = None
    """None: by priority, below 100."""
    seats: tuple[Seat, ...] = ()
    """Members that have their places; with queues, running groups are told too, with no needs."""
    started: float | None = None
    reserved: Mapping[str, str] = field(default_factory=dict)
    """Task uuid -> node: what an earlier plan promised once others have left."""
    layout: Part | None = None
    """Who has to stand near whom; None: nobody minds."""

    @property
    def key(self) -> tuple[str, str]:
        return self.workflow, self.group

    @property
    def firm(self) -> bool:
        """Never taken from, and bound by the quota."""
        return self.priority >= 100 if self.preemptible is None else not self.preemptible


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cluster at one moment.

    With `queues`, `jobs` has the running groups too (as `seats`), and `Node.used` is only what none of them uses.
    """

    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]
    queues: tuple[Queue, ...] = ()
    topologies: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Name -> node labels, coarse to fine."""
    now: float = 0.0
    tries: int | None = 20
    """Most groups per action for which victims are searched in one cycle."""
    spread: tuple[bool, bool] = (False, False)
    """Whether work goes to the emptiest nodes rather than to the fullest: tasks with GPUs, and tasks without."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """A running group that has to give way: its tasks that go, who starts instead, and which rule decided."""

    workflow: str
    group: str
    tasks: tuple[str, ...]
    for_workflow: str
    for_group: str
    action: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What a queue has, in GPUs: quota and limit (-1 unlimited), fair share, held, held by non-preemptible work."""

    queue: str
    quota: float
    limit: float
    fair: float
    held: float
    firm: float

    @property
    def borrowed(self) -> float:
        """GPUs held beyond the quota."""
        return 0.0 if self.quota < 0 else max(0.0, self.held - self.quota)


@dataclass(frozen=True, slots=True)
class Plan:
    """Placements by (workflow uuid, group): task uuid -> node; and a reason for each group left waiting."""

    place: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    hold: Mapping[tuple[str, str], Reason] = field(default_factory=dict)
    preempt: tuple[Eviction, ...] = ()
    reserve: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    """Places promised for when those that leave have left; hand them back as `Job.reserved`."""
    standings: tuple[Standing, ...] = ()


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a group that waits may hope for: why it waits at this moment, and when it will probably start (seconds since
    the epoch; None when nothing can be said). `why` says from what that follows, or why nothing does."""

    reason: Reason | None
    start: float | None
    why: str
