"""From a workflow file to a `WorkflowSpec`, or to every mistake in it with its place.

`read` takes a file without template variables; where a renderer stands between, `read_section` takes what it made of
the `workflow` section, together with the file as it was written, so that mistakes are told in places that its writer
knows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from osmo_ray.spec import matrix, schema
from osmo_ray.spec.document import Path, Section, Source, Tree, compose, cut, show_path, suggest
from osmo_ray.spec.errors import Problem, SpecError
from osmo_ray.spec.findings import Finding
from osmo_ray.spec.model import (
    Checkpoint,
    CodeInput,
    DatasetInput,
    DatasetOutput,
    FileSpec,
    GroupSpec,
    Input,
    Kpi,
    Output,
    RaySpec,
    RayWorkers,
    ResourceSpec,
    Sandbox,
    Sweep,
    TaskInput,
    TaskSpec,
    Timeouts,
    Topology,
    UpdateDatasetOutput,
    UrlInput,
    UrlOutput,
    WorkflowSpec,
)
from osmo_ray.spec.rules import Trouble, check
from osmo_ray.spec.rules import credentials as missing_credentials
from osmo_ray.spec.rules import datasets as missing_datasets
from osmo_ray.spec.strict import extensions
from osmo_ray.spec.template import Rendered

MAX_PROBLEMS = 50
_HOPELESS = 5000


def read(text: str, *, strict: bool = False) -> WorkflowSpec:
    """The workflow of a file whose text is final: nothing is rendered. With `strict`, what only this platform knows is
    a mistake. Raises `SpecError` with every mistake."""
    return read_section(cut(text)["workflow"], text.split("\n"), strict=strict)


def read_section(
    section: Section, written: Sequence[str], rendered: Rendered | None = None, *, strict: bool = False
) -> WorkflowSpec:
    """The workflow of the section `workflow`, or of what a renderer made of it. Raises `SpecError`."""
    tree = compose(_source(section, written, rendered))
    try:
        model = schema.FileDocument.model_validate(tree.value)
    except ValidationError as error:
        if error.error_count() > _HOPELESS:
            raise SpecError(f"the file has {error.error_count()} mistakes: this is no workflow file") from None
        mistakes = _without_echoes(error.errors(include_url=False))
        found = [_explain(tree, mistake) for mistake in mistakes[:MAX_PROBLEMS]]
        raise SpecError(sorted(found, key=lambda p: (p.line or 1 << 30, p.column))) from None
    loose = bool(model.workflow.tasks)
    if loose == bool(model.workflow.groups):
        message = "has both `tasks` and `groups`; keep one" if loose else "needs `tasks` or `groups` with work in it"
        raise SpecError([tree.problem(("workflow",), message)])
    spec = _workflow(model.workflow)
    broken = itertools.chain(check(spec, loose=loose), extensions(spec, loose=loose) if strict else ())
    _refuse(list(itertools.islice(broken, MAX_PROBLEMS)), tree)
    return matrix.expand(spec)


@dataclass(frozen=True, slots=True)
class Written:
    """A workflow's section as it was submitted, for mistakes that are found after reading it."""

    section: Section
    written: Sequence[str]
    rendered: Rendered | None = None

    def tree(self) -> Tree:
        return compose(_source(self.section, self.written, self.rendered))


def refuse(find: Callable[[Callable[[TaskSpec], Path]], Iterable[Finding]], code: str, file: Written | None) -> None:
    """Raises `SpecError` for what `find` finds, each at its place where there is a file. `find` is given the place of
    each task in it."""
    if file is None:
        found = list(itertools.islice(find(lambda task: ("workflow", "tasks", task.name)), MAX_PROBLEMS))
        if found:
            raise SpecError([Problem(f.message, show_path(f.path), hint=f.hint) for f in found], code)
        return
    if next(iter(find(lambda task: ("workflow",))), None) is None:
        return  # nearly always: places cost as much as reading the file did
    tree = file.tree()
    places = _places(tree)
    found = list(itertools.islice(find(lambda t: places.get(_origin(t), ("workflow",))), MAX_PROBLEMS))
    if found:
        raise SpecError([tree.problem(f.path, f.message, f.hint, key=f.key) for f in found], code)


def refuse_credentials(spec: WorkflowSpec, known: Mapping[str, frozenset[str]], file: Written | None = None) -> None:
    """Raises `SpecError` for credentials that nobody has."""
    refuse(lambda where: missing_credentials(spec, known, where), "CREDENTIAL", file)


