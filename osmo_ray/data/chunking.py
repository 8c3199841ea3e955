"""Where a file is cut into chunks, and what a chunk is called.

A file below `WHOLE` bytes is one chunk: most datasets are many small files, and cutting them gains nothing. A larger
file is cut by its own content (FastCDC), so that an insertion in the middle changes the chunks around it and no others.
The parameters are part of the format: equal bytes must always give equal chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blake3 import blake3
from pyfastcdc import FastCDC

WHOLE = 8 << 20
"""Files of at least this many bytes are cut."""
MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK = 32 << 10, 128 << 10, 512 << 10
ID_BYTES = 32
PART_BYTES = ID_BYTES + 4
_PARTS = "osmo-ray 2026 file of several chunks"

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Part:
    """One chunk of a file: its id and its number of bytes."""

    id: bytes
    size: int


class Hasher:
    """Ids of chunks: BLAKE3, keyed in an encrypted bucket so that an id tells nothing about known contents."""

    def __init__(self, key: bytes | None = None) -> None:
        self._key = key

    def __call__(self, data: Buffer) -> bytes:
        return blake3(data).digest() if self._key is None else blake3(data, key=self._key).digest()

    def of_parts(self, packed: bytes) -> bytes:
        """The digest of a file cut into several chunks, from their packed list."""
        inner = blake3(packed, derive_key_context=_PARTS).digest()
        return inner if self._key is None else blake3(inner, key=self._key).digest()


def cuts(window: Buffer, *, last: bool) -> Iterator[tuple[int, int]]:
    """(offset, size) of the chunks at the start of `window`. Unless it is the file's `last` window, the chunks that
    more bytes could still change (the final `MAX_CHUNK` bytes) are left for the next window."""
    end = len(window)
    cutter = FastCDC(AVERAGE_CHUNK, min_size=MIN_CHUNK, max_size=MAX_CHUNK, normalized_chunking=1)
    for chunk in cutter.cut_buf(window):
        if not last and end - chunk.offset < MAX_CHUNK:
            return
        yield chunk.offset, chunk.length


def pack_parts(parts: Sequence[Part]) -> bytes:
    """36 bytes a part: the id and the size, little-endian."""
    return b"".join(part.id + part.size.to_bytes(4, "little") for part in parts)


def unpack_parts(packed: Buffer) -> tuple[Part, ...]:
    """The inverse of `pack_parts`. Raises `ValueError` for a list that is cut off."""
    data = bytes(packed)
    if len(data) % PART_BYTES:
        raise ValueError(f"a list of chunks has {len(data)} bytes, not a multiple of {PART_BYTES}")
    return tuple(
        Part(data[at : at + ID_BYTES], int.from_bytes(data[at + ID_BYTES : at + PART_BYTES], "little"))
        for at in range(0, len(data), PART_BYTES)
    )
