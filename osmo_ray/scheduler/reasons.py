"""Why a group waits: one sentence with numbers, and the facts behind it.

The checks are told in the order in which they decide: the queue's limit, its quota for non-preemptible work, then the
nodes, each with what it lacks. What the queue holds, by whom, and the group's place in the line stand beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from osmo_ray.scheduler.core.entities import INFINITE, MICRO, Queue
from osmo_ray.scheduler.core.entities import Job as CoreJob
from osmo_ray.scheduler.core.gang import request
from osmo_ray.scheduler.core.session import Session
from osmo_ray.scheduler.model import Amount, Job, Need, Node, Part
from osmo_ray.spec.quantity import show_bytes
from osmo_ray.spec.reason import Reason

Whom = Callable[[Queue, int, bool], str]
"""Who holds most of a resource of a queue; of what may not be stopped alone, if so asked."""


def allowed(need: Need, node: Node) -> bool:
    """Whether a node may take a task at all, however empty it is."""
    return need.platform == node.platform and node.name not in need.excluded and node.taints <= need.tolerates


def no_fit(job: Job, nodes: Mapping[str, Node], free: Mapping[str, Amount]) -> Reason:
    """Which check refused how many nodes, with the numbers; for a gang, of its biggest member."""
    if not nodes:
        return Reason("NoNodes", "no node of this pool is alive")
    need = max(job.needs, key=lambda n: (n.amount.gpu, n.amount.cpu, n.amount.memory))
    causes = Counter(_refusal(need, node, free[name]) for name, node in nodes.items())
    causes.pop("", None)
    told = "; ".join(f"{why} ({n} node{'s' if n > 1 else ''})" for why, n in causes.most_common())
    never = all(not node.total.holds(need.amount) or not allowed(need, node) for node in nodes.values())
    whole = f"a gang of {len(job.needs)} tasks: " if len(job.needs) > 1 else ""
    code = "NeverFits" if never else "NoFit"
    fits = f"0 of {len(nodes)} node{'s' if len(nodes) > 1 else ''} can{' ever' if never else ' now'} take {need.name}"
    told = told or "not all at once"
    if shared := _shared(job.layout):
        told += f"; tasks must stand within one {shared}"
    return Reason(code, f"{whole}{fits}: {told}", _facts(job, need, nodes, free))


def _shared(part: Part | None) -> str:
    """The labels of nodes that some tasks have to share."""
    if part is None:
        return ""
    own = [part.near.required] if part.near and part.near.required else []
    return ", ".join(dict.fromkeys((*own, *filter(None, map(_shared, part.parts)))))


def _facts(job: Job, need: Need, nodes: Mapping[str, Node], free: Mapping[str, Amount]) -> dict[str, str]:
    """How many nodes were looked at, and what the nearest of them lacks."""
    facts = {"nodes": str(len(nodes))}
    able = [n for n in nodes.values() if allowed(need, n) and n.total.holds(need.amount)]
    if able:
        best = min(able, key=lambda n: (max(0, need.amount.gpu - free[n.name].gpu), -free[n.name].cpu, n.name))
        lack = _lack(need.amount, free[best.name])
        if lack:
            facts["would_start_with"] = f"{lack} more free on {best.name}" + (
                " (for one of the gang)" if len(job.needs) > 1 else ""
            )
    return facts


def _lack(ask: Amount, room: Amount) -> str:
    parts = []
    if ask.gpu > room.gpu:
        parts.append(f"{ask.gpu - max(room.gpu, 0)} GPU")
    if ask.cpu > room.cpu + 1e-6:
        parts.append(f"{ask.cpu - max(room.cpu, 0):g} cpu")
    if ask.memory > room.memory:
        parts.append(f"{show_bytes(ask.memory - max(room.memory, 0))} memory")
    if ask.storage > room.storage:
        parts.append(f"{show_bytes(ask.storage - max(room.storage, 0))} storage")
    return ", ".join(parts)


def _refusal(need: Need, node: Node, room: Amount) -> str:
    if need.platform != node.platform:
        return f"needs platform {need.platform}, is {node.platform}"
    if node.name in need.excluded:
        return "excluded by nodesExcluded"
    if not node.taints <= need.tolerates:
        return f"tainted {', '.join(sorted(node.taints - need.tolerates))}"
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


def shown(amount: float, resource: int) -> str:
    """An amount of the quotas for people: GPUs, cores or bytes with a unit."""
    if resource == 0:
        return f"{amount / MICRO:g} GPU"
    return f"{amount / 1000:g} cpu" if resource == 1 else f"{show_bytes(int(amount))} memory"


def over_bounds(job: CoreJob, whom: Whom) -> Reason | None:
    """The first queue, from the leaf up, whose limit or quota forbids the job's next tasks."""
    cost = request(job)
    for queue in job.queue.path:
        for r in range(3):
            if cost[r] <= 0:
                continue
            if queue.limit[r] != INFINITE and queue.held[r] + cost[r] > queue.limit[r]:
                return _bound(whom(queue, r, False), queue, r, cost[r], queue.held[r], queue.limit[r], False)
            if not job.preemptible and queue.quota[r] != INFINITE and queue.firm[r] + cost[r] > queue.quota[r]:
                return _bound(whom(queue, r, True), queue, r, cost[r], queue.firm[r], queue.quota[r], True)
    return None


