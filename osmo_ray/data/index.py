"""Which pack holds a chunk: a sorted array in memory, 48 bytes a chunk, so that tens of millions fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from osmo_ray.data.chunking import ID_BYTES
from osmo_ray.data.packs import PackEntry

INDEX_SCHEMA = pa.schema(
    [
        pa.field("pack", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("id", pa.binary(ID_BYTES), nullable=False),
        pa.field("offset", pa.uint32(), nullable=False),
        pa.field("size", pa.uint32(), nullable=False),
        pa.field("stored", pa.uint32(), nullable=False),
    ]
)
Ids = npt.NDArray[np.uint8]
"""Chunk ids, shape (n, 32)."""
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk lies: `stored` bytes at `offset` of `pack`, `size` bytes once opened."""

    pack: str
    offset: int
    size: int
    stored: int


def segment(packs: Iterable[tuple[str, Sequence[PackEntry]]]) -> pa.Table:
    """One part of the index as a table."""
    rows = [(name, entry) for name, entries in packs for entry in entries]
    columns: list[list[Any]] = [
        [name for name, _ in rows],
        [entry.id for _, entry in rows],
        [entry.offset for _, entry in rows],
        [entry.size for _, entry in rows],
        [entry.stored for _, entry in rows],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns[1:], list(INDEX_SCHEMA)[1:], strict=True)]
    return pa.Table.from_arrays([pa.array(columns[0], pa.string()).dictionary_encode(), *arrays], schema=INDEX_SCHEMA)


def ids_of(column: pa.Array | pa.ChunkedArray) -> Ids:
    """A column of fixed 32 bytes without nulls as an array."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # what combine_chunks gives for no chunks at all
        return np.empty((0, ID_BYTES), np.uint8)
    start = array.offset * ID_BYTES
    data = np.frombuffer(array.buffers()[1] or b"", np.uint8)[start : start + len(array) * ID_BYTES]
    return data.reshape(-1, ID_BYTES)


class ChunkIndex:
    """All places of all chunks. A chunk may have several; `find` gives one of them."""

    def __init__(self, tables: Sequence[pa.Table] = ()) -> None:
        whole = pa.concat_tables([INDEX_SCHEMA.empty_table(), *tables]).unify_dictionaries().combine_chunks()
        packs = whole.column("pack")
        encoded = packs.chunk(0) if packs.num_chunks else pa.array([], INDEX_SCHEMA.field("pack").type)
        self.packs: list[str] = encoded.dictionary.to_pylist()
        ids = ids_of(whole.column("id"))
        prefixes = ids[:, :8].copy().view(">u8").reshape(-1).astype(np.uint64)
        order = np.argsort(prefixes, kind="stable")
        self._prefixes, self.ids = prefixes[order], ids[order]
        self.pack_of = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)[order]
        self._offset, self._size, self._stored = (
            whole.column(name).to_numpy()[order] for name in ("offset", "size", "stored")
        )

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, ids: Ids) -> Numbers:
        """The row of each id, -1 where there is none."""
        if not len(self.ids) or not len(ids):
            return np.full(len(ids), -1, np.int64)
        wanted = np.ascontiguousarray(ids[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
        rows = np.searchsorted(self._prefixes, wanted)
        inside = np.minimum(rows, len(self.ids) - 1)
        same = (rows < len(self.ids)) & (self.ids[inside] == ids).all(axis=1)
        found = np.where(same, inside, -1)
        for at in np.flatnonzero(~same & (self._prefixes[inside] == wanted)):  # ids that share their first 8 bytes
            row = int(rows[at]) + 1
            while row < len(self.ids) and self._prefixes[row] == wanted[at] and found[at] < 0:
                found[at] = row if (self.ids[row] == ids[at]).all() else -1
                row += 1
        return found

    def place(self, row: int) -> Place:
        return Place(
            self.packs[self.pack_of[row]], int(self._offset[row]), int(self._size[row]), int(self._stored[row])
        )

    def get(self, id: bytes) -> Place | None:
        row = int(self.find(np.frombuffer(id, np.uint8).reshape(1, ID_BYTES))[0])
        return self.place(row) if row >= 0 else None

    def bytes_per_pack(self) -> dict[str, int]:
        """Stored bytes of chunks by pack."""
        sums = np.bincount(self.pack_of, weights=self._stored, minlength=len(self.packs))
        return {name: int(sums[i]) for i, name in enumerate(self.packs)}

    def table(self) -> pa.Table:
        """All of it as one segment."""
        packs = pa.DictionaryArray.from_arrays(pa.array(self.pack_of, pa.int32()), pa.array(self.packs, pa.string()))
        ids = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(ID_BYTES), len(self.ids), [None, pa.py_buffer(np.ascontiguousarray(self.ids))]
        )
        numbers = [pa.array(column, pa.uint32()) for column in (self._offset, self._size, self._stored)]
        return pa.Table.from_arrays([packs, ids, *numbers], schema=INDEX_SCHEMA)

    def stored(self, row: int) -> int:
        return int(self._stored[row])

    def __contains__(self, id: bytes) -> bool:
        return self.get(id) is not None


def unique(ids: Ids) -> Ids:
    """The distinct ids, sorted."""
    if not len(ids):
        return ids
    flat = np.ascontiguousarray(ids).view(f"S{ID_BYTES}").reshape(-1)
    # a string of bytes ignores trailing zeros when compared, so it is compared as raw memory instead
    raw = flat.view([("a", ">u8"), ("b", ">u8"), ("c", ">u8"), ("d", ">u8")])
    return np.unique(raw).view(np.uint8).reshape(-1, ID_BYTES)
