"""What the language and the engine must do, row by row. Each row names the section of the reference that it is from.

`render.txt` templates and tokens, `validate.txt` rules of files, `exit.txt` codes and exit actions, `fold.txt` statuses
of groups and workflows, `timeline.txt` what follows from what. The first lines of each file say how to read it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from osmo_ray.engine.events import CancelRequested, Policy, Preempted, Tick
from osmo_ray.engine.folds import fold_group, fold_workflow
from osmo_ray.engine.model import Group, Task
from osmo_ray.engine.status import TaskStatus as S
from osmo_ray.engine.status import WorkflowStatus as W
from osmo_ray.providers.template import ProcessRenderer, prepare
from osmo_ray.spec.attempt import Phase
from osmo_ray.spec.errors import SpecError
from osmo_ray.spec.model import GroupSpec, TaskInput, TaskSpec, WorkflowSpec
from osmo_ray.spec.reader import read
from osmo_ray.spec.reason import Reason
from tests.engine.test_decide import Run, loose
from tests.engine.test_decide import task as made_task

HERE = Path(__file__).parent
FILES = ("render", "validate", "exit", "fold", "timeline")


def rows(name: str) -> list[Any]:
    """(given..., expected) of each row."""
    found = []
    for number, line in enumerate((HERE / f"{name}.txt").read_text().splitlines(), 1):
        if line and not line.startswith("#"):
            given, arrow, expected = line.rpartition(" =>")
            assert arrow, f"{name}.txt:{number} has no =>"
            parts = [part.strip() for part in given.split(" | ", given.count(" | "))]
            found.append(pytest.param(parts, expected.strip(), id=f"{name}-{number}-{parts[0]}"))
    return found


def test_there_are_as_many_rows_as_promised() -> None:
    count = {name: len(rows(name)) for name in FILES}
    assert sum(count.values()) >= 400, count
    for name in FILES:
        lines = [str(row.values) for row in rows(name)]
        assert len(set(lines)) == len(lines), f"{name}.txt says something twice"


# -- render


@pytest.fixture(scope="module")
def renderer() -> Iterator[ProcessRenderer]:
    made = ProcessRenderer()
    yield made
    made.close()


@pytest.mark.parametrize(("given", "expected"), rows("render"))
def test_render(given: list[str], expected: str, renderer: ProcessRenderer) -> None:
    _, defaults, options, text = given[0], given[1], given[2], " | ".join(given[3:])
    quoted = text.removeprefix("raw:") if text.startswith("raw:") else "'" + text + "'"
    file = f"workflow:\n  name: x\n  tasks:\n  - name: a\n    image: i\n    command: [c]\n    args: [{quoted}]\n"
    file += "" if defaults == "-" else f"default-values: {defaults}\n"
    words = [] if options == "-" else options.split("  ")
    numbers = [w for w in words if ":=" not in w]
    texts = [w.replace(":=", "=", 1) for w in words if ":=" in w]
    if expected.startswith("!"):
        with pytest.raises(SpecError) as caught:
            prepare(file, numbers, texts, renderer).read()
        assert expected[1:].strip() in str(caught.value)
        return
    spec = prepare(file, numbers, texts, renderer).read()
    assert list(spec.groups[0].tasks[0].args) == json.loads(expected)


# -- validate

_TASK = "workflow:\n  name: x\n  tasks:\n  - name: a\n    image: i\n    command: {}\n    {}\n"
_ONE = "{name: a, image: i, command: [c]"


def files_of(kind: str, text: str) -> list[str]:
    """The files that a row stands for."""
    head = f"workflow:\n  name: x\n  tasks:\n  - {_ONE}"
    if kind == "task":
        if text.startswith("command:"):
            return [f"workflow:\n  name: x\n  tasks:\n  - name: a\n    image: i\n    {text}\n"]
        return [_TASK.format("[c]", text)]
    if kind == "name":
        yours = [f"workflow:\n  name: {text}\n  tasks:\n  - {_ONE}}}\n"]
        yours.append(f"workflow:\n  name: x\n  tasks:\n  - {{name: {text}, image: i, command: [c]}}\n")
        other = "{name: t, tasks: [{name: other, image: i, command: [c]}]}"
        return [*yours, f"workflow:\n  name: x\n  groups:\n  - {other.replace('name: t', f'name: {text}', 1)}\n"]
    two = f"{head}}}\n  - name: b\n    image: i\n    command: [c]\n    {text}\n"
    group = f"workflow:\n  name: x\n  groups:\n  - name: g\n    tasks: {text}\n"
    resource = f"workflow:\n  name: x\n  resources:\n    default:\n      {text}\n  tasks:\n  - {_ONE}}}\n"
    return {
        "two": [two],
        "group": [group],
        "resource": [resource],
        "url": [f"{head}, inputs: [{{url: '{text}'}}]}}\n", f"{head}, outputs: [{{url: '{text}'}}]}}\n"],
        "dataset": [f"{head}, {way}: [{{dataset: {{name: '{text}'}}}}]}}\n" for way in ("inputs", "outputs")],
        "amount": [resource.replace(text, f"{name}: {text}", 1) for name in ("memory", "storage")],
        "time": [f"workflow:\n  name: x\n  timeout: {{exec_timeout: {text}}}\n  tasks:\n  - {_ONE}}}\n"],
        "topology": [_topology(text)] if kind == "topology" else [],
    }[kind]


def _topology(text: str) -> str:
    lists = [yaml.safe_load(one) for one in re.findall(r"\[.*?\]", text)]
    value: dict[str, Any] = {"name": "x", "resources": {}, "tasks": []}
    for number, keys in enumerate(lists):
        value["resources"][f"r{number}"] = {"topology": [{"key": key} for key in keys]}
        value["tasks"].append({"name": f"t{number}", "image": "i", "command": ["c"], "resource": f"r{number}"})
    return str(yaml.safe_dump({"workflow": value}))


def _follow(spec: WorkflowSpec, path: str) -> Any:
    value: Any = spec if path.startswith("spec.") else spec.groups[0].tasks[0]
    for step in path.removeprefix("spec.").split("."):
        value = value[step] if isinstance(value, dict) else value[int(step)] if step.isdigit() else getattr(value, step)
    return json.loads(json.dumps(value, default=str))


@pytest.mark.parametrize(("given", "expected"), rows("validate"))
def test_validate(given: list[str], expected: str) -> None:
    for file in files_of(given[1], " | ".join(given[2:])):
        if not expected.startswith("!"):
            spec = read(file)
            if expected != "ok":
                path, _, value = expected.partition(" = ")
                assert _follow(spec, path) == json.loads(value)
            continue
        with pytest.raises(SpecError) as caught:
            read(file)
        parts = re.fullmatch(r"!(.*?)(?: \? (.*?))?(?: #(\w+))?", expected)
        assert parts is not None
        match = [p for p in caught.value.problems if parts[1].strip() in p.message]
        assert match, str(caught.value)
        assert (parts[2] or "") in match[0].hint
        assert caught.value.code == (parts[3] or "USAGE")


# -- exit codes and actions


@pytest.mark.parametrize(("given", "expected"), rows("exit"))
def test_exit(given: list[str], expected: str) -> None:
    _, code, actions, pool, retries = given
    own = int(retries.removeprefix("task:")) if retries.startswith("task:") else None
    written = {str(k).upper(): str(v) for k, v in yaml.safe_load(actions).items()}
    spec = loose(made_task("a", exit_actions=written, retries=own))
    policy = Policy(task_retries=0 if own is not None else int(retries), exit_actions=yaml.safe_load(pool))
    run = Run(spec, policy).place("a").finish("a", int(code))
    found = run.task("a")
    if expected == "again":
        assert (found.status, found.retry_id) == (S.PROCESSING, 1)
        assert [t.status for t in run.retired] == [S.RESCHEDULED]  # type: ignore[attr-defined]
    else:
        assert (found.status.value, found.retry_id) == (expected, 0)
        assert found.exit_code == int(code)


# -- folds


@pytest.mark.parametrize(("given", "expected"), rows("fold"))
def test_fold(given: list[str], expected: str) -> None:
    section, statuses, how = given
    if section == "14.3":
        tasks = [Task(f"{n}", f"t{n}", n == 0, S(one)) for n, one in enumerate(statuses.split())]
        assert fold_group(tasks, how == "lead").value == expected
        return
    groups = [Group(f"g{n}", f"{n}", S(one), ()) for n, one in enumerate(statuses.split())]
    assert fold_workflow(groups, W(how)).value == expected


# -- timelines

_POLICY = Policy(task_retries=1, platform_retries=2, start_timeout=100.0)


def shape(text: str) -> WorkflowSpec:
    """`a [b c]! d<a` as a workflow."""
    groups = []
    for number, word in enumerate(re.findall(r"\[[^\]]*\][-!]*|\S+", text)):
        if word.startswith("["):
            inside, _, flags = word[1:].partition("]")
            tasks = tuple(_shaped(one, n == 0) for n, one in enumerate(inside.split()))
            groups.append(GroupSpec(f"g{number}", tasks, "-" not in flags, "!" not in flags))
        else:
            only = _shaped(word, True)
            groups.append(GroupSpec(f"{only.name}-group", (only,)))
    return WorkflowSpec("w", tuple(groups))


def _shaped(word: str, lead: bool) -> TaskSpec:
    name, brace, rest = word.partition("{")
    actions = dict(one.split(":") for one in rest.partition("}")[0].split(";")) if brace else {}
    own, *needs = (name if brace else word).split("<")
    return TaskSpec(own, "i", ("true",), lead=lead, inputs=tuple(TaskInput(n) for n in needs), exit_actions=actions)


def happen(run: Run, event: str) -> None:
    """One event of a timeline."""
    verb, _, rest = event.partition(" ")
    if event.startswith("+"):
        run.now += float(event)
        run.send(Tick())
    elif "=" in event:
        name, _, code = event.partition("=")
        run.place(name).finish(name, int(code))
    elif verb.startswith("cancel"):
        run.send(CancelRequested("bob", force=verb.endswith("!")))
    elif verb == "place":
        run.place(*rest.split())
    elif verb == "run":
        run.see(rest, Phase.RUNNING)
    elif verb == "ready":
        run.see(rest, Phase.READY)
    elif verb == "lost":
        run.see(rest, Phase.LOST)
    elif verb == "end":
        name, code = rest.split()
        run.see(name, Phase.FINISHED, exit_code=int(code))
    else:
        assert verb == "preempt", event
        run.send(Preempted(run.group_of(rest).name, Reason("Preempted", "a better claim")))


@pytest.mark.parametrize(("given", "expected"), rows("timeline"))
def test_timeline(given: list[str], expected: str) -> None:
    _, form, events = given
    run = Run(shape(form), _POLICY, exec_timeout=1000.0, queue_timeout=500.0)
    for event in [] if events == "-" else events.split(", "):
        happen(run, event)
    for wanted in expected.split():
        name, _, status = wanted.rpartition(":")
        status, _, retry = status.partition("#")
        if name == "w":
            found = run.workflow.status.value
        elif name.startswith("g:"):
            found = next(g.status.value for g in run.workflow.groups if g.name == name[2:])
        else:
            found = run.task(name).status.value
            assert not retry or run.task(name).retry_id == int(retry), run.statuses()
        assert found == status, (wanted, run.statuses(), run.workflow.status)
