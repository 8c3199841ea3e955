"""The query language: what it means, and that nothing but a query is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osmo_ray.data.query import BadQuery, Row, parse

CATS = Row("cats", "i1", "ann", 1_000_000.0, label={"kind": "pets", "n": 3, "on": True, "car.color": "red"})
DOGS = Row("dogs", "i2", "bob", 2_000_000.0, label={"kind": "pets", "tags": ["a", "b"], "deep": {"x": "1"}})
BOTH = Row("both", "i3", "ann", 3_000_000.0, is_collection=True, metadata={"score": 7})
ROWS = [CATS, DOGS, BOTH]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('name = "cats"', "cats"),
        ("'cats' = name", "cats"),
        ('name != "cats"', "dogs both"),
        ('user = "ann" AND NOT is_collection = true', "cats"),
        ('user = "ann" OR user = "bob" AND name = "nobody"', "cats both"),
        ('(user = "ann" or user = "bob") and name = "dogs"', "dogs"),
        ('name IN ["cats", "dogs"]', "cats dogs"),
        ('name CONTAINS "o"', "dogs both"),
        ("label.n >= 3", "cats"),
        ("label.n => 4", ""),
        ("3 < label.n", ""),
        ("2 < label.n", "cats"),
        ("label.kind > 3", ""),
        ("label.on = TRUE", "cats"),
        ("label.n = true", ""),
        ('label."car.color" = "red"', "cats"),
        ('label.deep.x = "1"', "dogs"),
        ('label CONTAINS KEY "tags"', "dogs"),
        ('label.tags CONTAINS ["b"]', "dogs"),
        ('label.tags CONTAINS ["b", "c"]', ""),
        ("LEN(label.tags) = 2", "dogs"),
        ('created_date < "1970-01-20"', "cats"),
        ("metadata.score = 7", "both"),
        ('# a comment\nuser = "ann" # another\nORDER BY created_date DESC LIMIT 1', "both"),
        ("name = \"cats' OR '1'='1\"", ""),
        ('name = "cats\\"" OR name = "dogs"', "dogs"),
    ],
)
def test_what_a_query_means(text: str, names: str) -> None:
    assert [row.name for row in parse(text).select(ROWS)] == names.split()


def test_metadata_makes_it_about_versions() -> None:
    assert parse("metadata.score = 7").versions and not parse("label.score = 7").versions


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "ends where"),
        ("name", "ends where a comparison"),
        ('name = "a', "not understood"),
        ('colour = "x"', "no field 'colour'"),
        ('name = "a" name', "character 12"),
        ('name = "a" ORDER BY id', "order by one of"),
        ('name = "a" LIMIT 1.5', "whole number"),
        ('created_date < "soon"', "not a time"),
        ("; DROP TABLE datasets", "not understood"),
        ("(" * 80 + 'name="a"', "nested deeper"),
        ("not " * 80 + 'name="a"', "nested deeper"),
    ],
)
def test_what_is_no_query_is_told_where(text: str, told: str) -> None:
    with pytest.raises(BadQuery, match=told.replace("(", r"\(")):
        parse(text)


@given(st.text(max_size=200))
def test_any_text_is_a_query_or_is_refused(text: str) -> None:
    try:
        parse(text).select(ROWS)
    except BadQuery:
        pass


@given(st.text(min_size=1))
def test_a_value_is_only_ever_a_value(value: str) -> None:
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    row = Row(value, "i", "u", 0.0)
    assert parse(f'name = "{quoted}"').select([row, CATS]) == [row] + [CATS] * (value == "cats")
