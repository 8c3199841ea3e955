"""The layout of a pack: chunks one after another, then a list of them, then where that list begins.

    chunk | chunk | ... | list: 40 bytes a chunk (id 32, size u32, stored u32) | count u32 | BLAKE3 of the list | magic

The list makes the index a cache: a bucket whose index is lost, or an upload that died before it wrote one, is read
back from the ends of its packs. `stored` differs from `size` in an encrypted bucket. Numbers are little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

from osmo_ray.data.chunking import ID_BYTES
from osmo_ray.data.errors import Corrupt

PACK_BYTES = 64 << 20
"""A pack is closed when it has at least this many bytes of chunks."""
MAGIC = b"OSMOPAK1"
_ENTRY = struct.Struct(f"<{ID_BYTES}sII")
_TAIL = struct.Struct("<I32s8s")
TAIL_BYTES = _TAIL.size


@dataclass(frozen=True, slots=True)
class PackEntry:
    """A chunk in a pack: `size` bytes of content, `stored` bytes at `offset`."""

    id: bytes
    offset: int
    size: int
    stored: int


def footer(entries: Sequence[PackEntry]) -> bytes:
    """What follows the chunks. The entries must lie one after another from offset 0."""
    listed = b"".join(_ENTRY.pack(entry.id, entry.size, entry.stored) for entry in entries)
    return listed + _TAIL.pack(len(entries), blake3(listed).digest(), MAGIC)


def footer_bytes(tail: bytes, name: str = "pack") -> int:
    """How many bytes the footer has, from the last `TAIL_BYTES` of a pack. Raises `Corrupt`."""
    if len(tail) != TAIL_BYTES or tail[-8:] != MAGIC:
        raise Corrupt(f"{name} does not end as a pack does; it is cut off or of another kind")
    count, _, _ = _TAIL.unpack(tail)
    return int(count) * _ENTRY.size + TAIL_BYTES


def read_footer(data: bytes, pack_size: int, name: str = "pack") -> tuple[PackEntry, ...]:
    """The entries of a pack of `pack_size` bytes whose end is `data`. Raises `Corrupt` unless everything adds up."""
    size = footer_bytes(data[-TAIL_BYTES:], name)
    if len(data) < size:
        raise Corrupt(f"{name}: its list needs {size} bytes, {len(data)} were read")
    listed = data[len(data) - size : -TAIL_BYTES]
    if blake3(listed).digest() != _TAIL.unpack(data[-TAIL_BYTES:])[1]:
        raise Corrupt(f"{name}: the list of its chunks is damaged")
    entries, offset = [], 0
    for id, plain, stored in _ENTRY.iter_unpack(listed):
        entries.append(PackEntry(id, offset, plain, stored))
        offset += stored
    if offset + size != pack_size:
        raise Corrupt(f"{name} has {pack_size} bytes, its list speaks of {offset + size}")
    return tuple(entries)
