"""Large files in pieces of about a mebibyte, each of them fetched once per node.

A piece is some chunks of a file that lie side by side, cut where the file's own list says, so that it is the same piece
for whoever reads that content. It goes through the node's cache like a small file: verified when it enters, found again
by the next task. A read that goes on in order has the pieces ahead of it fetched by others meanwhile.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from osmo_ray.data.chunking import Hasher, Part, pack_parts
from osmo_ray.data.errors import DataError
from osmo_ray.data.manifest import Entry, Kind
from osmo_ray.objects.datasets.cache import NodeCache
from osmo_ray.objects.datasets.filesystem import read_range
from osmo_ray.objects.datasets.reading import Reader
from osmo_ray.objects.protocol import ObjectError

PIECE = 1 << 20
_AHEAD = 16
"""Pieces that are fetched ahead at most, of a file that is read in order."""
_AT_ONCE = 6
_TRIES = 3


class Pieces:
    """Opens what a node has of files, and fetches what it lacks. For many threads."""

    def __init__(self, cache: NodeCache, reader: Reader) -> None:
        self._cache, self._reader = cache, reader
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="osmo-ahead")
        self._flying: dict[bytes, Future[None]] = {}
        self._lock = threading.Lock()

    def open(self, entry: Entry) -> int:
        """A descriptor of an entry's content. Raises `DataError`, `ObjectError`, `OSError`."""
        for _ in range(_TRIES):
            self._wait(entry)
            with suppress(FileNotFoundError):  # evicted in between
                return os.open(self._cache.path(entry, self._reader), os.O_RDONLY | os.O_CLOEXEC)
        raise DataError("the node's cache is too small for what runs here; enlarge it (dataset_cache)")

    def fetch(self, entry: Entry) -> None:
        """Have it fetched by another thread, unless that happens already."""
        assert entry.digest is not None
        with self._lock:
            if entry.digest not in self._flying and not self._cache.has(entry):
                self._flying[entry.digest] = self._pool.submit(self._bring, entry)

    def cut(self, entry: Entry) -> tuple[list[int], list[Entry]]:
        """Where the pieces of a file of several chunks begin, and the pieces as files of their own."""
        starts, pieces = [], []
        for start, piece in _pieces(entry, self._reader.hasher):
            starts.append(start)
            pieces.append(piece)
        return starts, pieces

    def range(self, entry: Entry, start: int, end: int) -> bytes:
        """Bytes past the cache."""
        return read_range(self._reader, entry, start, end)

    def fits(self) -> bool:
        """Whether the cache has room for pieces at all."""
        return self._cache.largest >= 4 * PIECE

    def _bring(self, entry: Entry) -> None:
        assert entry.digest is not None
        try:
            with suppress(DataError, ObjectError, OSError):  # whoever wants it meets the error again, and tells it
                self._cache.path(entry, self._reader)
        finally:
            with self._lock:
                del self._flying[entry.digest]

    def _wait(self, entry: Entry) -> None:
        with self._lock:
            flying = self._flying.get(entry.digest or b"")
        if flying is not None:
            flying.result()


class Large:
    """One opened file of several chunks. For one thread at a time."""

    def __init__(self, entry: Entry, pieces: Pieces) -> None:
        self._entry, self._pieces = entry, pieces
        self._starts, self._parts = pieces.cut(entry)
        self._at, self._fd, self._ahead = -1, -1, 0

    def read(self, start: int, end: int) -> bytes:
        """The bytes [start, end), of which the last may lie past the file's end."""
        end = min(end, self._entry.size)
        if not self._pieces.fits():
            return self._pieces.range(self._entry, start, end) if end > start else b""
        found = []
        while start < end:
            number = bisect_right(self._starts, start) - 1
            inside = start - self._starts[number]
            data = os.pread(self._opened(number), end - start, inside)
            if not data:
                raise DataError(f"{os.fsdecode(self._entry.path)} has less than {self._entry.size} bytes")
            found.append(data)
            start += len(data)
        return b"".join(found)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _opened(self, number: int) -> int:
        if number == self._at and self._fd >= 0:
            return self._fd
        self._ahead = min(2 * self._ahead + 1, _AHEAD) if number == self._at + 1 and number else 0
        for piece in self._parts[number + 1 : number + 1 + self._ahead]:
            self._pieces.fetch(piece)
        opened = self._pieces.open(self._parts[number])
        self.close()
        self._at, self._fd = number, opened
        return opened


def _pieces(entry: Entry, hasher: Hasher) -> Iterator[tuple[int, Entry]]:
    start = size = 0
    held: list[Part] = []
    for part in entry.chunks():
        held.append(part)
        size += part.size
        if size >= PIECE:
            yield start, _piece(entry, held, size, hasher)
            start, size, held = start + size, 0, []
    if held:
        yield start, _piece(entry, held, size, hasher)


def _piece(entry: Entry, parts: list[Part], size: int, hasher: Hasher) -> Entry:
    packed = pack_parts(parts)
    return Entry(entry.path, Kind.FILE, size=size, digest=hasher.of_parts(packed), parts=packed)
