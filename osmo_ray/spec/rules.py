"""The rules of the language that types cannot say: names, order, leads, paths, amounts.

`check` looks at a whole `WorkflowSpec` and yields everything that is wrong with it, in the order of the file; it
needs no file, so a specification made by a program is held to the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from osmo_ray.spec import matrix
from osmo_ray.spec.document import Path, suggest
from osmo_ray.spec.findings import ENVIRONMENT, MAX_NAME, NAME, Finding, Findings, amount
from osmo_ray.spec.model import (
    DatasetInput,
    DatasetOutput,
    GroupSpec,
    ResourceSpec,
    TaskInput,
    TaskSpec,
    UpdateDatasetOutput,
    WorkflowSpec,
)
from osmo_ray.spec.task_rules import PARTS

_WORKFLOW_ID = re.compile(r"[a-zA-Z]([a-zA-Z0-9_-]*[a-zA-Z0-9])?-[0-9]+")
_DATASET = re.compile(r"([a-zA-Z0-9_{}-]+/)?[a-zA-Z0-9_{}-]+(:[a-zA-Z0-9_{}-]*)?")
_URL = re.compile(r"(?:(?:s3|gs)://[^/\s,;*]+|(?:azure|tos|swift)://[^/\s,;*]+/[^/\s,;*]+)(?:/[^\s,;*]*)?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[A-Za-z0-9._,\s-]*\])?"
    r"(\s*(===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+(\s*,\s*(===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+)*)?"
)
"""A name with extras and versions: what can be had from an index, and no address, path or option."""
_CODES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_TOKEN = re.compile(r"\{\{[^{}]*\}\}")
_LABEL_KEY = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_ACTIONS = ("COMPLETE", "FAIL", "RESCHEDULE")
_MAX_REGEX = 1000
_MAX_PATH = 4096
_MAX_DEPTH = 64


def normalise(name: str) -> str:
    """The form in which names must differ: `My_Task` and `my-task` are the same to a cluster."""
    return name.lower().replace("_", "-")[:63].rstrip("-")


def check(spec: WorkflowSpec, *, loose: bool) -> Findings:
    """Everything wrong with `spec`. With `loose`, places are told as in a file that lists `tasks`."""
    yield from _name(("workflow", "name"), spec.name, "workflow")
    yield from _labels(spec)
    for name, resource in spec.resources.items():
        yield from _resource(("workflow", "resources", name), resource)
    yield from _topology(spec)
    yield from _unique(spec, loose)
    yield from _sweeps(spec, loose)
    order = {task.name: number for number, group in enumerate(spec.groups) for task in group.tasks}
    for number, group in enumerate(spec.groups):
        if not loose:
            yield from _group(("workflow", "groups", number), group)
        for index, task in enumerate(group.tasks):
            at = _at(loose, number, index)
            yield from _task(at, task, spec)
            yield from _order(at, task, number, order, spec)


def _at(loose: bool, group: int, task: int) -> Path:
    return ("workflow", "tasks", group) if loose else ("workflow", "groups", group, "tasks", task)


def _name(at: Path, name: str, what: str, limit: int = MAX_NAME) -> Findings:
    if not NAME.fullmatch(name):
        yield Finding(
            at,
            f"{name[:80]!r} is not a {what} name",
            "begin with a letter, go on with letters, digits, _ and -, end with a letter or digit",
        )
    elif len(name) > limit:
        yield Finding(at, f"the {what} name has {len(name)} characters, at most {limit} fit", "shorten it")


def _unique(spec: WorkflowSpec, loose: bool) -> Findings:
    seen: dict[str, str] = {}
    for number, group in enumerate(spec.groups):
        names = [(_at(loose, number, i), t.name, "task") for i, t in enumerate(group.tasks)]
        if not loose:
            names.insert(0, (("workflow", "groups", number), group.name, "group"))
        elif group.tasks:
            names.append((_at(loose, number, 0), group.name, f"task {group.tasks[0].name!r} makes a group that"))
        for at, name, what in names:
            key = normalise(name)
            if key in seen:
                told = f"{what} is named {name!r}" if what.startswith("task '") else f"{what} {name!r}"
                hint = "names of tasks and groups differ in more than case and _ for -; rename one"
                yield Finding((*at, "name"), f"{told}, which is the name of {seen[key]} already", hint)
            else:
                seen[key] = f"{'group' if what.startswith('task ') else what} {name!r}"


def _sweeps(spec: WorkflowSpec, loose: bool) -> Findings:
    """What a matrix makes must be fit to be made: few enough, alone in its group, and of names that are free."""
    taken = {normalise(name) for g in spec.groups for name in (g.name, *(t.name for t in g.tasks))}
    for number, group in enumerate(spec.groups):
        for index, task in enumerate(group.tasks):
            at = _at(loose, number, index)
            for name in sorted(matrix.mentioned(task) - task.matrix.keys()):
                hint = suggest(name, task.matrix) or f"its axes are {', '.join(task.matrix) or 'none'}"
                yield Finding(at, f"the task's texts name {{{{matrix:{name}}}}}, which is no axis of it", hint)
            if not task.matrix:
                continue
            place = (*at, "matrix")
            if len(group.tasks) > 1:
                hint = "a sweep's tasks start one by one; give the task a group of its own"
                yield Finding(place, "a task of a group of several has no matrix", hint, key=True)
            for axis in task.matrix:
                if not ENVIRONMENT.fullmatch(axis):
                    yield Finding((*place, axis), f"{axis[:80]!r} is not the name of an axis", "such as lr", key=True)
            count = matrix.size(task.matrix)
            if count > matrix.MAX_TASKS:
                yield Finding(place, f"it makes {count} tasks, at most {matrix.MAX_TASKS} are allowed", key=True)
            elif clash := next((n for n in matrix.names(task) if normalise(n) in taken), ""):
                yield Finding(place, f"it makes a task {clash!r}, and there is one already", "rename one", key=True)
            elif len(task.name) + len(str(count)) + 1 > MAX_NAME - len("-group"):
                yield Finding((*at, "name"), "the name is too long for a task with a matrix", "shorten it")


def _labels(spec: WorkflowSpec) -> Findings:
    at: Path = ("workflow", "labels")
    if len(spec.labels) > 16:
        yield Finding(at, f"{len(spec.labels)} labels, at most 16 are allowed")
    for key, value in spec.labels.items():
        if not _LABEL_KEY.fullmatch(key):
            yield Finding((*at, key), f"{key[:80]!r} is not a label name", "letters, digits, - _ . and one /", key=True)
        if not _LABEL.fullmatch(value):
            yield Finding((*at, key), f"{value[:80]!r} is not a label value", "1 to 63 letters, digits, - _ .")


def _group(at: Path, group: GroupSpec) -> Findings:
    yield from _name((*at, "name"), group.name, "group")
    leads = [task.name for task in group.tasks if task.lead]
    cached = [task.name for task in group.tasks if task.cache]
    if cached and len(cached) < len(group.tasks):
        other = next(task.name for task in group.tasks if not task.cache)
        hint = "tasks of a group are passed over together; write `cache` in all of them or in none"
        yield Finding((*at, "tasks"), f"{cached[0]!r} is cached and {other!r} is not", hint)
    if not group.tasks:
        yield Finding(at, f"group {group.name!r} has no tasks", "list at least one task")
    elif not leads:
        yield Finding(
            (*at, "tasks"), f"group {group.name!r} has no lead", "write 'lead: true' in the task that ends it"
        )
    elif len(leads) > 1:
        yield Finding((*at, "tasks"), f"group {group.name!r} has {len(leads)} leads: {', '.join(leads)}", "keep one")


def _resource(at: Path, resource: ResourceSpec) -> Findings:
    for field, asked in (("memory", resource.memory), ("storage", resource.storage)):
        if asked is not None:
            yield from amount((*at, field), asked)


def _topology(spec: WorkflowSpec) -> Findings:
    """All tasks of a workflow that care where they stand say so by the same keys."""
    used = {t.resource for g in spec.groups for t in g.tasks}
    first: tuple[str, frozenset[str]] | None = None
    for name, resource in spec.resources.items():
        keys = frozenset(t.key for t in resource.topology)
        at: Path = ("workflow", "resources", name, "topology")
        if len(keys) < len(resource.topology):
            yield Finding(at, f"a topology key of resource {name!r} stands twice", "keep one", resource=True)
        if not keys or name not in used:
            continue
        if first is None:
            first = (name, keys)
        elif keys != first[1]:
            message = f"tasks of one workflow must use the same keys of topology; {name!r} and {first[0]!r} differ"
            yield Finding(at, message, f"{first[0]!r} has {', '.join(sorted(first[1]))}", resource=True)


def _task(at: Path, task: TaskSpec, spec: WorkflowSpec) -> Findings:
    loose = len(at) == 3
    yield from _name((*at, "name"), task.name, "task", MAX_NAME - len("-group") if loose else MAX_NAME)
    if normalise(task.name) == "osmo-ctrl":
        yield Finding((*at, "name"), "'osmo-ctrl' is the platform's own name", "choose another")
    if not task.image or any(c.isspace() for c in _TOKEN.sub("x", task.image)):
        yield Finding((*at, "image"), f"{task.image[:80]!r} is not an image", "for example ubuntu:24.04")
    if not task.command or not task.command[0]:
        yield Finding((*at, "command"), "names no program", 'for example ["bash", "-c", "echo hello"]')
    if task.resource not in spec.resources:
        known = ", ".join(spec.resources) or "none"
        hint = suggest(task.resource, spec.resources) or f"resources of this workflow: {known}"
        message = f"task {task.name!r} asks for resource {task.resource!r}, which the workflow does not define"
        yield Finding((*at, "resource"), message, hint, resource=True)
    for part in PARTS:
        yield from part(at, task)


def _order(at: Path, task: TaskSpec, number: int, order: Mapping[str, int], spec: WorkflowSpec) -> Findings:
    for index, wanted in enumerate(task.inputs):
        if not isinstance(wanted, TaskInput) or wanted.workflow:
            continue
        place = (*at, "inputs", index, "task")
        group = order.get(wanted.task)
        if group is None:
            hint = suggest(wanted.task, order) or f"tasks of this workflow: {', '.join(list(order)[:10])}"
            yield Finding(place, f"there is no task {wanted.task!r}", hint)
        elif group == number:
            what = "itself" if wanted.task == task.name else f"{wanted.task!r} of its own group"
            hint = "tasks of a group start together; put the one that produces into an earlier group"
            yield Finding(place, f"task {task.name!r} reads the output of {what}", hint)
        elif group > number:
            earlier, later = spec.groups[group].name, spec.groups[number].name
            message = f"task {task.name!r} reads the output of {wanted.task!r}, which is listed after it"
            yield Finding(place, message, f"list {_plain(earlier)} before {_plain(later)}")


def _plain(group: str) -> str:
    return f"task {group.removesuffix('-group')!r}" if group.endswith("-group") else f"group {group!r}"


def credentials(spec: WorkflowSpec, known: Mapping[str, frozenset[str]], where: Callable[[TaskSpec], Path]) -> Findings:
    """Credentials that tasks name and their user does not have; `known` are names with their keys, `where` is the place
    of a task in the file."""
    for group in spec.groups:
        for task in group.tasks:
            for name, wanted in task.credentials.items():
                place = (*where(task), "credentials", name)
                if name not in known:
                    hint = suggest(name, known) or f"set it with: osmo credential set {name}"
                    yield Finding(place, f"you have no credential {name!r}", hint, key=True)
                elif isinstance(wanted, Mapping):
                    for variable, key in wanted.items():
                        if key not in known[name]:
                            hint = f"its keys are {', '.join(sorted(known[name]))}"
                            yield Finding((*place, variable), f"the credential {name!r} has no key {key!r}", hint)


Trouble = Mapping[str, tuple[str, str]]
"""Names of datasets as they are written, with what is wrong with each and what to do about it."""


def datasets(spec: WorkflowSpec, reads: Trouble, writes: Trouble, where: Callable[[TaskSpec], Path]) -> Findings:
    """Datasets that cannot be read or written, each at its place."""
    for group in spec.groups:
        for task in group.tasks:
            at = where(task)
            for index, wanted in enumerate(task.inputs):
                if isinstance(wanted, DatasetInput) and wanted.name in reads:
                    yield Finding((*at, "inputs", index, "dataset", "name"), *reads[wanted.name])
            for index, output in enumerate(task.outputs):
                if isinstance(output, DatasetOutput | UpdateDatasetOutput) and output.name in writes:
                    kind = "dataset" if isinstance(output, DatasetOutput) else "update_dataset"
                    yield Finding((*at, "outputs", index, kind, "name"), *writes[output.name])
