"""The rules of the language that types cannot say: names, order, leads, paths, amounts.

`check` looks at a whole `WorkflowSpec` and yields everything that is wrong with it, in the order of the file; it
needs no file, so a specification made by a program is held to the same rules.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from osmo_ray.spec import matrix
from osmo_ray.spec.document import Path, suggest
from osmo_ray.spec.model import (
    CodeInput,
    DatasetInput,
    DatasetOutput,
    GroupSpec,
    ResourceSpec,
    Sandbox,
    TaskInput,
    TaskSpec,
    UpdateDatasetOutput,
    UrlInput,
    UrlOutput,
    WorkflowSpec,
)
from osmo_ray.spec.quantity import to_bytes

MAX_NAME = 64
_NAME = re.compile(r"[a-zA-Z]([a-zA-Z0-9_-]*[a-zA-Z0-9])?")
_WORKFLOW_ID = re.compile(r"[a-zA-Z]([a-zA-Z0-9_-]*[a-zA-Z0-9])?-[0-9]+")
_DATASET = re.compile(r"([a-zA-Z0-9_{}-]+/)?[a-zA-Z0-9_{}-]+(:[a-zA-Z0-9_{}-]*)?")
_URL = re.compile(r"(?:(?:s3|gs)://[^/\s,;*]+|(?:azure|tos|swift)://[^/\s,;*]+/[^/\s,;*]+)(?:/[^\s,;*]*)?")
_ENVIRONMENT = re.compile(r"[a-zA-Z_.-][a-zA-Z0-9_.-]*")
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


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken rule. `key` says that the name at the end of `path` is what is wrong, not its value; `resource`
    that it is about resources, which clients tell from other mistakes."""

    path: Path
    message: str
    hint: str = ""
    key: bool = False
    resource: bool = False


Findings = Iterator[Finding]


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
    if not _NAME.fullmatch(name):
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
                if not _ENVIRONMENT.fullmatch(axis):
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
    for field, amount in (("memory", resource.memory), ("storage", resource.storage)):
        if amount is not None:
            yield from _amount((*at, field), amount)


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


def _amount(at: Path, text: str) -> Findings:
    try:
        if to_bytes(text) <= 0:
            yield Finding(at, f"{text!r} is nothing", "ask for more than 0", resource=True)
    except (ValueError, OverflowError) as error:
        near = suggest(text, [text[:-1] + "i"]) if re.fullmatch(r"\d+(\.\d+)?[TGMK]B", text) else ""
        yield Finding(at, str(error), near, resource=True)


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
    for part in _PARTS:
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


def _regex(at: Path, text: str) -> Findings:
    if len(text) > _MAX_REGEX:
        yield Finding(at, f"the expression has {len(text)} characters, at most {_MAX_REGEX} are read")
        return
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        yield Finding(at, f"not a regular expression: {error}")


def _inputs(at: Path, task: TaskSpec) -> Findings:
    for index, wanted in enumerate(task.inputs):
        place = (*at, "inputs", index)
        if isinstance(wanted, UrlInput):
            yield from _url((*place, "url"), wanted.url)
            yield from _regex((*place, "regex"), wanted.regex)
        elif isinstance(wanted, DatasetInput):
            yield from _dataset((*place, "dataset", "name"), wanted.name)
            yield from _regex((*place, "dataset", "regex"), wanted.regex)
            if wanted.localpath and ":" in wanted.name:
                yield Finding((*place, "dataset", "name"), "a dataset with `localpath` may not name a version")
        elif isinstance(wanted, CodeInput):
            if not _DIGEST.fullmatch(wanted.digest):
                hint = "`osmo spec FILE.py` writes it"
                yield Finding((*place, "code"), f"{wanted.digest[:80]!r} is no SHA-256 of 64 hex digits", hint)
        else:
            yield from _regex((*place, "regex"), wanted.regex)
            if not _NAME.fullmatch(wanted.task) or (wanted.workflow and not _WORKFLOW_ID.fullmatch(wanted.workflow)):
                text = f"{wanted.workflow}:{wanted.task}" if wanted.workflow else wanted.task
                hint = "write a task's name, or <workflow id>:<task> such as train-3:fit"
                yield Finding((*place, "task"), f"{text[:80]!r} is not a task", hint)


