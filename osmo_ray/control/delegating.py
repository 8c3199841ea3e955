"""Clusters that place groups by themselves (KAI): their work goes there at once, with all that placing it needs.

Nothing waits here for room in such a cluster. A task is placed on `<cluster>/*` until the cluster says on which node;
what it waits for is the cluster's own word, as the reason of the task.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from osmo_ray.control.layout import Levels, layout
from osmo_ray.control.ledger import Events
from osmo_ray.engine.events import Event, Placed
from osmo_ray.engine.model import Group, Workflow
from osmo_ray.engine.propagate import spec_of
from osmo_ray.engine.status import TaskStatus
from osmo_ray.providers.quota import QuotaProvider
from osmo_ray.scheduler.model import Part
from osmo_ray.spec.attempt import ANYWHERE, AttemptKey, Delegated, GroupPlan, Near
from osmo_ray.spec.model import ResourceSpec

_FREE = (-1.0, -1.0, 1.0)


@dataclass(slots=True)
class Delegating:
    """`clusters`: those that place by themselves, and the default platform of each. `levels`: pool -> topology."""

    clusters: Mapping[str, str] = field(default_factory=dict)
    levels: Mapping[str, Levels] = field(default_factory=dict)
    quota: QuotaProvider | None = None

    def split(self, live: Mapping[str, Workflow]) -> tuple[Mapping[str, Workflow], Mapping[str, Workflow]]:
        """Workflows that are placed here, and those that their cluster places."""
        if not self.clusters:
            return live, {}
        there = {uuid: w for uuid, w in live.items() if w.backend in self.clusters}
        return {uuid: w for uuid, w in live.items() if uuid not in there}, there

    def events(self, there: Mapping[str, Workflow]) -> Events:
        """Every group that waits goes to its cluster."""
        found: dict[str, list[Event]] = defaultdict(list)
        for workflow in there.values():
            for group in workflow.groups:
                if group.status.finished or group.pending:
                    continue
                nodes = {
                    task.uuid: f"{workflow.backend}{ANYWHERE}"
                    for task in group.tasks
                    if task.status is TaskStatus.PROCESSING
                }
                if nodes:
                    found[workflow.uuid].append(Placed(group.name, nodes))
        return found

    def fill(self, workflow: Workflow, group: Group, plan: GroupPlan) -> GroupPlan:
        """The plan with what its cluster has to know; as it is for a cluster in which we place."""
        if workflow.backend not in self.clusters:
            return plan
        levels = self.levels.get(workflow.pool, {})
        near = layout(workflow, group, levels, ended=True)
        keys = {task.uuid: AttemptKey(task.uuid, task.retry_id) for task in group.tasks}
        specs = {task.name: task for task in spec_of(workflow.spec, group).tasks}
        resources = {
            keys[task.uuid]: workflow.spec.resources.get(specs[task.name].resource, ResourceSpec())
            for task in group.tasks
        }
        told = Delegated(
            pool=workflow.pool,
            priority=workflow.priority.value,
            share=self._share(workflow.pool),
            levels=tuple(levels.values()),
            parts=tuple(_near(part, keys) for part in near.parts) if near is not None else (),
            platforms={k: r.platform or self.clusters[workflow.backend] for k, r in resources.items()},
            excluded={k: r.nodes_excluded for k, r in resources.items() if r.nodes_excluded},
        )
        return replace(plan, delegated=told)

    def _share(self, pool: str) -> tuple[float, float, float]:
        """What quotas say of the pool's GPUs, where they say anything."""
        known = self.quota.snapshot() if self.quota else None
        if known is None:
            return _FREE
        name = known.resolve(pool)
        return next((queue.gpu for queue in known.queues if queue.name == name), _FREE)


def _near(part: Part, keys: Mapping[str, AttemptKey]) -> Near:
    near = part.near
    return Near(
        part.name,
        tuple(sorted((keys[uuid] for uuid in part.tasks), key=str)),
        near.required if near is not None else "",
        near.preferred if near is not None else "",
        tuple(_near(inner, keys) for inner in part.parts),
    )
