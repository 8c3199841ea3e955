"""`osmo token`: access tokens of one's own, for scripts and for other hosts."""

from __future__ import annotations

import argparse
import sys

from osmo_ray.cli.command import Command, connect, print_json, table

_PATH = "/api/auth/access_token"


def _set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")
    parser.add_argument("--expires-at", "-e", metavar="YYYY-MM-DD", help="default: in 31 days")
    parser.add_argument("--description", "-d", default="")
    parser.add_argument("--roles", "-r", nargs="+", action="extend", default=[], help="default: all of yours")


def _set(args: argparse.Namespace) -> int:
    from datetime import UTC, datetime, timedelta

    day = args.expires_at or (datetime.now(UTC) + timedelta(days=31)).strftime("%Y-%m-%d")
    params = {"expires_at": day, "description": args.description, "roles": args.roles}
    with connect(args) as client:
        secret = client.http.json("POST", f"{_PATH}/{args.name}", params)
    if args.format_type == "json":
        print_json({"token": secret, "token_name": args.name, "expires_at": day})
    else:
        print(f"Token {args.name}, good until {day}; it is not shown again:", file=sys.stderr)
        print(secret)
    return 0


def _none(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def _list(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.http.json("GET", _PATH)
    if args.format_type == "json":
        print_json(found)
    else:
        rows = [[t["token_name"], (t["expires_at"] or "")[:10], ", ".join(t["roles"]), t["description"]] for t in found]
        print(table(["Name", "Expires", "Roles", "Description"], rows))
    return 0


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")


def _delete(args: argparse.Namespace) -> int:
    with connect(args) as client:
        client.http.json("DELETE", f"{_PATH}/{args.name}")
    if args.format_type == "json":
        print_json({"token_name": args.name})
    else:
        print(f"Token {args.name} deleted.")
    return 0


def _roles(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.http.json("GET", f"{_PATH}/{args.name}/roles")
    if args.format_type == "json":
        print_json(found)
    else:
        print("\n".join(r["role_name"] for r in found["roles"]))
    return 0


SET = Command(_set_arguments, _set)
LIST = Command(_none, _list)
DELETE = Command(_name, _delete)
ROLES = Command(_name, _roles)
