"""Chunks come back, every one of them verified before anybody sees it.

A chunk that does not hash to its id is read a second time, since the wire may have been at fault; then it is `Corrupt`.
A pack that vanished was collected: the index is read anew, once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from osmo_ray.data.chunking import ID_BYTES, Part
from osmo_ray.data.errors import Corrupt
from osmo_ray.data.index import ChunkIndex, Place
from osmo_ray.data.reads import Run, runs
from osmo_ray.objects.datasets import layout
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.protocol import NoSuchObject

T = TypeVar("T")


class Reader:
    """For many threads at once."""

    def __init__(self, bucket: Bucket, index: ChunkIndex | None = None) -> None:
        self._bucket = bucket
        self.hasher = bucket.seal.hasher
        self._index = index
        self._lock = threading.Lock()

    @property
    def index(self) -> ChunkIndex:
        with self._lock:
            if self._index is None:
                self._index = self._bucket.index()
            return self._index

    def place(self, id: bytes) -> Place:
        """Raises `Corrupt` for a chunk that the bucket does not have."""
        found = self.index.get(id) or self._again(self.index).get(id)
        if found is None:
            raise Corrupt(f"the bucket lost chunk {id.hex()}; restore its packs from a copy of the bucket")
        return found

    def plan(self, wanted: Iterable[tuple[bytes, T]]) -> list[Run[tuple[bytes, T]]]:
        """Few reads for many chunks; each wanted thing is (id, what the caller calls it)."""
        asked = list(wanted)
        index = self.index
        rows = index.find(np.frombuffer(b"".join(id for id, _ in asked), np.uint8).reshape(-1, ID_BYTES))
        places = [
            index.place(int(row)) if row >= 0 else self.place(id) for row, (id, _) in zip(rows, asked, strict=True)
        ]
        return list(runs(zip(places, asked, strict=True)))

    def read(self, run: Run[tuple[bytes, T]]) -> Iterator[tuple[T, bytes | memoryview]]:
        """The chunks of a run, verified."""
        key = layout.pack(run.pack)
        try:
            data = memoryview(self._bucket.store.read(key, run.start, run.end))
        except NoSuchObject:
            self._again(self.index)
            for _, (id, tag) in run.pieces:
                yield tag, self.chunk(id)
            return
        for place, (id, tag) in run.pieces:
            at = place.offset - run.start
            plain = self._opened(data[at : at + place.stored], key, id)
            yield tag, self.chunk(id) if plain is None else plain

    def chunk(self, id: bytes) -> bytes | memoryview:
        """One chunk, verified; two tries."""
        for _ in range(2):
            place = self.place(id)
            key = layout.pack(place.pack)
            try:
                data = self._bucket.store.read(key, place.offset, place.offset + place.stored)
            except NoSuchObject:
                self._again(self.index)
                continue
            if (plain := self._opened(data, key, id)) is not None:
                return plain
        raise Corrupt(f"chunk {id.hex()} in {key} is damaged; nothing of it was given out")

    def part(self, part: Part) -> bytes | memoryview:
        data = self.chunk(part.id)
        if len(data) != part.size:
            raise Corrupt(f"chunk {part.id.hex()} has {len(data)} bytes, the manifest says {part.size}")
        return data

    def _opened(self, stored: bytes | memoryview, key: str, id: bytes) -> bytes | memoryview | None:
        try:
            plain = self._bucket.seal.open(stored, key, id)
        except Corrupt:
            return None
        return plain if self._bucket.seal.hasher(plain) == id else None

    def _again(self, seen: ChunkIndex) -> ChunkIndex:
        """The index anew, unless another thread has just done so."""
        with self._lock:
            if self._index is None or self._index is seen:
                self._index = self._bucket.index()
            return self._index
