"""The query language of datasets as SQL: each term a test of a column, or the existence of a row of `dataset_values`.

Every value is a parameter, every name one of ours. It means what `data.conditions.holds` means, which a test compares.
`EXISTS` is never NULL, so that NOT needs no care.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, exists, false, func, literal, not_, or_, true

from osmo_ray.data.conditions import (
    SIGNS,
    AllOf,
    AnyOf,
    Compare,
    Condition,
    Field,
    HasElements,
    HasKey,
    HasPart,
    Length,
    Not,
    OneOf,
    Term,
    Value,
)
from osmo_ray.store import rows
from osmo_ray.store.dataset_nouns import COLLECTION
from osmo_ray.store.dataset_tables import dataset_values, dataset_versions, datasets

TEXT, NUMBER, BOOL, NULL, LIST, OBJECT, OTHER = "text", "number", "bool", "null", "list", "object", "other"
Test = ColumnElement[bool]
_SIZED = (TEXT, LIST, OBJECT)


def path_key(path: tuple[str, ...]) -> str:
    """A path of any length and any letters as a short key."""
    return hashlib.blake2b(json.dumps(path).encode(), digest_size=16).hexdigest()


def flattened(values: Mapping[str, Any]) -> Iterator[tuple[str, int, str, str, float, int]]:
    """Rows of `dataset_values`: path, position, kind, text, number, length."""
    yield from _flattened((), dict(values))


def _flattened(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, int, str, str, float, int]]:
    key = path_key(path)
    yield key, 0, *_leaf(value)
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from _flattened((*path, str(name)), below)
    elif isinstance(value, list):
        for position, one in enumerate(value, 1):
            yield key, position, *_leaf(one)


def _leaf(value: Any) -> tuple[str, str, float, int]:
    match value:
        case None:
            return NULL, "", 0.0, 0
        case bool():
            return BOOL, "", float(value), 0
        case str():
            return TEXT, rows.clean(value), 0.0, len(value)
        case int() | float():
            return _number(value)
        case list():
            return LIST, "", 0.0, len(value)
        case Mapping():
            return OBJECT, "", 0.0, len(value)
    return OTHER, "", 0.0, 0


def _number(value: float) -> tuple[str, str, float, int]:
    try:
        number = float(value)
    except OverflowError:
        return OTHER, "", 0.0, 0
    return (NUMBER, "", number, 0) if number == number else (OTHER, "", 0.0, 0)


@dataclass(frozen=True)
class Compiler:
    """Conditions about `datasets`, or about `dataset_versions` joined to them. On PostgreSQL texts are compared letter
    by letter (`C`), as everywhere else."""

    versions: bool
    sqlite: bool

    def test(self, condition: Condition) -> Test:
        match condition:
            case Not(one):
                return not_(self.test(one))
            case AllOf(several):
                return and_(*map(self.test, several))
            case AnyOf(several):
                return or_(*map(self.test, several))
        if condition.field.name in ("label", "metadata"):
            return self._in_values(condition)
        return self._in_columns(condition)

    def column(self, name: str) -> tuple[str, ColumnElement[Any]]:
        """Its kind, and the column."""
        d, v = datasets.c, dataset_versions.c
        found: dict[str, tuple[str, ColumnElement[Any]]] = {
            "name": (TEXT, d.name),
            "id": (TEXT, d.id),
            "user": (TEXT, v.created_by if self.versions else d.created_by),
            "created_date": (NUMBER, v.created if self.versions else d.created),
            "is_collection": (BOOL, literal(0.0) if self.versions else case((d.kind == COLLECTION, 1.0), else_=0.0)),
        }
        kind, column = found[name]
        return kind, self.ordered(column) if kind == TEXT else column

    def ordered(self, column: ColumnElement[str]) -> ColumnElement[str]:
        return column if self.sqlite else column.collate("C")

    def _in_columns(self, term: Term) -> Test:
        kind, column = self.column(term.field.name)
        match term:
            case Compare(_, sign, value):
                return _compare(kind, column, sign, value)
            case OneOf(_, several):
                return _one_of(several, lambda k, values: column.in_(values) if k == kind else false())
            case HasPart(_, text):
                return _contains(column, text) if kind == TEXT else false()
            case Length(_, sign, value):
                return _compare(NUMBER, func.length(column), sign, value) if kind == TEXT else false()
        return false()

    def _in_values(self, term: Term) -> Test:
        v = dataset_values.c
        match term:
            case Compare(_, sign, value):
                return self._there(term.field, self._fits(sign, value))
            case OneOf(_, several):
                return self._there(term.field, _one_of(several, self._among))
            case HasPart(_, text):
                return self._there(term.field, and_(v.kind == TEXT, _contains(v.text, text)))
            case HasElements(_, several):
                each = [self._there(term.field, self._fits("=", value), element=True) for value in several]
                return and_(self._there(term.field, v.kind == LIST), *each)
            case HasKey(field, key):
                below = Field(field.name, (*field.path, key)) if isinstance(key, str) else None
                return self._there(below, true()) if below else false()
            case Length(_, sign, value):
                return self._there(term.field, and_(v.kind.in_(_SIZED), _compare(NUMBER, v.length, sign, value)))

    def _fits(self, sign: str, value: Value) -> Test:
        """A row of `dataset_values` against a value."""
        v, kind = dataset_values.c, _kind(value)
        column: ColumnElement[Any] = self.ordered(v.text) if kind == TEXT else v.number
        same = and_(v.kind == kind, SIGNS["=" if sign == "!=" else sign](column, _plain(value)))
        return and_(v.kind != NULL, not_(same)) if sign == "!=" else same

    def _among(self, kind: str, values: list[Any]) -> Test:
        v = dataset_values.c
        return and_(v.kind == kind, (v.text if kind == TEXT else v.number).in_(values))

    def _there(self, field: Field, test: Test, *, element: bool = False) -> Test:
        v, d = dataset_values.c, datasets.c
        version = dataset_versions.c.number if field.name == "metadata" else 0
        mine = (v.shelf == d.shelf, v.dataset == d.id, v.version == version, v.path == path_key(field.path))
        outer = (datasets, dataset_versions) if self.versions else (datasets,)
        place = v.position > 0 if element else v.position == 0
        return exists().where(*mine, place, test).correlate(*outer)


def _compare(kind: str, column: ColumnElement[Any], sign: str, value: Value) -> Test:
    if _kind(value) != kind:
        return true() if sign == "!=" else false()
    return SIGNS[sign](column, _plain(value))  # type: ignore[no-any-return]


def _one_of(several: tuple[Value, ...], among: Callable[[str, list[Any]], Test]) -> Test:
    kinds: dict[str, list[Any]] = {}
    for value in several:
        kinds.setdefault(_kind(value), []).append(_plain(value))
    return or_(*(among(kind, values) for kind, values in kinds.items()))


def _contains(column: ColumnElement[str], text: str) -> Test:
    """LIKE would mind signs of its own, and no case on SQLite."""
    return func.replace(column, rows.clean(text), "") != column if text else true()


def _kind(value: Value) -> str:
    return BOOL if isinstance(value, bool) else TEXT if isinstance(value, str) else NUMBER


def _plain(value: Value) -> str | float:
    return rows.clean(value) if isinstance(value, str) else float(value)
