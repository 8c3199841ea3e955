"""From state to what a backend should run: the plan of one group, derived anew each time it is sent."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from osmo_ray.engine.model import Group, Task, Workflow
from osmo_ray.engine.propagate import spec_of
from osmo_ray.engine.status import PRESCHEDULING
from osmo_ray.spec.attempt import (
    AttemptKey,
    AttemptPlan,
    CheckpointPlan,
    FilePlan,
    GroupPlan,
    InputPlan,
    KpiPlan,
    OutputPlan,
)
from osmo_ray.spec.model import (
    CodeInput,
    DatasetOutput,
    GroupSpec,
    Input,
    Output,
    ResourceSpec,
    Sandbox,
    TaskInput,
    TaskSpec,
    UrlInput,
    UrlOutput,
)
from osmo_ray.spec.quantity import to_bytes
from osmo_ray.spec.tokens import Tokens, expand


@dataclass(frozen=True, slots=True)
class PoolRules:
    """What a pool adds to a task: defaults for what it does not ask for, and whether Ray programs are trusted."""

    cpu: int = 1
    gpu: int = 0
    memory: str = "1Gi"
    storage: str = "1Gi"
    sandbox: Sandbox = Sandbox.AUTO
    trusted: bool = False
    external: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(workflow id, task) -> store prefix of outputs of other workflows that inputs name."""


@dataclass(frozen=True, slots=True)
class Request:
    """What one task asks for: cores, bytes, whole GPUs."""

    cpu: float
    memory: int
    gpu: int
    storage: int


def request(workflow: Workflow, task: TaskSpec, rules: PoolRules) -> Request:
    """Resources of a task with the pool's defaults filled in. A Ray program asks for its workers' as well."""
    asked = workflow.spec.resources.get(task.resource, ResourceSpec())
    cpu = float(asked.cpu if asked.cpu is not None else rules.cpu)
    gpu = asked.gpu if asked.gpu is not None else rules.gpu
    memory = to_bytes(asked.memory or rules.memory)
    if task.ray is not None:
        workers = task.ray.workers
        cpu += workers.count * workers.cpu
        gpu += int(workers.count * workers.gpu)
        memory += workers.count * (to_bytes(workers.memory) if workers.memory else 0)
    return Request(cpu, memory, gpu, to_bytes(asked.storage or rules.storage))


def output_prefix(workflow: Workflow, task: Task) -> str:
    """Where an attempt's output goes: a prefix of its own, so that a late writer spoils nothing."""
    return f"workflows/{workflow.uuid}/{task.uuid}/{task.retry_id}"


CODE_GRACE = 86400.0
"""Seconds that an archive of code stays though no workflow names it: who sent it is about to submit."""


def code_prefix(digest: str) -> str:
    """Where an archive of code lies, for every workflow that names it."""
    return f"code/{digest}"


def group_plan(workflow: Workflow, group: Group, rules: PoolRules) -> GroupPlan:
    """Exactly the attempts of this group that should exist now: placed and not finished."""
    spec = spec_of(workflow.spec, group)
    by_name = {task.name: task for task in spec.tasks}
    running = [t for t in group.tasks if t.node and not t.status.finished and t.status not in PRESCHEDULING]
    spread = len({t.node for t in running}) > 1
    attempts = tuple(_attempt(workflow, group, spec, by_name[t.name], t, rules, spread) for t in running)
    return GroupPlan(group.uuid, workflow.id, group.name, attempts)


def _attempt(
    workflow: Workflow, group: Group, spec: GroupSpec, task: TaskSpec, state: Task, rules: PoolRules, spread: bool
) -> AttemptPlan:
    asked = request(workflow, task, rules)
    barrier = spec.barrier and len(spec.tasks) > 1
    sandbox = task.sandbox if task.sandbox is not Sandbox.AUTO else rules.sandbox
    return AttemptPlan(
        key=AttemptKey(state.uuid, state.retry_id),
        workflow_id=workflow.id,
        workflow_uuid=workflow.uuid,
        pool=workflow.pool,
        group=group.name,
        group_uuid=group.uuid,
        task=task.name,
        user=workflow.user,
        node=state.node,
        image=task.image,
        argv=(*task.command, *task.args),
        environment=task.environment,
        files=tuple(FilePlan(f.path, f.contents, f.base64) for f in task.files),
        inputs=tuple(_input(workflow, i, rules) for i in task.inputs),
        outputs=_outputs(workflow, group, task, state),
        kpis=tuple(KpiPlan(k.index, k.path) for k in task.kpis),
        checkpoints=tuple(CheckpointPlan(c.path, c.url, c.frequency, c.regex) for c in task.checkpoint),
        cpu=asked.cpu,
        memory=asked.memory,
        gpu=asked.gpu,
        storage=asked.storage,
        sandbox=sandbox,
        network="node" if spread or task.host_network else "private",
        mounts=task.volume_mounts,
        privileged=task.privileged,
        host_network=task.host_network,
        barrier=barrier,
        restart=state.restarts,
        go=not barrier or group.released >= state.restarts,
        hosts={t.name: t.address for t in group.tasks if t.address},
        peers=tuple(t.name for t in spec.tasks),
        hold=task.hold * 60,
        ray=task.ray,
        requirements=task.requirements,
        trusted=rules.trusted,
    )


def _input(workflow: Workflow, wanted: Input, rules: PoolRules) -> InputPlan:
    if isinstance(wanted, TaskInput):
        return InputPlan("prefix", source(workflow, wanted, rules.external), wanted.task, wanted.regex)
    if isinstance(wanted, UrlInput):
        return InputPlan("url", _named(workflow, wanted.url), regex=wanted.regex)
    if isinstance(wanted, CodeInput):
        return InputPlan("prefix", code_prefix(wanted.digest))
    return InputPlan("dataset", wanted.name, wanted.name, wanted.regex, mount=wanted.mount)


def source(workflow: Workflow, wanted: TaskInput, external: Mapping[tuple[str, str], str]) -> str:
    """The accepted output of the task; empty when it wrote nothing, which is an empty input folder. `external` has
    those of other workflows."""
    if wanted.workflow:
        return external.get((wanted.workflow, wanted.task), "")
    for group in workflow.groups:
        for task in group.tasks:
            if task.name == wanted.task:
                return task.output
    return ""


def _outputs(workflow: Workflow, group: Group, task: TaskSpec, state: Task) -> tuple[OutputPlan, ...]:
    plans = [_output(workflow, one) for one in task.outputs]
    if group.downstream or not task.outputs:
        plans.append(OutputPlan("prefix", output_prefix(workflow, state)))
    elif task.kpis:
        files = "|".join(re.escape(posixpath.normpath(k.path)) for k in task.kpis)
        plans.append(OutputPlan("prefix", output_prefix(workflow, state), f"(?:{files})$"))
    return tuple(plans)


def _named(workflow: Workflow, url: str) -> str:
    """A URL with the workflow's id in it where it says so; no other token means anything outside the task."""
    return expand(url, Tokens(workflow.id, "{{output}}"))


def _output(workflow: Workflow, output: Output) -> OutputPlan:
    """What goes out beside the platform's own copy. Where datasets lie is put in when the plan is sent."""
    if isinstance(output, UrlOutput):
        return OutputPlan("url", _named(workflow, output.url), output.regex)
    if isinstance(output, DatasetOutput):
        paths = (output.path,) if output.path else ()
        return OutputPlan(
            "dataset", output.name, output.regex, paths=paths, metadata=output.metadata, labels=output.labels
        )
    return OutputPlan("update_dataset", output.name, paths=output.paths, metadata=output.metadata, labels=output.labels)
