"""`retries` of a task: a budget of its own, for commands that fail by themselves."""

from __future__ import annotations

import pytest

from osmo_ray.engine.events import Policy
from osmo_ray.engine.status import TaskStatus as S
from tests.engine.test_decide import Run, loose, task


def ends(run: Run, codes: list[int]) -> list[tuple[int, S]]:
    """(retry id, status) after each of these exit codes of task `a`."""
    seen = []
    for code in codes:
        run.place("a")
        run.finish("a", code)
        found = run.task("a")
        seen.append((found.retry_id, found.status))
    return seen


@pytest.mark.parametrize(
    ("options", "codes", "expected"),
    [
        ({"retries": 2}, [1, 1, 1], [(1, S.PROCESSING), (2, S.PROCESSING), (2, S.FAILED)]),
        ({"retries": 1}, [1, 0], [(1, S.PROCESSING), (1, S.COMPLETED)]),
        ({"retries": 0}, [1], [(0, S.FAILED)]),
        ({}, [1], [(0, S.FAILED)]),
        ({"retries": 1}, [2010], [(0, S.FAILED)]),
        ({"retries": 1, "exit_actions": {"FAIL": "3"}}, [3], [(0, S.FAILED)]),
        ({"retries": 1, "exit_actions": {"COMPLETE": "3"}}, [3], [(0, S.COMPLETED)]),
        ({"retries": 1, "exit_actions": {"RESCHEDULE": "0"}}, [0, 0], [(1, S.PROCESSING), (1, S.COMPLETED)]),
    ],
)
def test_retries(options: dict[str, object], codes: list[int], expected: list[tuple[int, S]]) -> None:
    run = Run(loose(task("a", **options)), Policy(task_retries=0))
    assert ends(run, codes) == expected


def test_a_tasks_own_number_is_before_the_pools() -> None:
    run = Run(loose(task("a", retries=1, exit_actions={"RESCHEDULE": "1"})), Policy(task_retries=5))
    assert ends(run, [1, 1]) == [(1, S.PROCESSING), (1, S.FAILED)]
