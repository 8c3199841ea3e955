"""One cycle: the actions in order on one session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from osmo_ray.scheduler.core.actions.allocate import allocate, keep_promises
from osmo_ray.scheduler.core.actions.consolidation import consolidation
from osmo_ray.scheduler.core.actions.preempt import preempt
from osmo_ray.scheduler.core.actions.reclaim import reclaim
from osmo_ray.scheduler.core.actions.stale import evict_stale
from osmo_ray.scheduler.core.session import Session

ACTIONS: Mapping[str, Callable[[Session], None]] = {
    "allocate": allocate,
    "consolidation": consolidation,
    "reclaim": reclaim,
    "preempt": preempt,
    "stalegangeviction": evict_stale,
}


def run(session: Session, actions: Sequence[str] = tuple(ACTIONS), shared: bool = False) -> None:
    """Compute the shares, unless the caller has, then act; what was decided is in the session's journal."""
    if not shared:
        session.share()
    keep_promises(session)
    for name in actions:
        ACTIONS[name](session)
