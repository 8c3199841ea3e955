"""`osmo user`: who may use the platform, and as what. `osmo audit`: who changed what."""

from __future__ import annotations

import argparse
from typing import Any
from urllib.parse import quote

from osmo_ray.cli.command import Command, connect, print_json, table

_PATH = "/api/auth/user"


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--id-prefix", "-p", default="", help="only those whose name begins so")
    parser.add_argument("--roles", "-r", nargs="+", action="extend", default=[], help="only those with any of these")
    parser.add_argument("--count", "-c", type=int, default=100)


def _list(args: argparse.Namespace) -> int:
    params = {"id_prefix": args.id_prefix, "roles": args.roles, "count": args.count}
    with connect(args) as client:
        found = client.http.json("GET", _PATH, params)
    if args.format_type == "json":
        print_json(found)
    else:
        rows = [[u["id"], (u["created_at"] or "")[:19], u["created_by"]] for u in found["users"]]
        print(table(["User", "Created", "By"], rows))
    return 0


def _id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("user")


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    _id(parser)
    parser.add_argument("--roles", "-r", nargs="+", action="extend", default=[], help="roles to begin with")


def _create(args: argparse.Namespace) -> int:
    with connect(args) as client:
        made = client.http.json("POST", _PATH, body={"id": args.user, "roles": args.roles})
        return _show(args, client, made["id"])


def _get(args: argparse.Namespace) -> int:
    with connect(args) as client:
        return _show(args, client, args.user)


def _update_arguments(parser: argparse.ArgumentParser) -> None:
    _id(parser)
    parser.add_argument("--add-roles", "-a", nargs="+", action="extend", default=[], metavar="ROLE")
    parser.add_argument("--remove-roles", "-r", nargs="+", action="extend", default=[], metavar="ROLE")


def _update(args: argparse.Namespace) -> int:
    path = f"{_PATH}/{quote(args.user, safe='')}/roles"
    with connect(args) as client:
        for role in args.add_roles:
            client.http.json("POST", path, body={"role_name": role})
        for role in args.remove_roles:
            client.http.json("DELETE", f"{path}/{quote(role, safe='')}")
        return _show(args, client, args.user)


def _delete(args: argparse.Namespace) -> int:
    with connect(args) as client:
        client.http.json("DELETE", f"{_PATH}/{quote(args.user, safe='')}")
    if args.format_type == "json":
        print_json({"id": args.user})
    else:
        print(f"User {args.user} deleted, with all access tokens.")
    return 0


def _none(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def _roles(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.http.json("GET", "/api/configs/role")
    if args.format_type == "json":
        print_json(found)
    else:
        print(table(["Role", "Description"], [[r["name"], r["description"]] for r in found]))
    return 0


def _show(args: argparse.Namespace, client: Any, user: str) -> int:
    found = client.http.json("GET", f"{_PATH}/{quote(user, safe='')}")
    if args.format_type == "json":
        print_json(found)
    else:
        print(f"{found['id']}, made by {found['created_by']} on {(found['created_at'] or '')[:19]}")
        rows = [[r["role_name"], r["assigned_by"], (r["assigned_at"] or "")[:19]] for r in found["roles"]]
        print(table(["Role", "Given by", "At"], rows) if rows else "no roles: may log in, and nothing else")
    return 0


def _audit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user", "-u", default="", help="only what this user did")
    parser.add_argument("--since", metavar="TIME", help="only from this time on (UTC, 2026-01-31T12:00:00)")
    parser.add_argument("--limit", "-l", type=int, default=50)


def _audit(args: argparse.Namespace) -> int:
    params = {"user": args.user, "since": args.since, "limit": args.limit}
    with connect(args) as client:
        found = client.http.json("GET", "/api/x/audit", {k: v for k, v in params.items() if v is not None})
    if args.format_type == "json":
        print_json(found)
    else:
        rows = [[(e["at"] or "")[:19], e["user"], e["action"], str(e["status"]), e["path"]] for e in found]
        print(table(["At", "User", "Action", "Status", "Path"], rows))
    return 0


LIST = Command(_list_arguments, _list)
CREATE = Command(_create_arguments, _create)
GET = Command(_id, _get)
UPDATE = Command(_update_arguments, _update)
DELETE = Command(_id, _delete)
ROLES = Command(_none, _roles)
AUDIT = Command(_audit_arguments, _audit)
