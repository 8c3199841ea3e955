"""What lies in a folder, and what of it was hashed before.

Links are kept as links, folders with their modes, also empty ones. Pipes, sockets and devices are refused by name:
a dataset that silently lacks something is worse than none.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from osmo_ray.data.errors import DataError
from osmo_ray.data.manifest import Entry, Kind

_FRESH_NS = 2_000_000_000
_KNOWN = pa.schema(
    [
        ("path", pa.binary()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("ctime_ns", pa.int64()),
        ("inode", pa.uint64()),
        ("digest", pa.binary(32)),
        ("parts", pa.binary()),
    ]
)


@dataclass(frozen=True, slots=True)
class Found:
    """`path` is relative to where the walk began, `source` what to open."""

    path: bytes
    source: bytes
    status: os.stat_result

    def entry(self, digest: bytes | None = None, parts: bytes | None = None) -> Entry:
        mode, size = stat.S_IMODE(self.status.st_mode), self.status.st_size
        if stat.S_ISDIR(self.status.st_mode):
            return Entry(self.path, Kind.FOLDER, mode, self.status.st_mtime_ns)
        if stat.S_ISLNK(self.status.st_mode):
            target = os.readlink(self.source)  # noqa: PTH115 - bytes paths throughout
            return Entry(self.path, Kind.LINK, 0o777, self.status.st_mtime_ns, target=target)
        return Entry(self.path, Kind.FILE, mode, self.status.st_mtime_ns, size, digest, parts)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)


def walk(root: Path) -> Iterator[Found]:
    """Everything below a folder, or the one file. Raises `DataError` for what no dataset can hold."""
    source = os.fsencode(root)
    try:
        status = os.stat(source)  # noqa: PTH116
    except OSError as error:
        raise DataError(f"cannot read {root}: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        yield from _below(source, b"")
    else:
        yield _checked(Found(os.path.basename(source), source, status))  # noqa: PTH119


def _below(folder: bytes, prefix: bytes) -> Iterator[Found]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(((entry.name, entry.stat(follow_symlinks=False)) for entry in entries), key=lambda e: e[0])
    except OSError as error:
        raise DataError(f"cannot read {os.fsdecode(folder)}: {error.strerror}") from error
    for name, status in found:
        item = _checked(Found(prefix + name, folder + b"/" + name, status))
        yield item
        if stat.S_ISDIR(status.st_mode):
            yield from _below(item.source, item.path + b"/")


def _checked(found: Found) -> Found:
    mode = found.status.st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        raise DataError(
            f"{os.fsdecode(found.source)} is no file, folder or link, no dataset can hold it; leave it out by a regex"
        )
    return found


class Known:
    """Digests of files that were hashed before, by path, size, times and inode. A file that changed so shortly before
    it was looked at that a later change could carry the same time is not remembered."""

    def __init__(self, cache: Path | None, root: Path) -> None:
        name = blake3(os.fsencode(root.absolute())).hexdigest(16)
        self._file = cache / "hashed" / name if cache else None
        self._rows: dict[bytes, tuple[int, int, int, int, bytes, bytes | None]] = {}
        if self._file and self._file.exists():
            self._load(self._file)

    def get(self, found: Found) -> tuple[bytes, bytes | None] | None:
        """(digest, parts) if the file is the one that was hashed."""
        row = self._rows.get(found.path)
        return row[4:] if row and row[:4] == _signs(found.status) else None

    def save(self, hashed: list[tuple[Found, Entry]], began_ns: int) -> None:
        """Keep what is known about the files of this walk."""
        if self._file is None:
            return
        rows = [
            (found.path, *_signs(found.status), entry.digest, entry.parts)
            for found, entry in hashed
            if max(found.status.st_mtime_ns, found.status.st_ctime_ns) < began_ns - _FRESH_NS
        ]
        columns = list(zip(*rows, strict=True)) or [()] * len(_KNOWN)
        table = pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, _KNOWN, strict=True)], schema=_KNOWN)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        part = self._file.with_name(f"{self._file.name}.{os.getpid()}")
        pq.write_table(table, part, compression="none", use_dictionary=False, write_statistics=False)
        part.replace(self._file)

    def _load(self, file: Path) -> None:
        try:
            table = pq.read_table(file)
        except (OSError, pa.ArrowInvalid):  # a cache that is damaged is no cache
            return
        if table.schema.equals(_KNOWN):
            path, *columns = (table.column(name).to_pylist() for name in _KNOWN.names)
            self._rows = dict(zip(path, zip(*columns, strict=True), strict=True))


def _signs(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
