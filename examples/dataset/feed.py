"""Many workers write one version together; then others read it in shares, and one of them goes on where it stopped.

Run it beside a platform (`osmo up`):  python examples/dataset/feed.py
In a task the same lines read a dataset of its inputs, without a platform to ask.
"""

from __future__ import annotations

import sys
import uuid
from multiprocessing import Process

import pyarrow as pa
import pyarrow.parquet as pq

import osmo_ray as osmo

WORKERS = 3


def write(run: str, rank: int) -> None:
    """One worker of `WORKERS`: the last one to end publishes what all wrote as one version."""
    with osmo.data.appending("squares", run, writer=rank, writers=WORKERS) as folder:
        numbers = range(rank * 1000, rank * 1000 + 1000)
        table = pa.table({"x": numbers, "square": [x * x for x in numbers]})
        pq.write_table(table, folder / f"{run}-{rank}.parquet")


def read(reference: str) -> int:
    """The sum over both ranks of an epoch; rank 1 is replaced after its first batch."""
    total, seen = 0, None
    for _, batch in osmo.data.shards(reference, rank=0, world=2, seed=7, rows=100):
        total += sum(batch["square"].to_pylist())
    for cursor, batch in osmo.data.shards(reference, rank=1, world=2, seed=7, rows=100):
        total, seen = total + sum(batch["square"].to_pylist()), cursor
        break
    for _, batch in osmo.data.shards(reference, rank=1, world=2, seed=7, rows=100, cursor=seen):
        total += sum(batch["square"].to_pylist())
    return total


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(read(sys.argv[1]))
        sys.exit()
    name = uuid.uuid4().hex[:8]
    workers = [Process(target=write, args=(name, rank)) for rank in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(read("squares"))
