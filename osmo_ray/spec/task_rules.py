"""The rules of one task's fields: each yields what is wrong at its place, and knows nothing of the other tasks."""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
from collections.abc import Callable, Mapping

from osmo_ray.spec.document import Path, suggest
from osmo_ray.spec.findings import ENVIRONMENT, NAME, Finding, Findings, amount
from osmo_ray.spec.model import (
    CodeInput,
    DatasetInput,
    DatasetOutput,
    Sandbox,
    TaskSpec,
    UpdateDatasetOutput,
    UrlInput,
    UrlOutput,
)

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
_ACTIONS = ("COMPLETE", "FAIL", "RESCHEDULE")
_MAX_REGEX = 1000
_MAX_PATH = 4096
_MAX_DEPTH = 64


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
            if not NAME.fullmatch(wanted.task) or (wanted.workflow and not _WORKFLOW_ID.fullmatch(wanted.workflow)):
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
        if not ENVIRONMENT.fullmatch(name):
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


def _credentials(at: Path, task: TaskSpec) -> Findings:
    for name, wanted in task.credentials.items():
        place = (*at, "credentials", name)
        if isinstance(wanted, Mapping):
            for variable, key in wanted.items():
                if not isinstance(key, str):
                    yield Finding((*place, variable), "must be text: a key of the credential")
                elif not ENVIRONMENT.fullmatch(variable):
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
    yield from amount((*at, "cacheSize"), task.cache_size)


def _ray_workers(at: Path, task: TaskSpec) -> Findings:
    if task.ray is not None and task.ray.workers.memory is not None:
        yield from amount((*at, "ray", "workers", "memory"), task.ray.workers.memory)


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
        moves = isinstance(wanted, DatasetInput) and not wanted.name.rpartition(":")[2].isdigit()
        if isinstance(wanted, UrlInput) or moves:
            hint = "leave `cache` out, read it in a task before this one, or name a dataset's version by its number"
            yield Finding((*at, "inputs", index), "what a cached task reads here may have changed", hint)
    if task.outputs:
        hint = "leave `cache` out, or write it in a task after this one"
        yield Finding((*at, "outputs"), "a cached task may be passed over, and would not write this", hint, key=True)


PARTS: tuple[Callable[[Path, TaskSpec], Findings], ...] = (
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
