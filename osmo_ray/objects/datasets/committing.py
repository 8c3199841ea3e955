"""The one write that makes a version, and what happens when another writer was faster.

Versions are numbered objects that can be created once. Whoever finds the number taken looks at what the other did: an
upload of a whole tree takes the next number; an update of a version puts its changes on top, if they touch other
paths, and is a `Conflict` otherwise. So numbers only grow, and `latest`, the highest one, never moves back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from osmo_ray.data.errors import Conflict
from osmo_ray.data.manifest import Kind, checksum, chunk_ids
from osmo_ray.data.merge import rebase
from osmo_ray.data.versions import Version, dump_version
from osmo_ray.objects.datasets import layout
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.datasets.reading import Reader
from osmo_ray.objects.datasets.sending import Sender
from osmo_ray.objects.datasets.session import Session
from osmo_ray.objects.protocol import AlreadyExists

_RACES = 200


@dataclass(frozen=True, slots=True)
class Base:
    """What an update began from, and how to read a newer version's manifest."""

    number: int
    table: pa.Table
    load: Callable[[int], pa.Table]


def commit(
    bucket: Bucket,
    dataset: str,
    table: pa.Table,
    draft: Version,
    session: Session,
    sender: Sender,
    *,
    base: Base | None = None,
    expect: int | None = None,
) -> Version:
    """Publish a manifest whose chunks are with the sender. `draft` has everything but number, manifest and sums.
    `expect` is the number it must get: then nothing is rebased. Raises `Conflict`."""
    for _ in range(_RACES):
        head = max(bucket.numbers(layout.versions(dataset)), default=0)
        if expect is not None and head + 1 != expect:
            raise Conflict(f"version {expect} was wanted, the newest is {head}; look at it and decide again")
        if base is not None and head > base.number and head not in bucket.numbers(layout.deleted(dataset)):
            theirs = base.load(head)
            table = rebase(base.table, table, theirs)
            base = replace(base, number=head, table=theirs)
            sender.refresh()
            sender.carry(chunk_ids(table), Reader(bucket))
        sender.close()
        version = _described(draft, table, head + 1, base)
        manifest = bucket.put_table(layout.manifests(dataset), table, session.id)
        version = replace(version, manifest=manifest.removeprefix(f"{layout.DATASETS}/{dataset}/"))
        session.commit(manifest)
        try:
            bucket.put(layout.numbered(layout.versions(dataset), version.number), dump_version(version))
        except AlreadyExists:
            continue
        return version
    raise Conflict(f"{_RACES} other writers were faster, one after another; try again when fewer write")


def _described(draft: Version, table: pa.Table, number: int, base: Base | None) -> Version:
    size = pc.sum(table.column("size")).as_py() or 0
    files = pc.sum(pc.equal(table.column("kind"), int(Kind.FILE))).as_py() or 0
    parent = base.number if base else None
    return replace(draft, number=number, checksum=checksum(table), files=files, size=size, parent=parent)
