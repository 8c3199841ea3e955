"""`osmo config`: what administrators say of pools and requests, with its history and the way back."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from osmo_ray.cli.command import Command, connect, print_json, table
from osmo_ray.sdk.errors import ClientError

_TYPES = ("POOL", "RESOURCE_VALIDATION", "POD_TEMPLATE", "ROLE")
_READ = (*_TYPES, "SERVICE", "WORKFLOW", "DATASET", "BACKEND")
_BASE = "/api/configs"


def _type(parser: argparse.ArgumentParser, types: tuple[str, ...] = _TYPES) -> None:
    parser.add_argument("type", type=str.upper, choices=types, metavar="TYPE", help=", ".join(types))


def _path(args: argparse.Namespace) -> str:
    path = f"{_BASE}/{args.type.lower()}"
    return f"{path}/{quote(args.name, safe='')}" if args.name else path


def _said(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--description", "-d", default=None, help="why, for the history")
    parser.add_argument("--tags", nargs="+", action="extend", default=None)


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    _named(parser, _READ)


def _named(parser: argparse.ArgumentParser, types: tuple[str, ...]) -> None:
    _type(parser, types)
    parser.add_argument("name", nargs="?", default="", help="one pool, list of rules, template, role or backend")


def _show(args: argparse.Namespace) -> int:
    with connect(args) as client:
        _print(args, client.http.json("GET", _path(args)))
    return 0


def _print(args: argparse.Namespace, value: Any) -> None:
    if args.format_type == "json":
        print_json(value)
    else:
        print(_yaml(value), end="")


def _yaml(value: Any) -> str:
    import yaml

    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def _update_arguments(parser: argparse.ArgumentParser) -> None:
    _named(parser, _TYPES)
    parser.add_argument("--file", "-f", required=True, metavar="FILE", help="YAML or JSON; - reads standard input")
    parser.add_argument("--merge", action="store_true", help="lay it over what there is (of one pool)")
    _said(parser)


def _update(args: argparse.Namespace) -> int:
    value = _read(args.file)
    said = {"description": args.description, "tags": args.tags}
    whole_rules = args.type == "RESOURCE_VALIDATION" and not args.name
    with connect(args) as client:
        if args.merge:
            client.http.json("PATCH", _path(args), body={"configs_dict": value, **said})
        else:
            client.http.json("PUT", _path(args), body={"configs_dict" if whole_rules else "configs": value, **said})
    print(f"{args.type}{f' {args.name}' if args.name else ''} updated.", file=sys.stderr)
    return 0


def _read(name: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ClientError(f"{name}: cannot be read: {error}", status=400, code="USAGE") from None


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    _type(parser)
    parser.add_argument("name")
    _said(parser)


def _delete(args: argparse.Namespace) -> int:
    with connect(args) as client:
        body = None if args.type == "ROLE" else {"description": args.description, "tags": args.tags}
        client.http.json("DELETE", _path(args), body=body)
    print(f"{args.type} {args.name} deleted.", file=sys.stderr)
    return 0


def _history_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("types", nargs="*", type=str.upper, metavar="TYPE", help="default: all")
    parser.add_argument("--name", "-n", default="")
    parser.add_argument("--count", "-c", type=int, default=20)
    parser.add_argument("--offset", type=int, default=0)


def _history(args: argparse.Namespace) -> int:
    params = {
        "config_types": args.types,
        "name": args.name,
        "limit": args.count,
        "offset": args.offset,
        "order": "DESC",
    }
    with connect(args) as client:
        found = client.http.json("GET", f"{_BASE}/history", params)
    if args.format_type == "json":
        print_json(found)
        return 0
    rows = [
        [c["config_type"], str(c["revision"]), c["name"], c["username"], (c["created_at"] or "")[:19],
         ",".join(c["tags"]), c["description"]]
        for c in found["configs"]
    ]  # fmt: skip
    print(table(["Type", "Revision", "Of", "By", "At", "Tags", "Description"], rows))
    return 0


_KEPT = ("POOL", "RESOURCE_VALIDATION", "POD_TEMPLATE")


def _revision_arguments(parser: argparse.ArgumentParser) -> None:
    _type(parser, _KEPT)
    parser.add_argument("revision", type=int)
    _said(parser)


def _rollback(args: argparse.Namespace) -> int:
    body = {
        "config_type": args.type, "revision": args.revision, "description": args.description, "tags": args.tags
    }  # fmt: skip
    with connect(args) as client:
        client.http.json("POST", f"{_BASE}/history/rollback", body=body)
    print(f"{args.type} is as it was in revision {args.revision}.", file=sys.stderr)
    return 0


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    _type(parser, _KEPT)
    parser.add_argument("first", type=int)
    parser.add_argument("second", type=int)


def _diff(args: argparse.Namespace) -> int:
    params = {"config_type": args.type, "first_revision": args.first, "second_revision": args.second}
    with connect(args) as client:
        found = client.http.json("GET", f"{_BASE}/diff", params)
    if args.format_type == "json":
        print_json(found)
        return 0
    first, second = (_yaml(found[key]).splitlines() for key in ("first_data", "second_data"))
    names = (f"revision {args.first}", f"revision {args.second}")
    print("\n".join(difflib.unified_diff(first, second, *names, lineterm="")))
    return 0


def _tag_arguments(parser: argparse.ArgumentParser) -> None:
    _type(parser, _KEPT)
    parser.add_argument("revision", type=int)
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="TAG")
    parser.add_argument("--delete", nargs="+", action="extend", default=[], metavar="TAG")


def _tag(args: argparse.Namespace) -> int:
    body = {"set_tags": args.set, "delete_tags": args.delete}
    with connect(args) as client:
        client.http.json("POST", f"{_BASE}/history/{args.type}/revision/{args.revision}/tags", body=body)
    return 0


SHOW = Command(_show_arguments, _show)
UPDATE = Command(_update_arguments, _update)
DELETE = Command(_delete_arguments, _delete)
HISTORY = Command(_history_arguments, _history)
ROLLBACK = Command(_revision_arguments, _rollback)
DIFF = Command(_diff_arguments, _diff)
TAG = Command(_tag_arguments, _tag)
