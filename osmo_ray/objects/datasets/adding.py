"""Files become rows of a manifest and chunks in packs.

Small files are read and hashed by a few threads in batches, in order of path, so that neighbours lie together in a
pack; a large file is read in windows, cut by its content, its chunks hashed by the same threads. A file that changes
while it is read is read again, and refused if it will not hold still.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from osmo_ray.data.chunking import ID_BYTES, MAX_CHUNK, WHOLE, Part, cuts, pack_parts, unpack_parts
from osmo_ray.data.errors import DataError
from osmo_ray.data.manifest import Entry
from osmo_ray.objects.datasets.sending import Sender
from osmo_ray.objects.datasets.tree import Found, Known

_BATCH_FILES, _BATCH_BYTES, _AHEAD = 128, 8 << 20, 6
_WINDOW = 16 << 20
_THREADS = 4
_TRIES = 3

Small = list[tuple[Found, bytes, bytes]]


def add(found: Iterable[Found], known: Known, sender: Sender) -> list[Entry]:
    """The rows of these files, whose chunks are with the sender afterwards."""
    began_ns = time.time_ns()
    entries: list[Entry] = []
    hashed: list[tuple[Found, Entry]] = []
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="osmo-hash") as pool:
        unknown = []
        for item, memory in _remembered(found, known, sender):
            if item.is_file and item.status.st_size and memory is None:
                unknown.append(item)
            else:
                entry = item.entry(*(memory or (None, None)))
                entries.append(entry)
                if memory:
                    hashed.append((item, entry))
        for item, digest, parts in _hashed(unknown, sender, pool):
            entry = item.entry(digest, parts)
            entries.append(entry)
            hashed.append((item, entry))
    known.save(hashed, began_ns)
    return entries


def _remembered(
    found: Iterable[Found], known: Known, sender: Sender
) -> Iterator[tuple[Found, tuple[bytes, bytes | None] | None]]:
    """What was hashed before counts only if the bucket still has all of its chunks."""
    items = [(item, known.get(item) if item.is_file and item.status.st_size else None) for item in found]
    ids, owners = bytearray(), []
    for number, (_, memory) in enumerate(items):
        if memory is not None:
            for id in [memory[0]] if memory[1] is None else [part.id for part in unpack_parts(memory[1])]:
                ids += id
                owners.append(number)
    there = sender.known(np.frombuffer(bytes(ids), np.uint8).reshape(-1, ID_BYTES))
    lost = {owners[at] for at in np.flatnonzero(~there)}
    for number, (item, memory) in enumerate(items):
        yield item, None if number in lost else memory


def _hashed(
    files: list[Found], sender: Sender, pool: ThreadPoolExecutor
) -> Iterator[tuple[Found, bytes, bytes | None]]:
    flying: deque[Future[Small]] = deque()
    hasher = sender.hasher

    def landed() -> Iterator[tuple[Found, bytes, bytes | None]]:
        for item, digest, data in flying.popleft().result():
            sender.put(digest, data)
            yield item, digest, None

    for batch in _batches(files):
        if batch[0].status.st_size >= WHOLE:
            while flying:
                yield from landed()
            yield _large(batch[0], sender, pool)
            continue
        flying.append(pool.submit(lambda b: [(f, hasher(d), d) for f, d in _read(b)], batch))
        if len(flying) > _AHEAD:
            yield from landed()
    while flying:
        yield from landed()


def _batches(files: list[Found]) -> Iterator[list[Found]]:
    batch: list[Found] = []
    size = 0
    for item in files:
        large = item.status.st_size >= WHOLE
        if batch and (large or len(batch) >= _BATCH_FILES or size >= _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        if large:
            yield [item]
        else:
            batch.append(item)
            size += item.status.st_size
    if batch:
        yield batch


def _read(batch: list[Found]) -> Iterator[tuple[Found, bytes]]:
    for item in batch:
        opened = _open(item)
        try:
            for _ in range(_TRIES):
                data = os.pread(opened, item.status.st_size + 1, 0)
                if len(data) == item.status.st_size and not _moved(item, opened):
                    break
            else:
                raise _restless(item)
        finally:
            os.close(opened)
        yield item, data


def _large(item: Found, sender: Sender, pool: ThreadPoolExecutor) -> tuple[Found, bytes, bytes | None]:
    opened = _open(item)
    try:
        parts: list[Part] = []
        for chunks in _windows(opened):
            for chunk, id in zip(chunks, pool.map(sender.hasher, chunks), strict=True):
                parts.append(Part(id, len(chunk)))
                sender.put(id, chunk)
        if sum(part.size for part in parts) != item.status.st_size or _moved(item, opened):
            raise _restless(item)
    finally:
        os.close(opened)
    packed = pack_parts(parts)
    return item, sender.hasher.of_parts(packed), packed


def _windows(opened: int) -> Iterator[list[memoryview]]:
    """The chunks of a file, a list for each window."""
    rest = b""
    at = 0
    while True:
        data = os.pread(opened, _WINDOW, at)
        at += len(data)
        window = memoryview(rest + data if rest else data)
        last = len(data) < _WINDOW
        chunks = [window[start : start + size] for start, size in cuts(window, last=last)]
        if chunks:
            yield chunks
        if last:
            return
        rest = bytes(window[sum(map(len, chunks)) :])
        assert len(rest) <= 2 * MAX_CHUNK


def _open(item: Found) -> int:
    try:
        return os.open(item.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise DataError(f"cannot read {os.fsdecode(item.source)}: {error.strerror}; nothing was published") from error


def _moved(item: Found, opened: int) -> bool:
    now = os.fstat(opened)
    return (now.st_size, now.st_mtime_ns) != (item.status.st_size, item.status.st_mtime_ns)


def _restless(item: Found) -> DataError:
    return DataError(f"{os.fsdecode(item.source)} changes while it is read; upload it when its writer is done")
