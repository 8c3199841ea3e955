"""The door between the control plane and whatever runs tasks.

A backend is told what should run (level-triggered: the same plan twice makes one group) and reports what it sees. It
never decides. A command with a lower epoch than one already seen is refused with `StaleEpoch`; a group that was
deleted is not revived by a late `apply`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from osmo_ray.backends.inside import Session, Size, Stream
from osmo_ray.spec.attempt import AttemptKey, GroupPlan, LogChunk, NodeReport, Observation, UsageSample
from osmo_ray.spec.reason import Reason


class StaleEpoch(Exception):
    """A newer leader has already spoken to this backend; the caller must step down."""


class BackendUnavailable(Exception):
    """The backend or node does not answer now; trying again later may help."""


class PartlyUnavailable(BackendUnavailable):
    """Some of the groups could not be told; all others were."""

    def __init__(self, message: str, groups: frozenset[str]) -> None:
        super().__init__(message)
        self.groups = groups


class Backend(Protocol):
    """A registered cluster."""

    name: str

    async def capacity(self) -> Sequence[NodeReport]:
        """The nodes as they are now."""
        ...

    async def apply(self, epoch: int, plans: Sequence[GroupPlan]) -> Mapping[str, Reason]:
        """Make the cluster run exactly these attempts of these groups. Returns a reason per group uuid that could
        not be applied now. Raises `StaleEpoch`."""
        ...

    async def delete(self, epoch: int, groups: Sequence[str], grace: float) -> None:
        """End everything of these group uuids; safe to repeat, also for groups that never existed."""
        ...

    async def list(self) -> Sequence[Observation]:
        """The newest observation of every attempt that the backend still knows, for adoption and tidying."""
        ...

    async def watch(self, wait: float) -> Sequence[Observation]:
        """Observations since the last call, waiting up to `wait` seconds for the first one."""
        ...

    async def settle(self, keys: Sequence[AttemptKey]) -> None:
        """The store has accepted the end of these attempts: their logs are kept and the node may forget them."""
        ...

    async def logs(self, key: AttemptKey, node: str, offset: int, limit: int, wait: float) -> LogChunk:
        """Part of an attempt's log, waiting up to `wait` seconds when there is nothing new."""
        ...

    async def exec(
        self, key: AttemptKey, node: str, argv: Sequence[str], size: Size | None = None, term: str = "xterm"
    ) -> Session:
        """Run a command inside a running attempt: in its sandbox, with its environment, under a terminal when there
        is a `size`. Raises `NotInside` with the reason, `BackendUnavailable`."""
        ...

    async def connect(self, key: AttemptKey, node: str, port: int, *, udp: bool = False) -> Stream:
        """Connect to 127.0.0.1:`port` as the attempt sees it. Raises `NotInside`, `BackendUnavailable`."""
        ...

    async def release(self, key: AttemptKey, node: str, *, rerun: bool = False) -> None:
        """End the hold of an attempt that failed, or run its command again in place; changes nothing for attempts
        that are not held, but that a later failure is not held after a release."""
        ...

    async def usage(self) -> Sequence[UsageSample]:
        """What the running attempts use now."""
        ...

    async def close(self) -> None: ...
