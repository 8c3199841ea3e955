"""A group that need not run: when, and what it leaves; and what makes two tasks the same."""

from __future__ import annotations

from dataclasses import replace

import pytest

from osmo_ray.engine.cache import Earlier, key
from osmo_ray.engine.events import Recalled
from osmo_ray.engine.status import TaskStatus as S
from osmo_ray.engine.status import WorkflowStatus
from osmo_ray.spec.model import CodeInput, FileSpec, GroupSpec, Sandbox, TaskInput, TaskSpec
from tests.engine.test_decide import Run, loose, task

TASK = TaskSpec("t", "i", ("run",), sandbox=Sandbox.PROCESS, inputs=(TaskInput("a"), CodeInput("ab")))


def recalled(run: Run, name: str, output: str = "workflows/old/t/0") -> None:
    found = run.task(name)
    run.send(Recalled(f"{name}-group", {found.uuid: Earlier(output, "old-1", "t", 5.0)}))


def test_a_recalled_group_completes_and_lets_others_start() -> None:
    run = Run(loose(task("a"), task("b", "a")))
    recalled(run, "a")
    a, b = run.task("a"), run.task("b")
    assert (a.status, a.output, a.exit_code, a.node) == (S.COMPLETED, "workflows/old/t/0", 0, "")
    assert a.reason is not None and a.reason.code == "Cached" and "old-1" in a.reason.sentence
    assert b.status is S.PROCESSING
    recalled(run, "b")
    assert run.workflow.status is WorkflowStatus.COMPLETED


def test_what_has_begun_is_not_passed_over() -> None:
    run = Run(loose(task("a"), task("b", "a")))
    recalled(run, "b")
    assert run.task("b").status is S.WAITING
    run.place("a")
    recalled(run, "a")
    assert run.task("a").status is S.SCHEDULING


def test_half_a_group_is_not_passed_over() -> None:
    run = Run(loose(task("a")))
    run.send(Recalled("a-group", {}))
    assert run.task("a").status is S.PROCESSING


def name(spec: TaskSpec, user: str = "ann", source: str = "p") -> str:
    return key(user, GroupSpec("g", (spec,)), spec, lambda _: source)


@pytest.mark.parametrize(
    "other",
    [
        {"command": ("walk",)}, {"args": ("x",)}, {"environment": {"A": "1"}}, {"files": (FileSpec("/f", "x"),)},
        {"inputs": (TaskInput("a"), CodeInput("cd"))}, {"inputs": (TaskInput("a", regex="x"), CodeInput("ab"))},
        {"requirements": ("numpy",)}, {"sandbox": Sandbox.AUTO}, {"credentials": {"c": "/c"}},
    ],
)  # fmt: skip
def test_another_program_has_another_key(other: dict[str, object]) -> None:
    assert name(replace(TASK, **other)) != name(TASK)  # type: ignore[arg-type]


def test_the_key_knows_user_and_inputs_and_nothing_of_the_place() -> None:
    assert name(TASK) == name(replace(TASK, resource="big", hold=5.0, retries=3, image="other"))
    assert len({name(TASK), name(TASK, user="bob"), name(TASK, source="q")}) == 3
