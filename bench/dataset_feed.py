"""Shards of a dataset beside plain pyarrow, and manifests of millions of files."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq

from bench.dataset_tools import MIB, row, stored
from osmo_ray.data.diff import diff
from osmo_ray.data.manifest import SCHEMA
from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.datasets.cache import NodeCache
from osmo_ray.objects.datasets.feeding import BucketFeed, shards
from osmo_ray.objects.local import LocalStore


def shard(work: Path, scale: float) -> None:
    source = work / "shards"
    source.mkdir()
    dice = np.random.default_rng(1)
    for number in range(8):
        columns = {"x": dice.random(int(2_000_000 * scale)), "y": dice.integers(0, 99, int(2_000_000 * scale))}
        pq.write_table(pa.table(columns), source / f"{number}.parquet", row_group_size=1 << 17)
    dataset = Dataset(open_bucket(LocalStore(work / "feed")), "d", create=True)
    dataset.upload([source])
    print(f"shards, 8 Parquet files, {stored(source):.0f} MiB: MiB/s (budget 0.9 of plain pyarrow)")
    row("", "MiB/s", "rows")
    cache = NodeCache(work / "node", 1 << 40)

    def ours() -> int:
        return sum(len(batch) for _, batch in shards(BucketFeed(dataset, cache=cache), rows=1 << 17))

    def plain() -> int:
        found = pyarrow.dataset.dataset(source)
        return sum(len(batch) for batch in found.to_batches(batch_size=1 << 17))

    began, rows = time.monotonic(), ours()
    row("osmo-ray, first time", f"{stored(source) / (time.monotonic() - began):.0f}", rows)
    rates: dict[str, list[float]] = {"osmo-ray, from the node's cache": [], "pyarrow.dataset": []}
    for _ in range(7):  # in turn, because the machine is not ours alone
        for name, read in zip(rates, (ours, plain), strict=True):
            began = time.monotonic()
            read()
            rates[name].append(stored(source) / (time.monotonic() - began))
    for name, rate in rates.items():
        row(name, f"{statistics.median(rate):.0f}", rows)


def manifest(work: Path, scale: float) -> None:
    """In a process of its own, so that the peak is its own."""
    for step in ("make_millions", "millions"):
        call = f"from bench.dataset_feed import {step}; {step}({str(work)!r}, {scale})"
        subprocess.run([sys.executable, "-c", call], check=True)


def make_millions(work: str, scale: float) -> None:
    count = int(5_000_000 * scale)
    for version in (1, 2):
        file = Path(work) / f"manifest{version}.parquet"
        with pq.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=False) as writer:
            for start in range(0, count, 1 << 16):
                writer.write_table(_rows(start, min(count, start + (1 << 16)), version))


def millions(work: str, scale: float) -> None:
    count = int(5_000_000 * scale)
    files = [Path(work) / f"manifest{version}.parquet" for version in (1, 2)]
    print(
        f"manifests of {count} files, {files[0].stat().st_size / MIB:.0f} MiB each: s, peak MiB of the process so far"
    )
    row("", "s", "peak MiB", "found")

    def batches(file: Path) -> Iterator[pa.Table]:
        with pq.ParquetFile(file, memory_map=True, pre_buffer=False) as opened:
            for batch in opened.iter_batches(1 << 16):
                yield pa.Table.from_batches([batch])

    def listed() -> int:
        return sum(len(batch) for batch in batches(files[0]))

    def changed() -> int:
        return sum(len(step.changed_after) for step in diff(batches(files[0]), batches(files[1])))

    def planned() -> int:
        from osmo_ray.data.shardplan import shard_plan

        sizes = np.concatenate([batch.column("size").to_numpy() for batch in batches(files[0])])
        return len(shard_plan("c", sizes, epoch=0, rank=0, world=64).items)

    for name, step in (("list", listed), ("diff, 1% changed", changed), ("plan of one rank of 64", planned)):
        began, found = time.monotonic(), step()
        status = Path("/proc/self/status").read_text()  # not ru_maxrss: that one remembers the parent's
        peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
        row(name, f"{time.monotonic() - began:.1f}", f"{peak:.0f}", found)


def _rows(start: int, end: int, version: int) -> pa.Table:
    numbers = np.arange(start, end)
    digests = np.random.default_rng(start).integers(0, 256, (end - start, 32), np.uint8)
    digests[numbers % 100 == 0, 0] = version
    digests[numbers % 100 == 0, 1] = version
    count = end - start
    columns = [
        pa.array([b"d%04d/f%07d" % (n // 10_000, n) for n in numbers], pa.binary()),
        pa.array(np.zeros(count), pa.uint8()),
        pa.array(np.full(count, 0o644), pa.uint16()),
        pa.array(numbers, pa.int64()),
        pa.array(numbers % 400_000 + 1, pa.int64()),
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), count, [None, pa.py_buffer(digests)]),
        pa.nulls(count, pa.binary()),
        pa.nulls(count, pa.binary()),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)
