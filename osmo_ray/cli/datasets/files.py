"""Verbs that move or read the bytes of datasets: they talk to the bucket themselves."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from osmo_ray.cli.command import connect, print_json, table
from osmo_ray.cli.datasets.common import (
    Counted,
    dataset,
    effort,
    glob_regex,
    mapping,
    measured,
    named,
    pattern,
    patterns,
    selector,
    size_of,
    verb,
)
from osmo_ray.sdk.errors import ClientError
from osmo_ray.spec.quantity import show_bytes, show_seconds

if TYPE_CHECKING:
    from osmo_ray.data.names import Reference
    from osmo_ray.data.versions import Version
    from osmo_ray.objects.datasets.dataset import Dataset, Source


def _said(args: argparse.Namespace, value: dict[str, Any], text: str) -> int:
    if args.format_type == "json":
        print_json(value)
    else:
        print(text)
    return 0


def _about(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--desc", "-d", default="", help="what the version is, in a sentence")
    parser.add_argument("--metadata", "-m", nargs="+", default=[], metavar="FILE", help="YAML files about the version")
    parser.add_argument("--labels", "-l", nargs="+", default=[], metavar="FILE", help="YAML files about the dataset")


def _upload_arguments(parser: argparse.ArgumentParser) -> None:
    named(parser)
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files and folders; FOLDER/* is what is in it")
    parser.add_argument("--resume", "-r", action="store_true", help="accepted; what arrived before is never sent again")
    _about(parser)
    patterns(parser)
    effort(parser)


def _upload(args: argparse.Namespace) -> int:
    from osmo_ray.objects.datasets.dataset import About, any_of

    sources = [_source(text) for text in args.paths]
    if (wanted := pattern(args)) and not any_of(sources, wanted):
        raise ClientError(f"nothing in {' '.join(args.paths)} matches; no version was made", status=400, code="USAGE")
    metadata, labels = mapping(args.metadata), mapping(args.labels)
    with connect(args) as client:
        into, reference, user = dataset(client, args.name, write=True, create=True)
    about = About(args.desc, user, metadata={**metadata, **({"description": args.desc} if args.desc else {})})
    with measured(args, size_of([source.path for source in sources])):
        version = into.upload(sources, about, regex=pattern(args))
    if tag := selector(args.name):
        into.tag(tag, str(version.number))
    return _made(args, into, reference, version, labels)


def _made(
    args: argparse.Namespace, into: Dataset, reference: Reference, version: Version, labels: dict[str, Any]
) -> int:
    from osmo_ray.sdk import buckets

    if labels:
        into.label(labels)
    with connect(args) as client:
        buckets.tell(client, reference)
    name = f"{reference.bucket}/{reference.name}"
    value = {"name": name, "version": str(version.number), "files": version.files, "size": version.size}
    told = f"{name}:{version.number} has {version.files} files, {show_bytes(version.size)}"
    return _said(args, {**value, "checksum": version.checksum}, told)


def _source(text: str, dest: str = "") -> Source:
    """A path of the command line; `folder/*` that no shell has expanded is what is in the folder."""
    from osmo_ray.objects.datasets.dataset import Source

    path = Path(text.removesuffix("/*"))
    if not os.path.lexists(path):
        raise ClientError(f"{path}: no such file or folder", status=400, code="USAGE")
    return Source(path, dest, contents=text.endswith("/*"))


def _update_arguments(parser: argparse.ArgumentParser) -> None:
    named(parser)
    parser.add_argument("--add", "-a", nargs="+", default=[], metavar="PATH[:FOLDER]", help="put these on top")
    parser.add_argument("--remove", "-r", default="", metavar="REGEX", help="leave out paths that match, before adding")
    parser.add_argument("--remove-glob", nargs="+", default=[], metavar="GLOB", help="the same for paths like these")
    _about(parser)
    effort(parser)


def _update(args: argparse.Namespace) -> int:
    from osmo_ray.objects.datasets.dataset import About

    if args.remove and args.remove_glob:
        raise ClientError("give --remove or --remove-glob, not both", status=400, code="USAGE")
    remove = args.remove or "|".join(f"(?:{glob_regex(one)})" for one in args.remove_glob)
    if not args.add and not remove:
        raise ClientError("nothing to do: give --add, --remove or --remove-glob", status=400, code="USAGE")
    parts = [text.replace("\\:", "\0").partition(":") for text in args.add]
    sources = [_source(a.replace("\0", ":"), b.replace("\0", ":")) for a, _, b in parts]
    metadata, labels = mapping(args.metadata), mapping(args.labels)
    with connect(args) as client:
        into, reference, user = dataset(client, args.name, write=True)
    about = About(args.desc, user, metadata=metadata)
    with measured(args, size_of([source.path for source in sources])):
        version = into.update(sources, about, base=reference.selector, remove=remove)
    return _made(args, into, reference, version, labels)


def _download_arguments(parser: argparse.ArgumentParser) -> None:
    named(parser)
    parser.add_argument("folder", type=Path, help="a folder named like the dataset is made in it")
    parser.add_argument("--resume", "-r", action="store_true", help="keep what is there and right, fetch the rest")
    patterns(parser)
    effort(parser)


def _download(args: argparse.Namespace) -> int:
    from osmo_ray.objects.datasets import Dataset, catalog
    from osmo_ray.sdk import buckets

    with connect(args) as client:
        reference = buckets.named(client, args.name)
        bucket = buckets.opened(client, reference.bucket, through=Counted).bucket
    found = catalog.lookup(bucket, reference.name)
    members = [(reference.name, reference.selector)]
    if found is not None and found.kind == catalog.COLLECTION:
        members = [(name, str(number)) for name, number in catalog.collection(bucket, reference.name).members]
    done = []
    for name, wanted in members:
        source = Dataset(bucket, name)
        version = source.version(wanted)
        with measured(args, version.size):
            moved = source.download(args.folder / name, str(version.number), regex=pattern(args), resume=args.resume)
        done.append({"name": name, "version": str(version.number), "size": moved, "folder": str(args.folder / name)})
    told = [f"{d['name']}:{d['version']} is in {d['folder']}: {show_bytes(int(str(d['size'])))}" for d in done]
    return _said(args, {"datasets": done}, "\n".join(told))


def _inspect_arguments(parser: argparse.ArgumentParser) -> None:
    named(parser)
    parser.add_argument("--count", "-c", type=int, default=1000, help="files at most (1000)")
    parser.add_argument(
        "--format-type", "-t", choices=("text", "tree", "json"), default="text",
        help="tree: folders with what is in them; json: for programs",
    )  # fmt: skip
    patterns(parser)


def _inspect(args: argparse.Namespace) -> int:
    import itertools

    with connect(args) as client:
        found, reference, _ = dataset(client, args.name)
    rows = itertools.islice(found.entries(reference.selector, regex=pattern(args)), args.count)
    files = [
        {
            "relative_path": row.path.decode(errors="backslashreplace"), "kind": row.kind.name.lower(),
            "size": row.size, "mode": f"{row.mode:04o}", "digest": row.digest.hex() if row.digest else None,
        }
        for row in rows
    ]  # fmt: skip
    if args.format_type == "json":
        print_json(files)
    elif args.format_type == "tree":
        print("\n".join(drawn(f"{reference.bucket}/{reference.name}", [str(f["relative_path"]) for f in files])))
    else:
        lines = [[f["mode"], show_bytes(int(str(f["size"]))), f["relative_path"]] for f in files]
        print(table(["Mode", "Size", "Path"], [[str(cell) for cell in line] for line in lines]))
    return 0


def drawn(top: str, paths: Sequence[str]) -> list[str]:
    """Paths as a tree, below `top`."""
    tree: dict[str, Any] = {}
    for path in paths:
        at = tree
        for part in path.split("/"):
            at = at.setdefault(part, {})
    return [top, *_branches(tree, "")]


def _branches(tree: dict[str, Any], above: str) -> Iterator[str]:
    for name, below in tree.items():
        last = name == next(reversed(tree))
        yield f"{above}{'└── ' if last else '├── '}{name}"
        yield from _branches(below, above + ("    " if last else "│   "))


def _diff_arguments(parser: argparse.ArgumentParser) -> None:
    named(parser)
    parser.add_argument("before", help="a version or tag of it")
    parser.add_argument("after", nargs="?", default="latest", help="another (default: the newest)")


def _diff(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found, _, _ = dataset(client, args.name)
    changes = [
        (change.name.lower(), path.decode(errors="backslashreplace"))
        for step in found.diff(args.before, args.after)
        for change, path in step.changes()
    ]
    sign = {"added": "+", "removed": "-", "changed": "~"}
    told = "\n".join(f"{sign[change]} {path}" for change, path in changes)
    return _said(args, {"changes": [{"path": p, "change": c} for c, p in changes]}, told or "the same files")


def _log(args: argparse.Namespace) -> int:
    with connect(args) as client:
        found, reference, _ = dataset(client, args.name)
    versions = [v for v in reversed(found.versions()) if reference.version is None or v.number <= reference.version]
    if args.format_type == "json":
        import dataclasses

        print_json([dataclasses.asdict(version) for version in versions])
        return 0
    for version in versions:
        made = version.lineage
        by = f"task {made.task} of {made.workflow}" if made.workflow else version.created_by
        of = f"  from {', '.join(made.inputs)}" if made.inputs else ""
        parent = f"  on {version.parent}" if version.parent else ""
        size = f"{version.files} files, {show_bytes(version.size)}"
        print(f"{version.number}  {size}  by {by}{parent}{of}  {version.message}".rstrip())
    return 0


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bucket", nargs="?", default="", help="(default: your own)")
    parser.add_argument("--sample", type=float, default=1.0, metavar="SHARE", help="read this share of the packs")
    parser.add_argument(
        "--rebuild-index", action="store_true",
        help="let the platform read all of the bucket anew for its lists and queries; no data is read",
    )  # fmt: skip


def _verify(args: argparse.Namespace) -> int:
    from osmo_ray.objects.datasets.collecting import verify
    from osmo_ray.sdk import buckets

    with connect(args) as client:
        name = args.bucket or buckets.default_name(client)
        if args.rebuild_index:
            return _rebuilt(args, client.http.json("POST", f"/api/x/bucket/{name}/index"))
        bucket = buckets.opened(client, name).bucket
    wrong = verify(bucket, share=args.sample)
    _said(args, {"wrong": wrong}, "\n".join(wrong) or "everything is as it was stored")
    return 1 if wrong else 0


def _rebuilt(args: argparse.Namespace, found: dict[str, Any]) -> int:
    told = [
        f"{found['bucket']} has {found['datasets']} datasets with {found['versions']} versions, "
        f"{show_bytes(found['size'])}, and {found['collections']} collections",
        f"{found['changed']} names were not as the index had them",
        *(f"cannot be read: {one}" for one in found["wrong"]),
    ]
    _said(args, found, "\n".join(told))
    return 1 if found["wrong"] else 0


def _gc_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bucket", nargs="?", default="", help="(default: your own)")
    parser.add_argument("--grace", type=float, default=86400.0, help="seconds between the verdict and the end")


def _gc(args: argparse.Namespace) -> int:
    import dataclasses

    from osmo_ray.objects.datasets.collecting import Policy, collect
    from osmo_ray.sdk import buckets

    with connect(args) as client:
        bucket = buckets.opened(client, args.bucket or buckets.default_name(client), write=True).bucket
    report = collect(bucket, Policy(grace=args.grace))
    told = [
        f"{_packs(report.deleted)} deleted, {show_bytes(report.freed)} freed",
        f"{_packs(report.condemned)} condemned: they go when nobody has needed them for {show_seconds(args.grace)}",
    ]
    told += [f"{_packs(report.rescued)} kept after all: a version needs them"] if report.rescued else []
    told += [f"{report.given_up} uploads that had died were given up"] if report.given_up else []
    told += [f"waits: {reason}" for reason in report.waiting]
    return _said(args, dataclasses.asdict(report), "\n".join(told))


def _packs(count: int) -> str:
    return f"{count} pack{'s' * (count != 1)}"


def _checksum_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")


def _checksum(args: argparse.Namespace) -> int:
    """The sum that OSMO's client prints of the same paths."""
    import hashlib

    from osmo_ray.objects.datasets.guests import checksum

    found = {}
    for top in args.paths:
        files = [top] if top.is_file() else sorted(p for p in top.rglob("*") if p.is_file())
        lines = sorted(f"{p.relative_to(top.parent)} {checksum(p)}" for p in files)
        found[str(top)] = hashlib.md5("".join(lines).encode(), usedforsecurity=False).hexdigest()
    return _said(args, found, "\n".join(f"{sum_}  {name}" for name, sum_ in found.items()))


UPLOAD = verb(_upload_arguments, _upload)
UPDATE = verb(_update_arguments, _update)
DOWNLOAD = verb(_download_arguments, _download)
INSPECT = verb(_inspect_arguments, _inspect, json=False)
DIFF = verb(_diff_arguments, _diff)
LOG = verb(named, _log)
VERIFY = verb(_verify_arguments, _verify)
GC = verb(_gc_arguments, _gc)
CHECKSUM = verb(_checksum_arguments, _checksum)
