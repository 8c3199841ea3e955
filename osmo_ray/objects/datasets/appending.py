"""Many workers, one new version: each writes a part of its own, and one commit publishes all of them or nothing.

`appends/<run>/parts/<writer>` names the manifest of what a worker has sent. It is created once, so a worker that is
run again changes nothing. `closing` ends the time for parts, after it `closed` says which ones count: a part that was
created before `closing` is among them, so whoever was told "written" is in the version, and who comes later is told so.
Any worker can go on where another died; the version is committed once (`Version.writer`), and `done` says which it is.
An append that nobody finishes is `gone` when a collection of garbage has waited long enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osmo_ray.data.errors import Conflict, DataError, NoSuchDataset
from osmo_ray.data.manifest import Entry, Kind, check, chunk_ids, entries_of, table_of
from osmo_ray.data.names import LATEST, check_name
from osmo_ray.data.versions import Version
from osmo_ray.objects.datasets import layout
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.datasets.committing import Base, commit
from osmo_ray.objects.datasets.dataset import About, Dataset, Source, put_on
from osmo_ray.objects.datasets.reading import Reader
from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject

_NOBODY = About()
CLOSING, CLOSED, DONE, GONE = "closing", "closed", "done", "gone"


class Append:
    """One append to `dataset`, the same for all workers that name the same `run`. `base` is the version to put the
    parts on top of, the newest at the time of the commit; with `alone` the new version has the parts and nothing else.
    """

    def __init__(self, dataset: Dataset, run: str, *, alone: bool = False) -> None:
        if not dataset.bucket.store.conditional:
            raise DataError(f"cannot append from many workers: {dataset.bucket.promises}")
        self._dataset, self._bucket, self.run, self._alone = dataset, dataset.bucket, check_name(run), alone
        self._folder = layout.appends(dataset.id, run)

    def write(self, writer: str, sources: Sequence[Source | Path]) -> None:
        """A worker's part, complete when this returns. If the worker has written it before, nothing changes, whatever
        the sources are now. Raises `Conflict` when the append was closed without it."""
        key = f"{self._folder}/parts/{check_name(writer)}"
        if self._record(key) is None and self._record(f"{self._folder}/{CLOSED}") is None:
            self._send(key, sources)
        self._accepted(writer, key)

    def parts(self) -> tuple[str, ...]:
        """The workers that are done."""
        closed = self._record(f"{self._folder}/{CLOSED}")
        return tuple(closed["parts"]) if closed else self._written()

    def commit(self, about: About = _NOBODY, *, writers: int = 0) -> Version:
        """The version that holds every part; the one there is, if it was committed before. Raises `Conflict` while
        fewer than `writers` parts are there, and when two parts have a path in common."""
        if (done := self._record(f"{self._folder}/{DONE}")) is not None:
            return self._dataset.numbered(int(done["version"]))
        there = self.parts()
        if len(there) < max(writers, 1):
            raise Conflict(f"append {self.run!r} has {len(there)} parts of {max(writers, 1)}; wait for the others")
        self._close()
        with self._dataset.writing() as (session, sender):
            if self._record(f"{self._folder}/{GONE}") is not None:
                raise self._given_up()
            table = table_of(self._rows())
            base = None if self._alone else self._base()
            if base is not None:
                table = put_on(base.table, list(entries_of(table)))
            sender.carry(chunk_ids(table), Reader(self._bucket, sender.index))
            draft = self._dataset.draft(replace(about, writer=f"append/{self.run}"), session)
            version = commit(self._bucket, self._dataset.id, table, draft, session, sender, base=base)
        self._once(DONE, {"version": version.number})
        return version

    def finish(self, writers: int, about: About = _NOBODY) -> Version | None:
        """What each worker calls after its part: the last one commits, the others get None."""
        return self.commit(about, writers=writers) if len(self.parts()) >= writers else None

    def _send(self, key: str, sources: Sequence[Source | Path]) -> None:
        with self._dataset.writing() as (session, sender):
            table = table_of(self._dataset.added(sources, sender))
            sender.close()
            manifest = self._bucket.put_table(layout.manifests(self._dataset.id), table, session.id)
            session.commit(
                manifest, key
            )  # or a collection gave us up; from here on it is reachable, first by the session
            try:
                self._bucket.append_once(key, {"manifest": manifest, "session": session.id, "at": self._bucket.now()})
            except AlreadyExists:  # the same worker, run twice at once
                return

    def _accepted(self, writer: str, key: str) -> None:
        """A part that was there before `closing` counts; what counts of later ones, `closed` says."""
        if self._record(f"{self._folder}/{GONE}") is not None:
            raise self._given_up()
        if self._record(f"{self._folder}/{CLOSING}") is None or writer in self._close():
            return
        self._bucket.store.delete([key])
        raise Conflict(f"append {self.run!r} was closed before {writer!r} had written its part; begin another one")

    def _close(self) -> tuple[str, ...]:
        """The parts that count, fixed by whoever comes first."""
        self._once(CLOSING, {})
        self._once(CLOSED, {"parts": list(self._written())})
        return tuple(self._bucket.record(f"{self._folder}/{CLOSED}")["parts"])

    def _once(self, name: str, record: dict[str, Any]) -> None:
        try:
            self._bucket.append_once(f"{self._folder}/{name}", {"at": self._bucket.now(), **record})
        except AlreadyExists:
            return

    def _written(self) -> tuple[str, ...]:
        return tuple(info.key.rsplit("/", 1)[1] for info in self._bucket.store.list(f"{self._folder}/parts"))

    def _record(self, key: str) -> dict[str, Any] | None:
        try:
            return self._bucket.record(key)
        except NoSuchObject:
            return None

    def _rows(self) -> Iterator[Entry]:
        """All parts' rows; a folder that several have is one, a file only where it is the same."""
        found: dict[bytes, tuple[str, Entry]] = {}
        for writer in self._close():
            for row in self._part(writer):
                other, there = found.setdefault(row.path, (writer, row))
                if there.kind is not row.kind or (row.kind is not Kind.FOLDER and _content(there) != _content(row)):
                    path = row.path.decode(errors="replace")
                    raise Conflict(f"{other!r} and {writer!r} both wrote {path!r}; give each a folder of its own")
        return (row for _, row in found.values())

    def _part(self, writer: str) -> Iterator[Entry]:
        try:
            table = self._bucket.table(self._bucket.record(f"{self._folder}/parts/{writer}")["manifest"])
        except NoSuchObject:
            raise self._given_up() from None
        check(table)
        return entries_of(table)

    def _base(self) -> Base | None:
        try:
            version = self._dataset.version(LATEST)
        except NoSuchDataset:
            return None
        load = self._dataset
        return Base(version.number, load.table(version), lambda number: load.table(load.version(str(number))))

    def _given_up(self) -> DataError:
        return DataError(f"append {self.run!r} was not finished for so long that it was given up; begin another one")


