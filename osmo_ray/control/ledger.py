"""The leader's copy of what is alive, and the one way to change it.

The copy is a cache: every write is checked against the version in the store, and a workflow that somebody else wrote
(a cancel through the API) is read again. All loops change state through `apply`, one at a time, so that within a
leader there are no races to reason about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from osmo_ray.engine.decide import decide_all
from osmo_ray.engine.events import Event, Policy
from osmo_ray.engine.model import Decision, Task, Workflow
from osmo_ray.store.protocol import Lease, Outgoing, Store

T = TypeVar("T")
_ATTEMPTS = 5

Events = Mapping[str, Sequence[Event]]
"""By workflow uuid."""
Planner = Callable[[Mapping[str, Workflow]], Events]
"""From the live workflows to the events that place what fits now."""


class Recaller(Protocol):
    """Knows which groups need not run, and hears of those that completed."""

    async def events(self, live: Mapping[str, Workflow]) -> Events: ...

    async def keep(self, decisions: Sequence[Decision]) -> None: ...

    def again(self, uuids: Sequence[str]) -> None:
        """What was said of these workflows came to nothing."""


class Ledger:
    """Live workflows of one leader, by uuid."""

    def __init__(self, store: Store, policy: Policy, clock: Callable[[], float]) -> None:
        self.store = store
        self.policy = policy
        self.clock = clock
        self.lease: Lease | None = None
        self.live: dict[str, Workflow] = {}
        self.sent: set[int] = set()
        """Commands that the backend has taken and the outbox still holds."""
        self.outgoing: Sequence[Outgoing] = ()
        """Commands to send as of the newest commit that added any; empty when the outbox is to be asked."""
        self.planner: Planner | None = None
        """Asked in each commit that may have made room, so that an end and what it lets start are one transaction."""
        self.recaller: Recaller | None = None
        self.schedule = asyncio.Event()
        self.dispatch = asyncio.Event()
        self._home: dict[str, tuple[str, int]] = {}
        """By task: its workflow, and the position of its group there."""
        self._writing = asyncio.Lock()
        # One thread: the store's verbs are short, and SQLite has one writer anyway.
        self._pool = ThreadPoolExecutor(1, "store")

    async def db(self, verb: Callable[..., T], *args: Any) -> T:
        """Run a verb of the store off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, verb, *args)

    def home(self, task_uuid: str) -> tuple[str, str]:
        """The live workflow that a task belongs to, by uuid, and the name of its group; empty if there is none."""
        uuid, index = self._home.get(task_uuid, ("", 0))
        workflow = self.live.get(uuid)
        return (uuid, workflow.groups[index].name) if workflow else ("", "")

    def task(self, task_uuid: str) -> Task | None:
        """A task of a live workflow, as it is now."""
        uuid, index = self._home.get(task_uuid, ("", 0))
        workflow = self.live.get(uuid)
        return workflow.groups[index].task(task_uuid) if workflow else None

    async def refresh(self) -> bool:
        """Read what changed in the store since the last look; True if anything did."""
        async with self._writing:
            known = await self.db(self.store.alive)
            stale = [u for u, version in known.items() if u not in self.live or self.live[u].version != version]
            for uuid in [u for u in self.live if u not in known]:
                self._forget(uuid)
            await self._read(stale)
        if stale:
            self.schedule.set()
            self.dispatch.set()
        return bool(stale)

    async def apply(self, events: Events, *, place: bool = False) -> None:
        """Decide and commit these events. Workflows that changed meanwhile are decided anew. With `place`, what now
        fits is placed in the same commit."""
        async with self._writing:
            left = {uuid: found for uuid, found in events.items() if uuid in self.live}
            for _ in range(_ATTEMPTS):
                conflicts = await self._commit(left, place)
                if not conflicts:
                    return
                await self._read(conflicts)
                left = {uuid: found for uuid, found in left.items() if uuid in conflicts and uuid in self.live}

    async def _commit(self, events: Events, place: bool) -> Sequence[str]:
        decisions = await self._decide(events, place)
        if not decisions:
            return ()
        settled = sorted(self.sent)
        made = await self.db(self.store.advance, decisions, self.lease, settled)
        self.sent.difference_update(settled)
        self.outgoing = made.outgoing or self.outgoing
        written = [d for d in decisions if d.workflow.uuid not in made.conflicts]
        for decision in written:
            self._written(decision)
        if self.recaller is not None:
            self.recaller.again(made.conflicts)
            await self.recaller.keep(written)
        return made.conflicts

    async def _decide(self, events: Events, place: bool) -> list[Decision]:
        now = self.clock()
        made: dict[str, Decision] = {}
        self._then(made, events, now)
        while place and self.recaller is not None:  # what is passed over may let others be passed over
            found = await self.recaller.events(self._with(made))
            if not found:
                break
            self._then(made, found, now)
        if place and self.planner is not None:
            self._then(made, self.planner(self._with(made)), now)
        return [d for d in made.values() if d.changed]

    def _with(self, made: Mapping[str, Decision]) -> dict[str, Workflow]:
        return {**self.live, **{u: d.workflow for u, d in made.items()}}

    def _then(self, made: dict[str, Decision], events: Events, now: float) -> None:
        """Add what these events change to what was decided already."""
        for uuid, found in events.items():
            before = made.get(uuid)
            then = decide_all(before.workflow if before else self.live[uuid], found, now, self.policy)
            made[uuid] = before.then(then) if before else then

    def _written(self, decision: Decision) -> None:
        workflow = decision.workflow
        if workflow.status.finished and not decision.commands:
            self._forget(workflow.uuid)
        else:
            self.live[workflow.uuid] = replace(workflow, version=workflow.version + 1)
        if decision.commands:
            self.dispatch.set()

    async def _read(self, uuids: Sequence[str]) -> None:
        if not uuids:
            return
        found = {w.uuid: w for w in await self.db(self.store.load, uuids)}
        for uuid in uuids:
            if uuid in found:
                self.live[uuid] = found[uuid]
                self._home.update({t.uuid: (uuid, i) for i, g in enumerate(found[uuid].groups) for t in g.tasks})
            else:
                self._forget(uuid)

    def _forget(self, uuid: str) -> None:
        workflow = self.live.pop(uuid, None)
        if workflow is not None:
            for group in workflow.groups:
                for task in group.tasks:
                    self._home.pop(task.uuid, None)

    def clear(self) -> None:
        """Leadership is gone: what is known here may be wrong from now on."""
        self.live.clear()
        self._home.clear()
        self.sent.clear()
        self.outgoing = ()
        self.lease = None

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
