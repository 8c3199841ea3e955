"""Verbs that only ask the platform: lists, tags, labels, collections, queries."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osmo_ray.cli.command import connect, print_json, table
from osmo_ray.cli.datasets.common import mapping, named, path, selector, verb
from osmo_ray.sdk.errors import ClientError
from osmo_ray.spec.quantity import show_bytes

if TYPE_CHECKING:
    from osmo_ray.sdk.client import Client


def _said(args: argparse.Namespace, value: Any, text: str) -> int:
    if args.format_type == "json":
        print_json(value)
    elif text:
        print(text)
    return 0


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", "-n", default="", help="a part of the name")
    parser.add_argument("--user", "-u", nargs="+", default=[], help="who made versions of it")
    parser.add_argument("--bucket", "-b", nargs="+", default=[])
    parser.add_argument("--all-users", "-a", action="store_true")
    parser.add_argument("--count", "-c", type=int, default=20, help="at most so many (1000)")
    parser.add_argument("--offset", type=int, default=0, help="leave out so many of the newest")
    parser.add_argument("--order", "-o", choices=("asc", "desc"), default="asc", help="by time of the newest version")


def _list(args: argparse.Namespace) -> int:
    params = {
        "name": args.name, "user": args.user, "buckets": args.bucket, "all_users": args.all_users,
        "count": args.count, "offset": args.offset, "order": args.order.upper(),
    }  # fmt: skip
    with connect(args) as client:
        found = client.http.json("GET", "/api/bucket/list_dataset", params)
    return _said(args, found, _entries(found["datasets"]))


def _entries(found: list[dict[str, Any]]) -> str:
    rows = [
        [e["bucket"], e["name"], e["type"], e["version_id"] or "", show_bytes(e["hash_location_size"] or 0),
         e["last_created"] or e["create_time"]]
        for e in found
    ]  # fmt: skip
    return table(["Bucket", "Name", "Type", "Newest", "Size", "Changed"], rows)


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    named(parser)
    parser.add_argument("--all", "-a", action="store_true", dest="everything", help="also what is pending or deleted")
    parser.add_argument("--count", "-c", type=int, default=100)
    parser.add_argument("--order", "-o", choices=("asc", "desc"), default="asc")


def _info(args: argparse.Namespace) -> int:
    with connect(args) as client:
        route, _ = path(client, args.name, "/info")
        params = {
            "tag": selector(args.name), "all_flag": args.everything, "count": args.count, "order": args.order.upper()
        }  # fmt: skip
        found = client.http.json("GET", route, params)
        lineage = _lineage(client, route, selector(args.name)) if found["type"] == "DATASET" else {}
    if lineage:
        found = {**found, "lineage": lineage}
    made = {m["version"]: m["workflow"] or m["created_by"] for m in lineage.get("made", ())}
    reads = Counter(r["version"] for r in lineage.get("read", ()))
    head = [f"{found['type'].lower()} {found['bucket']}/{found['name']}", f"labels: {shown(found['labels'])}"]
    if found["type"] == "COLLECTION":
        rows = [[v["name"], v["version"], show_bytes(v["size"])] for v in found["versions"]]
        return _said(args, found, "\n".join([*head, table(["Dataset", "Version", "Size"], rows)]))
    rows = [
        [v["version"], v["status"], v["created_by"], made.get(v["version"], v["created_by"]), v["created_date"],
         v["last_used"], str(reads[v["version"]]), show_bytes(v["size"]), ", ".join(v["tags"]),
         ", ".join(v["collections"])]
        for v in found["versions"]
    ]  # fmt: skip
    columns = ["Version", "Status", "Created By", "Made By", "Date", "Last Used", "Reads", "Size", "Tags"]
    columns.append("Collections")
    return _said(args, found, "\n".join([*head, table(columns, rows)]))


def _lineage(client: Client, info: str, tag: str) -> dict[str, Any]:
    """What made the versions, and who read them; nothing while there is no version."""
    route = info.replace("/api/bucket", "/api/x/bucket").removesuffix("/info") + "/lineage"
    found: dict[str, Any] = client.http.json("GET", route, {"tag": tag})
    return found


def _tag_arguments(parser: argparse.ArgumentParser) -> None:
    named(parser)
    parser.add_argument("--set", "-s", nargs="+", default=[], metavar="TAG")
    parser.add_argument("--delete", "-d", nargs="+", default=[], metavar="TAG")


def _attribute(
    args: argparse.Namespace, params: dict[str, Any], body: dict[str, Any] | None = None, *, what: str
) -> int:
    with connect(args) as client:
        route, _ = path(client, args.name, "/attribute")
        found = client.http.json("POST", route, {"tag": selector(args.name), **params}, body)
    told = found[what] or {}
    if what == "tag_response":
        return _said(
            args, told, f"version {told.get('version_id', '')} has the tags {', '.join(told.get('tags', ())) or '-'}"
        )
    return _said(args, told, shown(told.get("metadata", {})))


def shown(values: Mapping[str, Any], above: str = "") -> str:
    """`a.b=1, c=x`: as `--set` and queries name them."""
    parts = [
        shown(value, f"{above}{key}.") if isinstance(value, Mapping) else f"{above}{key}={_plain(value)}"
        for key, value in values.items()
    ]
    return ", ".join(parts) or "none"


def _plain(value: object) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _tag(args: argparse.Namespace) -> int:
    if not args.set and not args.delete:
        raise ClientError("nothing to do: give --set or --delete", status=400, code="USAGE")
    return _attribute(args, {"set_tag": args.set, "delete_tag": args.delete}, what="tag_response")


def _values_arguments(parser: argparse.ArgumentParser) -> None:
    named(parser)
    parser.add_argument("--set", "-s", nargs="+", default=[], metavar="KEY:string|numeric:VALUE", help="a,b is a list")
    parser.add_argument("--delete", "-d", nargs="+", default=[], metavar="KEY")
    parser.add_argument("--file", "-f", nargs="+", default=[], metavar="FILE", help="YAML files")


def _label(args: argparse.Namespace) -> int:
    if selector(args.name):
        raise ClientError("labels are of the whole dataset: leave out the version", status=400, code="USAGE")
    body = {"set_label": {**mapping(args.file), **values(args.set)}}
    return _attribute(args, {"delete_label": args.delete}, body, what="label_response")


def _metadata(args: argparse.Namespace) -> int:
    if not selector(args.name):
        raise ClientError("metadata is of one version: write NAME:VERSION", status=400, code="USAGE")
    body = {"set_metadata": {**mapping(args.file), **values(args.set)}}
    return _attribute(args, {"delete_metadata": args.delete}, body, what="metadata_response")


def values(given: list[str]) -> dict[str, Any]:
    """`a.b:numeric:1,2` -> `{"a": {"b": [1, 2]}}`. Raises `ClientError`."""
    found: dict[str, Any] = {}
    for text in given:
        name, _, rest = text.partition(":")
        kind, colon, value = rest.partition(":")
        if not name or not colon or kind not in ("string", "numeric"):
            raise ClientError(f"{text}: write KEY:string:VALUE or KEY:numeric:VALUE", status=400, code="USAGE")
        try:
            several = [number(one) if kind == "numeric" else one for one in value.split(",")]
        except ValueError:
            raise ClientError(f"{text}: {value!r} is not a number", status=400, code="USAGE") from None
        *above, last = name.split(".")
        at = found
        for key in above:
            at = at.setdefault(key, {})
        at[last] = several if len(several) > 1 else several[0]
    return found


def number(text: str) -> int | float:
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _rename_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="[BUCKET/]NAME")
    parser.add_argument("new_name")


def _rename(args: argparse.Namespace) -> int:
    with connect(args) as client:
        route, reference = path(client, args.name, "/attribute")
        client.http.json("POST", route, {"new_name": args.new_name})
    return _said(args, {"name": args.new_name}, f"{reference.bucket}/{reference.name} is called {args.new_name} now")


def _query_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="the query, in a file (- is stdin)")
    parser.add_argument("--bucket", "-b", default="", help="(default: your own)")
    parser.add_argument("--count", "-c", type=int, help="at most so many (default: all)")
    parser.add_argument("--offset", type=int, default=0, help="leave out so many at the beginning")


def _query(args: argparse.Namespace) -> int:
    from osmo_ray.sdk import buckets

    text = sys.stdin.read() if args.file == "-" else Path(args.file).read_text()
    with connect(args) as client:
        bucket = args.bucket or buckets.default_name(client)
        params = {"command": text, "count": args.count, "offset": args.offset}
        found = client.http.json("GET", f"/api/bucket/{bucket}/query", params)
    if found["type"] == "DATASET":
        return _said(args, found, _entries(found["datasets"]))
    rows = [[v["name"], v["version"], v["created_by"], show_bytes(v["size"])] for v in found["datasets"]]
    return _said(args, found, table(["Name", "Version", "Created By", "Size"], rows))


def _collect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="[BUCKET/]NAME")
    parser.add_argument("datasets", nargs="+", metavar="NAME[:TAG]")


def _collect(args: argparse.Namespace) -> int:
    with connect(args) as client:
        route, reference = path(client, args.name, "/collect")
        client.http.json("POST", route, body={"datasets": _members(args.datasets)})
    return _said(args, {"name": reference.name}, f"collection {reference.bucket}/{reference.name} is made")


def _members(given: list[str]) -> list[dict[str, str]]:
    from osmo_ray.data.names import parse_reference

    return [{"name": one.name, "tag": one.selector} for one in map(parse_reference, given)]


def _recollect_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="[BUCKET/]NAME")
    parser.add_argument("--add", "-a", nargs="+", default=[], metavar="NAME[:TAG]")
    parser.add_argument("--remove", "-r", nargs="+", default=[], metavar="NAME")


def _recollect(args: argparse.Namespace) -> int:
    with connect(args) as client:
        route, _ = path(client, args.name, "/recollect")
        body = {"add_datasets": _members(args.add), "remove_datasets": _members(args.remove)}
        found = client.http.json("POST", route, body=body)
    return _said(
        args, found, table(["Name", "Version"], [[v["dataset_name"], v["version"]] for v in found["versions"]])
    )


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    named(parser)
    parser.add_argument("--all", "-a", action="store_true", dest="everything", help="all versions, and the name")
    parser.add_argument("--force", "-f", action="store_true", help="do not ask; collections that hold it go, too")


def _delete(args: argparse.Namespace) -> int:
    with connect(args) as client:
        route, reference = path(client, args.name)
        if not args.force:
            _sure(client.http.json("GET", f"{route}/info", {"tag": "" if args.everything else reference.selector}))
        params = {"tag": reference.selector, "all_flag": args.everything}
        found = client.http.json("DELETE", route, params)
        if args.everything:
            client.http.json("DELETE", route, {"finish": True})
    told = f"deleted {', '.join(found['versions']) or reference.name}; osmo dataset gc frees the space"
    return _said(args, found, told)


def _sure(found: dict[str, Any]) -> None:
    """Ask on a terminal; refuse elsewhere what others hold. Raises `ClientError`."""
    held = sorted({name for v in found["versions"] for name in v.get("collections", ())})
    if held:
        raise ClientError(f"collections hold it: {', '.join(held)}; --force deletes them, too", status=400)
    if sys.stdin.isatty() and input("Delete? [y/N] ").lower() not in ("y", "yes"):
        raise ClientError("nothing was deleted", status=400)


def _none(parser: argparse.ArgumentParser) -> None:
    """No arguments of its own."""


def _buckets(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found = client.http.json("GET", "/api/bucket")
    rows = [
        [name + (" (default)" if name == found["default"] else ""), b["description"], b["path"], b["mode"],
         "yes" if b["default_cred"] else "no"]
        for name, b in found["buckets"].items()
    ]  # fmt: skip
    return _said(args, found, table(["Bucket", "Description", "Location", "Mode", "Default Cred"], rows))


def _migrate(args: argparse.Namespace) -> int:
    """Old layouts are of OSMO's own platform; whatever is here can be read as it is."""
    with connect(args) as client:
        route, reference = path(client, args.name, "/migrate")
        found = client.http.json("POST", route, {"tag": reference.selector})
    return _said(args, found, f"{reference.bucket}/{reference.name} needs no migration")


LIST = verb(_list_arguments, _list)
INFO = verb(_info_arguments, _info)
TAG = verb(_tag_arguments, _tag)
LABEL = verb(_values_arguments, _label)
METADATA = verb(_values_arguments, _metadata)
RENAME = verb(_rename_arguments, _rename)
QUERY = verb(_query_arguments, _query)
COLLECT = verb(_collect_arguments, _collect)
RECOLLECT = verb(_recollect_arguments, _recollect)
DELETE = verb(_delete_arguments, _delete)
MIGRATE = verb(named, _migrate)
BUCKETS = verb(_none, _buckets)
