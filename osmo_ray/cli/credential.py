"""`osmo credential`: secrets that tasks may use, kept sealed by the platform.

A value can stand in a file, come from standard input, or be asked for without being shown: what stands on a command
line can be read by every user of the host.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from osmo_ray.cli.command import Command, connect, print_json, table
from osmo_ray.sdk import keys
from osmo_ray.sdk.errors import ClientError

_KINDS = ("GENERIC", "REGISTRY", "DATA")
_WANTED = {"REGISTRY": ("registry", "auth"), "DATA": ("endpoint", "access_key_id", "access_key")}


def _set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="what tasks call it")
    parser.add_argument("--type", type=str.upper, choices=_KINDS, default="GENERIC", dest="kind")
    parser.add_argument(
        "--payload", nargs="+", action="extend", default=[], metavar="KEY[=VALUE]",
        help="its values; a key alone is asked for. REGISTRY: registry, username, auth; DATA: endpoint, "
        "access_key_id, access_key, region, override_url, addressing (path, virtual or auto), "
        "encryption_key (64 hex digits, for datasets)",
    )  # fmt: skip
    parser.add_argument(
        "--payload-file",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=FILE",
        help="values from files (- is stdin)",
    )
    parser.add_argument(
        "--no-check", action="store_true", help="store it without trying whether it opens the registry or the bucket"
    )
    _here(parser)


def _here(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--platform-only", action="store_true",
        help="DATA: do not keep it on this host, too, where osmo dataset and osmo data need it",
    )  # fmt: skip


def _set(args: argparse.Namespace) -> int:
    values = {**_values(args.payload), **_files(args.payload_file)}
    missing = [key for key in _WANTED.get(args.kind, ()) if key not in values]
    if missing or not values:
        wanted = ", ".join(missing) or "at least one value"
        raise ClientError(
            f"A {args.kind} credential needs {wanted}; give it by --payload or --payload-file", status=400
        )
    body = {"credential": values} if args.kind == "GENERIC" else values
    with connect(args) as client:
        untried = {"check": False} if args.no_check else {}
        client.http.json(
            "POST", f"/api/credentials/{args.name}", untried, body={f"{args.kind.lower()}_credential": body}
        )
    if args.kind == "DATA" and not args.platform_only:
        keys.keep(args.name, values)
    if args.format_type == "json":
        print_json({"cred_name": args.name, "cred_type": args.kind})
    else:
        print(f"Set {args.kind} credential: {args.name}")
    return 0


def _values(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        key, has, value = text.partition("=")
        if not has:
            from getpass import getpass

            value = getpass(f"{key}: ") if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
        found[key] = value
    return found


def _files(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        key, has, name = text.partition("=")
        if not has:
            raise ClientError(f"--payload-file {text}: write KEY=FILE", status=400)
        try:
            found[key] = sys.stdin.read() if name == "-" else Path(name).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ClientError(f"{name}: cannot be read: {error}", status=400) from None
    return found


def _none(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def _list(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.http.json("GET", "/api/credentials")
    if args.format_type == "json":
        print_json(found)
    elif not found["credentials"]:
        print("no credentials; set one with: osmo credential set NAME --payload key", file=sys.stderr)
    else:
        rows = [[c["cred_name"], c["cred_type"], c["profile"] or ""] for c in found["credentials"]]
        print(table(["Name", "Type", "Profile"], rows))
    return 0


def _name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")


def _delete(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.http.json("DELETE", f"/api/credentials/{args.name}")
    keys.drop(args.name)
    if args.format_type == "json":
        print_json(found)
    else:
        print(f"Deleted credential: {args.name}")
    return 0


SET = Command(_set_arguments, _set)
LIST = Command(_none, _list)
DELETE = Command(_name, _delete)
