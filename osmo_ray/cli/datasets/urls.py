"""`osmo data`: files at storage URLs, without a platform in between."""

from __future__ import annotations

import argparse
import json
import re
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from osmo_ray.cli.command import print_json
from osmo_ray.cli.datasets.common import Counted, effort, measured, pattern, patterns, size_of, verb
from osmo_ray.sdk.errors import ClientError
from osmo_ray.spec.quantity import show_bytes

if TYPE_CHECKING:
    from osmo_ray.objects.protocol import ObjectInfo, ObjectStore


def _store(url: str, keys: Path | None = None) -> ObjectStore:
    from osmo_ray.objects import open_store
    from osmo_ray.objects.keyed import store_options, store_url
    from osmo_ray.sdk.keys import data_keys

    if "://" not in url:
        raise ClientError(f"{url}: write a storage URL, such as s3://bucket/folder", status=400, code="USAGE")
    return Counted(open_store(store_url(url), **store_options(data_keys(keys), url)))


def _chosen(args: argparse.Namespace) -> tuple[ObjectStore, list[ObjectInfo]]:
    """The store of a URL, and what is below it and wanted; where the URL is that of one object, this one."""
    match, store = re.compile(pattern(args)).match, _store(args.url)
    found = list(store.list(""))
    if not found:
        store, found = _single(args.url) or (store, found)
    return store, [info for info in found if match(info.key)]


def _single(url: str) -> tuple[ObjectStore, list[ObjectInfo]] | None:
    from osmo_ray.objects.protocol import ObjectError

    above, _, name = url.rstrip("/").rpartition("/")
    if above.count("/") < 3:  # a bucket is no object
        return None
    try:
        store = _store(above)
        return store, [store.stat(name)]
    except ObjectError:
        return None


def _url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL")


def _upload_arguments(parser: argparse.ArgumentParser) -> None:
    _url(parser)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    patterns(parser)
    effort(parser)


def _upload(args: argparse.Namespace) -> int:
    store, match = _store(args.url), re.compile(pattern(args)).match
    found = [(path, name) for top in args.paths for path, name in _files(top) if match(name)]
    with measured(args, size_of([path for path, _ in found])), ThreadPoolExecutor(max(args.threads, 1)) as pool:
        sizes = list(pool.map(lambda one: store.upload(*one), found))
    return _moved(args, len(found), sum(sizes), args.url)


def _files(top: Path) -> Iterator[tuple[Path, str]]:
    """Files with their keys. A folder keeps its own name, `FOLDER/*` does not. Raises `ClientError`."""
    above = top.parent
    if top.name == "*":
        top, above = top.parent, top.parent
    if not top.exists():
        raise ClientError(f"{top}: no such file or folder", status=400, code="USAGE")
    for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
        if path.is_file():
            yield path, path.relative_to(above).as_posix()


def _moved(args: argparse.Namespace, files: int, size: int, where: object) -> int:
    if args.format_type == "json":
        print_json({"files": files, "size": size})
    else:
        print(f"{files} files, {show_bytes(size)} to {where}")
    return 0


def _download_arguments(parser: argparse.ArgumentParser) -> None:
    _url(parser)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--resume", "-r", action="store_true", help="keep files that have their size already")
    patterns(parser)
    effort(parser)


def _download(args: argparse.Namespace) -> int:
    store, chosen = _chosen(args)
    found = [(info, _target(args.folder, info.key)) for info in chosen]
    if not found:
        raise ClientError(f"{args.url}: nothing is there to download", status=400)
    if args.resume:
        found = [(i, t) for i, t in found if not (t.is_file() and t.stat().st_size == i.size)]
    with measured(args, sum(info.size for info, _ in found)), ThreadPoolExecutor(max(args.threads, 1)) as pool:
        sizes = list(pool.map(lambda one: _fetch(store, one[0].key, one[1]), found))
    return _moved(args, len(found), sum(sizes), args.folder)


