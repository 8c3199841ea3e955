"""`osmo workflow sweep`: the tasks that a matrix made as one table, with the figures that they measured."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from osmo_ray.cli.command import Command, connect, print_json, table
from osmo_ray.sdk.errors import ClientError
from osmo_ray.spec.quantity import show_seconds

_Row = Mapping[str, Any]


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id")
    parser.add_argument("name", nargs="?", default="", help="a task with a matrix (default: all of them)")
    parser.add_argument("--sort", default="", metavar="FIGURE", help="best last: by a key figure, a value or `seconds`")
    parser.add_argument("--reverse", action="store_true", help="best first")


def _sweep(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = [s for s in client.sweeps(args.workflow_id) if args.name in ("", s["name"])]
    if args.name and not found:
        raise ClientError(f"{args.workflow_id} has no sweep {args.name!r}", status=400, code="USAGE")
    for one in found:
        one["tasks"] = ordered(one["tasks"], args.sort, reverse=args.reverse)
    if args.format_type == "json":
        print_json({"sweeps": found})
    elif found:
        print("\n\n".join(shown(one) for one in found))
    else:
        print(f"{args.workflow_id} has no sweeps: no task of it has a matrix")
    return 0


def ordered(rows: Sequence[_Row], by: str, *, reverse: bool) -> list[_Row]:
    """Rows by a figure, a value or the time taken; those without it come last. Raises `ClientError`."""
    if not by:
        return list(reversed(rows)) if reverse else list(rows)
    known = {k for row in rows for k in (*row["figures"], *row["values"], "seconds")}
    if by not in known:
        raise ClientError(
            f"nothing is named {by!r} here; there are {', '.join(sorted(known))}", status=400, code="USAGE"
        )
    having = [row for row in rows if _cell(row, by) is not None]
    return sorted(having, key=lambda r: _rank(_cell(r, by)), reverse=reverse) + [r for r in rows if r not in having]


def _cell(row: _Row, by: str) -> Any:
    return row["seconds"] if by == "seconds" else row["figures"].get(by, row["values"].get(by))


def _rank(value: Any) -> tuple[int, float, str]:
    try:
        return (0, float(value), "")
    except ValueError:
        return (1, 0.0, str(value))


def shown(sweep: Mapping[str, Any]) -> str:
    """A heading with the counts, and the table."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(sweep["counts"].items()))
    rows = sweep["tasks"]
    axes = list(dict.fromkeys(axis for row in rows for axis in row["values"]))
    figures = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    head = ["Task", *axes, "Status", "Took", *figures]
    lines = [
        [
            row["name"],
            *(row["values"].get(axis, "") for axis in axes),
            row["status"],
            show_seconds(row["seconds"]) if row["seconds"] is not None else "",
            *(f"{row['figures'][name]:g}" if name in row["figures"] else "" for name in figures),
        ]
        for row in rows
    ]
    return f"{sweep['name']}: {len(rows)} tasks ({counts})\n{table(head, lines)}"


SWEEP = Command(_arguments, _sweep)
