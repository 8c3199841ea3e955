"""`osmo dataset mount`: a version as a folder of this host, fetched as it is read."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from osmo_ray.cli.command import connect
from osmo_ray.cli.datasets.common import dataset, verb
from osmo_ray.spec.quantity import to_bytes


def _mount_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="[BUCKET/]NAME[:TAG]")
    parser.add_argument("folder", type=Path, help="an empty folder; the version is there until this command ends")
    parser.add_argument("--cache", type=Path, help="where files are kept that were read (default: the client's own)")
    parser.add_argument("--cache-size", default="10Gi", help="how much of them (default: %(default)s)")


def _mount(args: argparse.Namespace) -> int:
    from osmo_ray.objects.datasets.cache import NodeCache
    from osmo_ray.objects.datasets.mounting import mount
    from osmo_ray.sdk.login import folder

    with connect(args) as client:
        found, reference, _ = dataset(client, args.name)
    version = found.version(reference.selector)
    cache = NodeCache(args.cache or folder() / "datasets" / "files", to_bytes(args.cache_size))
    told = f"{reference.bucket}/{reference.name}:{version.number} is at {args.folder}, read-only"
    print(f"{told}; end this command or `umount {args.folder}` to take it away", file=sys.stderr)
    mount(found, str(version.number), args.folder, cache)
    return 0


MOUNT = verb(_mount_arguments, _mount)
