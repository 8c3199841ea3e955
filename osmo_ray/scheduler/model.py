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


@dataclass(frozen=True, slots=True)
class Need:
    """One task that wants a place."""

    uuid: str
    name: str
    amount: Amount
    platform: str = "local"
    excluded: frozenset[str] = frozenset()


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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cluster at one moment."""

    nodes: tuple[Node, ...]
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """Placements by (workflow uuid, group): task uuid -> node; and a reason for each group left waiting."""

    place: Mapping[tuple[str, str], Mapping[str, str]] = field(default_factory=dict)
    hold: Mapping[tuple[str, str], Reason] = field(default_factory=dict)
