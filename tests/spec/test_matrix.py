"""A task with a matrix: what it becomes, who reads it, and what is refused."""

from __future__ import annotations

import pytest

from osmo_ray.spec.dump import to_yaml
from osmo_ray.spec.errors import SpecError
from osmo_ray.spec.model import Sweep, TaskInput
from osmo_ray.spec.reader import read

SWEEP = """workflow:
  name: tune
  tasks:
  - {name: prep, image: i, command: [p]}
  - name: fit
    image: i
    command: [fit]
    args: ["--lr={{matrix:lr}}", "--seed", "{{matrix:seed}}"]
    environment: {LR: "{{matrix:lr}}"}
    files: [{path: "/etc/{{matrix:seed}}.conf", contents: "lr: {{matrix:lr}} {{output}}"}]
    inputs: [{task: prep}]
    outputs: [{url: "s3://b/{{matrix:lr}}"}]
    matrix: {lr: [0.1, 0.01], seed: [1, 2, 3]}
  - {name: best, image: i, command: [b], inputs: [{task: prep}, {task: fit, regex: "x"}]}
"""


def test_every_combination_is_a_task_of_its_own() -> None:
    spec = read(SWEEP)
    assert [g.name for g in spec.groups] == ["prep-group", *(f"fit-{n}-group" for n in range(6)), "best-group"]
    one = spec.task("fit-4")
    assert one.args == ("--lr=0.01", "--seed", "2")
    assert one.environment == {"LR": "0.01"}
    assert (one.files[0].path, one.files[0].contents) == ("/etc/2.conf", "lr: 0.01 {{output}}")
    assert one.outputs[0].url == "s3://b/0.01"  # type: ignore[union-attr]
    assert one.sweep == Sweep("fit", {"lr": "0.01", "seed": "2"})
    assert not one.matrix
    assert spec.task("best").inputs == (TaskInput("prep"), *(TaskInput(f"fit-{n}", "", "x") for n in range(6)))
    assert read(to_yaml(spec)) == spec


def test_a_group_of_one_task_may_have_one_and_keeps_its_name_in_front() -> None:
    tasks = "[{name: a, image: i, command: [c], matrix: {k: [x, y]}}]"
    text = f"workflow:\n  name: x\n  groups:\n  - {{name: g, tasks: {tasks}}}"
    assert [(g.name, g.tasks[0].name, g.tasks[0].lead) for g in read(text).groups] == [
        ("g-0", "a-0", True),
        ("g-1", "a-1", True),
    ]


def task(fields: str, others: str = "") -> str:
    return f"workflow:\n  name: x\n  tasks:\n  - name: a\n    image: i\n    command: [c]\n    {fields}\n{others}"


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        (task("matrix: {k: []}"), "must not be empty", 7),
        (task("matrix: {k: 5}"), "must be a list", 7),
        (task("matrix: {'a b': [1]}"), "is not the name of an axis", 7),
        (task("matrix: {k: [1], l: [1]}\n    args: ['{{matrix:m}}']"), "no axis of it", 4),
        (task("args: ['{{matrix:m}}']"), "no axis of it", 4),
        (task(f"matrix: {{k: {list(range(40))}, l: {list(range(40))}}}"), "makes 1600 tasks, at most 1000", 7),
        (task("matrix: {k: [1, 2]}", "  - {name: a-1, image: i, command: [c]}"), "makes a task 'a-1', and there is", 7),
        (
            "workflow:\n  name: x\n  groups:\n  - name: g\n    tasks:\n"
            "    - {name: a, lead: true, image: i, command: [c], matrix: {k: [1]}}\n"
            "    - {name: b, image: i, command: [c]}",
            "of a group of several has no matrix",
            6,
        ),
    ],
)
def test_what_cannot_be_is_said_where_it_stands(text: str, message: str, line: int) -> None:
    with pytest.raises(SpecError) as caught:
        read(text)
    assert [p.line for p in caught.value.problems if message in p.message] == [line], str(caught.value)
