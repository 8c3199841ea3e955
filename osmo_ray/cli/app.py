"""`osmo app`: named, versioned workflow files that people share."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from osmo_ray.cli.command import Command, connect, print_json, table
from osmo_ray.cli.submit import Prepared, add_submission, announce, inlined, read
from osmo_ray.sdk.errors import ClientError

if TYPE_CHECKING:
    from osmo_ray.sdk.client import Client

_NAME = "NAME[:VERSION]"


def _split(text: str) -> tuple[str, int | None]:
    """`train:3` -> ("train", 3). Raises `ClientError`."""
    name, colon, version = text.partition(":")
    if colon and not version.isdigit():
        raise ClientError(f"{text!r} is not an app; write NAME or NAME:VERSION, such as train:3", status=400)
    return name, int(version) if colon else None


def _path(name: str, rest: str = "") -> str:
    return f"/api/app/user/{name}{rest}"


def _text(client: Client, name: str, version: int | None) -> str:
    return b"".join(client.http.pieces(_path(name, "/spec"), {"version": version})).decode()


def _done(args: argparse.Namespace, value: Any, told: str) -> int:
    if args.format_type == "json":
        print_json(value)
    else:
        print(told)
    return 0


# -- create, update


def _create_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")
    parser.add_argument("--description", "-d", required=True)
    parser.add_argument("--file", "-f", required=True, help="the workflow file")


def _create(args: argparse.Namespace) -> int:
    with connect(args) as client:
        client.http.json("POST", _path(args.name), {"description": args.description}, read(args.file))
    return _done(args, {"name": args.name, "version": 1}, f"App {args.name} created, version 1.")


def _update_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name")
    parser.add_argument("--file", "-f", required=True, help="the workflow file of the new version")


def _update(args: argparse.Namespace) -> int:
    with connect(args) as client:
        made = client.http.json("PATCH", _path(_split(args.name)[0]), body=read(args.file))
    return _done(args, made, f"App {made['name']} updated, version {made['version']}.")


# -- looking


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", "-n", default="", help="part of the name")
    parser.add_argument("--user", "-u", nargs="+", action="extend", default=[], help="of these owners")
    parser.add_argument("--all-users", "-a", action="store_true", help="of everybody")
    parser.add_argument("--count", "-c", type=int, default=20)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--order", "-o", type=str.lower, choices=("asc", "desc"), default="asc")


def _list(args: argparse.Namespace) -> int:
    params = {
        "name": args.name, "users": args.user, "all_users": args.all_users, "limit": args.count,
        "offset": args.offset, "order": args.order.upper(),
    }  # fmt: skip
    with connect(args) as client:
        found = client.http.json("GET", "/api/app", params)
    if args.format_type == "json":
        print_json(found)
    elif not found["apps"]:
        print("no apps of yours; osmo app list --all-users lists those of everybody", file=sys.stderr)
    else:
        rows = [
            [a["name"], a["latest_version"], a["owner"], a["created_date"][:19].replace("T", " "), a["description"]]
            for a in found["apps"]
        ]
        print(table(["Name", "Version", "Owner", "Created (UTC)", "Description"], rows))
    return 0


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar=_NAME)
    parser.add_argument("--count", "-c", type=int, default=20, help="how many versions, newest ones")
    parser.add_argument("--order", "-o", type=str.lower, choices=("asc", "desc"), default="asc")


def _info(args: argparse.Namespace) -> int:
    name, version = _split(args.name)
    params = {"version": version, "limit": args.count, "order": args.order.upper()}
    with connect(args) as client:
        found = client.http.json("GET", _path(name), params)
    if args.format_type == "json":
        print_json(found)
        return 0
    print(f"{found['name']}, of {found['owner']}: {found['description']}\n")
    rows = [
        [str(v["version"]), v["created_by"], v["created_date"][:19].replace("T", " "), v["status"]]
        for v in found["versions"]
    ]
    print(table(["Version", "By", "Created (UTC)", "Status"], rows))
    return 0


def _named(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar=_NAME)


def _spec(args: argparse.Namespace) -> int:
    name, version = _split(args.name)
    with connect(args) as client:
        print(_text(client, name, version), end="")
    return 0


def _show(args: argparse.Namespace) -> int:
    """The values that can be set, which is what one wants to know before submitting."""
    name, version = _split(args.name)
    with connect(args) as client:
        found = client.http.json("GET", _path(name), {"version": version, "limit": 1, "order": "DESC"})
        text = _text(client, name, version)
    values = _defaults(text)
    if args.format_type == "json":
        print_json({**found, "default_values": values})
        return 0
    print(f"{found['name']}, of {found['owner']}: {found['description']}")
    for key, value in values.items():
        print(f"  --set {key}={value}")
    return 0


def _defaults(text: str) -> dict[str, Any]:
    import yaml

    from osmo_ray.spec.document import cut
    from osmo_ray.spec.errors import SpecError

    try:
        section = cut(text).get("default-values")
        value = yaml.safe_load(section.text)["default-values"] if section else {}
    except (SpecError, yaml.YAMLError):
        return {}
    return value if isinstance(value, dict) else {}


# -- delete, rename, submit


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar=_NAME)
    parser.add_argument("--all", "-a", action="store_true", help="every version")
    parser.add_argument("--force", "-f", action="store_true", help="do not ask")


def _delete(args: argparse.Namespace) -> int:
    name, version = _split(args.name)
    if (version is None) == (not args.all):
        raise ClientError(f"Name one version ({name}:1) or say --all, and not both", status=400, code="USAGE")
    if not args.force and sys.stdin.isatty():
        what = f"every version of {name}" if args.all else args.name
        if input(f"Delete {what}? [y/N] ").strip().lower() not in ("y", "yes"):
            return 1
    with connect(args) as client:
        found = client.http.json("DELETE", _path(name), {"version": version, "all_versions": args.all})
    return _done(args, found, f"Deleted {name}, versions {', '.join(map(str, found['versions']))}.")


def _rename_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("original_name")
    parser.add_argument("new_name")
    parser.add_argument("--force", "-f", action="store_true", help="do not ask")


def _rename(args: argparse.Namespace) -> int:
    with connect(args) as client:
        name = client.http.json("POST", _path(args.original_name, "/rename"), body=args.new_name)
    return _done(args, {"name": name}, f"App {args.original_name} is called {name} now.")


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar=_NAME)
    add_submission(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the file with its templates filled in, and stop")
    parser.add_argument("--local-path", "-l", default=".", help="folder of the local files that it names")


def _submit(args: argparse.Namespace) -> int:
    name, version = _split(args.name)
    with connect(args) as client:
        found = client.http.json("GET", _path(name), {"version": version, "limit": 1, "order": "DESC"})
        number = found["versions"][0]["version"]
        text = _text(client, name, number)
        if args.dry_run:
            print(client.render(text, pool=args.pool, set=args.set, set_string=args.set_string))
            return 0
        ready: Prepared = inlined(client, args, text, args.local_path)
        made = client.submit(
            ready.text, pool=args.pool, set=args.set, set_string=args.set_string, env=args.set_env,
            priority=args.priority, template=ready.template, app=(found["uuid"], number),
        )  # fmt: skip
        announce(client, args, made)
    return 0


CREATE = Command(_create_arguments, _create)
UPDATE = Command(_update_arguments, _update)
LIST = Command(_list_arguments, _list)
INFO = Command(_info_arguments, _info)
SHOW = Command(_named, _show)
SPEC = Command(_named, _spec, json=False)
DELETE = Command(_delete_arguments, _delete)
RENAME = Command(_rename_arguments, _rename)
SUBMIT = Command(_submit_arguments, _submit)
