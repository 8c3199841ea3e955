"""A decision while it is being made: the one mutable thing of this room, never seen outside `decide`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from osmo_ray.engine.model import Command, Decision, Group, Record, Task, Times, Workflow
from osmo_ray.engine.status import TaskStatus, may_move

_PHASE = {
    TaskStatus.PROCESSING: "processing",
    TaskStatus.SCHEDULING: "scheduling",
    TaskStatus.INITIALIZING: "initializing",
    TaskStatus.RUNNING: "running",
}


def stamp(times: Times, status: TaskStatus, at: float) -> Times:
    """Write the time of a phase, once."""
    name = "ended" if status.finished else _PHASE.get(status, "")
    if not name or getattr(times, name):
        return times
    return replace(times, **{name: at})


class Draft:
    """Collects what changes. Groups are looked up by name, tasks by uuid; every write goes through here."""

    def __init__(self, workflow: Workflow, now: float) -> None:
        self.now = now
        self._before = workflow
        self._workflow = workflow
        self._first = {g.name: g for g in workflow.groups}
        self._groups = dict(self._first)
        self._home: dict[str, str] = {}
        self._changed_groups: set[str] = set()
        self._changed_tasks: set[str] = set()
        self._retired: list[Task] = []
        self._records: list[Record] = []
        self._commands: dict[tuple[type, str], Command] = {}

    @property
    def workflow(self) -> Workflow:
        """The workflow itself; its groups may be behind the draft's."""
        return self._workflow

    @property
    def touched(self) -> set[str]:
        """Groups of which anything changed, tasks included."""
        return {name for name, group in self._groups.items() if group is not self._first[name]}

    @property
    def groups(self) -> list[Group]:
        return list(self._groups.values())

    def group(self, name: str) -> Group:
        return self._groups[name]

    def find(self, name: str) -> Group | None:
        return self._groups.get(name)

    def home(self, uuid: str) -> str | None:
        """The group of a task; the index is made once, since a batch asks for many."""
        if not self._home:
            self._home = {t.uuid: g.name for g in self._first.values() for t in g.tasks}
        return self._home.get(uuid)

    def set_workflow(self, **values: Any) -> None:
        self._workflow = replace(self._workflow, **values)

    def set_group(self, name: str, **values: Any) -> Group:
        group = replace(self._groups[name], **values)
        self._groups[name] = group
        self._changed_groups.add(name)
        return group

    def move_group(self, name: str, status: TaskStatus, **values: Any) -> bool:
        """Move a group if the table allows it."""
        group = self._groups[name]
        if not may_move(group.status, status):
            return False
        self.set_group(name, status=status, times=stamp(group.times, status, self.now), **values)
        return True

    def set_task(self, group: str, uuid: str, **values: Any) -> Task:
        found = self._groups[group]
        tasks = tuple(replace(t, **values) if t.uuid == uuid else t for t in found.tasks)
        self._groups[group] = replace(found, tasks=tasks)
        self._changed_tasks.add(uuid)
        return next(t for t in tasks if t.uuid == uuid)

    def move_task(self, group: str, task: Task, status: TaskStatus, at: float = 0.0, **values: Any) -> bool:
        """Move an attempt if the table allows it; `at` is when it happened, `now` if not given."""
        if not may_move(task.status, status):
            return False
        times = stamp(values.pop("times", task.times), status, at or self.now)
        self.set_task(group, task.uuid, status=status, times=times, **values)
        return True

    def replace_attempt(self, group: str, old: Task, fresh: Task) -> None:
        """The attempt is over for good; `fresh` is the next one of the same task."""
        self._retired.append(old)
        found = self._groups[group]
        self._groups[group] = replace(found, tasks=tuple(fresh if t.uuid == old.uuid else t for t in found.tasks))
        self._changed_tasks.add(fresh.uuid)

    def record(self, kind: str, message: str, group: str = "", task: Task | None = None, at: float = 0.0) -> None:
        name, retry = (task.name, task.retry_id) if task else ("", 0)
        self._records.append(Record(at or self.now, kind, message, group, name, retry))

    def command(self, command: Command) -> None:
        """Commands are level-triggered: one of a kind per group is enough."""
        self._commands[type(command), command.group] = command

    def withdraw(self, kind: type[Command], group: str) -> bool:
        """Take back a command of this decision; False if there was none."""
        return self._commands.pop((kind, group), None) is not None

    def done(self) -> Decision:
        changed = bool(self._changed_groups or self._changed_tasks or self._records or self._commands)
        changed = changed or self._workflow is not self._before
        return Decision(
            workflow=replace(self._workflow, groups=tuple(self._groups.values())) if changed else self._before,
            changed_groups=frozenset(self._changed_groups),
            changed_tasks=frozenset(self._changed_tasks),
            retired=tuple(self._retired),
            records=tuple(self._records),
            commands=tuple(self._commands.values()),
            changed=changed,
        )
