"""Where versions come from and where they went, from both ends: a dataset's and a workflow's."""

from __future__ import annotations

import argparse
from typing import Any

from osmo_ray.cli.command import connect, print_json, table
from osmo_ray.cli.datasets.common import named, path, selector, verb


def _lineage(args: argparse.Namespace) -> int:
    with connect(args) as client:
        route, _ = path(client, args.name, "/lineage")
        found = client.http.json("GET", route.replace("/api/bucket", "/api/x/bucket"), {"tag": selector(args.name)})
    made = [
        [m["version"], m["workflow"] or m["created_by"], _task(m), m["image"], m["code"][:12], ", ".join(m["inputs"])]
        for m in found["made"]
    ]
    read = [[r["version"], r["workflow"], r["user"], r["at"]] for r in found["read"]]
    told = [table(["Version", "Made By", "Task", "Image", "Code", "From"], made)]
    if read:
        told.append(table(["Version", "Read By", "User", "At"], read))
    return _said(args, found, told)


def _workflow_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id")


def _of_workflow(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.http.json("GET", f"/api/x/workflow/{args.workflow_id}/datasets")
    read = [[f"{r['bucket']}/{r['name']}:{r['version']}", r["at"]] for r in found["read"]]
    written = [
        [f"{m['bucket']}/{m['name']}:{m['version']}", _task(m), ", ".join(m["inputs"])] for m in found["written"]
    ]
    told = [table(["Read", "At"], read)] if read else []
    told += [table(["Made", "Task", "From"], written)] if written else []
    return _said(args, found, told or [f"{args.workflow_id} read and made no versions of datasets"])


def _task(made: dict[str, Any]) -> str:
    return f"{made['task']} (retry {made['retry']})" if made["retry"] else str(made["task"])


def _said(args: argparse.Namespace, value: Any, parts: list[str]) -> int:
    if args.format_type == "json":
        print_json(value)
    else:
        print("\n\n".join(parts))
    return 0


LINEAGE = verb(named, _lineage)
OF_WORKFLOW = verb(_workflow_arguments, _of_workflow)
