"""The index of datasets: what it keeps, and that queries mean in SQL what they mean in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from osmo_ray.data.conditions import Row
from osmo_ray.data.query import parse
from osmo_ray.data.versions import Lineage
from osmo_ray.engine.status import WorkflowStatus
from osmo_ray.store.dataset_nouns import (
    DatasetQuery,
    DatasetWrite,
    Indexed,
    IndexedName,
    IndexedTag,
    IndexedVersion,
    ShelfSums,
    Synced,
)
from osmo_ray.store.protocol import DatasetRead, Store, Texts
from osmo_ray.store.sql import SqlStore
from tests.store.store_making import admitted, finish, put

V1 = IndexedVersion(1, "READY", "ann", 10.0, 5, 1, "c1", metadata={"score": 7})
V2 = IndexedVersion(2, "READY", "bob", 20.0, 6, 2, "c2", "more", 1, Lineage("w-1", "t", "code", "img", ("b/x:1",), 2))
CATS = IndexedName("cats", "dataset", "i1", 1, "s", 1.0, "ann", 10.0, 20.0, 2, 11, {"kind": "pets"}, 1)


def names(store: Store, **query: Any) -> list[str]:
    return [found.name for found in store.list_datasets(DatasetQuery(("s",), **query))]


def fill(store: Store) -> None:
    both = IndexedName("both", "collection", "i2", 1, changed=15.0)
    old = IndexedName("old", "", "", 2)
    dogs = IndexedName("dogs", "dataset", "i3", 1, created_by="eve", created=30.0, changed=30.0)
    store.index_names(
        "s",
        [
            Indexed(CATS, [V1, V2], [IndexedTag("best", 1, 1), IndexedTag("gone", 0, 2)]),
            Indexed(both, members=[("cats", 1), ("dogs", 1)]),
            Indexed(old),
            Indexed(dogs, [IndexedVersion(1, "PENDING", "eve", 30.0)]),
        ],
    )


def test_what_was_found_is_what_is_told(store: Store) -> None:
    fill(store)
    found = store.indexed("s", "cats")
    assert found is not None and found.name == replace(CATS, shelf="s")
    assert (list(found.versions), list(found.tags)) == ([V1, V2], [IndexedTag("best", 1, 1), IndexedTag("gone", 0, 2)])
    both = store.indexed("s", "both")
    assert both is not None and list(both.members) == [("cats", 1), ("dogs", 1)]
    assert store.collections_of("s", "cats") == {1: ["both"]}
    for marks in (store.marks("s", "default"), store.marks("s", "default", "cats", "i1")):
        assert marks.tags == {("i1", 1): ["best"]} and marks.holders[("cats", 1)] == ["both"]
    assert store.marks("s", "default", "dogs", "i3").tags == {}
    assert store.indexed("s", "nobody") is None and store.indexed("other", "cats") is None
    assert store.shelf_sums("s") == ShelfSums(2, 2, 1, 11)
    assert {name: one.number for name, one in store.index_stamps("s").items()} == {
        "cats": 1, "both": 1, "old": 2, "dogs": 1,
    }  # fmt: skip
    assert [(w.shelf, w.name, w.version.number) for w in store.written_by("w-1")] == [("s", "cats", 2)]


def test_lists(store: Store) -> None:
    fill(store)
    assert names(store) == ["dogs", "cats", "both"]
    assert names(store, limit=1) == ["dogs"] and names(store, offset=1, limit=1) == ["cats"]
    assert names(store, name="at") == ["cats"] and names(store, name="%") == []
    assert names(store, kind="collection") == ["both"]
    assert names(store, users=("bob",)) == ["cats", "both"], "collections are everybody's"
    assert names(store, users=("eve",)) == ["dogs", "both"], "who began an upload sees it"
    assert names(store, changed_after=15.0, changed_before=30.0) == ["cats"]


def test_news_are_put_on_top_and_older_listings_are_not(store: Store) -> None:
    fill(store)
    gone = replace(V1, status="PENDING_DELETE", metadata={"score": 8})
    later = replace(CATS, listed=2.0, labels={})
    store.index_names("s", [Indexed(later, [gone], [IndexedTag("best", 2, 3)])])
    store.index_names("s", [Indexed(CATS, [V1], [IndexedTag("best", 1, 1)])])
    found = store.indexed("s", "cats")
    assert found is not None and list(found.versions) == [gone, V2] and found.name.labels == {}
    assert found.tags[0] == IndexedTag("best", 2, 3)
    store.index_names("s", [Indexed(replace(later, listed=3.0), dropped=[2])])
    found = store.indexed("s", "cats")
    assert found is not None and [v.number for v in found.versions] == [1]
    store.index_names("s", [Indexed(replace(later, listed=4.0), [V2], anew=True)])
    found = store.indexed("s", "cats")
    assert found is not None and list(found.versions) == [V2] and not found.tags


def test_two_names_of_one_dataset_while_it_is_renamed(store: Store) -> None:
    fill(store)
    store.index_names("s", [Indexed(replace(CATS, name="katzen"), [V1, V2])])
    store.index_names("s", [Indexed(IndexedName("cats", "", "", 2, listed=1.0))])
    assert store.indexed("s", "katzen").versions  # type: ignore[union-attr]
    store.index_names("s", [Indexed(IndexedName("katzen", "", "", 2, listed=1.0))])
    store.index_names("s", [Indexed(replace(CATS, name="new", listed=1.0))])
    assert not store.indexed("s", "new").versions  # type: ignore[union-attr]


def test_another_bucket_under_the_same_name_is_another_bucket(store: Store) -> None:
    assert store.synced("s") is None
    fill(store)
    store.mark_synced("s", Synced("b1", 5.0, 0.5))
    assert store.synced("s") == Synced("b1", 5.0, 0.5)
    store.mark_synced("s", Synced("b1", 6.0, 0.5), {"cats", "both"})
    assert names(store) == ["cats", "both"]
    store.mark_synced("s", Synced("b2", 7.0, 0.5))
    assert names(store) == [] and store.indexed("s", "cats") is None


def test_which_datasets_a_workflow_may_write(store: Store) -> None:
    made = store.submit("a", lambda id: admitted(id, status=WorkflowStatus.RUNNING), Texts("x"))
    writes = [DatasetWrite(made.uuid, "g1", "default", "cats"), DatasetWrite(made.uuid, "g2", "default", "cats")]
    store.expect_writes(writes)
    store.expect_writes(writes)
    store.pin([DatasetRead(made.uuid, "g1", "cats", "default", "cats", 3, 1.0)])
    store.pin([DatasetRead(made.uuid, "g2", "cats", "default", "cats", 3, 4.0)])
    assert list(store.writes_since("default", 1e12)) == ["cats"], "it still runs"
    put(store, finish(store.load([made.uuid])[0], 50.0))
    assert list(store.writes_since("default", 50.0)) == ["cats"] and list(store.writes_since("default", 51.0)) == []
    assert list(store.writes_since("other", 0.0)) == []
    assert list(store.writes_of(made.uuid)) == writes and list(store.writes_of("nobody")) == []
    assert store.marks("s", "default").reads == {("cats", 3): 4.0}
    assert [(r.name, r.version) for r in store.reads_of(made.uuid)] == [("cats", 3)] * 2


# -- queries

KEYS = [*"aaaaaaaabbb", "car.color", 'qu"ote', "é", "a\\b", "$[0]", ""]
TEXTS = st.sampled_from([*"aaaa", "", "ab", "B", "é", "z", "%", "_", "' OR 1=1 --", "𝒳", "10"])
NUMBERS = st.sampled_from([0, 1, 1, 1, 2, -1, 1.5, 10, 2**53])
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans())
VALUES = st.recursive(
    st.one_of(st.none(), SCALARS),
    lambda below: st.one_of(
        st.lists(SCALARS, max_size=3),
        st.lists(below, max_size=3),
        st.dictionaries(st.sampled_from(KEYS), below, max_size=3),
    ),
    max_leaves=4,
)
OBJECTS = st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=4)
PEOPLE = st.sampled_from(["ann", "Bob", "é", "zoe"])


def literal(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)


PATHS = st.lists(st.sampled_from([k for k in KEYS if '"' not in k]), max_size=2).map(
    lambda keys: "".join(f'."{key}"' for key in keys)
)
FIELDS = st.one_of(
    st.sampled_from(["name", "id", "user", "is_collection"]),
    st.sampled_from(["label.a", "metadata.a", "label.a.a"]),
    PATHS.map(lambda path: "label" + path),
    PATHS.map(lambda path: "metadata" + path),
)
SIGNS = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
LITERALS = SCALARS.map(literal)
LISTS = st.lists(LITERALS, min_size=1, max_size=3).map(lambda values: f"[{', '.join(values)}]")
TERMS = st.one_of(
    st.tuples(FIELDS, SIGNS, LITERALS).map(" ".join),
    st.tuples(LITERALS, SIGNS, FIELDS).map(" ".join),
    st.tuples(FIELDS, st.just("IN"), LISTS).map(" ".join),
    st.tuples(FIELDS, st.just("CONTAINS"), st.one_of(LITERALS, LISTS)).map(" ".join),
    st.tuples(FIELDS, st.just("CONTAINS KEY"), LITERALS).map(" ".join),
    st.tuples(FIELDS, SIGNS, LITERALS).map(lambda t: f"LEN({t[0]}) {t[1]} {t[2]}"),
    SIGNS.map(lambda sign: f'created_date {sign} "1970-01-01T00:00:20"'),
)
CONDITIONS = st.recursive(
    TERMS,
    lambda below: st.one_of(
        below.map(lambda one: f"NOT ({one})"),
        st.tuples(below, st.sampled_from(["AND", "OR"]), below).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})"),
    ),
    max_leaves=5,
)
ENDS = st.tuples(
    st.sampled_from(["", " ORDER BY name", " ORDER BY user DESC", " ORDER BY created_date ASC"]),
    st.sampled_from(["", " LIMIT 2"]),
).map("".join)


@st.composite
def shelves(draw: st.DrawFn) -> list[Indexed]:
    found = []
    for n, name in enumerate(
        sorted(draw(st.sets(st.sampled_from(["a", "ab", "B", "b_", "Z"]), min_size=1, max_size=4)))
    ):
        labels = draw(OBJECTS)
        by, at = draw(PEOPLE), draw(st.sampled_from([10.0, 20.0, 30.0]))
        if draw(st.booleans()):
            found.append(Indexed(IndexedName(name, "collection", f"i{n}", 1, created=at)))
            continue
        versions = [
            IndexedVersion(
                k, draw(st.sampled_from(["READY", "READY", "PENDING_DELETE"])), draw(PEOPLE), 10.0 * k,
                metadata=draw(OBJECTS),
            )
            for k in range(1, draw(st.integers(1, 3)))
        ]  # fmt: skip
        entry = IndexedName(name, "dataset", f"i{n}", 1, created_by=by, created=at, labels=labels)
        found.append(Indexed(entry, versions, anew=True))
    return found


def rows(found: list[Indexed], *, versions: bool) -> list[Row]:
    if not versions:
        return [
            Row(n.name, n.id, n.created_by, n.created, n.kind == "collection", n.labels)
            for n in (one.name for one in found)
        ]
    return [
        Row(one.name.name, one.name.id, v.created_by, v.created, False, one.name.labels, v.metadata, v.number)
        for one in found
        for v in one.versions
        if v.status == "READY"
    ]


def compared(store: Store, found: list[Indexed], text: str) -> None:
    query = parse(text)
    shelf = "q"
    store.mark_synced(shelf, Synced(repr(id(found)), 0.0, 0.0))  # another bucket: nothing of the last one stays
    store.mark_synced(shelf, Synced("x", 0.0, 0.0))
    store.index_names(shelf, found)
    wanted = [(row.name, row.version) for row in query.select(rows(found, versions=query.versions))]
    told = [(name.name, v.number if v else 0) for name, v in store.query_datasets(shelf, query)]
    assert told == wanted
    assert store.query_datasets(shelf, query, 1, 1) == store.query_datasets(shelf, query)[1:2]


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqlStore]:
    folder: Path = tmp_path_factory.mktemp("queries")
    made = SqlStore(f"sqlite:///{folder / 'osmo.db'}")
    made.migrate()
    yield made
    made.close()


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shelves(), CONDITIONS, ENDS)
def test_sql_means_what_memory_means(sqlite: SqlStore, found: list[Indexed], condition: str, end: str) -> None:
    compared(sqlite, found, condition + end)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(shelves(), CONDITIONS, ENDS)
def test_both_databases_mean_the_same(store: SqlStore, found: list[Indexed], condition: str, end: str) -> None:
    compared(store, found, condition + end)


EACH = [None, True, False, 0, 1, 1.5, "", "a", "ab", [], ["a", 1], [True], [["a"]], {}, {"a": 1}, {"a": None}]
SOME = ["TRUE", "0", "1", '""', '"a"']


def test_every_kind_of_value_against_every_term(store: Store) -> None:
    found = [
        Indexed(
            IndexedName(f"d{n:02}", "dataset", f"i{n}", 1, labels={"k": value}), [replace(V1, metadata={"k": value})]
        )
        for n, value in enumerate(EACH)
    ]
    store.index_names("q", [*found, Indexed(IndexedName("none", "dataset", "i", 1))])
    every = [*found, Indexed(IndexedName("none", "dataset", "i", 1))]
    for field in ("label.k", "label", "metadata.k", "name", "is_collection", "created_date"):
        terms = [f"LEN({field}) {sign} {value}" for sign in ("=", "!=", "<") for value in SOME]
        terms += [f"{field} IN [{value}, {more}]" for value in SOME for more in ('"x"', "1")]
        terms += [f"{field} CONTAINS {how}{value}" for value in SOME for how in ("", "KEY ")]
        terms += [f"{field} CONTAINS [{value}]" for value in SOME]
        if field != "created_date":
            terms += [f"{field} {sign} {value}" for sign in ("=", "!=", "<", "<=", ">", ">=") for value in SOME]
        for term in (*terms, *(f"NOT {term}" for term in terms)):
            query = parse(term)
            wanted = [row.name for row in query.select(rows(every, versions=query.versions))]
            assert [name.name for name, _ in store.query_datasets("q", query)] == wanted, term


@pytest.mark.parametrize(
    "text",
    [
        'name = "cats\'; DROP TABLE datasets; --"',
        'label."a\') OR 1=1 --" = 1',
        "label.x CONTAINS [\"' || (SELECT 1) || '\"]",
        'name IN ["%", "_", "\\" OR \\"\\"=\\""]',
    ],
)
def test_nothing_breaks_out_of_a_value(store: Store, text: str) -> None:
    fill(store)
    assert list(store.query_datasets("s", parse(text))) == []
    assert len(names(store)) == 3


def test_texts_that_databases_refuse(store: Store) -> None:
    odd = {"nul": "a\0b", "half": "\ud800", "much": 10**400, "nan": float("nan"), "\0": "x" * 10_000}
    store.index_names("s", [Indexed(replace(CATS, labels=odd, created_by="\0"), [replace(V1, metadata=odd)])])
    query = parse("label.nul = 'a\0b' AND label.half CONTAINS '\ud800' AND NOT label.much > 1 AND LEN(metadata) = 5")
    assert [name.name for name, _ in store.query_datasets("s", query)] == ["cats"]


def test_as_many_terms_as_a_query_may_have(store: Store) -> None:
    fill(store)
    many = " OR ".join(f'label.kind = "{n}"' for n in range(299)) + ' OR label.kind = "pets"'
    assert [name.name for name, _ in store.query_datasets("s", parse(many))] == ["cats"]
    values = ", ".join(f'"{n}"' for n in range(1999))
    assert [name.name for name, _ in store.query_datasets("s", parse(f'label.kind IN [{values}, "pets"]'))] == ["cats"]
