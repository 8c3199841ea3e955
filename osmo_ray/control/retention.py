"""Finished work goes when its time is over: bytes first, rows last, so that a crash between leaves nothing unknown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from osmo_ray.control.ledger import Ledger
from osmo_ray.objects.protocol import ObjectStore
from osmo_ray.store.protocol import WorkflowRow

log = logging.getLogger(__name__)
_BATCH = 100


async def step(ledger: Ledger, objects: ObjectStore | None, keep: float) -> int:
    """Remove workflows that ended more than `keep` seconds ago; returns how many."""
    removed = 0
    while True:
        old = await ledger.db(ledger.store.finished_before, ledger.clock() - keep, _BATCH)
        used = await ledger.db(ledger.store.forget_results, [row.uuid for row in old])
        old = [row for row in old if row.uuid not in used]
        if not old:
            return removed
        if objects is not None:
            await asyncio.to_thread(forget, objects, old)
        gone = await ledger.db(ledger.store.delete_workflows, [row.uuid for row in old])
        removed += gone
        log.info("retention removed %d workflows", gone)
        if not gone:
            return removed


def forget(objects: ObjectStore, rows: Sequence[WorkflowRow]) -> None:
    """Remove intermediate data and logs of these workflows."""
    for row in rows:
        for prefix in (f"workflows/{row.uuid}", f"logs/{row.uuid}"):
            objects.delete([info.key for info in objects.list(prefix)])
