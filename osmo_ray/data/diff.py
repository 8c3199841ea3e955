"""What changed between two manifests, in bounded memory.

Both come as batches in order of path. Whatever lies at or below the smaller of the two batches' last paths is complete
on both sides and is compared at once, in Arrow; so a pair of manifests of millions of files needs a few batches.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from osmo_ray.data.manifest import SCHEMA

_COMPARED = ("kind", "mode", "size", "digest", "target")


class Change(enum.IntEnum):
    ADDED = 0
    REMOVED = 1
    CHANGED = 2


@dataclass(frozen=True, slots=True)
class Step:
    """Rows of one stretch of paths: `before` holds what was removed, `after` what was added; a changed path is in
    `changed_before` and, at the same position, in `changed_after`."""

    removed: pa.Table
    added: pa.Table
    changed_before: pa.Table
    changed_after: pa.Table

    def changes(self) -> Iterator[tuple[Change, bytes]]:
        """In order of path."""
        found = [(path, Change.ADDED) for path in self.added.column("path").to_pylist()]
        found += [(path, Change.REMOVED) for path in self.removed.column("path").to_pylist()]
        found += [(path, Change.CHANGED) for path in self.changed_after.column("path").to_pylist()]
        for path, change in sorted(found):
            yield change, path


def diff(before: Iterable[pa.Table], after: Iterable[pa.Table]) -> Iterator[Step]:
    """Steps from one manifest to another; stretches without a change give none. Times do not count."""
    for old, new in _aligned(iter(before), iter(after)):
        step = _compare(old, new)
        if len(step.added) + len(step.removed) + len(step.changed_after):
            yield step


def _aligned(before: Iterator[pa.Table], after: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, pa.Table]]:
    old, new = next(before, None), next(after, None)
    while old is not None and new is not None:
        if not len(old):
            old = next(before, None)
        elif not len(new):
            new = next(after, None)
        else:
            bound = min(_last(old), _last(new))
            old_now, old = _split(old, bound)
            new_now, new = _split(new, bound)
            yield old_now, new_now
    while old is not None:
        yield old, SCHEMA.empty_table()
        old = next(before, None)
    while new is not None:
        yield SCHEMA.empty_table(), new
        new = next(after, None)


def _last(table: pa.Table) -> bytes:
    return bytes(table.column("path")[len(table) - 1].as_py())


def _split(table: pa.Table, bound: bytes) -> tuple[pa.Table, pa.Table]:
    """The rows up to and with `bound`, and the rest."""
    low, high = 0, len(table)
    paths = table.column("path")
    while low < high:
        middle = (low + high) // 2
        if paths[middle].as_py() <= bound:
            low = middle + 1
        else:
            high = middle
    return table.slice(0, low), table.slice(low)


def _compare(old: pa.Table, new: pa.Table) -> Step:
    if old.equals(new):
        empty = SCHEMA.empty_table()
        return Step(empty, empty, empty, empty)
    where = pc.index_in(new.column("path").combine_chunks(), value_set=old.column("path").combine_chunks())
    both = pc.is_valid(where).to_numpy(zero_copy_only=False)
    in_old = np.asarray(pc.drop_null(where).to_numpy(zero_copy_only=False), np.int64)
    old_shared, new_shared = old.take(in_old), new.filter(pa.array(both))
    alone = np.ones(len(old), bool)
    alone[in_old] = False
    differs = pa.array(_differs(old_shared, new_shared))
    return Step(
        old.filter(pa.array(alone)), new.filter(pa.array(~both)), old_shared.filter(differs), new_shared.filter(differs)
    )


def _differs(old: pa.Table, new: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    found = np.zeros(len(old), bool)
    for name in _COMPARED:
        left, right = old.column(name), new.column(name)
        same = pc.fill_null(pc.equal(left, right), False)
        none = pc.and_(pc.is_null(left), pc.is_null(right))
        found |= ~pc.or_(same, none).to_numpy()
    return found
