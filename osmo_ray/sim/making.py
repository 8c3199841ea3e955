"""Workflows of every shape, by dice: chains, fans, diamonds, gangs with and without barriers, budgets, actions."""

from __future__ import annotations

from random import Random

from osmo_ray.spec.model import GroupSpec, ResourceSpec, TaskInput, TaskSpec, Timeouts, WorkflowSpec

_ACTIONS: tuple[dict[str, str], ...] = (
    {},
    {},
    {},
    {"RESCHEDULE": "1-255"},
    {"RESCHEDULE": "137,3004,3006", "FAIL": "2"},
    {"COMPLETE": "1"},
    {"FAIL": "0"},
)
RESOURCES = {
    "default": ResourceSpec(cpu=1, memory="1Gi", storage="1Gi"),
    "big": ResourceSpec(cpu=4, memory="8Gi", storage="1Gi"),
    "gpu": ResourceSpec(cpu=2, gpu=1, memory="4Gi", storage="1Gi"),
}
"""What tasks ask for; every node of a simulation holds the largest gang of these."""


def make(dice: Random, name: str) -> WorkflowSpec:
    """One workflow of one to six groups."""
    groups: list[GroupSpec] = []
    earlier: list[str] = []
    for number in range(dice.choice((1, 1, 2, 3, 3, 4, 6))):
        size = dice.choice((1, 1, 1, 1, 2, 3))
        tasks = tuple(_task(dice, f"t{number}-{i}", i == 0, earlier) for i in range(size))
        groups.append(GroupSpec(f"g{number}", tasks, dice.random() < 0.7, dice.random() < 0.5))
        earlier += [t.name for t in tasks]
    timeout = Timeouts(dice.choice((None, None, None, 400.0)), dice.choice((None, None, 5000.0)))
    return WorkflowSpec(name, tuple(groups), RESOURCES, timeout)


def _task(dice: Random, name: str, lead: bool, earlier: list[str]) -> TaskSpec:
    count = min(len(earlier), dice.choice((0, 1, 1, 2)))
    return TaskSpec(
        name=name,
        image="i",
        command=("true",),
        lead=lead,
        inputs=tuple(TaskInput(n) for n in sorted(dice.sample(earlier, count))),
        resource=dice.choice(("default", "default", "default", "big", "gpu")),
        exit_actions=dice.choice(_ACTIONS),
        retries=dice.choice((None, None, 0, 2)),
    )
