"""Two writers began from the same version: may the second one's changes be put on top of the first one's?

Yes, when no path was changed by both (or both made it the same) and the result is a tree. Otherwise the second gets a
`Conflict` that names the paths, and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

from osmo_ray.data.diff import diff
from osmo_ray.data.errors import Conflict, Corrupt
from osmo_ray.data.manifest import SCHEMA, in_order

_SHOWN = 5


def rebase(base: pa.Table, ours: pa.Table, theirs: pa.Table) -> pa.Table:
    """`theirs` with what `ours` changed since `base`. Raises `Conflict`."""
    gone, put = _changes(base, ours)
    their_gone, their_put = _changes(base, theirs)
    _refuse(_both(gone, put, their_gone, their_put))
    touched = pa.concat_arrays([gone, put.column("path").combine_chunks()])
    kept = theirs.filter(pc.invert(pc.is_in(theirs.column("path"), value_set=touched)))
    try:
        return in_order(pa.concat_tables([kept, put]))
    except Corrupt as error:  # one side removed or replaced the folder in which the other put something
        raise Conflict(f"changed meanwhile by another writer: {error}; start again from the newest version") from error


def without(table: pa.Table, paths: Iterable[bytes]) -> pa.Table:
    """The rows of other paths."""
    return table.filter(pc.invert(pc.is_in(table.column("path"), value_set=pa.array(paths, pa.binary()))))


def _changes(before: pa.Table, after: pa.Table) -> tuple[pa.Array, pa.Table]:
    """(paths removed, rows added or changed)."""
    steps = list(diff([before], [after]))
    empty = SCHEMA.empty_table()
    gone = pa.concat_tables([empty, *(step.removed for step in steps)]).column("path").combine_chunks()
    put = pa.concat_tables([empty, *(table for step in steps for table in (step.added, step.changed_after))])
    return gone, put


def _both(gone: pa.Array, put: pa.Table, their_gone: pa.Array, their_put: pa.Table) -> list[bytes]:
    """Paths that both sides touched, unless they agree."""
    mine = pa.concat_arrays([gone, put.column("path").combine_chunks()])
    their = pa.concat_arrays([their_gone, their_put.column("path").combine_chunks()])
    shared = pc.filter(mine, pc.is_in(mine, value_set=their))
    if not len(shared):
        return []
    both_put = [t.filter(pc.is_in(t.column("path"), value_set=shared)) for t in (put, their_put)]
    both_put = [t.take(pc.sort_indices(t, [("path", "ascending")])) for t in both_put]
    differing = {path for step in diff([both_put[0]], [both_put[1]]) for _, path in step.changes()}
    return sorted(path for path in shared.to_pylist() if path in differing)


def _refuse(paths: list[bytes]) -> None:
    if paths:
        shown = tuple(path.decode(errors="replace") for path in paths[:_SHOWN])
        more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
        raise Conflict(
            f"changed meanwhile by another writer: {', '.join(shown)}{more}; start again from the newest version", shown
        )
