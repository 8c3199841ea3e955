"""The tree that people watch: groups in their order, tasks below, with status, time, node and reason.

Pure: states in, lines out; `run` draws them. Equal siblings fold into one line when there are many, so that a
workflow of thousands fits a screen.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from osmo_ray.sdk.values import GroupState, TaskState, WorkflowState
from osmo_ray.spec.quantity import show_seconds

FOLD = 12
"""More equal siblings than this become one line."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the tree; `style` is one of good, bad, busy, idle, head."""

    text: str
    style: str


def style(status: str) -> str:
    """The colour class of a status."""
    if status == "COMPLETED":
        return "good"
    if status.startswith("FAILED"):
        return "bad"
    return "busy" if status in ("RUNNING", "INITIALIZING") else "idle"


def draw(
    state: WorkflowState, reasons: Mapping[str, str], now: float, width: int = 100, height: int = 40
) -> list[Line]:
    """The tree of a workflow. `reasons` maps task names to why they wait, `now` is seconds since the epoch."""
    done = sum(t.status == "COMPLETED" for t in state.tasks)
    total = sum(1 for _ in state.tasks)
    lines = [
        Line(f"{state.name}  {state.status}  {done}/{total} tasks  {_took(state.started, state.ended, now)}", "head")
    ]
    for rows in _folded_groups(state.groups):
        lines += _group(rows, reasons, now)
    cut = [Line(line.text[:width], line.style) for line in lines]
    return cut if len(cut) <= height else _shortened(cut, height)


def _shortened(lines: list[Line], height: int) -> list[Line]:
    """What fits: the head, whatever is not finished or failed, then the rest from the top."""
    room = height - 2
    ranked = sorted(range(1, len(lines)), key=lambda n: ({"bad": 0, "busy": 1, "idle": 2}.get(lines[n].style, 3), n))
    kept = sorted(ranked[:room])
    return [lines[0], *(lines[n] for n in kept), Line(f"  ... {len(lines) - 1 - room} more lines", "idle")]


def _folded_groups(groups: Sequence[GroupState]) -> list[list[GroupState]]:
    """Groups of one task fold by status when there are many; others stand alone."""
    single: dict[str, list[GroupState]] = defaultdict(list)
    for group in groups:
        if len(group.tasks) == 1:
            single[group.status].append(group)
    many = {status for status, found in single.items() if len(found) > FOLD}
    rows: list[list[GroupState]] = []
    told: set[str] = set()
    for group in groups:
        if len(group.tasks) != 1 or group.status not in many:
            rows.append([group])
        elif group.status not in told:
            told.add(group.status)
            rows.append(single[group.status])
    return rows


def _group(groups: Sequence[GroupState], reasons: Mapping[str, str], now: float) -> list[Line]:
    if len(groups) > 1:
        tasks = [g.tasks[0] for g in groups]
        return [_together("  ", tasks, reasons)]
    group = groups[0]
    if len(group.tasks) == 1:
        return [_task("  ", group.tasks[0], reasons, now)]
    lines = [Line(f"  {group.name}  {group.status}", style(group.status))]
    by_status: dict[str, list[TaskState]] = defaultdict(list)
    for task in group.tasks:
        by_status[task.status].append(task)
    told: set[str] = set()
    for task in group.tasks:
        if len(by_status[task.status]) <= FOLD:
            lines.append(_task("    ", task, reasons, now))
        elif task.status not in told:
            told.add(task.status)
            lines.append(_together("    ", by_status[task.status], reasons))
    return lines


def _together(indent: str, tasks: Sequence[TaskState], reasons: Mapping[str, str]) -> Line:
    names = f"{tasks[0].name} ... {tasks[-1].name}"
    told = reasons.get(tasks[0].name, "")
    status = tasks[0].status
    return Line(
        f"{indent}{_mark(status)} {len(tasks)} tasks ({names})  {status}{'  ' + told if told else ''}", style(status)
    )


def _task(indent: str, task: TaskState, reasons: Mapping[str, str], now: float) -> Line:
    told = task.failure if task.failed else "" if task.finished else reasons.get(task.name, "")
    retry = f" (retry {task.retry_id})" if task.retry_id else ""
    parts = [
        f"{indent}{_mark(task.status)} {task.name}{retry}",
        task.status,
        _took(task.started, task.ended, now),
        task.node if not task.finished else "",
        told,
    ]
    return Line("  ".join(p for p in parts if p), style(task.status))


def _mark(status: str) -> str:
    return {"good": "✓", "bad": "✗", "busy": "●"}.get(style(status), "○")


def _took(started: str, ended: str, now: float) -> str:
    if not started:
        return ""
    return show_seconds(max((_at(ended) if ended else now) - _at(started), 0.0))


def _at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def changes(old: WorkflowState | None, new: WorkflowState) -> list[str]:
    """One line per task (and workflow) whose status is another than before, for output that is no terminal."""
    before = {(t.group, t.name): (t.status, t.retry_id) for t in old.tasks} if old else {}
    lines = []
    for task in new.tasks:
        was = before.get((task.group, task.name))
        if was is None or was != (task.status, task.retry_id):
            if was is None and task.status in ("WAITING", "SUBMITTING", "PROCESSING"):
                continue
            retry = f" (retry {task.retry_id})" if task.retry_id else ""
            where = f" on {task.node}" if task.node and task.status in ("INITIALIZING", "RUNNING") else ""
            why = f": {task.failure}" if task.failed and task.failure else ""
            lines.append(f"{task.group}/{task.name}{retry} {task.status}{where}{why}")
    if old is None or old.status != new.status:
        lines.append(f"{new.name} {new.status}")
    return lines
