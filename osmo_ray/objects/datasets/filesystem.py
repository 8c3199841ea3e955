"""`osmo://bucket/name@version/path` for whatever speaks fsspec: pandas, pyarrow, torch, zarr.

Nothing is fetched before it is read; a read fetches the chunks it touches and verifies them. A version never changes,
so a path with a number names the same bytes for ever; `name@tag` and `name` are resolved once, at the first use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import pyarrow.compute as pc
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from osmo_ray.data.manifest import Entry, Kind, entries_of
from osmo_ray.data.names import parse_reference
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.datasets.dataset import Dataset, chosen
from osmo_ray.objects.datasets.reading import Reader

_KINDS = {Kind.FILE: "file", Kind.FOLDER: "directory", Kind.LINK: "link"}


class Tree:
    """One version, opened: its manifest in memory, sorted by path. With a regex only the files it matches, and the
    folders above them."""

    def __init__(self, dataset: Dataset, selector: str, regex: str = "") -> None:
        whole = dataset.table(dataset.version(selector))
        self.table = chosen(whole, regex) if regex else whole
        self.paths = self.table.column("path").combine_chunks()
        self.reader = Reader(dataset.bucket)

    def at(self, path: bytes) -> Entry | None:
        row = self._below(path)
        if row < len(self.paths) and self.paths[row].as_py() == path:
            return next(entries_of(self.table.slice(row, 1)))
        return None

    def children(self, folder: bytes) -> list[Entry]:
        prefix = folder + b"/" if folder else b""
        start, end = self._below(prefix), self._below(prefix[:-1] + b"0" if prefix else b"\xff" * 4097)
        rows = self.table.slice(start, end - start)
        depth = pc.count_substring(rows.column("path"), b"/")
        return list(entries_of(rows.filter(pc.equal(depth, prefix.count(b"/")))))

    def _below(self, path: bytes) -> int:
        """The first row whose path is not less."""
        low, high = 0, len(self.paths)
        while low < high:
            middle = (low + high) // 2
            if self.paths[middle].as_py() < path:
                low = middle + 1
            else:
                high = middle
        return low


class DatasetFileSystem(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Read-only. `buckets` gives an opened bucket for a name (a mapping or a function)."""

    protocol = "osmo"
    cachable = False

    def __init__(self, buckets: Mapping[str, Bucket] | Callable[[str], Bucket], **options: Any) -> None:
        super().__init__(**options)
        self._bucket = buckets if callable(buckets) else buckets.__getitem__
        self._tree = lru_cache(maxsize=16)(self._open_tree)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        tree, inner = self._found(path)
        if not inner:
            return {"name": self._strip_protocol(path), "size": 0, "type": "directory"}
        entry = tree.at(inner)
        if entry is None:
            raise FileNotFoundError(path)
        return _told(self._strip_protocol(path), entry)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        tree, inner = self._found(path)
        base = self._strip_protocol(path).rstrip("/")
        own = tree.at(inner) if inner else None
        if inner and own is None:
            raise FileNotFoundError(path)
        if own is not None and own.kind is not Kind.FOLDER:
            found = [_told(base, own)]
        else:
            named = (
                (entry.path.rpartition(b"/")[2].decode(errors="surrogateescape"), entry)
                for entry in tree.children(inner)
            )
            found = [_told(f"{base}/{name}", entry) for name, entry in named]
        return found if detail else [entry["name"] for entry in found]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        tree, entry = self._file(path)
        first, last, _ = slice(start, end).indices(entry.size)
        return read_range(tree.reader, entry, first, last)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> DatasetFile:
        if mode != "rb":
            raise OSError(f"{path}: a version never changes; upload or update to make another")
        tree, entry = self._file(path)
        return DatasetFile(self, path, tree.reader, entry, **options)

    def _file(self, path: str) -> tuple[Tree, Entry]:
        tree, inner = self._found(path)
        entry = tree.at(inner) if inner else None
        if entry is None:
            raise FileNotFoundError(path)
        if entry.kind is not Kind.FILE:
            raise IsADirectoryError(path) if entry.kind is Kind.FOLDER else OSError(f"{path} is a link")
        return tree, entry

    def _found(self, path: str) -> tuple[Tree, bytes]:
        bucket, _, rest = self._strip_protocol(path).strip("/").partition("/")
        name, _, inner = rest.partition("/")
        reference = parse_reference(f"{bucket}/{name}")
        return self._tree(reference.bucket, reference.name, reference.selector), inner.encode(errors="surrogateescape")

    def _open_tree(self, bucket: str, name: str, selector: str) -> Tree:
        return Tree(Dataset(self._bucket(bucket), name), selector)


class DatasetFile(AbstractBufferedFile):  # type: ignore[misc]  # fsspec has no types
    """A file of a version, fetched as it is read."""

    def __init__(self, fs: DatasetFileSystem, path: str, reader: Reader, entry: Entry, **options: Any) -> None:
        self._reader, self._entry = reader, entry
        super().__init__(fs, path, "rb", size=entry.size, **options)

    def _fetch_range(self, start: int, end: int) -> bytes:
        return read_range(self._reader, self._entry, start, min(end, self._entry.size))


def read_range(reader: Reader, entry: Entry, start: int, end: int) -> bytes:
    """The bytes [start, end) of a file; the chunks they touch are fetched in few reads and verified."""
    wanted, at = [], 0
    for part in entry.chunks():
        if at < end and at + part.size > start:
            wanted.append((part.id, at))
        at += part.size
    pieces = dict(piece for run in reader.plan(wanted) for piece in reader.read(run))
    found = (bytes(pieces[at])[max(0, start - at) : end - at] for at in sorted(pieces))
    return b"".join(found) if end > start else b""


def _told(name: str, entry: Entry) -> dict[str, Any]:
    told = {"name": name, "size": entry.size, "type": _KINDS[entry.kind], "mode": entry.mode}
    told |= {"mtime": entry.mtime_ns / 1e9, "digest": entry.digest.hex() if entry.digest else ""}
    return told
