"""What a waiting group may hope for: why it waits now, with the numbers of this moment, and when it will start.

Run times are those of earlier tasks: of the same task of workflows of the same name, else of its pool.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from osmo_ray.control.ledger import Ledger
from osmo_ray.control.schedule import Scheduling
from osmo_ray.engine.model import Task, Workflow
from osmo_ray.engine.status import TaskStatus
from osmo_ray.scheduler.forecast import Forecast, forecast
from osmo_ray.scheduler.model import Outlook, Snapshot
from osmo_ray.spec.reason import Reason
from osmo_ray.store.protocol import TaskQuery, TaskRow

Key = tuple[str, str]
_HISTORY = 1000
"""Newest completed tasks of a pool that run times are taken from."""
_WORK = 40_000
"""Groups times cycles that one forecast may look at."""


@dataclass(frozen=True, slots=True)
class Times:
    """Run times in seconds, sorted: of a task of workflows of one name, and of whole pools."""

    tasks: Mapping[tuple[str, str, str], Sequence[float]]
    pools: Mapping[str, Sequence[float]]
    count: int

    def of(self, workflow: Workflow, task: Task) -> Sequence[float]:
        return self.tasks.get((workflow.pool, _base(workflow.id), task.name)) or self.pools.get(workflow.pool, ())


async def outlook(ledger: Ledger, scheduling: Scheduling, uuid: str) -> Mapping[str, Outlook]:
    """By group, for those of this workflow that wait for a place."""
    workflow = ledger.live.get(uuid)
    if workflow is None:
        return {}
    waiting = [g.name for g in workflow.groups if any(t.status is TaskStatus.PROCESSING for t in g.tasks)]
    if not waiting:
        return {}
    live, now = dict(ledger.live), ledger.clock()
    reasons, parts = scheduling.look(live)
    pools = sorted({w.pool for w in live.values()})
    rows = [await ledger.db(ledger.store.list_tasks, _query(pool)) for pool in pools]
    times = learn(row for found in rows for row in found)

    keys = [(uuid, name) for name in waiting]
    return await asyncio.to_thread(lambda: _outlooks(live, parts, times, keys, reasons, now))


def learn(rows: Iterable[TaskRow]) -> Times:
    """Run times of these completed attempts."""
    tasks: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    pools: dict[str, list[float]] = defaultdict(list)
    count = 0
    for row in rows:
        at = row.task.times
        if at.running and at.ended > at.running:
            count += 1
            tasks[row.pool, _base(row.workflow_id), row.task.name].append(at.ended - at.running)
            pools[row.pool].append(at.ended - at.running)
    for found in (*tasks.values(), *pools.values()):
        found.sort()
    return Times(tasks, pools, count)


def remaining(seen: Sequence[float], elapsed: float) -> float | None:
    """How much longer a task runs that has run for `elapsed`: as those earlier ones that ran longer. None when nothing
    is known; a task that outran them all runs half as long again."""
    if not seen:
        return None
    longer = [one for one in seen if one > elapsed]
    return statistics.median(longer) - elapsed if longer else elapsed / 2


def _outlooks(
    live: Mapping[str, Workflow],
    parts: Sequence[Snapshot],
    times: Times,
    keys: Sequence[Key],
    reasons: Mapping[Key, Reason],
    now: float,
) -> Mapping[str, Outlook]:
    """One look ahead per part of the cluster that any of the groups waits for."""
    ends, runs = _expected(live, times, now)
    unsaid = "quotas are not known"
    if parts and not ends and not runs:
        unsaid, parts = "no task of these pools has completed yet, so run times are not known", ()
    found = {key: Outlook(reasons.get(key), None, unsaid) for key in keys}
    for part in parts:
        mine = [job.key for job in part.jobs if job.key in found]
        if mine:
            most = max(8, min(200, _WORK // (len(part.jobs) + 1)))
            for key, told in forecast(part, ends, runs, mine, most).items():
                found[key] = Outlook(reasons.get(key), told.at, _why(told, times, now))
    return {group: outlook for (_, group), outlook in found.items()}


def _why(found: Forecast, times: Times, now: float) -> str:
    if found.at is not None:
        return f"from the run time{'s' * (times.count > 1)} of {times.count} earlier task{'s' * (times.count > 1)}"
    if found.beyond is not None:
        return f"not within the next {(found.beyond - now) / 60:.0f} minutes"
    return "not with what runs and waits now"


def _expected(live: Mapping[str, Workflow], times: Times, now: float) -> tuple[dict[str, float], dict[str, float]]:
    """Ends of what runs, and run times of what waits, as far as they are known."""
    ends: dict[str, float] = {}
    runs: dict[str, float] = {}
    for workflow in live.values():
        for group in workflow.groups:
            for task in group.tasks:
                if task.status.finished:
                    continue
                seen = times.of(workflow, task)
                began = task.times.running or now
                if task.node and (left := remaining(seen, now - began)) is not None:
                    ends[task.uuid] = now + left
                if seen:
                    runs[task.uuid] = statistics.median(seen)
    return ends, runs


def _query(pool: str) -> TaskQuery:
    return TaskQuery(pools=(pool,), statuses=("COMPLETED",), limit=_HISTORY)


def _base(workflow: str) -> str:
    """The name that was submitted: an id is `NAME-NUMBER`."""
    return workflow.rpartition("-")[0] or workflow
