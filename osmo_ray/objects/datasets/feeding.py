"""A version as a stream of Arrow record batches for one worker of many.

Which files, and in which order, is the pure plan of `osmo_ray.data.shards`; here they are fetched ahead by a few
threads, through the node's cache, and opened by their kind: Parquet row groups, tars in WebDataset's manner, anything
else as (path, bytes). Each batch comes with the cursor behind it: give that back to go on from there.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from osmo_ray.data.manifest import Entry, Kind
from osmo_ray.data.names import LATEST
from osmo_ray.data.shards import Cursor, ShardPlan, shard_plan
from osmo_ray.objects.datasets.cache import NodeCache
from osmo_ray.objects.datasets.dataset import Dataset
from osmo_ray.objects.datasets.reading import Reader

_GROUP = 64
_UNLIMITED = 1 << 62


@dataclass(frozen=True, slots=True)
class Worker:
    """Who asks: rank and world, the epoch and the seed of its shuffle, and where it was."""

    rank: int = 0
    world: int = 1
    epoch: int = 0
    seed: int = 0
    cursor: Cursor | None = None


def shards(
    dataset: Dataset,
    worker: Worker = Worker(),
    *,
    selector: str = LATEST,
    regex: str = "",
    rows: int = 65536,
    ahead: int = 4,
    cache: NodeCache | None = None,
) -> Iterator[tuple[Cursor, pa.RecordBatch]]:
    """Batches of at most `rows` rows with the cursor behind each; `ahead` files are fetched in advance."""
    with ExitStack() as stack:
        if cache is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="osmo-shards-"))
            cache = NodeCache(Path(folder), _UNLIMITED)
        start = worker.cursor or Cursor(worker.epoch)
        for item, entry, path in files(dataset, worker, selector=selector, regex=regex, ahead=ahead, cache=cache):
            skip = start.row if item == start.item else 0
            row = 0
            for batch in _kind(entry)(entry, path, rows):
                row += len(batch)
                if row > skip:
                    yield Cursor(worker.epoch, item, row), batch.slice(max(0, skip - (row - len(batch))))


def files(
    dataset: Dataset,
    worker: Worker,
    *,
    selector: str = LATEST,
    regex: str = "",
    ahead: int = 4,
    cache: NodeCache,
) -> Iterator[tuple[int, Entry, Path]]:
    """(position in the plan, row, local file) of each file of a worker from its cursor on, fetched in advance."""
    entries = [e for e in dataset.entries(selector, regex=regex) if e.kind is Kind.FILE and e.size]
    plan = plan_of(dataset.version(selector).checksum, entries, worker)
    start = worker.cursor or Cursor(worker.epoch)
    reader = Reader(dataset.bucket)
    flying: deque[tuple[int, Entry, Future[Path]]] = deque()
    with ThreadPoolExecutor(max(1, ahead), thread_name_prefix="osmo-shard") as pool:
        try:
            for item, at in enumerate(plan.rest(start), start.item):
                flying.append((item, entries[at], pool.submit(cache.path, entries[at], reader)))
                if len(flying) > ahead:
                    yield _landed(flying)
            while flying:
                yield _landed(flying)
        finally:
            for _, _, future in flying:
                future.cancel()


def plan_of(checksum: str, entries: list[Entry], worker: Worker) -> ShardPlan:
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
    with pq.ParquetFile(path, memory_map=True, pre_buffer=False) as file:
        yield from file.iter_batches(rows, use_threads=True)


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
