"""The verbs that print what the platform streams: logs, events, specs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from osmo_ray.cli.command import Command, connect

if TYPE_CHECKING:
    from osmo_ray.sdk.client import Client


def _copy(pieces: Iterator[bytes]) -> int:
    """Bytes as they come: nothing is decoded, and each piece is seen at once."""
    out = sys.stdout.buffer
    sys.stdout.flush()
    for data in pieces:
        out.write(data)
        out.flush()
    return 0


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id")
    parser.add_argument("--task", "-t", default="", help="of one task")
    parser.add_argument("--retry-id", "-r", type=int, help="of one attempt of the task (default: the newest)")
    parser.add_argument("--last-n-lines", "-n", type=int, metavar="N", help="begin with the last N lines")
    parser.add_argument("--query", metavar="REGEX", help="only lines that match")
    parser.add_argument("--error", action="store_true", help="the end of what a failed task wrote, bare (with --task)")
    parser.add_argument("--no-follow", action="store_true", help="print what there is now and stop")


def _logs(args: argparse.Namespace) -> int:
    with connect(args) as client:
        if args.error:
            return _errors(client, args)
        batches = client.log_batches(
            args.workflow_id,
            task=args.task,
            retry_id=args.retry_id,
            last=args.last_n_lines,
            query=args.query or "",
            follow=not args.no_follow,
        )
        return _copy("".join(f"{line}\n" for line in lines).encode() for lines in batches)


def _errors(client: Client, args: argparse.Namespace) -> int:
    path = f"/api/workflow/{args.workflow_id}/error_logs"
    if not args.task:
        print(client.http.json("GET", path))
        return 0
    named = {"task_name": args.task, "retry_id": args.retry_id, "last_n_lines": args.last_n_lines, "query": args.query}
    return _copy(client.http.pieces(path, named))


def _events_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id")
    parser.add_argument("--task", "-t", default="", help="of one task")
    parser.add_argument("--retry-id", "-r", type=int, help="of one attempt of the task")
    parser.add_argument("--no-follow", action="store_true", help="print what there is now and stop")


def _events(args: argparse.Namespace) -> int:
    with connect(args) as client:
        lines = client.events(args.workflow_id, task=args.task, retry_id=args.retry_id, follow=not args.no_follow)
        return _copy(f"{line}\n".encode() for line in lines)


def _spec_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id")
    parser.add_argument("--template", action="store_true", help="as it was written, before templates were filled in")


def _spec(args: argparse.Namespace) -> int:
    with connect(args) as client:
        return _copy(
            client.http.pieces(f"/api/workflow/{args.workflow_id}/spec", {"use_template": args.template or None})
        )


LOGS = Command(_logs_arguments, _logs, json=False)
EVENTS = Command(_events_arguments, _events, json=False)
SPEC = Command(_spec_arguments, _spec, json=False)