def _target(folder: Path, key: str) -> Path:
    """Where a key goes. Raises `ClientError` for one that leads out of the folder."""
    path = PurePosixPath(key)
    if path.is_absolute() or ".." in path.parts:
        raise ClientError(f"{key}: leads out of the folder; nothing was written", status=400)
    return folder / path


def _fetch(store: ObjectStore, key: str, target: Path) -> int:
    """Under its own name only when it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{uuid.uuid4().hex}")
    try:
        size = store.download(key, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return size


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    _url(parser)
    parser.add_argument("file", nargs="?", type=Path, help="write the list there instead")
    parser.add_argument("--prefix", "-p", default="", help="only what begins like this, below the URL")
    parser.add_argument("--recursive", "-r", action="store_true", help="what is in folders too; patterns mean that")
    parser.add_argument("--no-pager", action="store_true", help="accepted; the list is never paged")
    patterns(parser)


def _list(args: argparse.Namespace) -> int:
    _, found = _chosen(args)
    deep = args.recursive or args.regex or args.glob
    rows = _rows([info for info in found if info.key.startswith(args.prefix)], None if deep else args.prefix)
    if args.format_type == "json":
        text = json.dumps([{"key": key, "size": size} for key, size, _ in rows], indent=2)
    else:
        total = f"{sum(count for _, _, count in rows)} objects, {show_bytes(sum(size for _, size, _ in rows))}"
        text = "\n".join([*(f"{size:>14}  {key}" for key, size, _ in rows), total])
    if args.file is None:
        print(text)
    else:
        args.file.write_text(text + "\n")
        print(f"{len(rows)} lines are in {args.file}", file=sys.stderr)
    return 0


def _rows(found: list[ObjectInfo], prefix: str | None) -> list[tuple[str, int, int]]:
    """(key, bytes, objects) of each; behind a prefix whatever lies in one folder is one row that ends with `/`."""
    rows: dict[str, tuple[int, int]] = {}
    for info in found:
        cut = -1 if prefix is None else info.key.find("/", len(prefix))
        key = info.key if cut < 0 else info.key[: cut + 1]
        size, count = rows.get(key, (0, 0))
        rows[key] = size + info.size, count + 1
    return [(key, size, count) for key, (size, count) in rows.items()]


def _delete_arguments(parser: argparse.ArgumentParser) -> None:
    _url(parser)
    patterns(parser)


def _delete(args: argparse.Namespace) -> int:
    store, found = _chosen(args)
    store.delete([info.key for info in found])
    if args.format_type == "json":
        print_json({"deleted": len(found)})
    else:
        print(f"{len(found)} objects deleted")
    return 0


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _url(parser)
    parser.add_argument("--access-type", "-a", type=str.upper, choices=("READ", "WRITE", "DELETE"), default="READ")
    parser.add_argument("--config-file", "-c", type=Path, help="keys as in the client's config.yaml, instead of those")


def _check(args: argparse.Namespace) -> int:
    """Try it: what a key may do is known only when it is done."""
    from osmo_ray.objects.protocol import ObjectError

    try:
        if args.config_file is not None and not args.config_file.is_file():
            raise ClientError(f"{args.config_file}: no such file", status=400, code="USAGE")
        store, key = _store(args.url, args.config_file), f".osmo-check-{uuid.uuid4().hex}"
        if args.access_type == "READ":
            next(iter(store.list("")), None)
        else:
            store.write(key, b"")
            store.delete([key])
    except (ObjectError, OSError) as error:
        print_json({"status": "fail", "error": str(error)})
        return 1
    print_json({"status": "pass"})
    return 0


UPLOAD = verb(_upload_arguments, _upload)
DOWNLOAD = verb(_download_arguments, _download)
LIST = verb(_list_arguments, _list)
DELETE = verb(_delete_arguments, _delete)
CHECK = verb(_check_arguments, _check)
