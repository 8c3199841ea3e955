"""Finished work goes when its time is over: bytes first, rows last, so that a crash between leaves nothing unknown."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from osmo_ray.control.ledger import Ledger
from osmo_ray.engine.plans import CODE_GRACE, code_prefix
from osmo_ray.objects.protocol import ObjectStore
from osmo_ray.runtime.transfer import MANIFEST
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


async def forget_code(ledger: Ledger, objects: ObjectStore) -> int:
    """Remove archives of code that no workflow names any more; returns how many."""
    now = ledger.clock()
    found = await asyncio.to_thread(_archives, objects)
    old = [digest for digest, newest in found.items() if newest < now - CODE_GRACE]
    used = await ledger.db(ledger.store.used_code, old)
    gone = [digest for digest in old if digest not in used]
    for digest in gone:
        keys = await asyncio.to_thread(lambda d=digest: [info.key for info in objects.list(code_prefix(d))])  # type: ignore[misc]
        # Without its manifest, which goes first here, an archive counts as not there.
        await asyncio.to_thread(objects.delete, sorted(keys, key=lambda key: not key.endswith(MANIFEST)))
    return len(gone)


def _archives(objects: ObjectStore) -> dict[str, float]:
    """By digest, when anything of it was written last."""
    found: dict[str, float] = {}
    for info in objects.list("code"):
        digest = info.key.split("/")[1]
        found[digest] = max(found.get(digest, 0.0), info.modified)
    return found


def forget(objects: ObjectStore, rows: Sequence[WorkflowRow]) -> None:
    """Remove intermediate data and logs of these workflows."""
    for row in rows:
        for prefix in (f"workflows/{row.uuid}", f"logs/{row.uuid}"):
            objects.delete([info.key for info in objects.list(prefix)])
