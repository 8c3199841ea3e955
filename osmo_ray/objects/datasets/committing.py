"""The one write that makes a version, and what happens when another writer was faster.

Versions are numbered objects that can be created once. Whoever finds the number taken looks at what the other did: an
upload of a whole tree takes the next number; an update of a version puts its changes on top, if they touch other
paths, and is a `Conflict` otherwise. So numbers only grow, and `latest`, the highest one, never moves back.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from osmo_ray.data.errors import Conflict
from osmo_ray.data.manifest import Kind, checksum, chunk_ids
from osmo_ray.data.merge import rebase
from osmo_ray.data.versions import Version, already, dump_version, latest, load_version
from osmo_ray.objects.datasets import layout
from osmo_ray.objects.datasets.bucket import THREADS, Bucket
from osmo_ray.objects.datasets.reading import Reader
from osmo_ray.objects.datasets.sending import Sender
from osmo_ray.objects.datasets.session import Session
from osmo_ray.objects.protocol import AlreadyExists

_RACES = 200
_LOOK_BACK = 256
"""Newest versions among which another attempt's may be."""


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
    claimed: int | None = None,
) -> Version:
    """Publish a manifest whose chunks are with the sender. `draft` has everything but number, manifest and sums.
    `expect` is the number it must get: then nothing is rebased. `claimed` is a number that was claimed for it, and
    that nobody else takes. Raises `Conflict`."""
    seen: dict[int, Version] = {}
    for _ in range(_RACES):
        head = max(bucket.numbers(layout.versions(dataset)), default=0)
        number = claimed or max(head, *bucket.numbers(layout.claims(dataset)), 0) + 1
        if expect is not None and number != expect:
            raise Conflict(f"version {expect} was wanted, the newest is {head}; look at it and decide again")
        newest = _newest(bucket, dataset) if base is not None else 0
        if base is not None and newest > base.number:
            theirs = base.load(newest)
            table = rebase(base.table, table, theirs)
            base = replace(base, number=newest, table=theirs)
            sender.refresh()
            sender.carry(chunk_ids(table), Reader(bucket))
        sender.close()
        version = _described(draft, table, number, base)
        # Whoever commits in between takes our number: then we come here once more, and see it.
        if draft.writer and (done := already(version, _others(bucket, dataset, seen))) is not None:
            return done
        manifest = bucket.put_table(layout.manifests(dataset), table, session.id)
        version = replace(version, manifest=manifest.removeprefix(f"{layout.DATASETS}/{dataset}/"))
        key = layout.numbered(layout.versions(dataset), number)
        session.commit(manifest, key)
        try:
            bucket.put(key, dump_version(version))
        except AlreadyExists:
            if claimed is not None:
                raise Conflict(f"version {claimed} is there already; claim another number") from None
            continue
        return version
    raise Conflict(f"{_RACES} other writers were faster, one after another; try again when fewer write")


def _newest(bucket: Bucket, dataset: str) -> int:
    """The newest version that is not deleted; those above it, which are, change nothing. 0 if there is none."""
    gone = bucket.numbers(layout.deleted(dataset))
    return latest(bucket.numbers(layout.versions(dataset)), gone) or 0


def _others(bucket: Bucket, dataset: str, seen: dict[int, Version]) -> list[Version]:
    """The newest versions, those of `seen` not read again."""
    new = [n for n in sorted(bucket.numbers(layout.versions(dataset)))[-_LOOK_BACK:] if n not in seen]
    with ThreadPoolExecutor(THREADS) as pool:
        keys = [layout.numbered(layout.versions(dataset), number) for number in new]
        seen.update(zip(new, map(load_version, pool.map(bucket.get, keys)), strict=True))
    gone = set(bucket.numbers(layout.deleted(dataset)))
    return [version for number, version in seen.items() if number not in gone]


def _described(draft: Version, table: pa.Table, number: int, base: Base | None) -> Version:
    size = pc.sum(table.column("size")).as_py() or 0
    files = pc.sum(pc.equal(table.column("kind"), int(Kind.FILE))).as_py() or 0
    parent = base.number if base else None
    return replace(draft, number=number, checksum=checksum(table), files=files, size=size, parent=parent)
