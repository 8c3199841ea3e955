"""What only this platform knows, found in a workflow: for files that have to run on others too."""

from __future__ import annotations

from osmo_ray.spec.document import Path
from osmo_ray.spec.findings import Finding, Findings
from osmo_ray.spec.model import CodeInput, DatasetInput, TaskSpec, WorkflowSpec


def extensions(spec: WorkflowSpec, *, loose: bool) -> Findings:
    """Every use of an extension. With `loose`, places are told as in a file that lists `tasks`."""
    plain = TaskSpec("", "", ())
    for number, group in enumerate(spec.groups):
        for index, task in enumerate(group.tasks):
            at: Path = ("workflow", "groups", number, "tasks", index)
            at = ("workflow", "tasks", number) if loose else at
            for field in ("ray", "sandbox", "hold", "retries", "requirements", "cache", "matrix", "sweep"):
                if getattr(task, field) != getattr(plain, field):
                    hint = "leave it out, or check without --strict"
                    yield Finding((*at, field), f"`{field}` is an extension of this platform", hint, key=True)
            for place, wanted in enumerate(task.inputs):
                if isinstance(wanted, CodeInput):
                    yield Finding((*at, "inputs", place, "code"), "`code` is an extension of this platform", key=True)
                if isinstance(wanted, DatasetInput) and wanted.mount:
                    field_at: Path = (*at, "inputs", place, "dataset", "mount")
                    hint = "leave it out: the same files are then downloaded"
                    yield Finding(field_at, "`mount` is an extension of this platform", hint, key=True)