def _outputs(at: Path, task: TaskSpec) -> Findings:
    for index, output in enumerate(task.outputs):
        place = (*at, "outputs", index)
        if isinstance(output, UrlOutput):
            yield from _url((*place, "url"), output.url)
            yield from _regex((*place, "regex"), output.regex)
        elif isinstance(output, DatasetOutput):
            yield from _dataset((*place, "dataset", "name"), output.name)
            yield from _regex((*place, "dataset", "regex"), output.regex)
        elif isinstance(output, UpdateDatasetOutput):
            yield from _dataset((*place, "update_dataset", "name"), output.name)


def _url(at: Path, url: str) -> Findings:
    if not _URL.fullmatch(_TOKEN.sub("x", url)):
        hint = "write s3://bucket/prefix, gs://..., azure://account/container/..., swift://... or tos://..."
        yield Finding(at, f"{url[:80]!r} is not a storage URL", hint)


def _dataset(at: Path, name: str) -> Findings:
    if not _DATASET.fullmatch(_TOKEN.sub("x", name)):
        yield Finding(at, f"{name[:80]!r} is not a dataset", "write [bucket/]name[:tag]")


def _environment(at: Path, task: TaskSpec) -> Findings:
    for name in task.environment:
        if not _ENVIRONMENT.fullmatch(name):
            place = (*at, "environment", name)
            yield Finding(place, f"{name[:80]!r} is not a variable's name", "letters, digits, _ . and -", key=True)


def _files(at: Path, task: TaskSpec) -> Findings:
    taken: set[str] = set()
    folders: set[str] = set()
    for index, file in enumerate(task.files):
        place = (*at, "files", index, "path")
        path = _absolute(file.path[:_MAX_PATH])
        if len(file.path) > _MAX_PATH or path.count("/") > _MAX_DEPTH:
            yield Finding(place, f"{file.path[:80]!r} is too long or too deep for the path of a file")
            continue
        above = {path[:n] for n, c in enumerate(path) if c == "/" and n}
        if not file.path.strip() or path == "/" or file.path.endswith("/"):
            yield Finding(place, f"{file.path[:80]!r} is not the path of a file", "for example /tmp/run.sh")
        elif _below(path, "/osmo") and not (_below(path, "/osmo/data/output") and path != "/osmo/data/output"):
            hint = "put it elsewhere, or below {{output}}"
            yield Finding(place, f"{file.path[:80]!r} is below /osmo, which belongs to the platform", hint)
        elif path in taken:
            yield Finding(place, f"{file.path[:80]!r} stands twice in the files of task {task.name!r}", "keep one")
        elif path in folders or not above.isdisjoint(taken):
            clash = next(other for other in taken if _below(other, path) or _below(path, other))
            yield Finding(
                place, f"{file.path[:80]!r} and {clash!r} cannot both be files", "one is a folder of the other"
            )
        taken.add(path)
        folders |= above
        if file.base64:
            yield from _base64((*at, "files", index, "contents"), file.contents)


def _base64(at: Path, text: str) -> Findings:
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        yield Finding(at, "`base64` is set, but the contents are not base64", "remove `base64: true` if it is text")


def _absolute(path: str) -> str:
    text = path.replace("{{output}}", "/osmo/data/output").replace("{{input:", "/osmo/data/input/{{x:")
    return "/" + posixpath.normpath("/" + _TOKEN.sub("x", text)).lstrip("/")


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


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


def _credentials(at: Path, task: TaskSpec) -> Findings:
    for name, wanted in task.credentials.items():
        place = (*at, "credentials", name)
        if isinstance(wanted, Mapping):
            for variable, key in wanted.items():
                if not isinstance(key, str):
                    yield Finding((*place, variable), "must be text: a key of the credential")
                elif not _ENVIRONMENT.fullmatch(variable):
                    yield Finding((*place, variable), f"{variable[:80]!r} is not a variable's name", key=True)
        elif not str(wanted).startswith("/"):
            hint = "write {VARIABLE: key}, or a folder such as /secrets/aws"
            yield Finding(place, "must be a mapping or an absolute folder", hint)


