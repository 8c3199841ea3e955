"""Tasks that need not run, because an earlier one was the same: asked for before a group is placed, kept when one
completes.

The answer of the store is confirmed after the use is written down, so that nobody removes the data in between.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

from osmo_ray.control.ledger import Events, Ledger
from osmo_ray.control.outputs import external
from osmo_ray.engine.cache import Earlier, is_cached, is_open, key, results
from osmo_ray.engine.events import Event, Recalled
from osmo_ray.engine.model import Decision, Group, Workflow
from osmo_ray.engine.plans import source
from osmo_ray.engine.propagate import spec_of
from osmo_ray.engine.status import TaskStatus

_SOURCE = 1
"""A prefix is `workflows/<uuid>/...`: the part that names who made it."""


class StepCache:
    """What one leader has asked. A group is looked up once; what it misses, it runs."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._cached: dict[str, frozenset[str]] = {}
        """By workflow: its groups that may be passed over."""
        self._asked: set[tuple[str, str]] = set()

    async def events(self, live: Mapping[str, Workflow]) -> Events:
        """The groups that need not run."""
        self._forget(live)
        made: dict[str, list[Event]] = defaultdict(list)
        for workflow in live.values():
            for group in self._new(workflow):
                self._asked.add((workflow.uuid, group.name))
                found = await self._recall(workflow, group)
                if found:
                    made[workflow.uuid].append(Recalled(group.name, found))
        return made

    async def keep(self, decisions: Sequence[Decision]) -> None:
        """Remember what these decisions completed. A result that is lost here is only made again some day."""
        for decision in decisions:
            workflow = decision.workflow
            names = self._cached.get(workflow.uuid, frozenset()) & decision.changed_groups
            for group in (g for g in workflow.groups if g.name in names):
                if group.status is TaskStatus.COMPLETED:
                    await self._remember(workflow, group)

    def again(self, uuids: Sequence[str]) -> None:
        """Somebody else changed these workflows first: what was asked for them is asked once more."""
        if uuids:
            self._asked = {asked for asked in self._asked if asked[0] not in uuids}

    def _new(self, workflow: Workflow) -> list[Group]:
        names = self._cached.get(workflow.uuid)
        if names is None:
            groups = (g for g in workflow.groups if is_cached(spec_of(workflow.spec, g)))
            names = self._cached[workflow.uuid] = frozenset(g.name for g in groups)
        if not names:
            return []
        open_ = [g for g in workflow.groups if g.name in names and is_open(g)]
        return [g for g in open_ if (workflow.uuid, g.name) not in self._asked]

    async def _recall(self, workflow: Workflow, group: Group) -> Mapping[str, Earlier]:
        store, keys = self._ledger.store, await self._keys(workflow, group)
        found = await self._ledger.db(store.recall, list(keys.values()))
        if len(found) < len(set(keys.values())):
            return {}
        sources = {e.output.split("/")[_SOURCE] for e in found.values() if e.output} - {workflow.uuid}
        await self._ledger.db(store.use_outputs, workflow.uuid, sources)
        if await self._ledger.db(store.recall, list(keys.values())) != found:
            return {}
        return {uuid: found[name] for uuid, name in keys.items()}

    async def _remember(self, workflow: Workflow, group: Group) -> None:
        done = results(group)
        if not done:
            return
        keys = await self._keys(workflow, group)
        made = {keys[t.uuid]: (t.uuid, t.output, t.times.ended) for t in done}
        await self._ledger.db(self._ledger.store.remember, workflow.uuid, made)

    async def _keys(self, workflow: Workflow, group: Group) -> Mapping[str, str]:
        """By task uuid."""
        found = partial(source, workflow, external=await external(self._ledger, workflow, group))
        spec = spec_of(workflow.spec, group)
        by_name = {t.name: t for t in spec.tasks}
        return {t.uuid: key(workflow.user, spec, by_name[t.name], found) for t in group.tasks}

    def _forget(self, live: Mapping[str, Workflow]) -> None:
        if self._cached.keys() - live.keys():
            self._cached = {uuid: names for uuid, names in self._cached.items() if uuid in live}
            self._asked = {asked for asked in self._asked if asked[0] in live}