def _content(row: Entry) -> tuple[object, ...]:
    return row.mode, row.size, row.digest, row.target


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An append as a collection of garbage sees it: its folder, the manifests that it holds, when it last changed
    (seconds since the epoch), and whether it is over (committed or given up)."""

    folder: str
    manifests: tuple[str, ...]
    at: float
    over: bool


def unfinished(bucket: Bucket) -> list[Unfinished]:
    """Every append that has not been cleared away."""
    folders: dict[str, list[str]] = {}
    for info in bucket.store.list(layout.DATASETS):
        parts = info.key.split("/")
        if parts[2] == "appends":
            folders.setdefault("/".join(parts[:4]), []).append(info.key)
    return [_look(bucket, folder, keys) for folder, keys in folders.items()]


def _look(bucket: Bucket, folder: str, keys: list[str]) -> Unfinished:
    records = {}
    for key in keys:
        try:
            records[key] = bucket.record(key)
        except NoSuchObject:  # a part that came too late, taken back
            continue
    over = any(key.endswith((f"/{DONE}", f"/{GONE}")) for key in records)
    manifests = tuple(str(r["manifest"]) for r in records.values() if "manifest" in r)
    return Unfinished(folder, manifests, max((float(r["at"]) for r in records.values()), default=0.0), over)


def give_up(bucket: Bucket, folder: str) -> None:
    """Nobody may commit the append of this folder any more; what only it had is garbage from now on."""
    try:
        bucket.append_once(f"{folder}/{GONE}", {"at": bucket.now()})
    except AlreadyExists:
        return
