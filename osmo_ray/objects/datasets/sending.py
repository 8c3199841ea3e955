"""Chunks go out in packs: gathered in order, sent by a few threads, listed in the index at the end."""

from __future__ import annotations

import io
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import BinaryIO, cast

import numpy as np

from osmo_ray.data.chunking import ID_BYTES, Buffer
from osmo_ray.data.index import ChunkIndex, Ids, segment
from osmo_ray.data.packs import PACK_BYTES, PackEntry, footer
from osmo_ray.objects.datasets import layout
from osmo_ray.objects.datasets.bucket import Bucket
from osmo_ray.objects.datasets.reading import Reader
from osmo_ray.objects.datasets.session import Session

_SENDERS = 3


class Sender:
    """One upload's packs. Chunks in packs that are condemned are not relied on: they are sent again."""

    def __init__(self, bucket: Bucket, session: Session, *, pack_bytes: int = PACK_BYTES) -> None:
        self._bucket, self._session, self._pack_bytes = bucket, session, pack_bytes
        self.hasher = bucket.seal.hasher
        self.condemned = {name for verdict in bucket.condemned() for name in verdict.packs}
        self.index: ChunkIndex = bucket.index()
        self._usable = np.array([name not in self.condemned for name in self.index.packs], bool)
        self._new: set[bytes] = set()
        self._pieces: list[bytes | memoryview] = []
        self._entries: list[PackEntry] = []
        self._size = 0
        self._count = 0
        self._sent: list[tuple[str, list[PackEntry]]] = []
        self._pool = ThreadPoolExecutor(_SENDERS, thread_name_prefix="osmo-pack")
        self._flying: deque[Future[None]] = deque()
        self._lock = threading.Lock()
        self.bytes_sent = 0

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def known(self, ids: Ids) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which of these chunks the bucket has in packs that may be relied on (those sent just now apart)."""
        rows = self.index.find(ids)
        found = rows >= 0
        if found.any() and not self._usable.all():
            for at in np.flatnonzero(found):
                found[at] = self._usable[self.index.pack_of[rows[at]]] or self._elsewhere(ids[at])
        return found

    def refresh(self) -> None:
        """Read the index anew. What was condemned after this upload began cannot be swept before it ends, so only
        what was condemned before is still not relied on."""
        self.index = self._bucket.index()
        self._usable = np.array([name not in self.condemned for name in self.index.packs], bool)

    def distrust(self, packs: Iterable[str]) -> None:
        """Rely on these packs no more than on condemned ones: what is in them is sent again."""
        self.condemned |= set(packs)
        self._usable = np.array([name not in self.condemned for name in self.index.packs], bool)

    def carry(self, ids: Ids, reader: Reader) -> None:
        """Make sure of chunks that another version has: those in condemned packs are copied."""
        for at in np.flatnonzero(~self.known(ids)):
            id = ids[at].tobytes()
            if id not in self._new:
                self.put(id, reader.chunk(id))

    def _elsewhere(self, id: Ids) -> bool:
        """Another copy of the chunk in a pack that may be relied on."""
        same = (self.index.ids == id).all(axis=1)
        return bool(self._usable[self.index.pack_of[same]].any())

    def has(self, id: bytes) -> bool:
        return id in self._new or bool(self.known(np.frombuffer(id, np.uint8).reshape(1, ID_BYTES))[0])

    def put(self, id: bytes, data: Buffer) -> None:
        """Send a chunk unless the bucket has it."""
        if self.has(id):
            return
        self._new.add(id)
        piece = data if not isinstance(data, bytearray) else bytes(data)
        stored = self._bucket.seal.close(piece, layout.pack(self._name()), id)
        self._pieces.append(stored)
        self._entries.append(PackEntry(id, self._size, len(data), len(stored)))
        self._size += len(stored)
        if self._size >= self._pack_bytes:
            self._flush()

    def close(self) -> None:
        """Everything is in the store and in the index when this returns."""
        self._flush()
        while self._flying:
            self._flying.popleft().result()
        if self._sent:
            self._bucket.put_table(layout.INDEX, segment(self._sent), self._session.id)
            self._sent = []

    def _name(self) -> str:
        return f"{self._session.id}/{self._count:06}"

    def _flush(self) -> None:
        if not self._entries:
            return
        name, entries = self._name(), self._entries
        pieces = [*self._pieces, footer(entries)]
        self._pieces, self._entries, self._size = [], [], 0
        self._count += 1
        while len(self._flying) >= _SENDERS:
            self._flying.popleft().result()
        self._flying.append(self._pool.submit(self._send, name, pieces, entries))

    def _send(self, name: str, pieces: list[bytes | memoryview], entries: list[PackEntry]) -> None:
        source = _Pieces(pieces)
        key = layout.pack(name)
        if self._bucket.store.url.startswith("file:"):
            sent = self._bucket.store.write(key, cast("BinaryIO", source))
        else:
            sent = self._bucket.store.write(key, b"".join(pieces))
        with self._lock:
            self._sent.append((name, entries))
            self.bytes_sent += sent
        self._session.alive()


class _Pieces(io.RawIOBase):
    """A list of buffers as a stream, without joining them."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = list(pieces)
        self._at = 0

    def read(self, size: int = -1) -> bytes | memoryview:
        if self._at == len(self._pieces):
            return b""
        self._at += 1
        return self._pieces[self._at - 1]

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset
        return offset
