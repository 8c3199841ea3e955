"""The watch loop: what the backend saw becomes state, and what was accepted may be forgotten out there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from osmo_ray.backends.protocol import Backend
from osmo_ray.control.ledger import Ledger
from osmo_ray.engine.events import Event, Observed
from osmo_ray.spec.attempt import AttemptKey, Observation, Phase

_OVER = (Phase.FINISHED, Phase.LOST)


async def step(ledger: Ledger, backend: Backend, seen: Sequence[Observation]) -> None:
    """Take in these observations, then settle the attempts whose end is now in the store."""
    events: dict[str, list[Event]] = defaultdict(list)
    for observation in seen:
        workflow, group = ledger.home(observation.key.task_uuid)
        if workflow:
            events[workflow].append(Observed(observation, group))
    if events:
        await ledger.apply(events, place=any(o.phase in _OVER for o in seen))
    if ledger.lease is None:
        return  # no longer leading: what this copy says about an end proves nothing
    over = [o.key for o in seen if o.phase in _OVER]
    settled = [key for key in over if is_over(ledger, key)]
    if settled:
        await backend.settle(settled)


def is_over(ledger: Ledger, key: AttemptKey) -> bool:
    """Whether the store holds the end of this attempt (or never wanted it): only then may its traces go."""
    task = ledger.task(key.task_uuid)
    return task is None or task.retry_id > key.retry_id or task.status.finished


def unknown(ledger: Ledger, seen: Iterable[Observation]) -> list[AttemptKey]:
    """Attempts that nobody waits for: of finished or unknown workflows, or older than the newest."""
    return [o.key for o in seen if is_over(ledger, o.key)]
