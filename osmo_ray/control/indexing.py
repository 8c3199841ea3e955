"""The index of what buckets hold: read from listings, since a bucket is the truth and anybody may write to it.

All that matters in a bucket is numbered objects that are created once, so a listing tells what is new: only that is
read. A *name* is read anew when somebody wrote it through the platform, or looks at it. All of a *shelf* is read when a
list or a query is asked for: each time where that is quick, else in the background, and then no more than a twentieth
of the time; names that running workflows may have written are looked at in between.

A shelf is a bucket as one endpoint shows it (`Buckets.shelf`).
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from osmo_ray.data.errors import Corrupt, DataError
from osmo_ray.data.versions import Version, load_version
from osmo_ray.objects.datasets import layout
from osmo_ray.objects.protocol import ObjectError
from osmo_ray.store.dataset_nouns import (
    COLLECTION,
    DATASET,
    GONE,
    PENDING,
    READY,
    Indexed,
    IndexedName,
    IndexedTag,
    IndexedVersion,
    Synced,
)
from osmo_ray.store.protocol import Store, StoreError

if TYPE_CHECKING:
    from osmo_ray.objects.datasets.bucket import Bucket

log = logging.getLogger(__name__)

QUICK = 0.25
"""Seconds: a shelf that is read in less is read each time that somebody asks."""
SHARE = 20
"""Others are read again when so many times of what it took have passed."""
_THREADS = 16
_BATCH = 500
_SLACK = 60.0
_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Report:
    """What reading a whole shelf found. `changed` names were not as the index had them; `wrong` cannot be read."""

    names: int
    changed: int
    seconds: float
    wrong: tuple[str, ...] = ()


@dataclass(slots=True)
class Indexer:
    """Its verbs block; for many threads."""

    store: Store
    clock: Callable[[], float] = time.time
    _locks: dict[str, threading.Lock] = field(default_factory=dict)

    def refresh(self, shelf: str, bucket: Bucket, *names: str) -> None:
        """Read these names anew. Raises `DataError` and `ObjectError`."""
        for name in names:
            at = self.clock()
            folder = f"{layout.NAMES}/{name}"
            numbers = bucket.numbers(folder)
            if not numbers:
                continue
            known = self.store.indexed(shelf, name)
            found = _entry(bucket, name, numbers[-1], known.name if known else None, at)
            keys = [info.key for info in bucket.store.list(f"{layout.DATASETS}/{found.id}/")] if found.id else []
            update = _read(bucket, found, keys, known)
            if update is not None:
                self.store.index_names(shelf, [update])

    def look(self, shelf: str, place: str, open_bucket: Callable[[], Bucket]) -> None:
        """See to it that the index is as new as a list has to be. `place` is the bucket's name. Raises `DataError` and
        `ObjectError` for a bucket that was never read and cannot be."""
        synced = self.store.synced(shelf)
        try:
            if synced is None or synced.took < QUICK:
                self.reconcile(shelf, open_bucket())
                return
            if self.clock() - synced.at > SHARE * synced.took:
                threading.Thread(target=self._in_background, args=(shelf, open_bucket), daemon=True).start()
            names = self.store.writes_since(place, synced.at - _SLACK)
            if names:
                self.refresh(shelf, open_bucket(), *names)
        except (DataError, ObjectError, OSError) as error:
            if synced is None:
                raise
            log.warning("bucket %s is listed as it was %.0f s ago: %s", place, self.clock() - synced.at, error)

    def _in_background(self, shelf: str, open_bucket: Callable[[], Bucket]) -> None:
        try:
            self.reconcile(shelf, open_bucket(), wait=False)
        except (DataError, ObjectError, OSError, StoreError) as error:
            log.warning("bucket %s could not be read: %s", shelf, error)

    def reconcile(self, shelf: str, bucket: Bucket, *, anew: bool = False, wait: bool = True) -> Report:
        """Read what is new in all of a bucket; `anew` reads everything. One at a time: without `wait`, nothing is done
        while another one runs."""
        lock = self._locks.setdefault(shelf, threading.Lock())
        if not lock.acquire(blocking=wait):
            return Report(0, 0, 0.0)
        try:
            return self._reconcile(shelf, bucket, anew)
        finally:
            lock.release()

    def _reconcile(self, shelf: str, bucket: Bucket, anew: bool) -> Report:
        at, began = self.clock(), time.monotonic()
        synced = self.store.synced(shelf)
        if synced is not None and synced.bucket != bucket.id:
            self.store.mark_synced(shelf, Synced(bucket.id, at, 0.0))
        known = self.store.index_stamps(shelf)
        wrong: list[str] = []
        numbers = _names(bucket)
        entries = _entries(bucket, numbers, {} if anew else known, at, wrong)
        changed = 0
        news = _changed(bucket, entries, known, anew)
        while some := [*itertools.islice(news, _BATCH)]:
            updates = self._updates(shelf, bucket, some, anew, wrong)
            changed += sum(_differs(known.get(update.name.name), update.name) for update in updates)
            self.store.index_names(shelf, updates)
        took = time.monotonic() - began
        self.store.mark_synced(shelf, Synced(bucket.id, at, took), numbers.keys())
        return Report(sum(1 for entry in entries if entry.id), changed, took, tuple(wrong))

    def _updates(
        self, shelf: str, bucket: Bucket, some: Iterable[tuple[IndexedName, list[str]]], anew: bool, wrong: list[str]
    ) -> list[Indexed]:
        def one(pair: tuple[IndexedName, list[str]]) -> Indexed | None:
            entry, keys = pair
            try:
                return _read(bucket, entry, keys, None if anew else self.store.indexed(shelf, entry.name), anew=True)
            except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
                wrong.append(f"{entry.name}: {error}")
                return None

        with ThreadPoolExecutor(_THREADS) as pool:
            return [found for found in pool.map(one, some) if found is not None]


def _names(bucket: Bucket) -> dict[str, int]:
    """name -> number of its newest record."""
    found: dict[str, int] = {}
    for info in bucket.store.list(layout.NAMES):
        name = info.key.split("/")[1]
        found[name] = max(found.get(name, 0), layout.number_of(info.key))
    return found


def _entries(
    bucket: Bucket, numbers: Mapping[str, int], known: Mapping[str, IndexedName], at: float, wrong: list[str]
) -> list[IndexedName]:
    def one(pair: tuple[str, int]) -> IndexedName | None:
        try:
            return _entry(bucket, *pair, known.get(pair[0]), at)
        except (DataError, KeyError, TypeError, ValueError) as error:
            wrong.append(f"{pair[0]}: {error}")
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        return [entry for entry in pool.map(one, sorted(numbers.items())) if entry is not None]


def _entry(bucket: Bucket, name: str, number: int, known: IndexedName | None, at: float) -> IndexedName:
    if known is not None and known.number == number:
        return IndexedName(name, known.kind, known.id, number, listed=at)
    record = bucket.record(layout.numbered(f"{layout.NAMES}/{name}", number))
    kind, id = str(record["kind"]), str(record["id"])
    if id and (not _ID.fullmatch(id) or kind not in (DATASET, COLLECTION)):
        raise Corrupt(f"the name {name!r} leads to nothing that this program knows")
    return IndexedName(name, kind if id else "", id, number, listed=at)


def _changed(
    bucket: Bucket, entries: Iterable[IndexedName], known: Mapping[str, IndexedName], anew: bool
) -> Iterator[tuple[IndexedName, list[str]]]:
    """Names with the keys of what they lead to, where these are not as they were."""
    wanted: dict[str, list[IndexedName]] = {}
    for entry in entries:
        before = known.get(entry.name)
        if entry.id:
            wanted.setdefault(entry.id, []).append(entry)
        elif before is None or before.number != entry.number or anew:
            yield entry, []
    for folder in (layout.DATASETS, layout.COLLECTIONS):
        keys = (info.key for info in bucket.store.list(folder))
        for id, some in itertools.groupby(keys, lambda key: key.split("/")[1]):
            mine = [*some] if id in wanted else []
            stamp = _stamp(mine)
            for entry in wanted.pop(id, ()):
                before = known.get(entry.name)
                if anew or before is None or before.number != entry.number or before.stamp != stamp:
                    yield entry, mine
    for left in wanted.values():  # a name whose first upload has not come to anything yet
        for entry in left:
            before = known.get(entry.name)
            if anew or before is None or before.number != entry.number or before.stamp != _stamp([]):
                yield entry, []


def _differs(before: IndexedName | None, after: IndexedName) -> bool:
    return before is None or (before.number, before.stamp) != (after.number, after.stamp)


def _stamp(keys: Iterable[str]) -> str:
    made = hashlib.blake2b(digest_size=16)
    for key in keys:
        if "/manifests/" not in key:
            made.update(key.encode() + b"\0")
    return made.hexdigest()


def _read(
    bucket: Bucket, entry: IndexedName, keys: list[str], known: Indexed | None, *, anew: bool = False
) -> Indexed | None:
    """What the index has to be told of a name; None: nothing. `anew` says that nobody compared the stamps before."""
    if not entry.id:
        return Indexed(entry)
    if entry.kind == COLLECTION:
        return _collection(bucket, entry)
    stamp = _stamp(keys)
    same = known is not None and known.name.id == entry.id
    if known is not None and same and known.name.stamp == stamp and known.name.number == entry.number and not anew:
        return None
    return _dataset(bucket, replace(entry, stamp=stamp), _Keys(keys), known if same else None)


def _collection(bucket: Bucket, entry: IndexedName) -> Indexed:
    folder = f"{layout.COLLECTIONS}/{entry.id}"
    infos = list(bucket.store.list(folder))
    made = min((info.modified for info in infos), default=0.0)
    _, record = bucket.newest(folder)
    members = [(str(name), int(number)) for name, number in record.get("members", [])]
    stamp = _stamp(info.key for info in infos)
    return Indexed(replace(entry, stamp=stamp, created=made, changed=made), members=members)


class _Keys:
    """The keys of a dataset, sorted into what they are."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.versions: set[int] = set()
        self.deleted: set[int] = set()
        self.claims: set[int] = set()
        self.labels = 0
        self.tags: dict[str, int] = {}
        self.metadata: dict[int, int] = {}
        for key in keys:
            match key.split("/")[2:]:
                case ["versions", number]:
                    self.versions.add(int(number))
                case ["deleted", number]:
                    self.deleted.add(int(number))
                case ["claims", number]:
                    self.claims.add(int(number))
                case ["labels", number]:
                    self.labels = max(self.labels, int(number))
                case ["tags", tag, number]:
                    self.tags[tag] = max(self.tags.get(tag, 0), int(number))
                case ["metadata", version, number]:
                    self.metadata[int(version)] = max(self.metadata.get(int(version), 0), int(number))


