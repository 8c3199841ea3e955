"""A `WorkflowSpec` as YAML that `read` takes back: what is stored, shown and submitted again.

The written form lists groups, leaves out what has its default value, and keeps texts of several lines as blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from osmo_ray.spec.model import (
    CodeInput,
    DatasetInput,
    DatasetOutput,
    GroupSpec,
    Input,
    Output,
    RaySpec,
    ResourceSpec,
    Sandbox,
    TaskInput,
    TaskSpec,
    UpdateDatasetOutput,
    UrlInput,
    WorkflowSpec,
)

_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_DUMPER):  # type: ignore[misc]
    def ignore_aliases(self, data: object) -> bool:
        return True


def _string(dumper: Any, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _string)


def to_yaml(spec: WorkflowSpec) -> str:
    """The workflow as a file in groups form; `read(to_yaml(spec)) == spec` for every spec that `read` could make."""
    value = {"workflow": to_plain(spec)}
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 30))


def to_plain(spec: WorkflowSpec) -> dict[str, Any]:
    """The section `workflow` as lists, mappings and scalars."""
    timeout = {"exec_timeout": spec.timeout.exec_timeout, "queue_timeout": spec.timeout.queue_timeout}
    return {
        "name": spec.name,
        **_some(timeout={k: v for k, v in timeout.items() if v is not None}, labels=dict(spec.labels)),
        "resources": {name: _resource(r) for name, r in spec.resources.items()},
        "groups": [_group(g) for g in spec.groups],
    }


def _some(**fields: Any) -> dict[str, Any]:
    """Those that say something: not empty, not false, not None."""
    return {name: value for name, value in fields.items() if value not in (None, "", False, (), [], {}, 0)}


def _resource(resource: ResourceSpec) -> dict[str, Any]:
    topology = [
        {"key": t.key, "group": t.group, "requirementType": "required" if t.required else "preferred"}
        for t in resource.topology
    ]
    amounts = {"cpu": resource.cpu, "gpu": resource.gpu, "memory": resource.memory, "storage": resource.storage}
    written = {name: value for name, value in amounts.items() if value is not None}
    platform = {} if resource.platform is None else {"platform": resource.platform}
    return {**written, **platform, **_some(nodesExcluded=list(resource.nodes_excluded), topology=topology)}


def _group(group: GroupSpec) -> dict[str, Any]:
    return {
        "name": group.name,
        **({} if group.barrier else {"barrier": False}),
        **({} if group.ignore_nonlead_status else {"ignoreNonleadStatus": False}),
        "tasks": [_task(t) for t in group.tasks],
    }


def _task(task: TaskSpec) -> dict[str, Any]:
    credentials = {n: dict(c) if isinstance(c, Mapping) else c for n, c in task.credentials.items()}
    return {
        "name": task.name,
        "image": task.image,
        **_some(lead=task.lead),
        "command": list(task.command),
        **_some(
            args=list(task.args),
            inputs=[_input(i) for i in task.inputs],
            outputs=[_output(o) for o in task.outputs],
            kpis=[{"index": k.index, "path": k.path} for k in task.kpis],
            environment=dict(task.environment),
            files=[
                {"path": f.path, "contents": f.contents, **({"base64": True} if f.base64 else {})} for f in task.files
            ],
            credentials=credentials,
        ),
        **({} if task.resource == "default" else {"resource": task.resource}),
        **_some(
            privileged=task.privileged,
            hostNetwork=task.host_network,
            volumeMounts=list(task.volume_mounts),
            checkpoint=[
                {"path": c.path, "url": c.url, "frequency": c.frequency, **_some(regex=c.regex)}
                for c in task.checkpoint
            ],
            exitActions=dict(task.exit_actions),
            downloadType=task.download_type,
        ),
        **({} if task.cache_size is None else {"cacheSize": task.cache_size}),
        **({} if task.ray is None else {"ray": _ray(task.ray)}),
        **({} if task.sandbox is Sandbox.AUTO else {"sandbox": task.sandbox.value}),
        **_some(hold=task.hold),
        **({} if task.retries is None else {"retries": task.retries}),
        **_some(requirements=list(task.requirements), cache=task.cache),
        **_some(matrix={axis: list(values) for axis, values in task.matrix.items()}),
        **({"sweep": {"of": task.sweep.name, **_some(values=dict(task.sweep.values))}} if task.sweep else {}),
    }


def _ray(ray: RaySpec) -> dict[str, Any]:
    workers = ray.workers
    written = {"count": workers.count, "cpu": workers.cpu, "gpu": workers.gpu}
    memory = {} if workers.memory is None else {"memory": workers.memory}
    return {**_some(runtimeEnv=dict(ray.runtime_env)), "workers": {**written, **memory}}


def _input(wanted: Input) -> dict[str, Any]:
    if isinstance(wanted, TaskInput):
        task = f"{wanted.workflow}:{wanted.task}" if wanted.workflow else wanted.task
        return {"task": task, **_some(regex=wanted.regex)}
    if isinstance(wanted, DatasetInput):
        more = _some(regex=wanted.regex, localpath=wanted.localpath, mount=wanted.mount)
        return {"dataset": {"name": wanted.name, **more}}
    if isinstance(wanted, CodeInput):
        return {"code": wanted.digest}
    assert isinstance(wanted, UrlInput)
    return {"url": wanted.url, **_some(regex=wanted.regex)}


def _output(output: Output) -> dict[str, Any]:
    if isinstance(output, DatasetOutput):
        more = _some(path=output.path, regex=output.regex, metadata=list(output.metadata), labels=list(output.labels))
        return {"dataset": {"name": output.name, **more}}
    if isinstance(output, UpdateDatasetOutput):
        more = _some(paths=list(output.paths), metadata=list(output.metadata), labels=list(output.labels))
        return {"update_dataset": {"name": output.name, **more}}
    return {"url": output.url, **_some(regex=output.regex)}
