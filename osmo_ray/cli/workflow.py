"""The verbs that look at workflows or change what becomes of them."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from osmo_ray.cli.command import Command, ask_many, connect, duration, print_json, table

if TYPE_CHECKING:
    from osmo_ray.sdk.client import Client


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", "-c", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--offset", type=int, default=0, help="leave out the newest ones")
    parser.add_argument("--name", "-n", default="", help="part of the id")
    parser.add_argument("--order", type=str.lower, choices=("asc", "desc"), default="asc", help="newest last or first")
    parser.add_argument("--status", "-s", nargs="+", action="extend", default=[], type=str.upper)
    parser.add_argument("--pool", "-p", nargs="+", action="extend", default=[])
    parser.add_argument("--user", "-u", nargs="+", action="extend", default=[])
    parser.add_argument("--all-users", "-a", action="store_true", help="of everybody")
    parser.add_argument("--app", default="", metavar="NAME[:VERSION]", help="submitted from this app")
    parser.add_argument("--tags", nargs="+", action="extend", default=[])
    parser.add_argument("--priority", nargs="+", action="extend", default=[], type=str.upper)
    parser.add_argument("--submitted-after", metavar="TIME", help="UTC, for example 2026-01-31T12:00:00")
    parser.add_argument("--submitted-before", metavar="TIME")


def _list(args: argparse.Namespace) -> int:
    filters = {
        "name": args.name,
        "statuses": args.status,
        "pools": args.pool,
        "users": args.user,
        "all_users": args.all_users,
        "tags": args.tags,
        "app": args.app or None,
        "priority": args.priority,
        "submitted_after": args.submitted_after,
        "submitted_before": args.submitted_before,
    }
    found: list[dict[str, Any]] = []
    with connect(args) as client:
        while len(found) < args.count:
            limit = min(args.count - len(found), 1000)
            page = client.list(**filters, offset=args.offset + len(found), limit=limit)
            found += page
            if len(page) < limit:
                break
    if args.order == "asc":
        found.reverse()
    if args.format_type == "json":
        print_json({"workflows": found})
        return 0
    if not found:
        print("no workflows; submit one with: osmo run FILE", file=sys.stderr)
        return 0
    head = ["Workflow ID", "User", "Status", "Submitted (UTC)", "Duration", "Pool", "Priority"]
    rows = [
        [
            w["name"],
            w["user"],
            w["status"],
            w["submit_time"][:19].replace("T", " "),
            duration(w["duration"]),
            w["pool"] or "",
            w["priority"],
        ]
        for w in found
    ]
    print(table(head, rows))
    return 0


def _one(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id")


def _query_arguments(parser: argparse.ArgumentParser) -> None:
    _one(parser)
    parser.add_argument("--verbose", "-v", action="store_true", help="every attempt of each task")


def _query(args: argparse.Namespace) -> int:
    with connect(args) as client:
        view = client.view(args.workflow_id, verbose=args.verbose)
    if args.format_type == "json":
        print_json(view)
        return 0
    lines = [
        ("Workflow ID", view["name"]),
        ("Status", view["status"]),
        ("User", view["submitted_by"]),
        ("Pool", f"{view['pool']}, priority {view['priority']}"),
        ("Submitted", view["submit_time"][:19].replace("T", " ")),
        ("Started", (view["start_time"] or "not yet")[:19].replace("T", " ")),
        ("Duration", duration(view["duration"])),
        ("Overview", view["overview"]),
    ]
    print("\n".join(f"{name:<12} {text}" for name, text in lines if text))
    print()
    rows = [
        [
            t["name"],
            str(t["retry_id"]),
            g["name"],
            t["status"],
            "" if t["exit_code"] is None else str(t["exit_code"]),
            t["node_name"] or "",
            t["failure_message"] or "",
        ]
        for g in view["groups"]
        for t in g["tasks"]
    ]
    print(table(["Task", "Retry", "Group", "Status", "Exit", "Node", "Failure"], rows))
    return 0


def _many(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_ids", nargs="+", metavar="workflow_id")


def _cancel_arguments(parser: argparse.ArgumentParser) -> None:
    _many(parser)
    parser.add_argument("--message", "-m", default="", help="why, for those who ask later")
    parser.add_argument("--force", "-f", action="store_true", help="at once, without time to end well")
    parser.add_argument(
        "--task", nargs="+", action="extend", default=[], metavar="NAME",
        help="only the groups of these tasks or sweeps, and what depends on them",
    )  # fmt: skip


def _cancel(args: argparse.Namespace) -> int:
    with connect(args) as client:
        if args.format_type == "json" and not args.task:
            body = {"names": args.workflow_ids, "message": args.message, "force": args.force}
            print_json(client.http.json("POST", "/api/x/workflows/cancel", body=body))
            return 0

        def cancel(name: str) -> None:
            client.cancel(name, args.message, force=args.force, tasks=args.task)

        ask_many(args.workflow_ids, cancel, "canceled")
    return 0


def _delete(args: argparse.Namespace) -> int:
    with connect(args) as client:
        return ask_many(args.workflow_ids, client.delete, "deleted")


def _wait_arguments(parser: argparse.ArgumentParser) -> None:
    _many(parser)
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give up after this long (exit code 75)")


def _wait(args: argparse.Namespace) -> int:
    """0 when all completed, 1 when one did not, 75 when time was over."""
    verdicts = {}
    with connect(args) as client:
        for name in args.workflow_ids:
            try:
                verdicts[name] = client.wait(name, args.timeout).status
            except TimeoutError as error:
                print(f"osmo: {error}", file=sys.stderr)
                return 75
            if args.format_type == "text":
                print(f"{name}: {verdicts[name]}")
    if args.format_type == "json":
        print_json(verdicts)
    return 0 if all(v == "COMPLETED" for v in verdicts.values()) else 1


def _tag_arguments(parser: argparse.ArgumentParser) -> None:
    _many(parser)
    parser.add_argument("--add", nargs="+", action="extend", default=[])
    parser.add_argument("--remove", nargs="+", action="extend", default=[])


def _show_tags(client: Client, args: argparse.Namespace) -> int:
    """Tags of these workflows, and which there may be."""
    allowed = client.http.json("GET", "/api/tag")["tags"]
    found = {name: client.view(name, skip_groups=True)["tags"] for name in args.workflow_ids}
    if args.format_type == "json":
        print_json({"allowed": allowed, "workflows": found})
        return 0
    for name, tags in found.items():
        print(f"{name}: {', '.join(tags)}")
    print(f"allowed: {', '.join(allowed) or 'any'}")
    return 0


def _tag(args: argparse.Namespace) -> int:
    with connect(args) as client:
        if not args.add and not args.remove:
            return _show_tags(client, args)

        def change(name: str) -> None:
            client.http.json("POST", f"/api/workflow/{name}/tag", {"add": args.add, "remove": args.remove})

        return ask_many(args.workflow_ids, change, "tagged")


LIST = Command(_list_arguments, _list)
QUERY = Command(_query_arguments, _query)
CANCEL = Command(_cancel_arguments, _cancel)
DELETE = Command(_many, _delete)
WAIT = Command(_wait_arguments, _wait)
TAG = Command(_tag_arguments, _tag)