def refuse_datasets(spec: WorkflowSpec, reads: Trouble, writes: Trouble, file: Written | None = None) -> None:
    """Raises `SpecError` for datasets that cannot be read or written."""
    refuse(lambda where: missing_datasets(spec, reads, writes, where), "USAGE", file)


def _origin(task: TaskSpec) -> str:
    return task.sweep.name if task.sweep else task.name


def _places(tree: Tree) -> Mapping[str, Path]:
    """By name, where each task stands in the file."""
    section = tree.value["workflow"]
    found: dict[str, Path] = {}
    for number, task in enumerate(section.get("tasks") or ()):
        found[str(task.get("name"))] = ("workflow", "tasks", number)
    for number, group in enumerate(section.get("groups") or ()):
        for index, task in enumerate(group.get("tasks") or ()):
            found[str(task.get("name"))] = ("workflow", "groups", number, "tasks", index)
    return found


def validate(spec: WorkflowSpec) -> tuple[Problem, ...]:
    """Every rule of the language that a specification made by hand breaks."""
    return tuple(Problem(f.message, show_path(f.path), hint=f.hint) for f in check(spec, loose=False))


def _source(section: Section, written: Sequence[str], rendered: Rendered | None) -> Source:
    if rendered is None:
        return Source(section.text, written, section.line)
    if rendered.lines is None:
        return Source(rendered.text, written, 0, ())
    return Source(rendered.text, written, 0, [n + section.line for n in rendered.lines])


def _refuse(findings: Sequence[Finding], tree: Tree) -> None:
    if not findings:
        return
    code = "RESOURCE" if all(f.resource for f in findings) else "USAGE"
    problems = [tree.problem(f.path, f.message, f.hint, key=f.key) for f in findings]
    raise SpecError(problems, code)


# -- a mistake of types, in words


def _without_echoes(mistakes: Sequence[Any]) -> list[Any]:
    """Leave out that `command` is missing where `comand` is already said to be a slip of it."""
    slips = {
        (m["loc"][:-1], suggest(str(m["loc"][-1]), schema.known_fields(m["loc"][:-1])))
        for m in mistakes
        if m["type"] == "extra_forbidden"
    }
    return [
        m for m in mistakes if m["type"] != "missing" or (m["loc"][:-1], f"did you mean {m['loc'][-1]!r}?") not in slips
    ]


def _explain(tree: Tree, mistake: Any) -> Problem:
    kind: str = mistake["type"]
    path: Path = tuple(step for step in mistake["loc"] if step != "[key]")
    if kind == "extra_forbidden":
        known = schema.known_fields(path[:-1])
        hint = suggest(str(path[-1]), known) or f"known here: {', '.join(known)}"
        return tree.problem(path, f"unknown field {path[-1]!r}", hint, key=True)
    if kind == "missing":
        return tree.problem(path[:-1], f"needs the field {path[-1]!r}")
    message, hint = _sentence(kind, mistake)
    return tree.problem(path, message, hint)


