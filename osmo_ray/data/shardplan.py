"""Who reads which files in which order, computed alike everywhere from the manifest alone.

The plan depends on the version's checksum, the seed, the epoch, the rank and the size of the world, and on nothing
else: a worker that is replaced gets the rank of the lost one and with it the same plan; a cursor says how far it came.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from blake3 import blake3

_HEAVY = 64
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cursor:
    """The next thing to read: `item` counts files of this rank's plan, `row` rows already given out of that file."""

    epoch: int = 0
    item: int = 0
    row: int = 0


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """`items` are rows of the list of files that the plan was made for, in the order of reading."""

    epoch: int
    rank: int
    world: int
    items: tuple[int, ...]

    def rest(self, cursor: Cursor) -> Sequence[int]:
        """What a worker at `cursor` still reads. Raises `ValueError` for the cursor of another epoch."""
        if cursor.epoch != self.epoch:
            raise ValueError(f"the cursor is of epoch {cursor.epoch}, the plan of epoch {self.epoch}")
        return self.items[cursor.item :]


def shard_plan(
    checksum: str, sizes: npt.NDArray[np.int64] | Sequence[int], *, epoch: int, rank: int, world: int, seed: int = 0
) -> ShardPlan:
    """The files of one rank. `sizes` are the bytes of each file in order of path. Every file belongs to exactly one
    rank of an epoch; the ranks' bytes differ by at most twice the largest file."""
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} is not among the ranks 0 to {world - 1}")
    weights = np.asarray(sizes, np.int64)
    keys = _dice(_seed(checksum, seed, epoch), len(weights))
    owners = _owners(weights, keys, world)
    mine = np.flatnonzero(owners == rank)
    ordered = mine[np.argsort(keys[mine], kind="stable")]
    return ShardPlan(epoch, rank, world, tuple(ordered.tolist()))


def _owners(weights: Numbers, keys: npt.NDArray[np.uint64], world: int) -> Numbers:
    """The rank of each file: the heaviest go one by one to whoever has least, the many light ones in rows, to and
    fro; equal weights are ordered by the dice, so that each epoch deals anew."""
    order = np.lexsort((keys, -weights))
    owners = np.empty(len(weights), np.int64)
    heavy = order[: _HEAVY * world]
    loads = [(0, int(r)) for r in range(world)]
    for file in heavy:
        load, rank = heapq.heappop(loads)
        owners[file] = rank
        heapq.heappush(loads, (load + int(weights[file]), rank))
    light = order[_HEAVY * world :]
    ranks = np.array([rank for _, rank in sorted(loads)], np.int64)
    there_and_back = np.concatenate([ranks, ranks[::-1]])
    owners[light] = np.resize(there_and_back, len(light))
    return owners


def _seed(checksum: str, seed: int, epoch: int) -> int:
    return int.from_bytes(blake3(f"{checksum}:{seed}:{epoch}".encode()).digest(8), "little")


def _dice(seed: int, count: int) -> npt.NDArray[np.uint64]:
    """A number per file by the SplitMix64 recurrence: written out here because it must never change."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
