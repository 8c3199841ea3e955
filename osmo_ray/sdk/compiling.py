"""From a function with `@osmo.workflow` to the same `WorkflowSpec` that YAML gives.

The function is run once, here, with the workflow's arguments; each call of a task notes a step. What the steps will
return is not known then, so results are promises (`flow.Result`), which become inputs of the steps that take them.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osmo_ray.sdk import flow
from osmo_ray.sdk.flow import FlowError, Group, Result, Task, Workflow
from osmo_ray.sdk.inside import MARK
from osmo_ray.spec.model import (
    Checkpoint,
    CodeInput,
    GroupSpec,
    Input,
    ResourceSpec,
    Sandbox,
    Sweep,
    TaskInput,
    TaskSpec,
    Timeouts,
    WorkflowSpec,
)
from osmo_ray.spec.quantity import to_seconds

MAX_CALL = 100_000
"""Bytes of one call's arguments: a program's argument has at most 128 KiB."""
_SHOWN = 60
_RESOURCES = ("cpu", "gpu", "memory", "storage", "platform")
_ESCAPES = (("{{", "{\\u007b"), ("{%", "{\\u0025"), ("{#", "{\\u0023"), ("$", "\\u0024"))
"""Text of a call is data: nothing in it is a template, a token or a variable."""


@dataclass(slots=True)
class Step:
    """One call of a task."""

    name: str
    task: Task
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    group: Group | None = None
    sweep: Sweep | None = None


@dataclass(frozen=True, slots=True)
class Compiled:
    """A workflow as a spec. `returned` is what its function returned, with promises by the names of their tasks."""

    spec: WorkflowSpec
    returned: Any


def compile_workflow(workflow: Workflow, arguments: Mapping[str, Any], module: str, digest: str) -> Compiled:
    """Run the workflow's function and write down what it does. `module` is the name under which tasks find the file,
    `digest` names the code. Raises `FlowError`, and whatever the function raises."""
    compiler = Compiler(module)
    with flow.running(compiler):
        returned = workflow.function(**arguments)
    return Compiled(compiler.spec(workflow, digest), _promises(returned))


@dataclass
class Compiler(flow.Run):
    """Takes the calls of tasks while the workflow's function runs."""

    module: str
    steps: list[Step] = field(default_factory=list)
    _group: Group | None = None
    _names: set[str] = field(default_factory=set)

    def call(self, task: Task, args: Sequence[Any], kwargs: dict[str, Any]) -> Result:
        step = Step(self._name(task), task, args, kwargs, self._group)
        self.steps.append(step)
        if self._group is not None:
            self._group.steps.append(step)
        return Result(step)

    def mapped(self, task: Task, made: Sequence[Any], rows: Sequence[Sequence[Any]]) -> None:
        """The steps of one `map` are a sweep, unless they start together anyway."""
        if not made or self._group is not None:
            return
        axes = list(inspect.signature(task.function).parameters)
        for result, row in zip(made, rows, strict=True):
            values = {axis: _short(value) for axis, value in zip(axes, row, strict=False)}
            result._step.sweep = Sweep(made[0]._step.name, values)

    def _name(self, task: Task) -> str:
        base, number = task.name.replace("_", "-").strip("-") or "task", 1
        name = base
        while {name.lower(), f"{name.lower()}-group"} & self._names:
            number += 1
            name = f"{base}-{number}"
        self._names |= {name.lower()} | ({f"{name.lower()}-group"} if self._group is None else set())
        return name

    @contextlib.contextmanager
    def together(self, group: Group) -> Iterator[None]:
        if self._group is not None:
            raise FlowError(f"group {group.name!r} stands within group {self._group.name!r}; write them side by side")
        if group.name.lower() in self._names:
            raise FlowError(f"there is a task or group {group.name!r} already; choose another name for the group")
        self._names.add(group.name.lower())
        self._group = group
        try:
            yield
        finally:
            self._group = None
        if not group.steps:
            raise FlowError(f"group {group.name!r} has no tasks: call them within the `with` block")

    def host(self, task: Any) -> flow.Host:
        if self._group is None:
            raise FlowError("osmo.host() is for tasks of one group: call it within `with osmo.group(...)`")
        return flow.Host(task)

    # -- the spec

    def spec(self, workflow: Workflow, digest: str) -> WorkflowSpec:
        """What was noted. Raises `FlowError`."""
        if not self.steps:
            raise FlowError(f"the workflow {workflow.name!r} called no task")
        resources: dict[str, ResourceSpec] = {"default": ResourceSpec()}
        made = {id(step): self._task(step, digest, resources) for step in self.steps}
        groups: list[GroupSpec] = []
        for step in self.steps:
            if step.group is None:
                groups.append(GroupSpec(f"{step.name}-group", (made[id(step)],)))
            elif step is step.group.steps[0]:
                tasks = tuple(made[id(one)] for one in step.group.steps)
                groups.append(GroupSpec(step.group.name, tasks, step.group.barrier, step.group.ignore_nonlead_status))
        timeout = None if workflow.timeout is None else to_seconds(workflow.timeout)
        return WorkflowSpec(workflow.name, tuple(groups), resources, Timeouts(timeout))

    def _task(self, step: Step, digest: str, resources: dict[str, ResourceSpec]) -> TaskSpec:
        get = step.task.options_.get
        inputs: list[Input] = []
        call = self._call(step, inputs)
        code = f"{{{{input:{len(inputs)}}}}}/code.zip"
        return TaskSpec(
            name=step.name,
            image=str(get("image") or default_image()),
            command=("python3", "-u", code),
            args=(call,),
            lead=step.group is None or step is _lead(step.group),
            inputs=(*inputs, CodeInput(digest)),
            environment={str(k): str(v) for k, v in (get("environment") or {}).items()},
            credentials=get("credentials") or {},
            resource=_resource(step, resources),
            exit_actions={str(k).upper(): str(v) for k, v in (get("exit_actions") or {}).items()},
            checkpoint=tuple(_checkpoint(step.name, one) for one in get("checkpoint") or ()),
            sandbox=Sandbox(get("sandbox") or ("process" if get("cache") and not get("image") else "auto")),
            cache=bool(get("cache")),
            sweep=step.sweep,
            hold=_minutes(get("hold")),
            retries=get("retries"),
            requirements=tuple(get("requirements") or ()),
        )

    def _call(self, step: Step, inputs: list[Input]) -> str:
        value = {
            "function": f"{self._module(step.task.function)}:{step.task.function.__qualname__}",
            "args": [self._value(one, step, inputs) for one in step.args],
            "kwargs": {name: self._value(one, step, inputs) for name, one in step.kwargs.items()},
        }
        text = json.dumps(value, ensure_ascii=False, cls=_Encoder)
        if len(text.encode()) > MAX_CALL:
            message = f"the arguments of {step.name} have {len(text.encode())} bytes, at most {MAX_CALL} fit"
            raise FlowError(f"{message}: keep large values in a file of the project, or make them in a task")
        return text

    def _module(self, function: Any) -> str:
        return self.module if function.__module__ == "__main__" else str(function.__module__)

    def _value(self, value: Any, step: Step, inputs: list[Input]) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int):
            return value
        if kind is str:
            return _Data(value)
        if kind is float:
            return value if math.isfinite(value) else {MARK: "float", "value": repr(value)}
        if kind is list:
            return [self._value(one, step, inputs) for one in value]
        if kind is tuple:
            return {MARK: "tuple", "items": [self._value(one, step, inputs) for one in value]}
        if kind is dict and MARK not in value and all(type(key) is str for key in value):
            return {_Data(key): self._value(one, step, inputs) for key, one in value.items()}
        if kind is Result:
            return self._result(value, step, inputs)
        if kind is flow.Host:
            return f"{{{{host:{self._sibling(value.task, step)}}}}}"
        raise FlowError(f"{step.name} is called with {_told(value)}; {_instead(value)}")

    def _result(self, result: Result, step: Step, inputs: list[Input]) -> dict[str, Any]:
        made = result._step
        if not any(made is one for one in self.steps):
            raise FlowError(f"{step.name} takes {result._told()}, which belongs to another run of a workflow")
        if step.group is not None and made.group is step.group:
            message = f"{step.name} takes the result of {made.name}, and both start together in {step.group.name!r}"
            raise FlowError(f"{message}: put the one that produces before the group")
        wanted = TaskInput(made.name)
        if wanted not in inputs:
            inputs.append(wanted)
        parts = [_Data(p) if isinstance(p, str) else p for p in result._parts]
        return {MARK: "result", "at": f"{{{{input:{inputs.index(wanted)}}}}}", "parts": parts}

    def _sibling(self, task: Any, step: Step) -> str:
        """The name of a task of the same group, by the task, its result or its name."""
        mates: list[Step] = [] if step.group is None else step.group.steps
        for mate in mates:
            if (
                (isinstance(task, Result) and task._step is mate)
                or (isinstance(task, Task) and mate.task.function is task.function)
                or (isinstance(task, str) and mate.name == task.replace("_", "-"))
            ):
                return mate.name
        wanted = task.name if isinstance(task, Task) else task
        raise FlowError(f"{step.name} wants the address of {wanted!r}, which is no task of its group")


