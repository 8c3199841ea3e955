"""`osmo data`: files at storage URLs, without a platform in between."""

from __future__ import annotations

import argparse
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from osmo_ray.cli.command import print_json
from osmo_ray.cli.datasets.common import Counted, pattern, patterns, progress, size_of, verb
from osmo_ray.sdk.errors import ClientError
from osmo_ray.spec.quantity import show_bytes

if TYPE_CHECKING:
    from osmo_ray.objects.protocol import ObjectInfo, ObjectStore

_THREADS = 16


def _store(url: str) -> ObjectStore:
    from osmo_ray.objects import open_store
    from osmo_ray.objects.keyed import store_options, store_url
    from osmo_ray.sdk.keys import data_keys

    if "://" not in url:
        raise ClientError(f"{url}: write a storage URL, such as s3://bucket/folder", status=400, code="USAGE")
    return Counted(open_store(store_url(url), **store_options(data_keys(), url)))


def _chosen(store: ObjectStore, args: argparse.Namespace) -> Iterator[ObjectInfo]:
    match = re.compile(pattern(args)).match
    return (info for info in store.list("") if match(info.key))


def _url(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL")


def _upload_arguments(parser: argparse.ArgumentParser) -> None:
    _url(parser)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    patterns(parser)


def _upload(args: argparse.Namespace) -> int:
    store, match = _store(args.url), re.compile(pattern(args)).match
    found = [(path, name) for top in args.paths for path, name in _files(top) if match(name)]
    with progress(size_of([path for path, _ in found])), ThreadPoolExecutor(_THREADS) as pool:
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


def _download(args: argparse.Namespace) -> int:
    store = _store(args.url)
    found = [(info, _target(args.folder, info.key)) for info in _chosen(store, args)]
    if not found:
        raise ClientError(f"{args.url}: nothing is there to download", status=400)
    if args.resume:
        found = [(i, t) for i, t in found if not (t.is_file() and t.stat().st_size == i.size)]
    with progress(sum(info.size for info, _ in found)), ThreadPoolExecutor(_THREADS) as pool:
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
    patterns(parser)


def _list(args: argparse.Namespace) -> int:
    found = list(_chosen(_store(args.url), args))
    if args.format_type == "json":
        print_json([{"key": info.key, "size": info.size} for info in found])
        return 0
    for info in found:
        print(f"{info.size:>14}  {info.key}")
    print(f"{len(found)} objects, {show_bytes(sum(info.size for info in found))}")
    return 0


def _delete(args: argparse.Namespace) -> int:
    store = _store(args.url)
    found = [info.key for info in _chosen(store, args)]
    store.delete(found)
    if args.format_type == "json":
        print_json({"deleted": len(found)})
    else:
        print(f"{len(found)} objects deleted")
    return 0


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _url(parser)
    parser.add_argument("--access-type", "-a", type=str.upper, choices=("READ", "WRITE", "DELETE"), default="READ")


def _check(args: argparse.Namespace) -> int:
    """Try it: what a key may do is known only when it is done."""
    from osmo_ray.objects.protocol import ObjectError

    try:
        store, key = _store(args.url), f".osmo-check-{uuid.uuid4().hex}"
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
DELETE = verb(_list_arguments, _delete)
CHECK = verb(_check_arguments, _check)
