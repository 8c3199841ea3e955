"""A version as a stream of Arrow record batches for one worker of many.

Which files, and in which order, is the pure plan of `osmo_ray.data.shardplan`; here they are fetched ahead by a few
threads, through the node's cache, and opened by their kind: Parquet row groups, tars in WebDataset's manner, anything
else as (path, bytes). Each batch comes with the cursor behind it: give that back to go on from there.
"""

from __future__ import annotations

import os
import re
import tarfile
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from osmo_ray.data.manifest import Entry, Kind
from osmo_ray.data.names import LATEST
from osmo_ray.data.shardplan import Cursor, ShardPlan, shard_plan
from osmo_ray.objects.datasets.cache import NodeCache
from osmo_ray.objects.datasets.dataset import Dataset
from osmo_ray.objects.datasets.reading import Reader
from osmo_ray.objects.datasets.tree import walk

_GROUP = 64
_UNLIMITED = 1 << 62
_DECODERS, _LARGE_GROUP = 2, 64 << 20
"""Threads that decode row groups, and bytes above which a group is decoded as a stream."""
Shard = tuple[Cursor, pa.RecordBatch]


@dataclass(frozen=True, slots=True)
class Worker:
    """Who asks: rank and world, the epoch and the seed of its shuffle, and where it was."""

    rank: int = 0
    world: int = 1
    epoch: int = 0
    seed: int = 0
    cursor: Cursor | None = None


class Feed(Protocol):
    """The files of a version, wherever they are: its checksum, its files that hold anything in order of path, and how
    to get one of them as a local file, which is only to be read."""

    checksum: str

    @property
    def entries(self) -> Sequence[Entry]: ...

    def path(self, entry: Entry) -> Path: ...


class BucketFeed:
    """From a bucket, through a node's cache; without one, through a folder that ends with the program."""

    def __init__(
        self, dataset: Dataset, *, selector: str = LATEST, regex: str = "", cache: NodeCache | None = None
    ) -> None:
        version = dataset.version(selector)
        self.checksum = version.checksum
        chosen = dataset.entries(str(version.number), regex=regex)
        self.entries = [entry for entry in chosen if entry.kind is Kind.FILE and entry.size]
        self._reader = Reader(dataset.bucket)
        self._folder = None if cache else tempfile.TemporaryDirectory(prefix="osmo-shards-")
        self._cache = cache or NodeCache(Path(self._folder.name if self._folder else ""), _UNLIMITED)

    def path(self, entry: Entry) -> Path:
        return self._cache.path(entry, self._reader)


class FolderFeed:
    """From a folder into which a version was put: a task's input. Read in the same order as from the bucket."""

    def __init__(self, folder: Path, checksum: str, *, regex: str = "") -> None:
        self.checksum, self._folder = checksum, os.fsencode(folder)
        match = re.compile(regex).match
        rows = (found.entry() for found in walk(folder) if found.is_file and found.status.st_size)
        chosen = (row for row in rows if match(row.path.decode(errors="surrogateescape")))
        self.entries = sorted(chosen, key=lambda row: row.path)

    def path(self, entry: Entry) -> Path:
        return Path(os.fsdecode(self._folder + b"/" + entry.path))


def shards(feed: Feed, worker: Worker = Worker(), *, rows: int = 65536, ahead: int = 4) -> Iterator[Shard]:
    """Batches of at most `rows` rows with the cursor behind each; `ahead` files are fetched in advance."""
    start = worker.cursor or Cursor(worker.epoch)
    for item, entry, path in files(feed, worker, ahead=ahead):
        skip = start.row if item == start.item else 0
        row = 0
        for batch in _kind(entry)(entry, path, rows):
            row += len(batch)
            if row > skip:
                yield Cursor(worker.epoch, item, row), batch.slice(max(0, skip - (row - len(batch))))


