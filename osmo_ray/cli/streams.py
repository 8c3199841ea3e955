"""The verbs that print what the platform streams: logs, events, specs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from osmo_ray.cli.command import Command, connect


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
    params = {
        "task_name": args.task or None,
        "retry_id": args.retry_id,
        "last_n_lines": args.last_n_lines,
        "query": args.query,
    }
    with connect(args) as client:
        if args.error:
            if not args.task:
                print(client.http.json("GET", f"/api/workflow/{args.workflow_id}/error_logs"))
                return 0
            return _copy(client.http.pieces(f"/api/workflow/{args.workflow_id}/error_logs", params))
        follow = None if not args.no_follow else False
        return _copy(client.http.pieces(f"/api/workflow/{args.workflow_id}/logs", {**params, "follow": follow}))


def _events_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id")
    parser.add_argument("--task", "-t", default="", help="of one task")
    parser.add_argument("--retry-id", "-r", type=int, help="of one attempt of the task")
    parser.add_argument("--no-follow", action="store_true", help="print what there is now and stop")


def _events(args: argparse.Namespace) -> int:
    params = {"task_name": args.task or None, "retry_id": args.retry_id, "follow": not args.no_follow}
    with connect(args) as client:
        return _copy(client.http.pieces(f"/api/workflow/{args.workflow_id}/events", params))


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
