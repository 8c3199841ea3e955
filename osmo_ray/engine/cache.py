"""When an earlier task may stand for a later one: the same program, the same specification, the same inputs.

An input counts as the same when it is the same accepted output, the same version or the same archive of code; what
two tasks wrote alike is not compared. A cached task that stands for another has that one's output, so a chain of
cached tasks is found again as a whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from osmo_ray.engine.model import Group, Task
from osmo_ray.engine.status import TaskStatus
from osmo_ray.spec.model import CodeInput, GroupSpec, Input, TaskInput, TaskSpec

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Earlier:
    """A task that completed. `output` is the store prefix of its accepted result, `workflow` the id, `uuid` its own."""

    output: str
    workflow: str
    uuid: str
    at: float


def is_cached(spec: GroupSpec) -> bool:
    """Whether the whole group may be passed over: its tasks work together, so one alone means nothing."""
    return bool(spec.tasks) and all(task.cache for task in spec.tasks)


def is_open(group: Group) -> bool:
    """Whether nothing of the group has begun yet."""
    return not group.pending and all(t.status is TaskStatus.PROCESSING and not t.retry_id for t in group.tasks)


def key(user: str, spec: GroupSpec, task: TaskSpec, source: Callable[[TaskInput], str]) -> str:
    """The name under which a result of this task is found again: 64 hex digits. `source` gives the store prefix that
    an input is read from. What a user made is found by that user only."""
    said = {
        "format": _FORMAT,
        "user": user,
        "image": task.image if task.sandbox.value != "process" else "",
        "argv": [*task.command, *task.args],
        "environment": sorted(task.environment.items()),
        "files": [[f.path, f.contents, f.base64] for f in task.files],
        "credentials": sorted(task.credentials),
        "requirements": task.requirements,
        "ray": repr(task.ray),
        "peers": [t.name for t in spec.tasks],
        "inputs": [_input(i, source) for i in task.inputs],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _input(wanted: Input, source: Callable[[TaskInput], str]) -> Sequence[str]:
    if isinstance(wanted, TaskInput):
        return ("task", wanted.task, source(wanted), wanted.regex)
    if isinstance(wanted, CodeInput):
        return ("code", wanted.digest)
    return (type(wanted).__name__, repr(wanted))


def results(group: Group) -> Sequence[Task]:
    """The tasks whose outputs later ones may use: all, of a group in which everybody completed by its own work."""
    done = all(t.status is TaskStatus.COMPLETED and t.exit_code == 0 and t.node for t in group.tasks)
    return group.tasks if done else ()