def _dataset(bucket: Bucket, entry: IndexedName, keys: _Keys, known: Indexed | None) -> Indexed:
    before = {version.number: version for version in known.versions} if known else {}
    versions = {n: _version(bucket, entry.id, n, keys, before.get(n)) for n in sorted(keys.versions)}
    pending = sorted(keys.claims - keys.versions - keys.deleted)
    versions.update({n: before.get(n) or _claim(bucket, entry.id, n) for n in pending})
    tags = {tag.tag: tag for tag in known.tags} if known else {}
    moved = [_tag(bucket, entry.id, tag, n) for tag, n in keys.tags.items() if tag not in tags or tags[tag].number != n]
    labels = known.name.labels if known else {}
    if keys.labels and (known is None or known.name.labels_number != keys.labels):
        labels = _values(bucket, layout.labels(entry.id), keys.labels)
    ready = [version for version in versions.values() if version.status == READY]
    first = min(versions.values(), key=lambda version: version.number, default=None)
    newest = max(ready, key=lambda version: version.number, default=None)
    created = first.created if first else 0.0
    return Indexed(
        replace(
            entry, created_by=first.created_by if first else "", created=created, labels=labels,
            changed=newest.created if newest else created, newest=newest.number if newest else 0,
            size=sum(version.size for version in ready), labels_number=keys.labels,
        ),
        [version for version in versions.values() if version != before.get(version.number)],
        moved,
        dropped=sorted(before.keys() - versions.keys()),
        anew=known is None,
    )  # fmt: skip


