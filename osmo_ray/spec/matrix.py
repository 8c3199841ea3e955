"""A task with a matrix becomes one task per combination of its values: a sweep.

`{{matrix:NAME}}` stands for a value in the task's texts. Whoever reads the output of the task reads the outputs of all,
in the order of the combinations, the last axis running fastest.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from osmo_ray.spec.model import GroupSpec, Sweep, TaskInput, TaskSpec, WorkflowSpec

MAX_TASKS = 1000
"""Combinations of one matrix."""
_TOKEN = re.compile(r"\{\{matrix:([^{}\s]+)\}\}")


def size(matrix: Mapping[str, tuple[str, ...]]) -> int:
    """How many combinations there are."""
    count = 1
    for values in matrix.values():
        count *= len(values)
    return count


def names(task: TaskSpec) -> list[str]:
    """Of the tasks that a task with a matrix becomes."""
    return [f"{task.name}-{number}" for number in range(size(task.matrix))]


def mentioned(task: TaskSpec) -> set[str]:
    """The axes that the texts of a task name."""
    if "{{matrix:" not in repr(task):  # a walk through all of it costs four times that
        return set()
    return {name for text in _texts(replace(task, matrix={})) for name in _TOKEN.findall(text)}


def expand(spec: WorkflowSpec) -> WorkflowSpec:
    """The workflow without matrices. Each task that has one is alone in its group, as `rules` demands."""
    swept = {t.name: names(t) for g in spec.groups for t in g.tasks if t.matrix}
    if not swept:
        return spec
    return replace(spec, groups=tuple(made for group in spec.groups for made in _groups(group, swept)))


def _groups(group: GroupSpec, swept: Mapping[str, list[str]]) -> Iterator[GroupSpec]:
    tasks = tuple(_reading(task, swept) for task in group.tasks)
    if len(tasks) != 1 or not tasks[0].matrix:
        yield replace(group, tasks=tasks)
        return
    (task,) = tasks
    loose = group.name == f"{task.name}-group"
    combinations = itertools.product(*task.matrix.values())
    for number, (name, values) in enumerate(zip(names(task), combinations, strict=True)):
        chosen = dict(zip(task.matrix, values, strict=True))
        made = _filled(replace(task, name=name, matrix={}), chosen)
        made = replace(made, sweep=Sweep(task.name, chosen))
        yield replace(group, name=f"{name}-group" if loose else f"{group.name}-{number}", tasks=(made,))


def _reading(task: TaskSpec, swept: Mapping[str, list[str]]) -> TaskSpec:
    """The task with every input from a sweep as inputs from all of its tasks."""
    inputs: list[Any] = []
    for wanted in task.inputs:
        if isinstance(wanted, TaskInput) and not wanted.workflow and wanted.task in swept:
            inputs += [replace(wanted, task=name) for name in swept[wanted.task]]
        else:
            inputs.append(wanted)
    return replace(task, inputs=tuple(inputs))


def _filled(value: Any, chosen: Mapping[str, str]) -> Any:
    """A value with the tokens in all of its texts replaced."""
    if isinstance(value, str) and type(value) is str:
        return _TOKEN.sub(lambda m: chosen.get(m[1], m[0]), value) if "{{matrix:" in value else value
    if isinstance(value, tuple):
        return tuple(_filled(one, chosen) for one in value)
    if isinstance(value, Mapping):
        return {_filled(k, chosen): _filled(v, chosen) for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _filled(getattr(value, f.name), chosen) for f in fields(value)})
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, Mapping):
        yield from _texts((*value.keys(), *value.values()))
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _texts(getattr(value, field.name))
