"""The schedule loop: what waits and what is free, in; placements and reasons, out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from osmo_ray.control.ledger import Ledger
from osmo_ray.engine.events import Event, Held, Placed
from osmo_ray.engine.model import Group, Task, Workflow
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
    snapshot = take(ledger.live, nodes, rules, platform)
    if not snapshot.jobs:
        return 0
    decided = plan(snapshot)
    events: dict[str, list[Event]] = defaultdict(list)
    for (workflow, group), chosen in decided.place.items():
        events[workflow].append(Placed(group, chosen))
    for (workflow, group), reason in decided.hold.items():
        known = ledger.live[workflow].group(group)
        # The sentence's numbers move with every task that ends; writing each would cost more than it tells.
        if known is not None and (known.reason is None or known.reason.code != reason.code):
            events[workflow].append(Held(group, reason))
    await ledger.apply(events)
    return len(decided.place)


def take(live: Mapping[str, Workflow], nodes: Sequence[NodeReport], rules: PoolRules, platform: str) -> Snapshot:
    """The cluster as the ledger knows it: amounts in use come from placements, not from what nodes report."""
    used: dict[str, Amount] = defaultdict(Amount)
    jobs: list[Job] = []
    for workflow in live.values():
        for group in workflow.groups:
            if group.status.finished or group.pending:
                continue
            waiting = _walk(workflow, group, rules, used)
            if waiting:
                jobs.append(_job(workflow, group, waiting, rules, platform))
    alive = [n for n in nodes if n.alive]
    return Snapshot(
        tuple(
            Node(n.name, Amount(n.cpu, n.memory, n.gpu, n.storage), used.get(n.name, Amount()), n.platform)
            for n in alive
        ),
        tuple(jobs),
    )


def _walk(workflow: Workflow, group: Group, rules: PoolRules, used: dict[str, Amount]) -> list[Task]:
    """Charge the nodes for what is placed; return the tasks that wait for a place."""
    waiting = []
    for task in group.tasks:
        if task.status is TaskStatus.PROCESSING:
            waiting.append(task)
        elif task.node and not task.status.finished:
            used[task.node] += _amount(workflow, group, task, rules)
    return waiting


def _amount(workflow: Workflow, group: Group, task: Task, rules: PoolRules) -> Amount:
    spec = next(t for t in spec_of(workflow.spec, group.name).tasks if t.name == task.name)
    asked = request(workflow, spec, rules)
    return Amount(asked.cpu, asked.memory, asked.gpu, asked.storage)


def _job(workflow: Workflow, group: Group, waiting: list[Task], rules: PoolRules, platform: str) -> Job:
    needs = []
    specs = {t.name: t for t in spec_of(workflow.spec, group.name).tasks}
    for task in waiting:
        resource = workflow.spec.resources.get(specs[task.name].resource, ResourceSpec())
        needs.append(
            Need(
                task.uuid,
                task.name,
                _amount(workflow, group, task, rules),
                resource.platform or platform,
                frozenset(resource.nodes_excluded),
            )
        )
    near = next((t.node for t in group.tasks if t.node and not t.status.finished), "")
    return Job(
        workflow.uuid,
        group.name,
        tuple(needs),
        (_RANK[workflow.priority], group.times.processing or workflow.submitted, f"{workflow.id}/{group.name}"),
        near,
    )
