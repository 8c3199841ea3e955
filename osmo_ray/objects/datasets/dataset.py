"""One dataset of a bucket: what the API, the command line and the runtime call.

Every verb that changes something either has happened when it returns, for every reader, or raises and has not.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from osmo_ray.data.diff import Step, diff
from osmo_ray.data.errors import Conflict, DataError, NoSuchDataset
from osmo_ray.data.manifest import Entry, Kind, check, chunk_ids, entries_of, table_of
from osmo_ray.data.merge import without
from osmo_ray.data.names import LATEST, check_tag
from osmo_ray.data.versions import Lineage, Requires, Version, latest, load_version, merged, move_tag
from osmo_ray.objects.datasets import catalog, layout
from osmo_ray.objects.datasets.adding import add
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.datasets.committing import Base, commit
from osmo_ray.objects.datasets.reading import Reader
from osmo_ray.objects.datasets.restoring import restore
from osmo_ray.objects.datasets.sending import Sender
from osmo_ray.objects.datasets.session import Session
from osmo_ray.objects.datasets.tree import Found, Known, walk
from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject

BATCH = 1 << 16


@dataclass(frozen=True, slots=True)
class Source:
    """A file or folder to add: its own name, or what is below a folder (`contents`), goes below `dest`."""

    path: Path
    dest: str = ""
    contents: bool = True


@dataclass(frozen=True, slots=True)
class About:
    """What a writer says of a version."""

    message: str = ""
    created_by: str = ""
    lineage: Lineage = field(default_factory=Lineage)
    metadata: Mapping[str, Any] | None = None
    writer: str = ""
    """What commits once only: see `Version`."""


class Dataset:
    """`name` in `bucket`; made at the first upload with `create`. Raises `NoSuchDataset`."""

    def __init__(self, bucket: Bucket, name: str, *, create: bool = False) -> None:
        self.bucket, self.name = bucket, name
        self.id = catalog.dataset_id(bucket, name, create=create)

    def upload(
        self,
        sources: Sequence[Source | Path],
        about: About = About(),
        *,
        regex: str = "",
        expect: int | None = None,
        claimed: int | None = None,
    ) -> Version:
        """A new version that holds these sources and nothing else; the first source of a path wins. `regex` must
        match at the start of a path. `expect` is the number that the version must get (`Conflict` otherwise),
        `claimed` one that was claimed for it."""
        with self.writing() as (session, sender):
            table = table_of(self.added(sources, sender, regex))
            draft = self.draft(about, session)
            return commit(self.bucket, self.id, table, draft, session, sender, expect=expect, claimed=claimed)

    def update(
        self,
        sources: Sequence[Source | Path] = (),
        about: About = About(),
        *,
        base: str = LATEST,
        remove: str = "",
        expect: int | None = None,
    ) -> Version:
        """A new version: `base` without the paths that `remove` (a regex) matches, with the sources on top. If other
        versions came meanwhile, the change is put on top of the newest, or `Conflict` raised."""
        with self.writing() as (session, sender):
            start = self.version(base)
            before = self.table(start)
            rows = self.added(sources, sender, "")
            table = put_on(_removed(before, remove), rows)
            sender.carry(chunk_ids(table), Reader(self.bucket, sender.index))
            how = Base(start.number, before, lambda number: self.table(self.version(str(number))))
            draft = self.draft(about, session)
            return commit(self.bucket, self.id, table, draft, session, sender, base=how, expect=expect)

    def download(self, target: Path, selector: str = LATEST, *, regex: str = "", resume: bool = False) -> int:
        """The version into a folder; the number of bytes written. See `restoring`."""
        rows = self.entries(selector, regex=regex)
        return restore(rows, target, Reader(self.bucket), resume=resume)

    def versions(self) -> list[Version]:
        """All that are not deleted, oldest first."""
        gone = set(self.bucket.numbers(layout.deleted(self.id)))
        return [self.numbered(number) for number in self.bucket.numbers(layout.versions(self.id)) if number not in gone]

    def version(self, selector: str = LATEST) -> Version:
        """By number, tag, or `latest`. Raises `NoSuchDataset`."""
        gone = self.bucket.numbers(layout.deleted(self.id))
        if selector == LATEST:
            number = latest(self.bucket.numbers(layout.versions(self.id)), gone)
            if number is None:
                raise NoSuchDataset(f"dataset {self.name!r} has no version yet; upload one")
        else:
            found = int(selector) if selector.isdigit() else self.tagged(selector)
            if found is None or found in gone:
                raise NoSuchDataset(f"dataset {self.name!r} has no version or tag {selector!r}; see its log")
            number = found
        return self.numbered(number)

    def log(self, selector: str = LATEST) -> Iterator[Version]:
        """A version, what it was made from, and so on."""
        at: int | None = self.version(selector).number
        while at is not None:
            found = self.numbered(at)
            yield found
            at = found.parent

    def table(self, version: Version) -> pa.Table:
        """The whole manifest, checked."""
        table = self.bucket.table(self._manifest(version))
        check(table)
        return table

    def batches(self, version: Version) -> Iterator[pa.Table]:
        """The manifest in order of path, some tens of thousands of rows at a time."""
        with self.bucket.table_file(self._manifest(version)) as file:
            for batch in file.iter_batches(BATCH):
                yield pa.Table.from_batches([batch])

    def entries(self, selector: str = LATEST, *, regex: str = "") -> Iterator[Entry]:
        """Rows in order of path; with a regex, the files it matches and the folders above them."""
        version = self.version(selector)
        if not regex:
            for batch in self.batches(version):
                yield from entries_of(batch)
            return
        table = self.table(version)
        yield from entries_of(chosen(table, regex))

    def diff(self, before: str, after: str = LATEST) -> Iterator[Step]:
        return diff(self.batches(self.version(before)), self.batches(self.version(after)))

    def tags(self) -> dict[str, int]:
        folder = f"{layout.DATASETS}/{self.id}/tags"
        names = sorted({info.key.split("/")[3] for info in self.bucket.store.list(folder)})
        return {name: number for name in names if (number := self.tagged(name)) is not None}

    def tagged(self, tag: str) -> int | None:
        _, record = self.bucket.newest(layout.tag(self.id, tag))
        return record.get("version")

    def tag(self, tag: str, selector: str | None, need: Requires | None = None) -> None:
        """Set or move a tag to a version, or remove it (None). Raises `Conflict` if another moved it meanwhile, or if
        it is not where `need` says."""
        to = self.version(selector).number if selector is not None else None
        folder = layout.tag(self.id, check_tag(tag))
        number, record = self.bucket.newest(folder)
        if need is not None:
            at = record.get("version")
            to = move_tag({} if at is None else {tag: at}, need, to).get(tag)
        self._append(folder, number, {"version": to}, f"tag {tag!r}")

    def labels(self) -> dict[str, Any]:
        return dict(self.bucket.newest(layout.labels(self.id))[1].get("values", {}))

    def label(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Merge changes into the labels; None removes a key."""
        return self._merge(layout.labels(self.id), changes, {}, "the labels")

    def metadata(self, selector: str = LATEST) -> dict[str, Any]:
        version = self.version(selector)
        number, record = self.bucket.newest(layout.metadata(self.id, version.number))
        return dict(record["values"] if number else version.metadata)

    def describe(self, selector: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Merge changes into a version's metadata; None removes a key."""
        version = self.version(selector)
        return self._merge(layout.metadata(self.id, version.number), changes, version.metadata, "the metadata")

    def delete(self, selector: str = LATEST, *, force: bool = False) -> Version:
        """Nobody reads the version any more; a collection of garbage frees what only it had. Refused (`Conflict`)
        while a tag or a collection holds it, unless `force`."""
        version = self.version(selector)
        holders = [] if force else self._holders(version.number)
        if holders:
            raise Conflict(f"{self.name}:{version.number} is held by {', '.join(holders)}; remove these, or force")
        try:
            self.bucket.append(layout.deleted(self.id), version.number, {"at": self.bucket.now()})
        except AlreadyExists:
            pass
        return version

    def _holders(self, number: int) -> list[str]:
        tags = [f"tag {tag!r}" for tag, at in self.tags().items() if at == number]
        return tags + [f"collection {c!r}" for c in catalog.collections_with(self.bucket, self.name, number)]

    def find(self, path: bytes, selector: str = LATEST) -> Entry:
        """The row of one path. Raises `NoSuchDataset`."""
        for batch in self.batches(self.version(selector)):
            rows = batch.filter(pc.equal(batch.column("path"), path))
            if len(rows):
                return next(entries_of(rows))
        raise NoSuchDataset(f"{self.name}:{selector} has no {path.decode(errors='replace')!r}")

    @contextmanager
    def writing(self) -> Iterator[tuple[Session, Sender]]:
        """A session that collections see, and what sends its chunks; ended either way."""
        session = Session(self.bucket)
        try:
            with Sender(self.bucket, session) as sender:
                yield session, sender
        except Exception:
            session.abandon()
            raise
        session.finish()

    def added(self, sources: Sequence[Source | Path], sender: Sender, regex: str = "") -> list[Entry]:
        """The rows of these sources and of the folders above them; their chunks are with the sender."""
        pattern = re.compile(regex) if regex else None
        rows: dict[bytes, Entry] = {}
        for source in sources:
            given = source if isinstance(source, Source) else Source(source)
            known = Known(self.bucket.cache, given.path)
            for entry in add(_wanted(given, pattern), known, sender):
                rows.setdefault(entry.path, entry)
        return _with_folders(rows.values())

    def draft(self, about: About, session: Session) -> Version:
        """What `commit` completes."""
        return Version(
            0, "", "", 0, 0, self.bucket.now(), about.created_by, None, about.message, session.id, about.lineage,
            dict(about.metadata or {}), about.writer,
        )  # fmt: skip

    def numbered(self, number: int) -> Version:
        """The record of a version, be it deleted or not. Raises `NoSuchDataset`."""
        try:
            return load_version(self.bucket.get(layout.numbered(layout.versions(self.id), number)))
        except NoSuchObject:
            raise NoSuchDataset(f"dataset {self.name!r} has no version {number}; see its log") from None

    def _manifest(self, version: Version) -> str:
        return f"{layout.DATASETS}/{self.id}/{version.manifest}"

    def _merge(self, folder: str, changes: Mapping[str, Any], first: Mapping[str, Any], what: str) -> dict[str, Any]:
        number, record = self.bucket.newest(folder)
        values = merged(record["values"] if number else first, changes)
        self._append(folder, number, {"values": values}, what)
        return values

    def _append(self, folder: str, seen: int, record: dict[str, Any], what: str) -> None:
        try:
            self.bucket.append(folder, seen + 1, record)
        except AlreadyExists:
            raise Conflict(f"{what} of {self.name!r} was changed meanwhile; read it again") from None


def any_of(sources: Iterable[Source], regex: str) -> bool:
    """Whether an upload of these sources would have any file or link."""
    pattern = re.compile(regex)
    return any(not stat.S_ISDIR(found.status.st_mode) for source in sources for found in _wanted(source, pattern))


def _wanted(source: Source, pattern: re.Pattern[str] | None) -> Iterator[Found]:
    """What a source gives, by its path in the dataset."""
    above = _dest(source.dest)
    if source.path.is_dir() and not source.contents:
        above += source.path.resolve().name.encode(errors="surrogateescape") + b"/"
    for found in walk(source.path):
        moved = replace(found, path=above + found.path) if above else found
        if pattern is None or pattern.match(moved.path.decode(errors="surrogateescape")):
            yield moved


def _dest(dest: str) -> bytes:
    parts = [part for part in dest.split("/") if part]
    if dest.startswith("/") or any(part in (".", "..") for part in parts):
        raise DataError(f"{dest!r} leads out of the dataset; give a relative folder")
    return b"".join(part.encode(errors="surrogateescape") + b"/" for part in parts)


def _with_folders(rows: Iterable[Entry]) -> list[Entry]:
    """The rows, and folders above them that have no row of their own."""
    found = {row.path: row for row in rows}
    for path in list(found):
        while (path := path.rpartition(b"/")[0]) and path not in found:
            found[path] = Entry(path, Kind.FOLDER, 0o755)
    return list(found.values())


def _removed(table: pa.Table, regex: str) -> pa.Table:
    if not regex:
        return table
    pattern = re.compile(regex)
    rows = [row for row in entries_of(table) if not pattern.match(row.path.decode(errors="surrogateescape"))]
    kept = _with_folders(rows)
    emptied = {row.path for row in kept if row.kind is Kind.FOLDER} - {row.path.rpartition(b"/")[0] for row in kept}
    was_empty = {row.path for row in entries_of(table)} - {
        p.rpartition(b"/")[0] for p in table.column("path").to_pylist()
    }
    return table_of(row for row in kept if row.path not in emptied or row.path in was_empty)


def put_on(table: pa.Table, rows: list[Entry]) -> pa.Table:
    """The rows over those of the table; a folder that is there keeps its own row."""
    there = set(table.column("path").to_pylist())
    new = [row for row in rows if row.kind is not Kind.FOLDER or row.path not in there]
    kept = without(table, [row.path for row in new])
    return table_of([*entries_of(kept), *new])


def chosen(table: pa.Table, regex: str) -> pa.Table:
    """The files and links whose paths a regex matches from their beginning, and the folders above them."""
    pattern = re.compile(regex)
    rows = {row.path: row for row in entries_of(table)}
    chosen = {
        path: row
        for path, row in rows.items()
        if row.kind is not Kind.FOLDER and pattern.match(path.decode(errors="surrogateescape"))
    }
    return table_of(rows.get(row.path, row) for row in _with_folders(chosen.values()))
