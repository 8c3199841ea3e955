"""Who of a group has to stand near whom: from the topology that its tasks ask for to what the scheduler takes.

Tasks that name the same group at a level share that level's domain (one rack, one zone). Levels are nested, coarse to
fine, so a group of a fine level lies within one of each coarser level: `r1` of zone `z1` is not `r1` of zone `z2`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from osmo_ray.engine.model import Group, Workflow
from osmo_ray.engine.propagate import spec_of
from osmo_ray.scheduler.model import Nearness, Part
from osmo_ray.spec.model import ResourceSpec, Topology

Levels = Mapping[str, str]
"""A pool's keys, coarse to fine, and the label of nodes that each stands for."""
_Wishes = Mapping[str, Mapping[str, Topology]]
"""Task uuid -> key -> what it asks for at that level."""


def levels_of(pools: Mapping[str, Any]) -> Mapping[str, Levels]:
    """The topology of each pool that has one, from what administrators wrote."""
    keys = {name: pool.get("topology_keys") or () for name, pool in pools.items()}
    found = {name: {one["key"]: one["label"] for one in given} for name, given in keys.items()}
    return {name: levels for name, levels in found.items() if levels}


def asks_for(workflow: Workflow) -> bool:
    """Whether any task of the workflow minds where the others stand."""
    return any(resource.topology for resource in workflow.spec.resources.values())


def layout(workflow: Workflow, group: Group, levels: Levels, *, ended: bool = False) -> Part | None:
    """The parts of a group, with `ended` also of its tasks that have ended; None when no task of it minds. A key that
    the pool no longer has binds nobody."""
    specs = {task.name: task for task in spec_of(workflow.spec, group).tasks}
    wishes: dict[str, Mapping[str, Topology]] = {}
    for task in group.tasks:
        resource = workflow.spec.resources.get(specs[task.name].resource, ResourceSpec())
        wanted = {one.key: one for one in resource.topology if one.key in levels}
        if wanted and (ended or not task.status.finished):
            wishes[task.uuid] = wanted
    if not wishes:
        return None
    return Part(parts=_parts(list(wishes), wishes, list(levels), levels, workflow.pool))


def _parts(tasks: Sequence[str], wishes: _Wishes, keys: Sequence[str], levels: Levels, pool: str) -> tuple[Part, ...]:
    """These tasks by the groups that they name at the first of these keys, and within each by the next."""
    if not keys:
        return ()
    key, *finer = keys
    named: dict[str, list[str]] = {}
    silent: list[str] = []
    for task in tasks:
        wish = wishes[task].get(key)
        if wish is None:
            silent.append(task)
        else:
            named.setdefault(wish.group, []).append(task)
    made = []
    for name, members in named.items():
        required = any(wishes[task][key].required for task in members)
        label = levels[key]
        near = Nearness(pool, required=label) if required else Nearness(pool, preferred=label)
        inner = _parts(members, wishes, finer, levels, pool)
        within = frozenset().union(*(_tasks(part) for part in inner))
        made.append(Part(f"{key}={name}", near, frozenset(members) - within, inner))
    return (*made, *_parts(silent, wishes, finer, levels, pool)) if silent else tuple(made)


def _tasks(part: Part) -> frozenset[str]:
    return part.tasks.union(*(_tasks(inner) for inner in part.parts))