class _Data(str):
    """Text of the user's, in which nothing is a token."""


class _Encoder(json.JSONEncoder):
    """JSON in which the user's text is escaped and our own tokens stand as they are."""

    def iterencode(self, o: Any, _one_shot: bool = False) -> Iterator[str]:
        yield _encoded(o)

    def encode(self, o: Any) -> str:
        return _encoded(o)


def _encoded(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_encoded(k)}: {_encoded(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_encoded(one) for one in value) + "]"
    text = json.dumps(value, ensure_ascii=False)
    if isinstance(value, _Data):
        for mark, escaped in _ESCAPES:
            text = text.replace(mark, escaped)
    return text


def _checkpoint(task: str, said: Any) -> Checkpoint:
    try:
        return Checkpoint(
            str(said["path"]), str(said["url"]), to_seconds(said["frequency"]), str(said.get("regex", ""))
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        form = '{"path": folder, "url": where to, "frequency": seconds or "30m"}'
        raise FlowError(f"{task}: a checkpoint is {form}, not {said!r}: {error}") from None


def default_image() -> str:
    """The image of this Python, so that both sides understand each other's values."""
    return f"python:{sys.version_info[0]}.{sys.version_info[1]}"


def _lead(group: Group) -> Step:
    lead = group.lead
    if lead is None:
        found: Step = group.steps[0]
        return found
    for step in group.steps:
        if step.task.function is lead.function:
            return step  # type: ignore[no-any-return]
    raise FlowError(f"the lead {lead.name!r} is not called in group {group.name!r}")


def _resource(step: Step, resources: dict[str, ResourceSpec]) -> str:
    """The name of what the step asks for; equal demands share one."""
    values = {name: step.task.options_.get(name) for name in _RESOURCES}
    for name in ("cpu", "gpu"):
        if values[name] is not None and (not isinstance(values[name], int) or isinstance(values[name], bool)):
            raise FlowError(f"{step.name}: {name}={values[name]!r} is no whole number")
    wanted = ResourceSpec(**values)
    for name, known in resources.items():
        if known == wanted:
            return name
    name = step.name if step.name not in resources else f"{step.name}-resource"
    resources[name] = wanted
    return name


def _minutes(value: Any) -> float:
    if value is None:
        return 0.0
    return to_seconds(value) / 60 if isinstance(value, str) else float(value)


def _short(value: Any) -> str:
    """An argument as a table shows it; a promise by the name of its step."""
    text = value._step.name if isinstance(value, Result) else value if isinstance(value, str) else repr(value)
    for mark, _ in _ESCAPES[:3]:  # it is data: nothing in it is a template
        text = text.replace(mark, " ".join(mark))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _told(value: Any) -> str:
    if isinstance(value, Path):
        return f"the path {value}"
    return f"a value of type {type(value).__name__}"


def _instead(value: Any) -> str:
    if isinstance(value, Path):
        return "paths of this host mean nothing where it runs: send its text and keep the file in the project's folder"
    if isinstance(value, Task):
        return f"call it: {value.name}()"
    return "arguments are None, numbers, text, lists, tuples, dictionaries with text as keys, and results of tasks"


def _promises(value: Any) -> Any:
    """What the function returned, with `{MARK: result, task, parts}` for promises; None for what has no JSON form."""
    if isinstance(value, Result):
        return {MARK: "result", "task": value._step.name, "parts": list(value._parts)}
    if isinstance(value, list | tuple):
        return [_promises(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _promises(one) for key, one in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
