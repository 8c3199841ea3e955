"""Uploads that died after naming their manifest and before making their version: ended for good, so that their bytes
can go.

Such an upload may only be asleep, and make its version when it wakes. So the number that it wants is taken from it: a
copy of the newest version is put there, and deleted at once. Nobody who reads in between sees anything but what was
there before. The order is what counts. An upload tells the key that it will create, then looks for `void`, then creates
it; a collection writes `void`, then reads the keys, then takes them: the upload sees `void`, or the collection its key.
Only when all keys are taken, `buried` says that the manifest is no longer reachable. A part of an append is harmless
once the append is over: nobody commits it then.
"""

from __future__ import annotations

from dataclasses import replace

from osmo_ray.data.manifest import checksum, table_of
from osmo_ray.data.versions import Version, dump_version, latest, load_version
from osmo_ray.objects.datasets import layout
from osmo_ray.objects.datasets.appending import give_up, unfinished
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.datasets.session import Seen
from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject

_SAID = "taken from an upload that died"


def bury(bucket: Bucket, seen: Seen) -> bool:
    """End an upload that has named manifests. False if it made its version after all, or a part of an append that may
    yet be committed. May be done again after a death anywhere; never beside another collection."""
    bucket.put_mark(layout.void(seen.id))
    try:
        ended = bucket.record(layout.ended(seen.id))
    except NoSuchObject:  # it has come to its end meanwhile
        bucket.store.delete([layout.void(seen.id)])
        return False
    for key in ended["keys"]:
        _, dataset, kind, *rest = key.split("/")
        gone = _take(bucket, dataset, int(rest[0]), seen.id) if kind == "versions" else _over(bucket, dataset, rest[0])
        if not gone:
            return False
    bucket.put_mark(layout.buried(seen.id))
    return True


def _take(bucket: Bucket, dataset: str, number: int, session: str) -> bool:
    """Have this number of the dataset used by anything but a version of that upload."""
    key = layout.numbered(layout.versions(dataset), number)
    try:
        bucket.put(key, dump_version(_copy(bucket, dataset, number, session)))
    except AlreadyExists:
        there = load_version(bucket.get(key))
        if there.session != session:  # another writer was faster
            return True
        if there.message != _SAID:
            return False
    try:
        bucket.append(layout.deleted(dataset), number, {"at": bucket.now()})
    except AlreadyExists:
        pass
    return True


def _over(bucket: Bucket, dataset: str, run: str) -> bool:
    """Whether no part of an append can be committed any more; one that nobody else has begun is given up."""
    folder = layout.appends(dataset, run)
    known = next((append for append in unfinished(bucket) if append.folder == folder), None)
    if known is None:
        give_up(bucket, folder)
    return known is None or known.over


def _copy(bucket: Bucket, dataset: str, number: int, session: str) -> Version:
    """The newest version under another number; an empty one where there is none."""
    gone = bucket.numbers(layout.deleted(dataset))
    newest = latest(bucket.numbers(layout.versions(dataset)), gone)
    if newest is None:
        empty = table_of(())
        manifest = bucket.put_table(layout.manifests(dataset), empty, session)
        inside = manifest.removeprefix(f"{layout.DATASETS}/{dataset}/")
        return Version(number, inside, checksum(empty), 0, 0, bucket.now(), message=_SAID, session=session)
    version = load_version(bucket.get(layout.numbered(layout.versions(dataset), newest)))
    return replace(version, number=number, parent=newest, message=_SAID, session=session, writer="")
