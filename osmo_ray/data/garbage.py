"""Which packs nobody needs, in two steps, safe beside running uploads.

A collection first *condemns* packs that no version reaches and writes that down; from then on no new upload relies on
them. Later, when the grace is over and every upload that was running at that moment has ended, it marks again: what a
version reaches by now is rescued, the rest is deleted. An upload announces itself before it looks which packs it may
rely on, and a collection looks for uploads after it has written what it condemns: one of the two sees the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np

from osmo_ray.data.index import ChunkIndex, Ids


@dataclass(frozen=True, slots=True)
class Condemned:
    """One verdict. `at` is seconds since the epoch; `sessions` are the uploads that ran when it was announced."""

    name: str
    at: float
    packs: tuple[str, ...]
    sessions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sweep:
    """What becomes of one verdict."""

    delete: tuple[str, ...]
    rescue: tuple[str, ...]


def condemnable(index: ChunkIndex, reachable: Ids, *, spared: Collection[str]) -> tuple[str, ...]:
    """Packs without a reachable chunk of which they are the home. A chunk in several packs has one home: that where
    the larger share of the bytes is reachable, so that repacked leftovers go. `spared` packs are never condemned
    and never counted as a home: those already condemned, and those of running uploads."""
    rows = _rows_of(index, reachable)
    usable = np.array([name not in spared for name in index.packs], bool)
    rows = rows[usable[index.pack_of[rows]]] if len(rows) else rows
    homes = _homes(index, rows)
    return tuple(name for i, name in enumerate(index.packs) if usable[i] and i not in homes)


def sweep(verdict: Condemned, condemned: Collection[str], index: ChunkIndex, reachable: Ids) -> Sweep:
    """`condemned` are the packs of all verdicts, this one's among them. A chunk that is reachable by now and lies in
    no other pack than condemned ones rescues those of this verdict."""
    rows = _rows_of(index, reachable)
    safe = np.array([name not in condemned for name in index.packs], bool)
    in_safe = rows[safe[index.pack_of[rows]]] if len(rows) else rows
    held = {index.ids[row].tobytes() for row in in_safe}
    mine = set(verdict.packs)
    rescue = {
        index.packs[index.pack_of[row]]
        for row in rows
        if index.packs[index.pack_of[row]] in mine and index.ids[row].tobytes() not in held
    }
    return Sweep(tuple(sorted(mine - rescue)), tuple(sorted(rescue)))


def may_sweep(verdict: Condemned, now: float, grace: float, running: Iterable[str]) -> str:
    """Empty when the verdict's time has come, else why not yet. `running` are the uploads that have not ended."""
    if (left := verdict.at + grace - now) > 0:
        return f"its grace ends in {left:.0f} seconds"
    if still := sorted(set(verdict.sessions) & set(running)):
        return f"{len(still)} upload(s) that began before it still run: {', '.join(still[:3])}"
    return ""


def wasteful(index: ChunkIndex, reachable: Ids, *, spared: Collection[str], below: float) -> tuple[str, ...]:
    """Packs of which less than the share `below` of the bytes is reachable, but something is: worth repacking."""
    live: dict[str, int] = {}
    for row in _rows_of(index, reachable):
        name = index.packs[index.pack_of[row]]
        live[name] = live.get(name, 0) + index.stored(int(row))
    sizes = index.bytes_per_pack()
    return tuple(sorted(n for n, size in live.items() if n not in spared and size < below * sizes[n]))


def _rows_of(index: ChunkIndex, reachable: Ids) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Every row, duplicates too, whose chunk is reachable."""
    if not len(index) or not len(reachable):
        return np.empty(0, np.int64)
    marks = ChunkLookup(reachable)
    return np.flatnonzero(marks.contains(index.ids))


class ChunkLookup:
    """Membership of many ids in a set of ids."""

    def __init__(self, ids: Ids) -> None:
        self._known = _as_words(ids)
        self._known.sort(order=["a", "b", "c", "d"])

    def contains(self, ids: Ids) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        words = _as_words(ids)
        at = np.minimum(np.searchsorted(self._known, words), max(len(self._known) - 1, 0))
        return np.asarray(self._known[at] == words) if len(self._known) else np.zeros(len(ids), bool)


def _as_words(ids: Ids) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    kinds = [("a", "<u8"), ("b", "<u8"), ("c", "<u8"), ("d", "<u8")]
    return np.ascontiguousarray(ids).view(kinds).reshape(-1).copy()


def _homes(index: ChunkIndex, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> set[int]:
    if not len(rows):
        return set()
    sizes = index.bytes_per_pack()
    live = np.zeros(len(index.packs), np.float64)
    for row in rows:
        live[index.pack_of[row]] += index.stored(int(row))
    share = [-live[i] / max(sizes[name], 1) for i, name in enumerate(index.packs)]
    chosen: dict[bytes, tuple[float, str, int]] = {}
    for row in rows:
        pack = int(index.pack_of[row])
        rank = (share[pack], index.packs[pack], pack)
        id = index.ids[row].tobytes()
        if id not in chosen or rank < chosen[id]:
            chosen[id] = rank
    return {pack for _, _, pack in chosen.values()}
