"""What a query asks, as values: a tree that is evaluated here over rows, and by the store as SQL.

Both mean the same, and a test holds them together. Values are text, numbers or booleans; a comparison between kinds
does not hold, except that what is there is unequal (`!=`) to whatever is of another kind.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Value = str | float | bool


@dataclass(frozen=True, slots=True)
class Row:
    """What is asked about: a dataset, a collection, or one version. `created_date` is seconds since the epoch."""

    name: str
    id: str
    user: str
    created_date: float
    is_collection: bool = False
    label: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    version: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a row; `path` are the keys below `label` or `metadata`."""

    name: str
    path: tuple[str, ...] = ()

    def of(self, row: Row) -> Any:
        value: Any = getattr(row, self.name)
        for key in self.path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


@dataclass(frozen=True, slots=True)
class Compare:
    """`sign` is one of `= != < <= > >=`."""

    field: Field
    sign: str
    value: Value


@dataclass(frozen=True, slots=True)
class OneOf:
    field: Field
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class HasPart:
    """A text with this text in it."""

    field: Field
    text: str


@dataclass(frozen=True, slots=True)
class HasElements:
    """A list with all of these in it."""

    field: Field
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class HasKey:
    field: Field
    key: Value


@dataclass(frozen=True, slots=True)
class Length:
    """Of a text, a list or an object."""

    field: Field
    sign: str
    value: Value


@dataclass(frozen=True, slots=True)
class Not:
    condition: Condition


@dataclass(frozen=True, slots=True)
class AllOf:
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    conditions: tuple[Condition, ...]


Term = Compare | OneOf | HasPart | HasElements | HasKey | Length
Condition = Term | Not | AllOf | AnyOf

SIGNS: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def holds(condition: Condition, row: Row) -> bool:
    match condition:
        case Not(one):
            return not holds(one, row)
        case AllOf(several):
            return all(holds(one, row) for one in several)
        case AnyOf(several):
            return any(holds(one, row) for one in several)
    return _term(condition, condition.field.of(row))


def _term(term: Term, value: Any) -> bool:
    match term:
        case Compare(_, sign, other):
            return compares(value, sign, other)
        case OneOf(_, several):
            return any(compares(value, "=", one) for one in several)
        case HasPart(_, text):
            return isinstance(value, str) and text in value
        case HasElements(_, several):
            return isinstance(value, list) and all(any(compares(v, "=", one) for v in value) for one in several)
        case HasKey(_, key):
            return isinstance(value, Mapping) and key in value
        case Length(_, sign, other):
            return isinstance(value, list | str | Mapping) and compares(len(value), sign, other)


def compares(value: Any, sign: str, other: Value) -> bool:
    """Only what is of one kind can be less or more; numbers are no booleans."""
    if isinstance(value, bool) != isinstance(other, bool):
        return sign == "!=" and value is not None
    if sign == "=":
        return bool(value == other)
    if sign == "!=":
        return value is not None and bool(value != other)
    alike = isinstance(value, int | float) and isinstance(other, int | float)
    return (alike or (isinstance(value, str) and isinstance(other, str))) and bool(SIGNS[sign](value, other))