def _bound(by_whom: str, queue: Queue, r: int, asked: int, held: int, bound: int, firm: bool) -> Reason:
    code, word = ("OverQuota", "quota for non-preemptible work") if firm else ("OverLimit", "limit")
    by = f" (by {by_whom})" if by_whom else ""
    sentence = (
        f"asks for {shown(asked, r)}, queue {queue.name} holds {shown(held, r)}{by} of its {word} of {shown(bound, r)}"
    )
    if asked > bound:
        ask = f"a {'quota' if firm else 'limit'} of at least {shown(asked, r)}"
    else:
        ask = f"{shown(held + asked - bound, r)} less held in {queue.name}"
    return Reason(code, sentence, {"queue": queue.name, "would_start_with": ask})


def holders(session: Session, queue: Queue, r: int, firm: bool, titles: Mapping[str, str], most: int = 3) -> str:
    """Who holds most of a resource in a queue: `train 8 GPU, eval 2 GPU and 3 more`."""
    sums: Counter[str] = Counter()
    for job in (j for q in session.queues.values() if queue in q.path for j in q.active):
        if not (firm and job.preemptible):
            held = sum(t.kind.cost[r] for t in job.tasks if t.kept >= 0)
            if held:
                sums[titles.get(job.name, job.name)] += held
    told = ", ".join(f"{name} {shown(held, r)}" for name, held in sums.most_common(most))
    return told + (f" and {len(sums) - most} more" if len(sums) > most else "")


def standing(queue: Queue, position: int, of: int) -> dict[str, str]:
    """The queue's numbers and the place in its line."""

    def told(value: float) -> str:
        return "unlimited" if value == INFINITE else shown(value, 0)

    return {
        "queue": queue.name,
        "quota": told(queue.quota[0]),
        "limit": told(queue.limit[0]),
        "fair_share": shown(queue.fair[0], 0),
        "held": shown(queue.held[0], 0),
        "position": f"{position} of {of}",
    }


def not_taken(job: CoreJob) -> str:
    """Why the job may not take from other queues; empty when it may."""
    queue, cost = job.queue, request(job)
    for r in range(3):
        if cost[r] > 0 and queue.held[r] + cost[r] > queue.fair[r]:
            return (
                f"may not reclaim from other queues: with {shown(cost[r], r)} more, {queue.name} would hold "
                f"{shown(queue.held[r] + cost[r], r)} of its fair share of {shown(queue.fair[r], r)}"
            )
    return ""


def leaving(nodes: Sequence[str], victims: Sequence[str]) -> Reason:
    """The job has its place and waits for others to leave it."""
    who = ", ".join(victims[:3]) + (f" and {len(victims) - 3} more" if len(victims) > 3 else "")
    where = ", ".join(sorted(set(nodes))[:3])
    return Reason(
        "WaitsForRelease", f"starts on {where} when {who or 'work that is ending there'} has left", {"for": who}
    )
