"""What arrived at a cluster, and when: the lines that a replay reads, and their form in a file.

A trace is JSON Lines, one group a line. It holds what people did (when they asked, for what, and how long it ran) and
nothing of what a scheduler made of it, so that other quotas can be tried on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from osmo_ray.spec.model import Priority
from osmo_ray.spec.quantity import to_bytes

_FIELDS = ("submitted", "seconds", "pool", "user", "priority", "tasks")
_TASK = ("cpu", "memory", "gpu")


class TraceError(ValueError):
    """A trace that cannot be used; the message says where, what, and what to do instead."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one task asks for: whole cores, bytes, whole GPUs."""

    cpu: int = 1
    memory: int = 1 << 30
    gpu: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A group that somebody asked for. `submitted` is seconds since any moment, the same for all of a trace; `seconds`
    is how long it runs once all its tasks have a place."""

    submitted: float
    seconds: float
    pool: str
    tasks: tuple[Asked, ...]
    user: str = ""
    priority: Priority = Priority.NORMAL

    @property
    def gpus(self) -> int:
        return sum(task.gpu for task in self.tasks)

    @property
    def cpus(self) -> int:
        return sum(task.cpu for task in self.tasks)


def read(text: str, where: str) -> tuple[Arrival, ...]:
    """The arrivals of a trace, in the order of time. Raises `TraceError` with `where` and the line."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append(_arrival(line))
            except ValueError as error:
                raise TraceError(f"{where}:{number}: {error}") from None
    if not found:
        raise TraceError(f"{where}: there is no group in it; write one JSON object a line")
    return tuple(sorted(found, key=lambda a: a.submitted))


def write(arrivals: Iterable[Arrival]) -> str:
    """The same as text, which `read` takes."""
    return "".join(json.dumps(_plain(one)) + "\n" for one in arrivals)


def _plain(one: Arrival) -> dict[str, Any]:
    return {
        "submitted": one.submitted,
        "seconds": one.seconds,
        "pool": one.pool,
        "user": one.user,
        "priority": one.priority.value,
        "tasks": [{"cpu": t.cpu, "memory": t.memory, "gpu": t.gpu} for t in one.tasks],
    }


def _arrival(line: str) -> Arrival:
    try:
        given = json.loads(line)
    except RecursionError:
        raise ValueError("it is nested too deep; a group is an object with a list of tasks") from None
    except ValueError as error:
        raise ValueError(f"not valid JSON ({error}); write one object a line") from None
    fields = _object(given, _FIELDS, "a group")
    for name in ("submitted", "seconds", "pool", "tasks"):
        if name not in fields:
            raise ValueError(f"a group has no `{name}`; give it one")
    return Arrival(
        _number(fields["submitted"], "submitted"),
        _number(fields["seconds"], "seconds"),
        _text(fields["pool"], "pool"),
        tuple(_task(task) for task in _some(fields["tasks"])),
        _text(fields.get("user", "-"), "user"),
        _priority(fields.get("priority", "NORMAL")),
    )


def _task(given: object) -> Asked:
    fields = _object(given, _TASK, "a task")
    memory = fields.get("memory", 1 << 30)
    size = to_bytes(memory) if isinstance(memory, str) else _whole(memory, "memory")
    return Asked(_whole(fields.get("cpu", 1), "cpu"), size, _whole(fields.get("gpu", 0), "gpu"))


def _object(given: object, known: Sequence[str], what: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"{what} must be an object; write {{...}}")
    for name in given:
        if name not in known:
            raise ValueError(f"{what} has no field {name!r}; it takes {', '.join(known)}")
    return given


def _some(given: object) -> list[object]:
    if not isinstance(given, list) or not given:
        raise ValueError("`tasks` must be a list with at least one task")
    return given


def _number(given: object, name: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given) or given < 0:
        raise ValueError(f"`{name}` must be a number of seconds, 0 or more, not {given!r}")
    return float(given)


def _whole(given: object, name: str) -> int:
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(f"`{name}` must be a whole number, 0 or more, not {given!r}")
    return given


def _text(given: object, name: str) -> str:
    if not isinstance(given, str) or not given:
        raise ValueError(f"`{name}` must be text, not {given!r}")
    return given


def _priority(given: object) -> Priority:
    if not isinstance(given, str) or given not in tuple(Priority):
        raise ValueError(f"`priority` is {given!r}; it is one of {', '.join(Priority)}")
    return Priority(given)