def files(feed: Feed, worker: Worker, *, ahead: int = 4) -> Iterator[tuple[int, Entry, Path]]:
    """(position in the plan, row, local file) of each file of a worker from its cursor on, fetched in advance."""
    entries = feed.entries
    plan = plan_of(feed.checksum, entries, worker)
    start = worker.cursor or Cursor(worker.epoch)
    flying: deque[tuple[int, Entry, Future[Path]]] = deque()
    with ThreadPoolExecutor(max(1, ahead), thread_name_prefix="osmo-shard") as pool:
        try:
            for item, at in enumerate(plan.rest(start), start.item):
                flying.append((item, entries[at], pool.submit(feed.path, entries[at])))
                if len(flying) > ahead:
                    yield _landed(flying)
            while flying:
                yield _landed(flying)
        finally:
            for _, _, future in flying:
                future.cancel()


def plan_of(checksum: str, entries: Sequence[Entry], worker: Worker) -> ShardPlan:
    sizes = [entry.size for entry in entries]
    return shard_plan(checksum, sizes, epoch=worker.epoch, rank=worker.rank, world=worker.world, seed=worker.seed)


def _landed(flying: deque[tuple[int, Entry, Future[Path]]]) -> tuple[int, Entry, Path]:
    item, entry, future = flying.popleft()
    return item, entry, future.result()


def _kind(entry: Entry) -> Callable[[Entry, Path, int], Iterator[pa.RecordBatch]]:
    if entry.path.endswith(b".parquet"):
        return _parquet
    return _tar if entry.path.endswith(b".tar") else _plain


def _parquet(entry: Entry, path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """Row groups are decoded a few ahead, several small ones at once; large ones as a stream, for the memory's sake."""
    with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        metadata = file.metadata
        groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
        if len(groups) < _DECODERS or max(group.total_byte_size for group in groups) > _LARGE_GROUP:
            yield from file.iter_batches(rows, use_threads=True)
            return
    flying: deque[Future[list[pa.RecordBatch]]] = deque()
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="osmo-decode") as pool:
        try:
            for some in _together([group.num_rows for group in groups], rows):
                flying.append(pool.submit(_decoded, path, metadata, some, rows))
                if len(flying) > _DECODERS:
                    yield from flying.popleft().result()
            while flying:
                yield from flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()


def _together(sizes: list[int], rows: int) -> Iterator[list[int]]:
    """Neighbouring row groups that have at least `rows` rows together."""
    some: list[int] = []
    for number in range(len(sizes)):
        some.append(number)
        if sum(sizes[n] for n in some) >= rows:
            yield some
            some = []
    if some:
        yield some


def _decoded(path: Path, metadata: pq.FileMetaData, groups: list[int], rows: int) -> list[pa.RecordBatch]:
    with pq.ParquetFile(path, metadata=metadata, memory_map=True, pre_buffer=False) as file:
        table: pa.Table = file.read_row_groups(groups, use_threads=False)
        return list(table.combine_chunks().to_batches(rows) if len(groups) > 1 else table.to_batches(rows))


def _plain(entry: Entry, path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    columns = [pa.array([entry.path], pa.binary()), pa.array([path.read_bytes()], pa.large_binary())]
    yield pa.RecordBatch.from_arrays(columns, names=["path", "bytes"])


def _tar(entry: Entry, path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """Members that share a name up to its first dot are one sample: a column per ending, and `__key__`."""
    held: list[dict[str, object]] = []
    with tarfile.open(path) as tar:
        for member in tar:
            if not member.isreg():
                continue
            folder, _, name = member.name.rpartition("/")
            stem, _, ending = name.partition(".")
            key = f"{folder}/{stem}" if folder else stem
            if not held or held[-1]["__key__"] != key:
                if len(held) >= min(rows, _GROUP):
                    yield _samples(held)
                    held = []
                held.append({"__key__": key})
            content = tar.extractfile(member)
            held[-1][ending] = content.read() if content else b""
    if held:
        yield _samples(held)


def _samples(held: list[dict[str, object]]) -> pa.RecordBatch:
    names = ["__key__", *sorted({name for sample in held for name in sample} - {"__key__"})]
    columns = [pa.array([s.get(n) for s in held], pa.string() if n == "__key__" else pa.binary()) for n in names]
    return pa.RecordBatch.from_arrays(columns, names=names)
