"""A version's list of files, as an Arrow table sorted by path; stored as Parquet.

One row is a file, a folder or a symbolic link. Paths are bytes as the filesystem has them, relative, `/` between parts.
`digest` is a chunk's id for a file of one chunk, else the digest over `parts` (see `chunking`); folders, links and
empty files have none. Tables of millions of rows are handled in batches: nothing here makes an object per row unless
asked to.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from blake3 import blake3

from osmo_ray.data.chunking import ID_BYTES, PART_BYTES, Part, unpack_parts
from osmo_ray.data.errors import Corrupt

SCHEMA = pa.schema(
    [
        pa.field("path", pa.binary(), nullable=False),
        pa.field("kind", pa.uint8(), nullable=False),
        pa.field("mode", pa.uint16(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("digest", pa.binary(ID_BYTES)),
        pa.field("parts", pa.binary()),
        pa.field("target", pa.binary()),
    ]
)
_CONTENT = ("path", "kind", "mode", "size", "digest", "target")


class Kind(enum.IntEnum):
    FILE = 0
    FOLDER = 1
    LINK = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One row. `mode` is the permission bits (0o7777), `mtime_ns` nanoseconds since the epoch; `parts` is the packed
    list of chunks of a file that has several."""

    path: bytes
    kind: Kind
    mode: int = 0o644
    mtime_ns: int = 0
    size: int = 0
    digest: bytes | None = None
    parts: bytes | None = None
    target: bytes | None = None

    def chunks(self) -> tuple[Part, ...]:
        if self.parts is not None:
            return unpack_parts(self.parts)
        return () if self.digest is None else (Part(self.digest, self.size),)


def table_of(entries: Iterable[Entry]) -> pa.Table:
    """Sorted by path. Raises `Corrupt` if a path occurs twice or is no relative path."""
    rows = list(entries)
    columns = [pa.array([getattr(row, field.name) for row in rows], field.type) for field in SCHEMA]
    return in_order(pa.Table.from_arrays(columns, schema=SCHEMA))


def in_order(table: pa.Table) -> pa.Table:
    """The same rows sorted by path, checked."""
    ordered = table.take(pc.sort_indices(table, [("path", "ascending")])) if len(table) > 1 else table
    check(ordered)
    return ordered


def entries_of(table: pa.Table) -> Iterator[Entry]:
    for batch in table.to_batches(max_chunksize=65536):
        columns = [batch.column(field.name).to_pylist() for field in SCHEMA]
        for path, kind, mode, mtime_ns, size, digest, parts, target in zip(*columns, strict=True):
            yield Entry(path, Kind(kind), mode, mtime_ns, size, digest, parts, target)


def check(table: pa.Table) -> None:
    """Raises `Corrupt` for rows that a restore must not follow: paths that leave the folder, that occur twice, or
    that lie below something which is no folder; digests that do not fit."""
    paths = table.column("path")
    if len(table) > 1 and not pc.all(pc.less(paths.slice(0, len(table) - 1), paths.slice(1))).as_py():
        raise Corrupt("the manifest's paths are not in order, or one occurs twice")
    check_paths(paths)
    _check_files(table)
    _check_above(table)


def check_paths(paths: pa.ChunkedArray) -> None:
    """Raises `Corrupt` unless each is relative, without empty, `.` or `..` parts, NUL, or more than 4096 bytes."""
    bad = pc.match_substring_regex(paths.cast(pa.binary()), r"(?s)(^$|^/|/$|//|\x00|(^|/)\.\.?(/|$))")
    bad = pc.or_(bad, pc.greater(pc.binary_length(paths), 4096))
    if pc.any(bad).as_py():
        worst = paths.filter(bad)[0].as_py()
        raise Corrupt(f"the manifest has a path that no restore may follow: {worst!r}")


