"""Gangs onto nodes: all of a group or nothing, in order of priority and time, packed tightly.

Placement only ever takes from what is free, so a request that did not fit cannot fit later in the same cycle: its
kind is remembered and passed over, which keeps a cycle with thousands of equal tasks short.
"""

from __future__ import annotations

from collections.abc import Mapping

from osmo_ray.scheduler.model import Amount, Job, Node, Plan, Snapshot
from osmo_ray.scheduler.queued import plan_with_queues
from osmo_ray.scheduler.reasons import allowed, no_fit
from osmo_ray.spec.reason import Reason

_Kind = tuple[tuple[Amount, str, frozenset[str]], ...]


def plan(snapshot: Snapshot) -> Plan:
    """Choose nodes for as many jobs as fit, first in order first served; later ones may use what is left.

    With queues, quotas decide (`queued`); without, there is nothing to divide and nobody to take from.
    """
    if snapshot.queues:
        return plan_with_queues(snapshot)
    free = {node.name: node.total - node.used for node in snapshot.nodes}
    nodes = {node.name: node for node in snapshot.nodes}
    place: dict[tuple[str, str], Mapping[str, str]] = {}
    hold: dict[tuple[str, str], Reason] = {}
    refused: dict[_Kind, Reason] = {}
    for job in sorted(snapshot.jobs, key=lambda j: j.rank):
        kind = tuple((n.amount, n.platform, n.excluded) for n in job.needs)
        if kind in refused:
            hold[job.workflow, job.group] = refused[kind]
            continue
        chosen = _together(job, nodes, free) or _spread(job, nodes, free)
        if chosen is None:
            reason = refused[kind] = no_fit(job, nodes, free)
            hold[job.workflow, job.group] = reason
            continue
        for need in job.needs:
            free[chosen[need.uuid]] -= need.amount
        place[job.workflow, job.group] = chosen
    return Plan(place, hold)


def _fullest_first(names: list[str], free: Mapping[str, Amount]) -> list[str]:
    return sorted(names, key=lambda n: (free[n].gpu, free[n].cpu, free[n].memory, n))


def _together(job: Job, nodes: Mapping[str, Node], free: Mapping[str, Amount]) -> dict[str, str] | None:
    """All on one node, so that they share its network; the node of members that run already comes first."""
    total = sum((need.amount for need in job.needs), Amount())
    fits = [n for n, room in free.items() if room.holds(total) and all(allowed(x, nodes[n]) for x in job.needs)]
    if not fits:
        return None
    best = job.near if job.near in fits else _fullest_first(fits, free)[0]
    return {need.uuid: best for need in job.needs}


def _spread(job: Job, nodes: Mapping[str, Node], free: Mapping[str, Amount]) -> dict[str, str] | None:
    """Over several nodes, biggest needs first; None unless every one finds a place."""
    if len(job.needs) == 1:
        return None
    left = dict(free)
    chosen: dict[str, str] = {}
    for need in sorted(job.needs, key=lambda n: (-n.amount.gpu, -n.amount.cpu, -n.amount.memory)):
        fits = [n for n, room in left.items() if room.holds(need.amount) and allowed(need, nodes[n])]
        if not fits:
            return None
        best = _fullest_first(fits, left)[0]
        left[best] -= need.amount
        chosen[need.uuid] = best
    return chosen
