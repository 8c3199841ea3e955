"""Manifests, differences, merges, names: properties over any tree."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from osmo_ray.data.diff import Change, diff
from osmo_ray.data.errors import BadName, Conflict, Corrupt
from osmo_ray.data.manifest import Entry, Kind, checksum, chunk_ids, entries_of, table_of
from osmo_ray.data.merge import rebase
from osmo_ray.data.names import check_tag, parse_reference
from osmo_ray.data.packs import PackEntry, footer, read_footer
from osmo_ray.data.versions import Collection, Requires, Version, dump_version, load_version, merged, move_tag

NAMES = st.sampled_from([b"a", b"b", b"a-b", b"a.b", b"\xff", b"c d", b"a0"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
LEAVES = st.one_of(
    st.tuples(st.integers(0, 3)).map(
        lambda n: Entry(b"", Kind.FILE, size=n[0], digest=bytes([n[0]]) * 32 if n[0] else None)
    ),
    st.builds(lambda t: Entry(b"", Kind.LINK, 0o777, target=t), st.binary(min_size=1, max_size=3)),
    st.just(Entry(b"", Kind.FOLDER, 0o755)),
)


def grown(leaves: dict[bytes, Entry]) -> dict[bytes, Entry]:
    """A tree of these leaves; one that would lie below another leaf is left out."""
    tree: dict[bytes, Entry] = {}
    for path, leaf in sorted(leaves.items()):
        above = [path[:i] for i, c in enumerate(path) if c == 47]
        if all(p not in tree or tree[p].kind is Kind.FOLDER for p in above):
            for p in above:
                tree.setdefault(p, Entry(p, Kind.FOLDER, 0o755))
            tree.setdefault(path, dataclasses.replace(leaf, path=path))
    return tree


TREES = st.dictionaries(PATHS, LEAVES, max_size=12).map(grown)


@settings(max_examples=60, deadline=None)
@given(TREES)
def test_a_table_holds_its_rows_in_order(tree: dict[bytes, Entry]) -> None:
    table = table_of(tree.values())
    assert list(entries_of(table)) == [tree[path] for path in sorted(tree)]
    assert checksum(table) == checksum(table_of(reversed(tree.values())))
    ids = [part.id for path in sorted(tree) for part in tree[path].chunks()]
    assert [row.tobytes() for row in chunk_ids(table)] == ids


@settings(max_examples=60, deadline=None)
@given(TREES, TREES, st.integers(1, 5), st.integers(1, 5))
def test_the_difference_is_the_difference(a: dict[bytes, Entry], b: dict[bytes, Entry], m: int, n: int) -> None:
    before, after = table_of(a.values()), table_of(b.values())
    steps = diff(_pieces(before, m), _pieces(after, n))
    found = [(change, path) for step in steps for change, path in step.changes()]
    want = [(Change.ADDED, p) for p in b.keys() - a.keys()] + [(Change.REMOVED, p) for p in a.keys() - b.keys()]
    want += [(Change.CHANGED, p) for p in a.keys() & b.keys() if a[p] != b[p]]
    assert found == sorted(want, key=lambda change: change[1])
    assert (checksum(before) == checksum(after)) == (a == b)


def _pieces(table: object, size: int) -> list[object]:
    return [table.slice(at, size) for at in range(0, len(table), size)]  # type: ignore[attr-defined, arg-type]


@settings(max_examples=100, deadline=None)
@given(TREES, TREES, TREES)
def test_a_rebase_has_both_changes_or_is_a_conflict(
    base: dict[bytes, Entry], ours: dict[bytes, Entry], theirs: dict[bytes, Entry]
) -> None:
    mine = {p for p in base.keys() | ours.keys() if base.get(p) != ours.get(p)}
    others = {p for p in base.keys() | theirs.keys() if base.get(p) != theirs.get(p)}
    clash = {p for p in mine & others if ours.get(p) != theirs.get(p)}
    try:
        result = {e.path: e for e in entries_of(rebase(*(table_of(t.values()) for t in (base, ours, theirs))))}
    except Conflict:
        want = {p: e for p in ours.keys() | theirs.keys() if (e := (ours if p in mine else theirs).get(p))}
        above = {path.rpartition(b"/")[0] for path in want} - {b""}
        assert clash or any(p not in want or want[p].kind is not Kind.FOLDER for p in above)
        return
    assert not clash
    for path in base.keys() | ours.keys() | theirs.keys():
        assert result.get(path) == (ours if path in mine else theirs).get(path)


def test_rebase_of_disjoint_changes_is_no_conflict() -> None:
    base = grown({b"a/x": Entry(b"", Kind.FILE), b"b": Entry(b"", Kind.FILE)})
    ours, theirs = dict(base), dict(base)
    del ours[b"b"]
    theirs[b"a/y"] = Entry(b"a/y", Kind.FILE)
    merged_table = rebase(*(table_of(t.values()) for t in (base, ours, theirs)))
    assert merged_table.column("path").to_pylist() == [b"a", b"a/x", b"a/y"]


@pytest.mark.parametrize(
    "rows",
    [
        [Entry(b"../x", Kind.FILE)],
        [Entry(b"/x", Kind.FILE)],
        [Entry(b"a/../x", Kind.FILE)],
        [Entry(b"", Kind.FILE)],
        [Entry(b"x\x00", Kind.FILE)],
        [Entry(b"x" * 5000, Kind.FILE)],
        [Entry(b"x", Kind.FILE), Entry(b"x", Kind.FOLDER)],
        [Entry(b"a", Kind.LINK, target=b"/etc"), Entry(b"a-", Kind.FILE), Entry(b"a/passwd", Kind.FILE)],
        [Entry(b"a/b", Kind.FILE)],
        [Entry(b"a", Kind.FILE, size=1)],
        [Entry(b"a", Kind.LINK)],
        [Entry(b"a", Kind.FILE, size=1, digest=b"d" * 32, parts=b"short")],
    ],
)
def test_what_no_restore_may_follow_is_refused(rows: list[Entry]) -> None:
    with pytest.raises(Corrupt):
        table_of(rows)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.integers(0, 99)), max_size=20), st.randoms())
def test_a_packs_list_is_read_back_or_refused(pieces: list[tuple[bytes, int]], dice: random.Random) -> None:
    entries, at = [], 0
    for id, size in pieces:
        entries.append(PackEntry(id, at, size, size))
        at += size
    data = footer(entries)
    assert read_footer(b"x" * 7 + data, at + len(data)) == tuple(entries)
    damaged = bytearray(data)
    damaged[dice.randrange(len(damaged))] ^= 1 + dice.randrange(255)
    with pytest.raises(Corrupt):
        read_footer(bytes(damaged), at + len(data))


def test_names() -> None:
    assert str(parse_reference("bucket/name@3")) == "bucket/name:3" and parse_reference("n:12").version == 12
    assert parse_reference("name").selector == "latest" and parse_reference("name:t").version is None
    for bad in ("", "a/b/c", "a b", "a:", "../a", "a:b:c", "n\n"):
        with pytest.raises(BadName):
            parse_reference(bad)
    for bad in ("12", "latest", "a b"):
        with pytest.raises(BadName):
            check_tag(bad)


def test_records() -> None:
    version = Version(3, "m", "c", 1, 2, 1.5, "me", 2, metadata={"a": [1]})
    assert load_version(dump_version(version)) == version
    for bad in (b"", b"[]", b'{"format": 2}', b"{}", dump_version(version)[:-4]):
        with pytest.raises(Corrupt):
            load_version(bad)
    assert merged({"a": {"b": 1}, "c": 1}, {"a": {"d": 2}, "c": None}) == {"a": {"b": 1, "d": 2}}
    assert move_tag({"t": 1}, Requires("t", 1), 2) == {"t": 2} and move_tag({"t": 1}, Requires("t", 1), None) == {}
    with pytest.raises(Conflict):
        move_tag({}, Requires("t", 1), 2)
    with pytest.raises(Conflict):
        Collection((("a", 1),)).changed([("a", 2)])
    assert Collection((("a", 1),)).changed([("a", 2)], ["a"]).members == (("a", 2),)
