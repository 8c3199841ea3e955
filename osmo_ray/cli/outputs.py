"""`osmo workflow outputs` and `download`: what tasks wrote."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from osmo_ray.cli.command import Command, connect, print_json, table


def _outputs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="workflow_id[/task]")


def _outputs(args: argparse.Namespace) -> int:
    from osmo_ray.spec.quantity import show_bytes

    name, _, task = args.target.partition("/")
    with connect(args) as client:
        listed = client.http.json("GET", f"/api/x/workflow/{name}/outputs", {"task": task or None})
    if args.format_type == "json":
        print_json(listed)
        return 0
    rows = [[t["task"], f["path"], show_bytes(f["size"])] for t in listed["tasks"] for f in t["files"]]
    if not rows:
        print("no outputs yet" if listed["status"] in ("PENDING", "RUNNING") else "no task wrote any file")
        return 0
    print(table(["Task", "File", "Size"], rows))
    for t in listed["tasks"]:
        if t["truncated"]:
            print(f"{t['task']}: {t['count'] - len(t['files'])} more files, not shown")
    return 0


def _download_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="workflow_id[/task]")
    parser.add_argument("folder", type=Path, metavar="DIR", help="one task's files go into it, else a folder per task")


def _download(args: argparse.Namespace) -> int:
    from osmo_ray.spec.quantity import show_bytes

    name, _, task = args.target.partition("/")
    with connect(args) as client:
        done = client.download(name, args.folder, task)
    for path in done.skipped:
        print(f"left out {path}: it leads out of its folder", file=sys.stderr)
    if args.format_type == "json":
        print_json({"files": done.files, "bytes": done.bytes, "skipped": list(done.skipped)})
    else:
        print(f"{done.files} file{'' if done.files == 1 else 's'}, {show_bytes(done.bytes)}, in {args.folder}")
    return 0


OUTPUTS = Command(_outputs_arguments, _outputs)
DOWNLOAD = Command(_download_arguments, _download)
