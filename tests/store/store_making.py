"""Workflows and decisions made by hand."""

from __future__ import annotations

import uuid as ids
from dataclasses import replace

from osmo_ray.engine.model import Command, Decision, Group, Record, Task, Times, Workflow
from osmo_ray.engine.status import TaskStatus, WorkflowStatus
from osmo_ray.spec.model import GroupSpec, Priority, ResourceSpec, TaskSpec, WorkflowSpec
from osmo_ray.store.protocol import Store, Texts

S = TaskStatus


def spec(name: str = "train", groups: int = 2, tasks: int = 2, resource: ResourceSpec | None = None) -> WorkflowSpec:
    made = tuple(
        GroupSpec(f"g{i}", tuple(TaskSpec(f"g{i}t{j}", "ubuntu", ("echo", "hi")) for j in range(tasks)))
        for i in range(groups)
    )
    return WorkflowSpec(name, made, resources={"default": resource or ResourceSpec()})


def admitted(
    id: str,
    *,
    groups: int = 2,
    tasks: int = 2,
    user: str = "ada",
    pool: str = "default",
    priority: Priority = Priority.NORMAL,
    at: float = 1000.0,
    resource: ResourceSpec | None = None,
    status: WorkflowStatus = WorkflowStatus.PENDING,
    commands: tuple[Command, ...] = (),
) -> Decision:
    """The first decision of a workflow."""
    found = spec(id, groups, tasks, resource)
    made = tuple(
        Group(
            name=g.name,
            uuid=ids.uuid4().hex,
            status=S.WAITING,
            tasks=tuple(Task(ids.uuid4().hex, t.name, lead=k == 0) for k, t in enumerate(g.tasks)),
            upstream=(f"g{i - 1}",) if i else (),
            downstream=(f"g{i + 1}",) if i + 1 < groups else (),
            pending=frozenset({f"g{i - 1}"}) if i else frozenset(),
            index=i,
        )
        for i, g in enumerate(found.groups)
    )
    workflow = Workflow(
        *(ids.uuid4().hex, id, found, user, pool, "local", priority, at, made), status=status, exec_timeout=60.0
    )
    return Decision(
        workflow,
        changed_groups=frozenset(g.name for g in made),
        changed_tasks=frozenset(t.uuid for g in made for t in g.tasks),
        records=(Record(at, "Submitted", f"{user} submitted {id}"),),
        commands=commands,
        changed=True,
    )


def submit(store: Store, name: str = "train", texts: Texts | None = None, **options: object) -> Workflow:
    return store.submit(name, lambda id: admitted(id, **options), texts or Texts("rendered"))  # type: ignore[arg-type]


def move(
    workflow: Workflow,
    status: TaskStatus,
    *,
    group: int = 0,
    task: int = 0,
    running: float = 0.0,
    ended: float = 0.0,
    commands: tuple[Command, ...] = (),
    **values: object,
) -> Decision:
    """One task goes on."""
    old = workflow.groups[group].tasks[task]
    times = replace(old.times, running=running or old.times.running, ended=ended or old.times.ended)
    return with_task(workflow, group, task, replace(old, status=status, times=times, **values), commands)  # type: ignore[arg-type]


def with_task(
    workflow: Workflow,
    group: int,
    task: int,
    fresh: Task,
    commands: tuple[Command, ...] = (),
    retired: tuple[Task, ...] = (),
) -> Decision:
    g = workflow.groups[group]
    tasks = (*g.tasks[:task], fresh, *g.tasks[task + 1 :])
    groups = (*workflow.groups[:group], replace(g, tasks=tasks), *workflow.groups[group + 1 :])
    return Decision(
        replace(workflow, groups=groups),
        changed_tasks=frozenset({fresh.uuid}),
        retired=retired,
        records=(Record(5.0, "Moved", f"to {fresh.status}", g.name, fresh.name, fresh.retry_id),),
        commands=commands,
        changed=True,
    )


def finish(workflow: Workflow, at: float, status: WorkflowStatus = WorkflowStatus.COMPLETED) -> Decision:
    groups = tuple(
        replace(
            g,
            status=S.COMPLETED,
            tasks=tuple(
                replace(t, status=S.COMPLETED, exit_code=0, times=Times(running=at - 1, ended=at)) for t in g.tasks
            ),
        )
        for g in workflow.groups
    )
    return Decision(
        replace(workflow, groups=groups, status=status, started=at - 1, ended=at),
        changed_groups=frozenset(g.name for g in groups),
        changed_tasks=frozenset(t.uuid for g in groups for t in g.tasks),
        changed=True,
    )


def put(store: Store, decision: Decision) -> Workflow:
    """Commit it; the workflow as the store has it now."""
    assert list(store.commit([decision])) == []
    return replace(decision.workflow, version=decision.workflow.version + 1)
