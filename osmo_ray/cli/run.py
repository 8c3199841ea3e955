"""`osmo run`: submit, watch, and end with the workflow's verdict.

On a terminal the tree redraws in place; elsewhere each change is a line. Leaving with Ctrl-C leaves the workflow
running, and says so.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osmo_ray.cli.command import Command, connect, print_json
from osmo_ray.cli.pyfiles import result
from osmo_ray.cli.submit import add_submission, send
from osmo_ray.cli.tree import Line, changes, draw
from osmo_ray.sdk.errors import ClientError
from osmo_ray.sdk.values import WorkflowState

if TYPE_CHECKING:
    from osmo_ray.sdk.client import Client

_POLL = 0.3
PATIENCE = 90.0
"""Seconds for which a watcher bears a platform or a database that restarts."""
_ASK_EVERY = 2.0
"""Seconds between two questions for why things wait."""
_WIDEST = 240
_MOST = 4
_STYLES = {"head": "bold", "good": "green", "bad": "red", "busy": "cyan", "idle": "dim"}


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="workflow_file",
        help="a YAML file, FILE.py[:workflow] with its arguments (--x 3), or the id of a workflow",
    )
    add_submission(parser)
    parser.add_argument("--id-file", type=Path, metavar="PATH", help="write the workflow's id into this file")
    parser.add_argument("--logs", action="store_true", help="print the logs instead of the tree")


def _run(args: argparse.Namespace) -> int:
    with connect(args) as client:
        name = send(client, args)
        if args.id_file:
            args.id_file.write_text(name + "\n")
        client.http.patience = PATIENCE
        try:
            state = _watch(client, name, args)
        except KeyboardInterrupt:
            print(f"\n{name} goes on; osmo workflow cancel {name} ends it", file=sys.stderr)
            return 3
        return _verdict(client, state, args)


def _watch(client: Client, name: str, args: argparse.Namespace) -> WorkflowState:
    if args.format_type == "json":
        return client.wait(name, poll=_POLL)
    state = client.workflow(name)
    print("\n".join(plan(client, state)))
    if args.logs:
        for line in client.logs(name):
            print(line, flush=True)
        return client.wait(name, poll=_POLL)
    return _live(client, name) if sys.stdout.isatty() else _lines(client, name)


def plan(client: Client, state: WorkflowState) -> list[str]:
    """What will happen: how much work, where, and in which kind of sandbox."""
    tasks, groups = sum(1 for _ in state.tasks), len(state.groups)
    lines = [f"{state.name}: {_count(tasks, 'task')} in {_count(groups, 'group')}, pool {state.pool}"]
    try:
        nodes = [n for n in client.http.json("GET", "/api/x/status")["nodes"] if n["alive"]]
        images = client.http.json("GET", f"/api/x/workflow/{state.name}/plan")["images"]
    except ClientError:
        return lines
    if not nodes:
        return [*lines, "  nodes    none is alive now; the work waits until one is (osmo status)"]
    return lines + _nodes(nodes, [] if images else _sandboxes(nodes)) + _images(images)


def _images(images: Mapping[str, str]) -> list[str]:
    """A line per way to run; what most images share is said once."""
    lines = [f"  sandbox  {text}" for text in dict.fromkeys(images.values())]
    return lines if len(lines) <= _MOST else [*lines[:_MOST], f"           and {len(lines) - _MOST} more"]


def _nodes(nodes: list[dict[str, Any]], sandboxes: list[str]) -> list[str]:
    from osmo_ray.spec.quantity import show_bytes

    cpu, gpu = sum(n["cpu"] for n in nodes), sum(n["gpu"] for n in nodes)
    memory = show_bytes(sum(n["memory"] for n in nodes))
    lines = [f"  nodes    {len(nodes)} ({cpu:g} cores, {memory}, {_count(gpu, 'GPU')})"]
    return lines + sandboxes


def _sandboxes(nodes: list[dict[str, Any]]) -> list[str]:
    lines: list[str] = []
    kinds: dict[str, int] = {}
    for node in nodes:
        kinds[node["sandbox"]] = kinds.get(node["sandbox"], 0) + 1
    for text, number in kinds.items():
        if text:
            lines.append(f"  sandbox  {text}{f' ({number} nodes)' if len(kinds) > 1 else ''}")
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _lines(client: Client, name: str) -> WorkflowState:
    last: WorkflowState | None = None
    told: set[str] = set()
    asked = 0.0
    for state in client.follow(name, _POLL):
        for line in changes(last, state):
            print(line[:_WIDEST], flush=True)
        last = state
        if not state.finished and time.monotonic() - asked > _ASK_EVERY:
            asked = time.monotonic()
            for sentence in _new_reasons(_reasons(client, state), told):
                print(f"  waits: {sentence}", flush=True)
    assert last is not None
    return last


def _new_reasons(reasons: Mapping[str, str], told: set[str]) -> Iterator[str]:
    for task, sentence in reasons.items():
        if sentence and sentence not in told:
            told.add(sentence)
            yield f"{task}: {sentence}"


def _reasons(client: Client, state: WorkflowState) -> dict[str, str]:
    """Task -> why it waits; what waits for other groups explains itself in the tree."""
    if not any(t.status in ("PROCESSING", "SCHEDULING", "INITIALIZING") for t in state.tasks):
        return {}
    try:
        told = client.explain(state.name)
    except ClientError:
        return {}
    skipped = ("WaitsForUpstream", "Queued", "Starting", "Preparing")
    return {
        t["task"]: t["reason"]["sentence"] for t in told["tasks"] if t["reason"] and t["reason"]["code"] not in skipped
    }


def _live(client: Client, name: str) -> WorkflowState:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()

    def picture(lines: list[Line]) -> Text:
        made = Text(no_wrap=True)
        for number, line in enumerate(lines):
            made.append(("\n" if number else "") + line.text, _STYLES[line.style])
        return made

    with Live(console=console, auto_refresh=False) as live:
        return _redraw(client, name, lambda lines: live.update(picture(lines), refresh=True))


def _redraw(client: Client, name: str, show: Callable[[list[Line]], None]) -> WorkflowState:
    reasons: dict[str, str] = {}
    asked = 0.0
    while True:
        begin = time.monotonic()
        state = client.workflow(name)
        took = time.monotonic() - begin
        if not state.finished and time.monotonic() - asked > _ASK_EVERY:
            reasons, asked = _reasons(client, state), time.monotonic()
        size = shutil.get_terminal_size()
        show(draw(state, reasons, time.time(), size.columns, max(size.lines - 2, 5)))
        if state.finished:
            return state
        time.sleep(max(_POLL, 10 * took))


def _verdict(client: Client, state: WorkflowState, args: argparse.Namespace) -> int:
    code = 0 if state.status == "COMPLETED" else 1
    if args.format_type == "json":
        print_json(client.view(state.name))
        return code
    if code:
        from osmo_ray.cli.explain import report

        print("\n".join(report(client.explain(state.name))))
    elif args.logs:
        print(f"{state.name} {state.status}")
    made = getattr(args, "made", None)
    if not code and made is not None and (told := result(client, state.name, made)):
        print(f"result: {told}")
    return code


RUN = Command(_arguments, _run, rest=True)