def _sentence(kind: str, mistake: Any) -> tuple[str, str]:
    value, context = mistake.get("input"), mistake.get("ctx") or {}
    shown = _shown(value)
    if kind == "list_type":
        hint = f'write it as a list: ["{value}"]' if isinstance(value, str) and "\n" not in value else ""
        return f"must be a list, not {shown}", hint
    if kind == "string_type":
        return f"must be text, not {shown}", 'leave the entry out, or write ""' if value is None else ""
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"must be a mapping, not {shown}", ""
    if kind.startswith("int_"):
        return f"must be a whole number, not {shown}", ""
    if kind.startswith(("float_", "finite_")):
        return f"must be a number, not {shown}", ""
    if kind.startswith("bool_"):
        return f"must be true or false, not {shown}", ""
    if kind == "literal_error":
        expected = str(context.get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
        return f"must be one of {', '.join(expected)}, not {shown}", suggest(str(value), expected)
    if kind == "too_short":
        return "must not be empty", ""
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = context.get("ge", context.get("le"))
        return f"must be {'at least' if kind.startswith('greater') else 'at most'} {bound}, not {shown}", ""
    if kind == "value_error":
        return str(context.get("error", mistake["msg"])), ""
    return str(mistake["msg"]), ""


def _shown(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = str(value)
    return repr(text if len(text) <= 40 else text[:37] + "...")


# -- models to the frozen nouns


def _workflow(model: schema.WorkflowModel) -> WorkflowSpec:
    loose = (GroupSpec(f"{t.name}-group", (_task(t, alone=True),)) for t in model.tasks)
    listed = (
        GroupSpec(
            g.name,
            tuple(_task(t, alone=len(g.tasks) == 1) for t in g.tasks),
            g.barrier,
            g.ignore_nonlead_status,
        )
        for g in model.groups
    )
    written = {"default": schema.ResourceModel()} if model.resources is None else model.resources
    timeout = model.timeout or schema.TimeoutModel()
    return WorkflowSpec(
        name=model.name,
        groups=(*loose, *listed),
        resources={name: _resource(r or schema.ResourceModel()) for name, r in written.items()},
        timeout=Timeouts(timeout.exec_timeout or None, timeout.queue_timeout or None),
        labels=model.labels,
    )


def _resource(model: schema.ResourceModel) -> ResourceSpec:
    return ResourceSpec(
        cpu=model.cpu,
        gpu=model.gpu,
        memory=model.memory,
        storage=model.storage,
        platform=model.platform,
        nodes_excluded=tuple(model.nodes_excluded),
        topology=tuple(Topology(t.key, t.group, t.requirement_type == "required") for t in model.topology),
    )


def _task(model: schema.TaskModel, *, alone: bool) -> TaskSpec:
    return TaskSpec(
        name=model.name,
        image=model.image,
        command=tuple(model.command),
        args=tuple(model.args),
        lead=model.lead or alone,
        inputs=tuple(_input(i) for i in model.inputs),
        outputs=tuple(_output(o) for o in model.outputs),
        kpis=tuple(Kpi(k.index, k.path) for k in model.kpis),
        environment=model.environment,
        files=tuple(FileSpec(f.path, f.contents or "", f.base64) for f in model.files),
        credentials=model.credentials,
        resource=model.resource,
        privileged=model.privileged,
        host_network=model.host_network,
        volume_mounts=tuple(model.volume_mounts),
        checkpoint=tuple(Checkpoint(c.path, c.url, c.frequency, c.regex) for c in model.checkpoint),
        exit_actions={action.upper(): codes for action, codes in model.exit_actions.items()},
        download_type=model.download_type,
        cache_size=model.cache_size,
        ray=_ray(model.ray) if model.ray else None,
        sandbox=Sandbox(model.sandbox),
        hold=model.hold,
        retries=model.retries,
        requirements=tuple(model.requirements),
        cache=model.cache,
        matrix={axis: tuple(values) for axis, values in model.matrix.items()},
        sweep=Sweep(model.sweep.of, model.sweep.values) if model.sweep else None,
    )


def _ray(model: schema.RayModel) -> RaySpec:
    workers = model.workers
    return RaySpec(model.runtime_env, RayWorkers(workers.count, workers.cpu, workers.gpu, workers.memory))


def _input(model: schema.InputModel) -> Input:
    if model.dataset is not None:
        return DatasetInput(model.dataset.name, model.dataset.regex, model.dataset.localpath, model.dataset.mount)
    if model.url is not None:
        return UrlInput(model.url, model.regex)
    if model.code is not None:
        return CodeInput(model.code)
    workflow, _, task = (model.task or "").rpartition(":")
    return TaskInput(task, workflow, model.regex)


def _output(model: schema.OutputModel) -> Output:
    if (data := model.dataset) is not None:
        return DatasetOutput(data.name, data.path, data.regex, tuple(data.metadata), tuple(data.labels))
    if (update := model.update_dataset) is not None:
        return UpdateDatasetOutput(update.name, tuple(update.paths), tuple(update.metadata), tuple(update.labels))
    return UrlOutput(model.url or "", model.regex)


def spread_environment(spec: WorkflowSpec, settings: Mapping[str, str]) -> WorkflowSpec:
    """The workflow with `settings` over the environment of every task (`--set-env`)."""

    def task(t: TaskSpec) -> TaskSpec:
        return replace(t, environment={**t.environment, **settings})

    groups = (replace(g, tasks=tuple(task(t) for t in g.tasks)) for g in spec.groups)
    return replace(spec, groups=tuple(groups)) if settings else spec
