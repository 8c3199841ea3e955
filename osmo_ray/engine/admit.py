"""A spec becomes a workflow: groups in their order, edges from inputs, roots ready for the scheduler."""

from __future__ import annotations

from collections.abc import Iterator

from osmo_ray.engine.model import Decision, Group, Record, Task, Times, Workflow
from osmo_ray.engine.status import TaskStatus
from osmo_ray.spec.model import GroupSpec, Priority, TaskInput, WorkflowSpec


def edges(spec: WorkflowSpec) -> dict[str, tuple[str, ...]]:
    """Group name -> the groups it waits for, in written order. Inputs from other workflows make no edge."""
    home = {task.name: group.name for group in spec.groups for task in group.tasks}
    found: dict[str, tuple[str, ...]] = {}
    for group in spec.groups:
        wanted = [home[i.task] for t in group.tasks for i in t.inputs if isinstance(i, TaskInput) and not i.workflow]
        found[group.name] = tuple(dict.fromkeys(name for name in wanted if name != group.name))
    return found


def admit(
    spec: WorkflowSpec,
    *,
    id: str,
    uuid: str,
    uuids: Iterator[str],
    user: str,
    pool: str,
    backend: str,
    priority: Priority,
    now: float,
    exec_timeout: float,
    queue_timeout: float,
    parent: str = "",
) -> Decision:
    """The first decision of a workflow. `uuids` yields one fresh 32-hex id per group and task; nothing here is
    random and no clock is read."""
    upstream = edges(spec)
    downstream: dict[str, list[str]] = {g.name: [] for g in spec.groups}
    for name, wanted in upstream.items():
        for other in wanted:
            downstream[other].append(name)
    groups = tuple(
        _group(g, i, next(uuids), uuids, upstream[g.name], tuple(downstream[g.name]), now)
        for i, g in enumerate(spec.groups)
    )
    workflow = Workflow(
        uuid=uuid,
        id=id,
        spec=spec,
        user=user,
        pool=pool,
        backend=backend,
        priority=priority,
        submitted=now,
        groups=groups,
        exec_timeout=exec_timeout,
        queue_timeout=queue_timeout,
        parent=parent,
    )
    return Decision(
        workflow,
        changed_groups=frozenset(g.name for g in groups),
        changed_tasks=frozenset(t.uuid for g in groups for t in g.tasks),
        records=(Record(now, "Submitted", f"{user} submitted {id} to pool {pool}"),),
        changed=True,
    )


def _group(
    spec: GroupSpec,
    index: int,
    uuid: str,
    uuids: Iterator[str],
    upstream: tuple[str, ...],
    downstream: tuple[str, ...],
    now: float,
) -> Group:
    ready = not upstream
    status = TaskStatus.PROCESSING if ready else TaskStatus.WAITING
    times = Times(processing=now) if ready else Times()
    tasks = tuple(
        Task(uuid=next(uuids), name=t.name, lead=t.lead or len(spec.tasks) == 1, status=status, times=times)
        for t in spec.tasks
    )
    return Group(spec.name, uuid, status, tasks, upstream, downstream, frozenset(upstream), times=times, index=index)
