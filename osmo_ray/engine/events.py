"""What can happen to a workflow. Facts only: what follows from them is `decide`'s business."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from osmo_ray.engine.cache import Earlier
from osmo_ray.spec.attempt import Observation
from osmo_ray.spec.reason import Reason


@dataclass(frozen=True, slots=True)
class Placed:
    """The scheduler chose a node for each of these tasks (uuid -> node name) of one group."""

    group: str
    nodes: Mapping[str, str]
    why: Mapping[str, Reason] = field(default_factory=dict)
    """Per task uuid, anything worth saying about the choice (a sandbox that falls back, for example)."""


@dataclass(frozen=True, slots=True)
class Held:
    """The scheduler could not place the group now, and says why."""

    group: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Observed:
    """A backend saw something of an attempt."""

    observation: Observation
    group: str = ""
    """The name of the attempt's group, where whoever saw it knows that: it saves a search."""


@dataclass(frozen=True, slots=True)
class Preempted:
    """The scheduler takes the places of this group back for somebody with a better claim."""

    group: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Recalled:
    """Earlier tasks may stand for all tasks of this group (by uuid)."""

    group: str
    earlier: Mapping[str, Earlier]


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A person (or a rule in their name) ends the workflow, or these groups of it and what depends on them."""

    user: str
    message: str = ""
    force: bool = False
    groups: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; limits may have been reached."""


Event = Placed | Held | Observed | Preempted | Recalled | CancelRequested | Tick


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of a pool that the engine follows. Times are seconds.

    `exit_actions` are the pool's defaults, used where a task's own say nothing of a code.
    """

    task_retries: int = 0
    platform_retries: int = 3
    start_timeout: float = 1800.0
    grace: float = 30.0
    timeouts: str = "per-workflow"
    """What the timeouts of a workflow limit: the whole (`per-workflow`), or each of its groups (`per-group`)."""
    exit_actions: Mapping[str, str] = field(default_factory=dict)
