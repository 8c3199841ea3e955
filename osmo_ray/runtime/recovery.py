"""After a supervisor's death: end what may be left of its attempt, keep its log, and only then call it lost."""

from __future__ import annotations

import logging
import time

from osmo_ray.objects.protocol import ObjectError
from osmo_ray.runtime import process, reasons
from osmo_ray.runtime.book import Entry
from osmo_ray.runtime.cgroups import Parent
from osmo_ray.runtime.container import Engine
from osmo_ray.runtime.logs import log_prefix, ship
from osmo_ray.runtime.mounts import release
from osmo_ray.runtime.process import boot_id
from osmo_ray.runtime.work import open_store
from osmo_ray.spec.attempt import Observation, Phase

logger = logging.getLogger(__name__)
_UNSHIPPED = "unshipped"


def prove_dead(entry: Entry, cgroup: Parent | None, engine: Engine) -> None:
    """Make sure that nothing of the attempt runs, and write LOST."""
    killed = _kill_all(entry, cgroup)
    if entry.job.mode == "container":
        engine.remove(str(entry.key))
    release(entry.folder.data_in)
    (entry.folder.path / _UNSHIPPED).touch()
    ship_late(entry)
    rebooted = entry.supervisor is not None and entry.supervisor.boot != boot_id()
    reason = reasons.supervisor_died(rebooted, killed)
    restart = entry.newest.restart if entry.newest else 0
    entry.folder.report(Observation(entry.key, Phase.LOST, time.time(), restart=restart, reason=reason))


def _kill_all(entry: Entry, cgroup: Parent | None) -> int:
    """The kernel ends a pid namespace with its init, which dies with the supervisor; what has none is found by its
    cgroup or by the mark in its environment."""
    killed: set[int] = set()
    own = cgroup.child(entry.folder.path.name) if cgroup else None
    for _ in range(200):
        left = [*(own.pids() if own else []), *process.marked(f"OSMO_ATTEMPT={entry.key}")]
        left = [pid for pid in left if process.Identity.of(pid) is not None]
        if not left:
            break
        killed.update(left)
        for pid in left:
            process.send(pid, 9)
        time.sleep(0.01)
    if own is not None:
        own.remove()
    return len(killed)


def is_late(entry: Entry) -> bool:
    """Whether its supervisor could not keep its log."""
    return bool(entry.job.storage_url) and (entry.folder.path / _UNSHIPPED).exists()


def ship_late(entry: Entry) -> bool:
    """Keep a log that its supervisor could not; True when nothing is left to keep."""
    mark = entry.folder.path / _UNSHIPPED
    if not is_late(entry):
        return True
    try:
        entry.folder.log.touch()
        store = open_store(entry.job.storage_url)
        ship(store, log_prefix(entry.job.plan.workflow_uuid, entry.key), entry.folder.log, 0, None)
    except (ObjectError, OSError):
        logger.warning("the log of %s cannot be kept yet", entry.key, exc_info=True)
        return False
    mark.unlink()
    return True
