"""The sweeps of a workflow, each as one thing: its tasks by their values, how far they are, and what they measured."""

from __future__ import annotations

from collections import Counter

from osmo_ray.api.shapes import SweepTask, SweepView
from osmo_ray.engine.model import Task, Workflow
from osmo_ray.runtime.kpis import PREFIX
from osmo_ray.spec.model import Sweep


def views(workflow: Workflow, now: float) -> list[SweepView]:
    """In the order of the file."""
    specs = {t.name: t.sweep for g in workflow.spec.groups for t in g.tasks if t.sweep is not None}
    rows: dict[str, list[SweepTask]] = {}
    for group in workflow.groups:
        for task in group.tasks:
            sweep = specs.get(task.name)
            if sweep is not None:
                rows.setdefault(sweep.name, []).append(_row(task, sweep, now))
    return [SweepView(name=name, counts=Counter(t.status for t in found), tasks=found) for name, found in rows.items()]


def _row(task: Task, sweep: Sweep, now: float) -> SweepTask:
    began = task.times.running
    return SweepTask(
        name=task.name,
        values=dict(sweep.values),
        status=task.status.value,
        exit_code=task.exit_code,
        node=task.node,
        seconds=(task.times.ended or now) - began if began else None,
        figures={k.removeprefix(PREFIX): v for k, v in task.usage.items() if k.startswith(PREFIX)},
        reason=task.reason.sentence if task.reason else "",
    )
