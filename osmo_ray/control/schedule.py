"""The schedule loop: what waits and what is free, in; placements and reasons, out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from osmo_ray.control.ledger import Ledger
from osmo_ray.engine.events import Event, Held, Placed
from osmo_ray.engine.model import Group, Workflow
from osmo_ray.engine.plans import PoolRules, request
from osmo_ray.engine.propagate import spec_of
from osmo_ray.engine.status import TaskStatus
from osmo_ray.scheduler.model import Amount, Job, Need, Node, Snapshot
from osmo_ray.scheduler.plan import plan
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.model import Priority, ResourceSpec

_RANK = {Priority.HIGH: 0, Priority.NORMAL: 1, Priority.LOW: 2}


async def step(ledger: Ledger, nodes: Sequence[NodeReport], rules: PoolRules, platform: str) -> int:
    """Place what fits now; returns how many groups were placed."""
    for uuid in ledger.live.keys() - ledger.asks.keys():
        ledger.asks[uuid] = asks(ledger.live[uuid], rules, platform)
    snapshot = take(ledger.live, ledger.asks, nodes)
    if not snapshot.jobs:
        return 0
    decided = plan(snapshot)
    events: dict[str, list[Event]] = defaultdict(list)
    for (workflow, group), chosen in decided.place.items():
        events[workflow].append(Placed(group, chosen))
    for job in snapshot.jobs:
        # The sentence's numbers move with every task that ends; writing each would cost more than it tells.
        reason = decided.hold.get((job.workflow, job.group))
        if reason is not None and reason.code != job.told:
            events[job.workflow].append(Held(job.group, reason))
    await ledger.apply(events)
    return len(decided.place)


def take(
    live: Mapping[str, Workflow], known: Mapping[str, Mapping[str, Need]], nodes: Sequence[NodeReport]
) -> Snapshot:
    """The cluster as the ledger knows it: amounts in use come from placements, not from what nodes report."""
    used: dict[str, Amount] = defaultdict(Amount)
    jobs: list[Job] = []
    for workflow in live.values():
        needs = known[workflow.uuid]
        for group in workflow.groups:
            if group.status.finished or group.pending:
                continue
            waiting = _walk(group, needs, used)
            if waiting:
                jobs.append(_job(workflow, group, waiting))
    alive = [n for n in nodes if n.alive]
    return Snapshot(
        tuple(
            Node(n.name, Amount(n.cpu, n.memory, n.gpu, n.storage), used.get(n.name, Amount()), n.platform)
            for n in alive
        ),
        tuple(jobs),
    )


def _walk(group: Group, needs: Mapping[str, Need], used: dict[str, Amount]) -> tuple[Need, ...]:
    """Charge the nodes for what is placed; return what the tasks that wait for a place ask for."""
    waiting = []
    for task in group.tasks:
        if task.status is TaskStatus.PROCESSING:
            waiting.append(needs[task.uuid])
        elif task.node and not task.status.finished:
            used[task.node] += needs[task.uuid].amount
    return tuple(waiting)


def asks(workflow: Workflow, rules: PoolRules, platform: str) -> Mapping[str, Need]:
    """What each task asks for, by task uuid: fixed at submission, so worth keeping."""
    found: dict[str, Need] = {}
    for group in workflow.groups:
        specs = {t.name: t for t in spec_of(workflow.spec, group).tasks}
        for task in group.tasks:
            spec = specs[task.name]
            asked = request(workflow, spec, rules)
            resource = workflow.spec.resources.get(spec.resource, ResourceSpec())
            found[task.uuid] = Need(
                task.uuid,
                task.name,
                Amount(asked.cpu, asked.memory, asked.gpu, asked.storage),
                resource.platform or platform,
                frozenset(resource.nodes_excluded),
            )
    return found


def _job(workflow: Workflow, group: Group, needs: tuple[Need, ...]) -> Job:
    near = next((t.node for t in group.tasks if t.node and not t.status.finished), "")
    rank = (_RANK[workflow.priority], group.times.processing or workflow.submitted, f"{workflow.id}/{group.name}")
    return Job(workflow.uuid, group.name, needs, rank, near, group.reason.code if group.reason else "")
