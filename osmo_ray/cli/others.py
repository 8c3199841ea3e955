"""The smaller verbs: tasks, pools, nodes, profile, version."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from osmo_ray.cli.command import Command, connect, duration, print_json, table


def _none(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def _task_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", "-c", type=int, default=20)
    parser.add_argument("--workflow-id", "-w", default="", help="part of the workflow's id")
    parser.add_argument("--status", "-s", nargs="+", action="extend", default=[], type=str.upper)
    parser.add_argument("--user", "-u", nargs="+", action="extend", default=[])
    parser.add_argument("--all-users", "-a", action="store_true")
    parser.add_argument("--pool", "-p", nargs="+", action="extend", default=[])
    parser.add_argument("--node", nargs="+", action="extend", default=[])
    parser.add_argument("--offset", type=int, default=0, help="leave out the newest ones")
    parser.add_argument("--order", type=str.lower, choices=("asc", "desc"), default="asc", help="newest last or first")
    parser.add_argument("--priority", nargs="+", action="extend", default=[], type=str.upper)
    parser.add_argument("--started-after", metavar="TIME", help="UTC, for example 2026-01-31T12:00:00")
    parser.add_argument("--started-before", metavar="TIME")
    parser.add_argument("--summary", action="store_true", help="what each user holds")
    parser.add_argument("--aggregate-by-workflow", action="store_true", help="what each workflow holds")
    parser.add_argument("--verbose", "-v", action="store_true")


def _task_list(args: argparse.Namespace) -> int:
    params = {
        "workflow_id": args.workflow_id,
        "statuses": args.status,
        "users": args.user,
        "all_users": args.all_users,
        "pools": args.pool,
        "all_pools": not args.pool,
        "nodes": args.node,
        "limit": args.count,
        "offset": args.offset,
        "order": args.order.upper(),
        "priority": args.priority,
        "started_after": args.started_after,
        "started_before": args.started_before,
        "summary": args.summary,
        "aggregate_by_workflow": args.aggregate_by_workflow,
    }
    with connect(args) as client:
        found = client.http.json("GET", "/api/task", params)
    if args.format_type == "json":
        print_json(found)
    elif "summaries" in found:
        rows = [
            [
                s.get("workflow_id") or s["user"],
                s["pool"] or "",
                *(str(s[k]) for k in ("cpu", "memory", "gpu", "storage")),
            ]
            for s in found["summaries"]
        ]
        print(table(["Holder", "Pool", "CPU", "Memory (Gi)", "GPU", "Storage (Gi)"], rows))
    else:
        rows = [
            [
                t["workflow_id"],
                t["task_name"],
                str(t["retry_id"]),
                t["status"],
                t["node"] or "",
                duration(t["duration"]),
            ]
            for t in found["tasks"]
        ]
        print(table(["Workflow ID", "Task", "Retry", "Status", "Node", "Duration"], rows))
    return 0


_POOL_COLUMNS = {
    "used": {
        "Quota Used": "quota_used",
        "Quota Limit": "quota_limit",
        "Total Usage": "total_usage",
        "Total Capacity": "total_capacity",
    },
    "free": {"Quota Free": "quota_free", "Total Free": "total_free"},
}
_OF_THE_SET = ("total_capacity", "total_free")
"""What pools on the same nodes share."""


def _pool_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", "-p", nargs="+", action="extend", default=[])
    parser.add_argument("--mode", "-m", choices=("used", "free"), default="used", help="GPUs that are used, or free")


def _pool_list(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.http.json("GET", "/api/pool_quota", {"all_pools": not args.pool, "pools": args.pool})
    if args.format_type == "json":
        print_json(found)
        return 0
    columns = _POOL_COLUMNS[args.mode]
    rows = [
        [pool["name"], pool["status"], pool["backend"], *(_pool_number(pool, key, at) for key in columns.values())]
        for node_set in found["node_sets"]
        for at, pool in enumerate(node_set["pools"])
    ]
    total = found["resource_sum"]
    rows.append(["", "", "all", *(total[key] for key in columns.values())])
    print(table(["Pool", "Status", "Backend", *columns], rows))
    return 0


def _pool_number(pool: dict[str, Any], key: str, at: int) -> str:
    """GPUs; of what all pools of a node set share, only the first tells it as its own."""
    value = str(pool["resource_usage"][key])
    return f"{value} (shared)" if at and key in _OF_THE_SET else value


def _resource_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pool", "-p", nargs="+", action="extend", default=[])
    parser.add_argument("--platform", nargs="+", action="extend", default=[])
    parser.add_argument("--all", "-a", action="store_true", help="of every pool (so it is without --pool)")
    parser.add_argument("--mode", "-m", choices=("used", "free"), default="used", help="amounts that are used, or free")


def _resource_list(args: argparse.Namespace) -> int:
    params = {"pools": args.pool, "platforms": args.platform, "all_pools": args.all or not args.pool}
    with connect(args) as client:
        found = client.http.json("GET", "/api/resources", params)
    if args.format_type == "json":
        print_json(found)
        return 0
    rows = [
        [
            r["hostname"],
            ", ".join(r["exposed_fields"]["pool/platform"]),
            *(
                f"{_shown(r, k, args.mode)} of {r['allocatable_fields'][k]}"
                for k in ("cpu", "memory", "gpu", "storage")
            ),
        ]
        for r in found["resources"]
    ]
    print(table(["Node", "Pool/Platform", "CPU", "Memory", "GPU", "Storage"], rows))
    return 0


def _shown(resource: dict[str, Any], kind: str, mode: str) -> str:
    """How much of one kind is used, or free, on a node."""
    if mode == "used":
        return str(resource["usage_fields"][kind])
    free = next(iter(resource["platform_available_fields"].values()))
    return str(next(iter(free.values()))[kind])


def _resource_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node_name")
    parser.add_argument("--pool", "-p", default="", help="only this pool")
    parser.add_argument("--platform", default="", help="only this platform")


def _resource_info(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.http.json("GET", f"/api/resources/{args.node_name}")
    if args.format_type == "json":
        print_json(found)
        return 0
    for node in found["resources"]:
        print(f"{node['hostname']} ({node['backend']}, {node['resource_type'].lower()})")
        amounts = [[k, node["usage_fields"][k], node["allocatable_fields"][k]] for k in node["allocatable_fields"]]
        print(table(["Resource", "Used", "Of"], amounts))
        rows = [
            [pool, platform, *("yes" if config[k] else "no" for k in ("host_network", "privileged"))]
            for pool, platforms in node["config_fields"].items()
            for platform, config in platforms.items()
            if args.pool in ("", pool) and args.platform in ("", platform)
        ]
        print(table(["Pool", "Platform", "Host network", "Privileged"], rows))
    return 0


def _profile_list(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.http.json("GET", "/api/profile/settings")
    if args.format_type == "json":
        print_json(found)
        return 0
    shown = {**found["profile"], "roles": ", ".join(found["roles"]), "pools": ", ".join(found["pools"])}
    print("\n".join(f"{name:<20} {'' if value is None else value}" for name, value in shown.items()))
    return 0


def _profile_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("setting", choices=("pool", "bucket", "notifications"))
    parser.add_argument("value", help="a name; for notifications: email or slack")
    parser.add_argument("enabled", nargs="?", choices=("true", "false"), default="true", help="for notifications")


def _profile_set(args: argparse.Namespace) -> int:
    body: dict[str, object] = {args.setting: args.value}
    if args.setting == "notifications":
        if args.value not in ("email", "slack"):
            print("osmo profile set notifications: name email or slack", file=sys.stderr)
            return 2
        body = {f"{args.value}_notification": args.enabled == "true"}
    with connect(args) as client:
        client.http.json("POST", "/api/profile/settings", body=body)
    print("profile saved")
    return 0


def _version(args: argparse.Namespace) -> int:
    from osmo_ray import __version__
    from osmo_ray.sdk.errors import ClientError

    with connect(args) as client:
        try:
            parts = client.http.json("GET", "/api/version")
            platform = ".".join(parts[k] for k in ("major", "minor", "revision"))
        except ClientError:
            platform = None
        if args.format_type == "json":
            print_json({"client": __version__, "platform": platform, "url": client.login.url})
        else:
            print(f"client    {__version__}\nplatform  {platform or 'does not answer'} ({client.login.url})")
    return 0


TASK_LIST = Command(_task_arguments, _task_list)
POOL_LIST = Command(_pool_arguments, _pool_list)
RESOURCE_INFO = Command(_resource_name, _resource_info)
RESOURCE_LIST = Command(_resource_arguments, _resource_list)
PROFILE_LIST = Command(_none, _profile_list)
PROFILE_SET = Command(_profile_arguments, _profile_set)
VERSION = Command(_none, _version)
