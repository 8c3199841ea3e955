"""`osmo queue`: who is owed how many GPUs, who has them, and who borrows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from osmo_ray.cli.command import Command, connect, print_json, table

_HEAD = ["Queue", "Pools", "Priority", "Quota", "Limit", "Weight", "Fair share", "Held", "Borrowed", "Shard"]
_NONE = "No quotas are set: every pool may use all there is. docs/scheduling.md says how to set them."


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", "-p", nargs="+", action="extend", default=[], help="only the queues of these pools")


def _queue(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.http.json("GET", "/api/x/queues")
    wanted = chosen(found["queues"], args.pool)
    if args.format_type == "json":
        print_json({**found, "queues": wanted})
        return 0
    if found["stale"]:
        print(f"osmo queue: these are not the newest quotas: {found['error']}", file=sys.stderr)
    if not found["set"]:
        print(_NONE)
        return 0
    shards = any(queue["shard"] for queue in wanted)
    lines = [row if shards else row[:-1] for row in (_HEAD, *rows(wanted))]
    print(table(lines[0], lines[1:]))
    if any(queue["gpu"]["held"] is None for queue in wanted):
        print("-: the controller has not planned with these yet; osmo status says how it is", file=sys.stderr)
    return 0


def chosen(queues: Sequence[Any], pools: Sequence[str]) -> list[Any]:
    """The queues of these pools and those above them; all, where none is named."""
    if not pools:
        return list(queues)
    by_name = {queue["name"]: queue for queue in queues}
    kept: set[str] = set()
    for queue in queues:
        at = queue["name"] if set(queue["pools"]) & set(pools) else ""
        while at in by_name and at not in kept:
            kept.add(at)
            at = by_name[at]["parent"]
    return [queue for queue in queues if queue["name"] in kept]


def rows(queues: Sequence[Any]) -> list[list[str]]:
    """One line for each queue, those below another one indented under it."""
    below: dict[str, list[Any]] = {}
    names = {queue["name"] for queue in queues}
    for queue in queues:
        below.setdefault(queue["parent"] if queue["parent"] in names else "", []).append(queue)
    lines: list[list[str]] = []
    stack = [(queue, 0) for queue in reversed(below.get("", []))]
    while stack:
        queue, depth = stack.pop()
        lines.append(_row(queue, depth))
        stack += [(child, depth + 1) for child in reversed(below.get(queue["name"], []))]
    return lines


def _row(queue: Mapping[str, Any], depth: int) -> list[str]:
    gpu = queue["gpu"]
    return [
        "  " * depth + queue["name"],
        ", ".join(queue["pools"]),
        str(queue["priority"]),
        _owed(gpu["quota"]),
        _owed(gpu["limit"]),
        f"{gpu['weight']:g}",
        *("-" if gpu[key] is None else _owed(gpu[key]) for key in ("fair_share", "held", "borrowed")),
        queue.get("shard", ""),
    ]


def _owed(number: float) -> str:
    return "all" if number < 0 else f"{number:g}"


QUEUE = Command(_arguments, _queue)
