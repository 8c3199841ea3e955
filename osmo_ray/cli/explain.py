"""`osmo explain`: why tasks wait or failed, in few lines, and what to type next.

A failure is told in at most twelve lines: the first cause in full, the rest as numbers.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from osmo_ray.cli.command import Command, connect, print_json

MAX_LAST = 4
_FOLLOWED = ("FAILED_UPSTREAM", "FAILED_CANCELED")
"""Statuses that follow from something else."""


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id")
    parser.add_argument("--all", action="store_true", help="also tasks that run or completed")


def _explain(args: argparse.Namespace) -> int:
    with connect(args) as client:
        told = client.explain(args.workflow_id, all_tasks=args.all or None)
    if args.format_type == "json":
        print_json(told)
        return 0
    lines = report(told)
    print("\n".join(lines) if lines else f"{told['name']} is {told['status']}; nothing waits and nothing failed")
    return 0


def report(told: Mapping[str, Any]) -> list[str]:
    """The lines for one workflow: its failure when it has one, then what waits."""
    tasks: Sequence[Mapping[str, Any]] = told["tasks"]
    failed = [t for t in tasks if t["status"].startswith("FAILED")]
    waiting = [t for t in tasks if not t["status"].startswith(("FAILED", "COMPLETED"))]
    lines = _failure(told, failed) if failed else []
    return lines + _waiting(waiting) + _cached(tasks)


def _cached(tasks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Tasks that did not run because earlier ones were the same, by what is said of them."""
    found: dict[str, list[str]] = defaultdict(list)
    for task in tasks:
        if task["reason"] and task["reason"]["code"] == "Cached":
            found[task["reason"]["sentence"]].append(task["task"])
    return [f"{', '.join(names[:MAX_LAST])}{' ...' * (len(names) > MAX_LAST)}: {why}" for why, names in found.items()]


def _failure(told: Mapping[str, Any], failed: Sequence[Mapping[str, Any]]) -> list[str]:
    causes = [t for t in failed if t["status"] not in _FOLLOWED]
    if not causes:
        reason = told["reason"] or failed[0]["reason"]
        sentence = reason["sentence"] if reason else told["status"]
        return [f"{told['name']}  {told['status']}: {sentence} ({len(failed)} tasks)"]
    first = causes[0]
    lines = [_title(told, first)]
    lines += _field("cause", first["reason"]["sentence"] if first["reason"] else first["status"])
    lines += _exit(first)
    lines += _memory(first)
    for number, line in enumerate(first["last_lines"][-MAX_LAST:]):
        lines += _field("last lines" if number == 0 else "", line)
    lines += _others(causes[1:], len(failed) - len(causes))
    return lines + _field("next", _next(told["name"], first))


def _field(name: str, text: str) -> list[str]:
    return [f"  {name:<11} {text[:200]}"]


def _title(told: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    where = f", node {task['node']}" if task["node"] else ""
    attempt = f", attempt {task['retry_id']}" if task["retry_id"] else ""
    return f"{told['name']}  {task['status']}: task {task['task']} (group {task['group']}{where}{attempt})"


def _exit(task: Mapping[str, Any]) -> list[str]:
    code = task["exit_code"]
    if code is None:
        return []
    return _field("exit code", f"{code}{_signal(code)}")


def _signal(code: int) -> str:
    import signal

    if not 128 < code < 160:
        return ""
    try:
        return f" (signal {code - 128}, {signal.Signals(code - 128).name})"
    except ValueError:
        return ""


def _memory(task: Mapping[str, Any]) -> list[str]:
    from osmo_ray.spec.quantity import show_bytes

    peak = task["usage"].get("memory_peak")
    if not peak:
        return []
    return _field("memory", f"peak {show_bytes(peak)} of {show_bytes(task['limits']['memory'])}")


def _others(causes: Sequence[Mapping[str, Any]], followed: int) -> list[str]:
    parts = []
    if causes:
        names = ", ".join(t["task"] for t in causes[:3]) + (", ..." if len(causes) > 3 else "")
        parts.append(f"{len(causes)} more failed: {names}")
    if followed:
        parts.append(f"{followed} ended because of others")
    return _field("also", "; ".join(parts)) if parts else []


def _next(workflow: str, task: Mapping[str, Any]) -> str:
    reason = task["reason"]
    return (reason and reason["next_command"]) or f"osmo workflow logs {workflow} -t {task['task']}"


def _waiting(waiting: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per reason, with the tasks that it holds."""
    held: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for task in waiting:
        reason = task["reason"] or {"sentence": "", "next_command": ""}
        held[(task["status"], reason["sentence"], reason["next_command"])].append(task)
    lines = []
    for (status, sentence, command), tasks in held.items():
        names = [task["task"] for task in tasks]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        lines.append(f"{status:<12} {shown}{': ' + sentence if sentence else ''}")
        lines += _hopes(tasks[0])
        if command:
            lines += _field("next", command)
    return lines


def _hopes(task: Mapping[str, Any]) -> list[str]:
    """Its place in the line, what would let it start, and when it probably will."""
    facts = task["reason"]["evidence"] if task["reason"] else {}
    lines = []
    if "position" in facts:
        lines += _field("position", facts["position"] + (f" in queue {facts['queue']}" if "queue" in facts else ""))
    if "held" in facts:
        told = (
            f"holds {facts['held']}: quota {facts['quota']}, limit {facts['limit']}, fair share {facts['fair_share']}"
        )
        lines += _field("queue", told)
    if "reclaim" in facts:
        lines += _field("", facts["reclaim"])
    if "would_start_with" in facts:
        lines += _field("starts with", facts["would_start_with"])
    if task.get("expected_why"):
        lines += _field("expected", f"{_in(task['expected_start'])}{task['expected_why']}")
    return lines


def _in(start: str | None) -> str:
    """`in about 12 minutes (14:32), `, or nothing."""
    if start is None:
        return ""
    from datetime import UTC, datetime

    at = datetime.fromisoformat(start).replace(tzinfo=UTC)
    seconds = max(0.0, (at - datetime.now(UTC)).total_seconds())
    span = f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"
    if seconds >= 5400:
        span = f"{seconds / 3600:.1f} hours"
    return f"in about {span} ({at.astimezone():%H:%M}), "


EXPLAIN = Command(_arguments, _explain)
