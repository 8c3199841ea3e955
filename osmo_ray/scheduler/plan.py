"""Gangs onto nodes: all of a group or nothing, in order of priority and time, packed tightly.

Placement only ever takes from what is free, so a request that did not fit cannot fit later in the same cycle: its
kind is remembered and passed over, which keeps a cycle with thousands of equal tasks short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from osmo_ray.scheduler.model import Amount, Job, Need, Node, Plan, Snapshot
from osmo_ray.spec.quantity import show_bytes
from osmo_ray.spec.reason import Reason

_Kind = tuple[tuple[Amount, str, frozenset[str]], ...]


def plan(snapshot: Snapshot) -> Plan:
    """Choose nodes for as many jobs as fit, first in order first served; later ones may use what is left."""
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
            reason = refused[kind] = _why(job, nodes, free)
            hold[job.workflow, job.group] = reason
            continue
        for need in job.needs:
            free[chosen[need.uuid]] -= need.amount
        place[job.workflow, job.group] = chosen
    return Plan(place, hold)


def _allowed(need: Need, node: Node) -> bool:
    return need.platform == node.platform and node.name not in need.excluded


def _fullest_first(names: list[str], free: Mapping[str, Amount]) -> list[str]:
    return sorted(names, key=lambda n: (free[n].gpu, free[n].cpu, free[n].memory, n))


def _together(job: Job, nodes: Mapping[str, Node], free: Mapping[str, Amount]) -> dict[str, str] | None:
    """All on one node, so that they share its network; the node of members that run already comes first."""
    total = sum((need.amount for need in job.needs), Amount())
    fits = [n for n, room in free.items() if room.holds(total) and all(_allowed(x, nodes[n]) for x in job.needs)]
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
        fits = [n for n, room in left.items() if room.holds(need.amount) and _allowed(need, nodes[n])]
        if not fits:
            return None
        best = _fullest_first(fits, left)[0]
        left[best] -= need.amount
        chosen[need.uuid] = best
    return chosen


def _why(job: Job, nodes: Mapping[str, Node], free: Mapping[str, Amount]) -> Reason:
    """Which check refused how many nodes, with the numbers; for a gang, of its biggest member."""
    if not nodes:
        return Reason("NoNodes", "no node of this pool is alive")
    need = max(job.needs, key=lambda n: (n.amount.gpu, n.amount.cpu, n.amount.memory))
    causes = Counter(_refusal(need, node, free[name]) for name, node in nodes.items())
    causes.pop("", None)
    told = "; ".join(f"{why} ({n} node{'s' if n > 1 else ''})" for why, n in causes.most_common())
    never = all(not node.total.holds(need.amount) or not _allowed(need, node) for node in nodes.values())
    whole = f"a gang of {len(job.needs)} tasks: " if len(job.needs) > 1 else ""
    code = "NeverFits" if never else "NoFit"
    fits = f"0 of {len(nodes)} node{'s' if len(nodes) > 1 else ''} can{' ever' if never else ' now'} take {need.name}"
    return Reason(code, f"{whole}{fits}: {told or 'not all at once'}", {"nodes": str(len(nodes))})


def _refusal(need: Need, node: Node, room: Amount) -> str:
    if need.platform != node.platform:
        return f"needs platform {need.platform}, is {node.platform}"
    if node.name in need.excluded:
        return "excluded by nodesExcluded"
    ask, total = need.amount, node.total
    if room.gpu < ask.gpu:
        return f"needs {ask.gpu} GPU, {max(room.gpu, 0)} of {total.gpu} free"
    if room.cpu + 1e-6 < ask.cpu:
        return f"needs {ask.cpu:g} cpu, {max(room.cpu, 0):g} of {total.cpu:g} free"
    if room.memory < ask.memory:
        return (
            f"needs {show_bytes(ask.memory)} memory, {show_bytes(max(room.memory, 0))} of "
            f"{show_bytes(total.memory)} free"
        )
    if room.storage < ask.storage:
        return f"needs {show_bytes(ask.storage)} storage, {show_bytes(max(room.storage, 0))} free"
    return ""