def _mounts(at: Path, task: TaskSpec) -> Findings:
    for index, mount in enumerate(task.volume_mounts):
        source, colon, target = mount.partition(":")
        if not source or (colon and not target) or ":" in target:
            place = (*at, "volumeMounts", index)
            yield Finding(place, f"{mount[:80]!r} is not a mount", "write source or source:target", resource=True)


def _checkpoints(at: Path, task: TaskSpec) -> Findings:
    for index, point in enumerate(task.checkpoint):
        place = (*at, "checkpoint", index)
        yield from _url((*place, "url"), point.url)
        yield from _regex((*place, "regex"), point.regex)
        if point.frequency <= 0:
            yield Finding((*place, "frequency"), "must be more than 0 seconds")
        if not point.path.strip():
            yield Finding((*place, "path"), "must not be empty")


def _exit_actions(at: Path, task: TaskSpec) -> Findings:
    for action, codes in task.exit_actions.items():
        place = (*at, "exitActions", action)
        if action not in _ACTIONS:
            hint = "did you mean 'RESCHEDULE'?" if action == "RESTART" else suggest(action, _ACTIONS)
            yield Finding(place, f"unknown exit action {action!r}", hint or f"one of {', '.join(_ACTIONS)}", key=True)
        if not _CODES.fullmatch(codes):
            yield Finding(place, f"{codes[:80]!r} is not a list of exit codes", "for example 1,3-5, without blanks")
        elif backwards := next((r for r in codes.split(",") if _backwards(r)), None):
            yield Finding(place, f"the range {backwards} goes backwards")


def _backwards(text: str) -> bool:
    first, dash, last = text.partition("-")
    return bool(dash) and int(first[:12]) > int(last[:12])


def _cache_size(at: Path, task: TaskSpec) -> Findings:
    if task.cache_size is None or re.fullmatch(r"(100|\d{1,2})(\.\d+)?%", task.cache_size):
        return
    yield from _amount((*at, "cacheSize"), task.cache_size)


def _ray_workers(at: Path, task: TaskSpec) -> Findings:
    if task.ray is not None and task.ray.workers.memory is not None:
        yield from _amount((*at, "ray", "workers", "memory"), task.ray.workers.memory)


def _requirements(at: Path, task: TaskSpec) -> Findings:
    for index, wanted in enumerate(task.requirements):
        if len(wanted) > 200 or not _REQUIREMENT.fullmatch(wanted):
            hint = "write a name and versions, such as numpy>=2,<3; addresses, paths and options are not taken"
            yield Finding((*at, "requirements", index), f"{wanted[:80]!r} is not a package", hint)


def _cache(at: Path, task: TaskSpec) -> Findings:
    """Only what can be seen to be the same may be taken from earlier; what lies elsewhere may have changed."""
    if not task.cache:
        return
    if task.sandbox is not Sandbox.PROCESS and "@sha256:" not in task.image:
        hint = "name the image by digest (image@sha256:...), or write `sandbox: process`"
        yield Finding((*at, "cache"), "a cached task needs an image that cannot change", hint, key=True)
    for index, wanted in enumerate(task.inputs):
        if isinstance(wanted, UrlInput) or (isinstance(wanted, DatasetInput) and ":" not in wanted.name):
            hint = "leave `cache` out, or read it in a task before this one"
            yield Finding((*at, "inputs", index), "what a cached task reads here may have changed", hint)
    if task.outputs:
        hint = "leave `cache` out, or write it in a task after this one"
        yield Finding((*at, "outputs"), "a cached task may be passed over, and would not write this", hint, key=True)


_PARTS: tuple[Callable[[Path, TaskSpec], Findings], ...] = (
    _inputs,
    _outputs,
    _environment,
    _files,
    _credentials,
    _mounts,
    _checkpoints,
    _exit_actions,
    _cache_size,
    _ray_workers,
    _requirements,
    _cache,
)
