"""The tidy loop: compare what runs with what should run, and let time pass for limits.

Everything here repairs what a crash may have left: an attempt nobody reports any more, one that nobody wants, a node
that is gone. A task is declared lost only when that is proven: its node answers and does not know it, or its node has
been silent for longer than a task may run without its lease.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from osmo_ray.backends.protocol import Backend
from osmo_ray.control import watch
from osmo_ray.control.ledger import Ledger
from osmo_ray.engine.events import Event, Observed, Tick
from osmo_ray.engine.limits import next_limit
from osmo_ray.engine.model import Task, Workflow
from osmo_ray.engine.status import PRESCHEDULING
from osmo_ray.spec.attempt import ANYWHERE, AttemptKey, NodeReport, Observation, Phase
from osmo_ray.spec.quantity import show_seconds
from osmo_ray.spec.reason import Reason

SETTLE_IN = 10.0
"""Seconds that a placement may be on its way before its absence on the node means anything."""

_ALL = 1_000_000


async def limits(ledger: Ledger) -> None:
    """Send a `Tick` to workflows that have reached a limit."""
    now = ledger.clock()
    due: dict[str, Sequence[Event]] = {
        w.uuid: (Tick(),) for w in ledger.live.values() if not w.status.finished and next_limit(w, ledger.policy) <= now
    }
    if due:
        await ledger.apply(due, place=True)


async def compare(
    ledger: Ledger, backend: Backend, nodes: Sequence[NodeReport], silent: Mapping[str, float], lease: float
) -> None:
    """One comparison. `silent` is for how many seconds each node has not answered (absent: it answers)."""
    # The order is the proof: what was placed before `asked` is in the outbox still, or the backend was told of it
    # before it lists what it has.
    asked = ledger.clock()
    waiting = await ledger.db(ledger.store.outgoing, _ALL)
    sent = {o.workflow_uuid for o in waiting if o.seq not in ledger.sent}
    listed = await backend.list()
    await watch.step(ledger, backend, listed)
    known = {o.key for o in listed}
    answering = {n.name for n in nodes if n.alive and n.name not in silent}
    offline: frozenset[str] = getattr(backend, "offline", frozenset())
    events: dict[str, list[Event]] = defaultdict(list)
    for workflow in list(ledger.live.values()):
        if workflow.uuid in sent or workflow.backend in offline:
            continue
        for task in _placed(workflow):
            reason = _lost(task, known, answering, silent, lease, asked)
            if reason is not None:
                key = AttemptKey(task.uuid, task.retry_id)
                events[workflow.uuid].append(Observed(Observation(key, Phase.LOST, ledger.clock(), reason=reason)))
    if events:
        await ledger.apply(events, place=True)


def _placed(workflow: Workflow) -> list[Task]:
    return [
        t
        for g in workflow.groups
        for t in g.tasks
        if t.node and not t.status.finished and t.status not in PRESCHEDULING
    ]


def _lost(
    task: Task,
    known: set[AttemptKey],
    answering: set[str],
    silent: Mapping[str, float],
    lease: float,
    now: float,
) -> Reason | None:
    if AttemptKey(task.uuid, task.retry_id) in known:
        return None
    if task.node in answering or task.node.endswith(ANYWHERE):
        waited = now - max(task.times.scheduling, task.times.initializing, task.times.running)
        if waited < SETTLE_IN:
            return None
        return Reason("AttemptGone", f"node {task.node} answers and has no trace of this attempt")
    quiet = silent.get(task.node, lease + 1)
    if quiet <= lease:
        return None
    return Reason(
        "NodeLost",
        f"node {task.node} has been gone for {show_seconds(quiet)}, longer than a task runs without its lease",
        {"lease": show_seconds(lease)},
    )
