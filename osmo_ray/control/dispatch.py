"""The dispatch loop: committed commands go to the backend, in order per group, until it has taken them.

A crash between sending and settling sends them again; keys, epochs and tombstones make that harmless.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from osmo_ray.backends.protocol import Backend, PartlyUnavailable
from osmo_ray.control import credentials, datasets
from osmo_ray.control.credentials import Purse
from osmo_ray.control.datasets import BucketAway, Librarian
from osmo_ray.control.delegating import Delegating
from osmo_ray.control.ledger import Ledger
from osmo_ray.control.outputs import external
from osmo_ray.engine.model import ApplyGroup, DeleteGroup
from osmo_ray.engine.plans import PoolRules, group_plan
from osmo_ray.engine.propagate import spec_of
from osmo_ray.spec.attempt import GroupPlan
from osmo_ray.store.protocol import Outgoing

log = logging.getLogger(__name__)
_SETTLE_AT = 300
"""Far below what one look at the outbox returns, so that sent commands never hide new ones."""


async def step(
    ledger: Ledger,
    backend: Backend,
    rules: PoolRules,
    epoch: int,
    purse: Purse | None = None,
    librarian: Librarian | None = None,
    delegating: Delegating | None = None,
) -> int:
    """Send what is in the outbox; returns how many commands were settled."""
    found, ledger.outgoing = ledger.outgoing, ()
    waiting = [o for o in found or await ledger.db(ledger.store.outgoing) if o.seq not in ledger.sent]
    if not waiting:
        return 0
    if any(o.workflow_uuid not in ledger.live for o in waiting):
        await ledger.refresh()
    deletes = [o for o in waiting if isinstance(o.command, DeleteGroup)]
    applies = [o for o in waiting if isinstance(o.command, ApplyGroup)]
    done = await _apply(ledger, backend, rules, epoch, applies, purse, librarian, delegating)
    # A group's plan is empty once it has ended, so deleting last is right whatever the order was.
    done += await _delete(ledger, backend, epoch, deletes)
    ledger.sent.update(done)
    if len(ledger.sent) > _SETTLE_AT:
        await settle(ledger)
    return len(done)


async def settle(ledger: Ledger) -> None:
    """Take what was sent out of the outbox. Done in rounds: a crash before it only sends those commands again."""
    done = sorted(ledger.sent)
    if done:
        await ledger.db(ledger.store.settle, done, ledger.lease)
        ledger.sent.difference_update(done)


async def _apply(
    ledger: Ledger,
    backend: Backend,
    rules: PoolRules,
    epoch: int,
    commands: Sequence[Outgoing],
    purse: Purse | None,
    librarian: Librarian | None,
    delegating: Delegating | None,
) -> list[int]:
    plans: dict[str, GroupPlan] = {}
    seqs: dict[str, list[int]] = {}
    done: list[int] = []
    away: set[str] = set()
    for outgoing in commands:
        workflow = ledger.live.get(outgoing.workflow_uuid)
        group = workflow.group(outgoing.command.group) if workflow else None
        if workflow is None or group is None or group.status.finished:
            done.append(outgoing.seq)
            continue
        seqs.setdefault(group.uuid, []).append(outgoing.seq)
        if group.uuid not in plans and group.uuid not in away:
            other = await external(ledger, workflow, group)
            plan = group_plan(workflow, group, replace(rules, external=other) if other else rules)
            if delegating is not None:
                plan = delegating.fill(workflow, group, plan)
            spec = spec_of(workflow.spec, group)
            if purse is not None and credentials.wanted(spec):
                plan = await ledger.db(purse.fill, workflow.user, spec, plan)
            if librarian is not None and datasets.wanted(spec):
                try:
                    plan = await ledger.db(librarian.fill, workflow, plan)
                except BucketAway as error:
                    log.warning("group %s is sent later: %s", group.uuid, error)
                    away.add(group.uuid)
                    continue
            plans[group.uuid] = plan
    if plans:
        refused = await backend.apply(epoch, list(plans.values()))
        for uuid, reason in refused.items():
            log.warning("group %s could not be applied yet: %s", uuid, reason.sentence)
        done += [seq for uuid, found in seqs.items() if uuid in plans and uuid not in refused for seq in found]
    return done


async def _delete(ledger: Ledger, backend: Backend, epoch: int, commands: Sequence[Outgoing]) -> list[int]:
    by_grace: dict[float, list[tuple[int, str]]] = {}
    done: list[int] = []
    for outgoing in commands:
        workflow = ledger.live.get(outgoing.workflow_uuid)
        group = workflow.group(outgoing.command.group) if workflow else None
        if group is None or not isinstance(outgoing.command, DeleteGroup):
            done.append(outgoing.seq)
            continue
        by_grace.setdefault(outgoing.command.grace, []).append((outgoing.seq, group.uuid))
    for grace, found in by_grace.items():
        late: frozenset[str] = frozenset()
        try:
            await backend.delete(epoch, [uuid for _, uuid in found], grace)
        except PartlyUnavailable as error:  # their commands stay in the outbox until the cluster answers
            late = error.groups
        done += [seq for seq, uuid in found if uuid not in late]
    return done
