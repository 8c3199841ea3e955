"""Cutting, the index in memory, what is garbage, who reads what."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osmo_ray.data.chunking import MAX_CHUNK, MIN_CHUNK, Hasher, Part, cuts, pack_parts, unpack_parts
from osmo_ray.data.garbage import Condemned, condemnable, may_sweep, sweep, wasteful
from osmo_ray.data.index import ChunkIndex, Ids, Place, segment, unique
from osmo_ray.data.packs import PackEntry
from osmo_ray.data.reads import runs
from osmo_ray.data.shardplan import Cursor, shard_plan


def windowed(data: bytes, window: int) -> list[int]:
    """Cut as an upload does, window by window."""
    sizes: list[int] = []
    rest, at = b"", 0
    while True:
        piece = data[at : at + window]
        at += len(piece)
        found = [size for _, size in cuts(rest + piece, last=len(piece) < window)]
        sizes += found
        if len(piece) < window:
            return sizes
        rest = (rest + piece)[sum(found) :]


@pytest.mark.parametrize("window", [5 << 20, 8 << 20, 16 << 20])
def test_windows_do_not_change_the_cuts(window: int) -> None:
    data = np.random.default_rng(3).bytes(20 << 20)
    whole = [size for _, size in cuts(data, last=True)]
    assert windowed(data, window) == whole and sum(whole) == len(data)
    assert all(MIN_CHUNK <= size <= MAX_CHUNK for size in whole[:-1])


def test_the_cuts_are_part_of_the_format() -> None:
    """If this fails, a new library cuts differently: then old datasets no longer share chunks with new ones."""
    noise = b"".join(Hasher()(n.to_bytes(4, "little")) for n in range(100_000))
    assert [size for _, size in cuts(noise, last=True)] == [
        156735,
        154374,
        145223,
        36700,
        135340,
        99424,
        179633,
        137348,
        308516,
        197789,
        111056,
        255508,
        196867,
        51975,
        39879,
        137636,
        114151,
        66813,
        42296,
        80442,
        140278,
        299356,
        112661,
    ]


def test_an_insertion_changes_the_chunks_around_it() -> None:
    data = np.random.default_rng(7).bytes(32 << 20)
    other = data[: 16 << 20] + random.Random(1).randbytes((1 << 20) + 1) + data[16 << 20 :]
    hasher = Hasher()
    old = {hasher(data[at : at + size]) for at, size in cuts(data, last=True)}
    assert sum(size for at, size in cuts(other, last=True) if hasher(other[at : at + size]) not in old) < 2 << 20


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1))))
def test_parts(parts: list[tuple[bytes, int]]) -> None:
    made = tuple(Part(*part) for part in parts)
    assert unpack_parts(pack_parts(made)) == made


def test_a_keyed_hasher_tells_nothing() -> None:
    assert Hasher()(b"x") != Hasher(b"k" * 32)(b"x") != Hasher(b"l" * 32)(b"x")


CHUNKS = [bytes([n // 2, *([0] * 30), n % 2]) for n in range(12)]  # pairs that share their first bytes
PACKS = st.dictionaries(
    st.sampled_from(["s1/0", "s1/1", "s2/0", "s3/0"]), st.lists(st.sampled_from(CHUNKS), unique=True)
)


def made(packs: dict[str, list[bytes]]) -> ChunkIndex:
    lists = {}
    for name, ids in packs.items():
        lists[name] = [PackEntry(id, 10 * at, 10, 10) for at, id in enumerate(ids)]
    return ChunkIndex([segment([item]) for item in lists.items()])


def ids(chunks: list[bytes]) -> Ids:
    return np.frombuffer(b"".join(chunks), np.uint8).reshape(-1, 32)


@settings(max_examples=60, deadline=None)
@given(PACKS, st.lists(st.sampled_from(CHUNKS)))
def test_the_index_finds_what_is_there(packs: dict[str, list[bytes]], asked: list[bytes]) -> None:
    index = made(packs)
    for id, row in zip(asked, index.find(ids(asked)), strict=True):
        holders = {name for name, held in packs.items() if id in held}
        assert (index.place(int(row)).pack in holders) if row >= 0 else not holders
        assert (place := index.get(id)) is None or packs[place.pack][place.offset // 10] == id
    assert {row.tobytes() for row in unique(ids(asked))} == set(asked)
    assert made(packs).table().num_rows == sum(map(len, packs.values())) == len(ChunkIndex([index.table()]))


@settings(max_examples=60, deadline=None)
@given(PACKS, st.lists(st.sampled_from(CHUNKS)), st.sets(st.sampled_from(["s1/0", "s2/0"])))
def test_what_is_condemned_or_swept_is_held_elsewhere(
    packs: dict[str, list[bytes]], needed: list[bytes], spared: set[str]
) -> None:
    index, reachable = made(packs), unique(ids(needed))
    doomed = condemnable(index, reachable, spared=spared)
    assert not set(doomed) & spared
    for id in set(needed):
        holders = {name for name, held in packs.items() if id in held} - spared
        assert not holders or holders - set(doomed)
    verdict = Condemned("v", 0.0, tuple(packs)[:2])
    plan = sweep(verdict, verdict.packs, index, reachable)
    assert set(plan.delete) | set(plan.rescue) == set(verdict.packs)
    for id in set(needed):
        holders = {name for name, held in packs.items() if id in held}
        assert not holders or holders - set(plan.delete)
    for name in wasteful(index, reachable, spared=spared, below=1.0):
        assert 0 < len(set(packs[name]) & set(needed)) < len(packs[name])


def test_a_verdict_waits_for_grace_and_uploads() -> None:
    verdict = Condemned("v", 100.0, ("p",), ("s1",))
    assert "grace" in may_sweep(verdict, 150.0, 60.0, [])
    assert "s1" in may_sweep(verdict, 161.0, 60.0, ["s1", "s2"])
    assert may_sweep(verdict, 161.0, 60.0, ["s2"]) == ""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.integers(1, 9)), unique_by=lambda p: p[:2]))
def test_runs_hold_every_piece_once(pieces: list[tuple[str, int, int]]) -> None:
    wanted = [(Place(pack, at * 10, size, size), n) for n, (pack, at, size) in enumerate(pieces)]
    found = list(runs(wanted, gap=15, limit=60))
    assert sorted(tag for run in found for _, tag in run.pieces) == list(range(len(wanted)))
    for run in found:
        assert run.end - run.start <= 60
        assert all(
            p.pack == run.pack and run.start <= p.offset <= p.offset + p.stored <= run.end for p, _ in run.pieces
        )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=400), st.integers(1, 7), st.integers(0, 3), st.integers(0, 3))
def test_every_file_has_one_rank_and_bytes_are_even(sizes: list[int], world: int, epoch: int, seed: int) -> None:
    plans = [shard_plan("c", sizes, epoch=epoch, rank=r, world=world, seed=seed) for r in range(world)]
    assert sorted(item for plan in plans for item in plan.items) == list(range(len(sizes)))
    loads = [sum(sizes[item] for item in plan.items) for plan in plans]
    assert max(loads) - min(loads) <= 2 * max(sizes, default=0)
    assert plans[0] == shard_plan("c", sizes, epoch=epoch, rank=0, world=world, seed=seed)
    assert plans[0].rest(Cursor(epoch, 2)) == plans[0].items[2:]


def test_epochs_seeds_and_versions_shuffle_anew() -> None:
    orders = {
        shard_plan(c, [1] * 50, epoch=e, rank=0, world=2, seed=s).items for c in "ab" for e in (0, 1) for s in (0, 1)
    }
    assert len(orders) == 8
    assert shard_plan("c", [1] * 8, epoch=0, rank=0, world=1).items == (4, 2, 0, 1, 6, 7, 5, 3)
    with pytest.raises(ValueError, match="epoch 1"):
        shard_plan("c", [1], epoch=0, rank=0, world=1).rest(Cursor(1))
    with pytest.raises(ValueError, match="rank 2"):
        shard_plan("c", [1], epoch=0, rank=2, world=2)