def _check_files(table: pa.Table) -> None:
    kind, size, parts = table.column("kind"), table.column("size"), table.column("parts")
    is_file = pc.equal(kind, int(Kind.FILE))
    needs = pc.and_(is_file, pc.greater(size, 0))
    if pc.any(pc.not_equal(needs, pc.is_valid(table.column("digest")))).as_py():
        raise Corrupt("the manifest has a file without a digest, or a digest without content")
    if pc.any(pc.greater(kind, int(Kind.LINK))).as_py() or pc.any(pc.less(size, 0)).as_py():
        raise Corrupt("the manifest has a row of unknown kind or negative size")
    if pc.any(pc.not_equal(pc.equal(kind, int(Kind.LINK)), pc.is_valid(table.column("target")))).as_py():
        raise Corrupt("the manifest has a link without a target, or a target without a link")
    lengths = pc.drop_null(pc.binary_length(parts))
    if pc.any(pc.not_equal(pc.subtract(lengths, pc.multiply(pc.divide(lengths, PART_BYTES), PART_BYTES)), 0)).as_py():
        raise Corrupt("the manifest has a list of chunks that is cut off")


def _check_above(table: pa.Table) -> None:
    """What a row lies below is a row too, and a folder: so nothing is ever written through a file or a link."""
    folders = table.filter(pc.equal(table.column("kind"), int(Kind.FOLDER))).column("path")
    above = pc.unique(pc.replace_substring_regex(table.column("path"), r"(?s)(^|/)[^/]*$", "").combine_chunks())
    above = pc.filter(above, pc.greater(pc.binary_length(above), 0))
    wrong = pc.filter(above, pc.invert(pc.is_in(above, value_set=folders.combine_chunks())))
    if len(wrong):
        raise Corrupt(f"the manifest has files below {wrong[0].as_py()!r}, which is no folder of it")


def chunk_ids(table: pa.Table) -> npt.NDArray[np.uint8]:
    """The ids of all chunks of all rows, shape (n, 32), repeated as they repeat."""
    whole = table.filter(pc.and_(pc.is_valid(table.column("digest")), pc.is_null(table.column("parts"))))
    several = pc.drop_null(table.column("parts"))
    ids = _joined(whole.column("digest").cast(pa.binary()))
    packed = np.frombuffer(_joined(several), np.uint8).reshape(-1, PART_BYTES)[:, :ID_BYTES]
    return np.concatenate([np.frombuffer(ids, np.uint8).reshape(-1, ID_BYTES), packed])


class Checksum:
    """The hash of a manifest's content, whatever its batches: each column is a stream of its own. Times are left out:
    two trees with the same names, modes and bytes are the same version."""

    def __init__(self) -> None:
        self._streams = {name: blake3() for name in _CONTENT}
        self._lengths = {name: blake3() for name in _CONTENT}

    def add(self, batch: pa.RecordBatch | pa.Table) -> None:
        for name in _CONTENT:
            column = batch.column(name)
            if name in ("path", "digest", "target"):
                filled = pc.fill_null(column.cast(pa.binary()), b"")
                self._lengths[name].update(_numbers(pc.binary_length(filled)))
                self._streams[name].update(_joined(filled))
            else:
                self._streams[name].update(_numbers(column))

    def hexdigest(self) -> str:
        both = [self._streams[name].digest() + self._lengths[name].digest() for name in _CONTENT]
        return str(blake3(b"".join(both)).hexdigest())


def checksum(table: pa.Table) -> str:
    made = Checksum()
    made.add(table)
    return made.hexdigest()


def _numbers(column: pa.Array | pa.ChunkedArray) -> bytes:
    return bytes(np.asarray(column.to_numpy(zero_copy_only=False), dtype="<i8").tobytes())


def _joined(column: pa.Array | pa.ChunkedArray) -> bytes:
    arrays: Sequence[pa.Array] = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = []
    for array in arrays:
        _, offsets, data = array.buffers()
        bounds = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1] if offsets else [0]
        parts.append(bytes(memoryview(data)[int(bounds[0]) : int(bounds[-1])]) if data is not None else b"")
    return b"".join(parts)