def _version(bucket: Bucket, id: str, number: int, keys: _Keys, known: IndexedVersion | None) -> IndexedVersion:
    status, described = GONE if number in keys.deleted else READY, keys.metadata.get(number, 0)
    if known is None or known.status == PENDING:
        stored = load_version(bucket.get(layout.numbered(layout.versions(id), number)))
        found = _of(stored, number, status)
    else:
        found = replace(known, status=status)
    if described == found.metadata_number:
        return found
    values = _values(bucket, layout.metadata(id, number), described)
    return replace(found, metadata=values, metadata_number=described)


def _of(stored: Version, number: int, status: str) -> IndexedVersion:
    return IndexedVersion(
        number, status, stored.created_by, float(stored.created_at), int(stored.size), int(stored.files),
        stored.checksum, stored.message, stored.parent or 0, stored.lineage, dict(stored.metadata),
    )  # fmt: skip


def _claim(bucket: Bucket, id: str, number: int) -> IndexedVersion:
    record = bucket.record(layout.numbered(layout.claims(id), number))
    return IndexedVersion(number, PENDING, str(record["by"]), float(record["at"]), metadata=dict(record["metadata"]))


def _tag(bucket: Bucket, id: str, tag: str, number: int) -> IndexedTag:
    record = bucket.record(layout.numbered(layout.tag(id, tag), number))
    return IndexedTag(tag, int(record.get("version") or 0), number)


def _values(bucket: Bucket, folder: str, number: int) -> dict[str, Any]:
    return dict(bucket.record(layout.numbered(folder, number))["values"])
