"""The query language of datasets: text to a condition, and how rows are chosen by it.

A condition is a tree of values (see `conditions`). No text of a query ever becomes part of another language, so there
is nothing that a value could break out into. `#` begins a comment; key words are written in upper or lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from osmo_ray.data.conditions import (
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
    Row,
    holds,
)
from osmo_ray.data.errors import DataError

__all__ = ["BadQuery", "Query", "Row", "parse"]

MAX_TEXT = 1 << 16
MAX_TERMS, MAX_VALUES = 300, 2000
"""What databases can take."""
_DEPTH = 50
_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?\d+(?:\.\d+)?(?![\w.]))"""
    r"""|(?P<word>[A-Za-z_][\w-]*(?:\.(?:[\w-]+|"[^"]*"))*)|(?P<sign>=<|=>|<=|>=|!=|[=<>()\[\],])""",
    re.VERBOSE,
)
_PART = re.compile(r'"([^"]*)"|([^.]+)')
_KEYWORDS = frozenset(
    {"AND", "OR", "NOT", "IN", "CONTAINS", "KEY", "LEN", "ORDER", "BY", "ASC", "DESC", "LIMIT", "TRUE", "FALSE"}
)
_FIELDS = ("name", "id", "user", "created_date", "is_collection")
_SORTED = ("name", "user", "created_date")
_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


class BadQuery(DataError):
    """Not a query; the message names the place."""


@dataclass(frozen=True, slots=True)
class Query:
    """`versions` says that the query is about versions, since it speaks of metadata."""

    condition: Condition
    versions: bool
    order: str = ""
    descending: bool = False
    limit: int | None = None

    def select(self, rows: Iterable[Row]) -> list[Row]:
        found = [row for row in rows if holds(self.condition, row)]
        if self.order:
            found.sort(key=lambda row: getattr(row, self.order), reverse=self.descending)
        return found if self.limit is None else found[: self.limit]


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    value: Any
    at: int


def parse(text: str) -> Query:
    """Raises `BadQuery`."""
    if len(text) > MAX_TEXT:
        raise BadQuery(f"a query has at most {MAX_TEXT} characters")
    return _Parser(text).query()


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise BadQuery(f"character {at + 1}: {text[at : at + 20]!r} is not understood")
        if match.lastgroup == "text":
            found.append(_Token("value", re.sub(r"\\(.)", r"\1", match[0][1:-1]), at))
        elif match.lastgroup == "number":
            found.append(_Token("value", float(match[0]), at))
        elif match.lastgroup == "word":
            word = match[0]
            known = word.upper() in _KEYWORDS and word in (word.upper(), word.lower())
            if known and word.upper() in ("TRUE", "FALSE"):
                found.append(_Token("value", word.upper() == "TRUE", at))
            else:
                found.append(_Token("key" if known else "field", word.upper() if known else word, at))
        elif match.lastgroup == "sign":
            found.append(_Token("sign", match[0], at))
        at = match.end()
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens, self._at, self._depth, self._end = _tokens(text), 0, 0, len(text)
        self._versions, self._terms = False, 0

    def query(self) -> Query:
        condition = self._any()
        order, descending, limit = "", False, None
        if self._took("key", "ORDER"):
            self._need("key", "BY")
            order = str(self._need("field"))
            if order not in _SORTED:
                raise BadQuery(f"ORDER BY {order!r}: order by one of {', '.join(_SORTED)}")
            descending = self._took("key", "DESC")
            if not descending:
                self._took("key", "ASC")
        if self._took("key", "LIMIT"):
            number = self._need("value")
            if not isinstance(number, float) or not number.is_integer() or number < 0:
                raise BadQuery("LIMIT wants a whole number")
            limit = int(number)
        if self._at < len(self._tokens):
            raise self._wrong("the end")
        return Query(condition, self._versions, order, descending, limit)

    def _any(self) -> Condition:
        found = [self._all()]
        while self._took("key", "OR"):
            found.append(self._all())
        return found[0] if len(found) == 1 else AnyOf(tuple(found))

    def _all(self) -> Condition:
        found = [self._one()]
        while self._took("key", "AND"):
            found.append(self._one())
        return found[0] if len(found) == 1 else AllOf(tuple(found))

    def _one(self) -> Condition:
        self._depth += 1
        if self._depth > _DEPTH:
            raise BadQuery(f"nested deeper than {_DEPTH} levels")
        try:
            if self._took("key", "NOT"):
                return Not(self._one())
            if self._took("sign", "("):
                found = self._any()
                self._need("sign", ")")
                return found
            return self._term()
        finally:
            self._depth -= 1

    def _term(self) -> Condition:
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise BadQuery(f"a query has at most {MAX_TERMS} terms; IN [...] takes many values in one")
        if self._took("key", "LEN"):
            self._need("sign", "(")
            measured = self._field()
            self._need("sign", ")")
            return Length(measured, self._sign(), self._need("value"))
        if self._peek("value"):
            value, sign = self._need("value"), self._sign()
            return self._compare(self._field(), _TURNED.get(sign, sign), value)
        asked = self._field()
        if self._took("key", "IN"):
            return OneOf(asked, self._list())
        if self._took("key", "CONTAINS"):
            return self._contains(asked)
        return self._compare(asked, self._sign(), self._need("value"))

    def _contains(self, asked: Field) -> Condition:
        if self._took("key", "KEY"):
            return HasKey(asked, self._need("value"))
        if self._peek("sign", "["):
            return HasElements(asked, self._list())
        return HasPart(asked, str(self._need("value")))

    @staticmethod
    def _compare(asked: Field, sign: str, value: Any) -> Condition:
        return Compare(asked, sign, _moment(value) if asked.name == "created_date" else value)

    def _field(self) -> Field:
        word = str(self._need("field"))
        name, _, rest = word.partition(".")
        if name in ("label", "metadata"):
            self._versions |= name == "metadata"
            return Field(name, tuple(m[1] if m[1] is not None else m[2] for m in _PART.finditer(rest)))
        if word not in _FIELDS:
            raise BadQuery(f"there is no field {word[:80]!r}; fields: {', '.join(_FIELDS)}, label.KEY, metadata.KEY")
        return Field(word)

    def _list(self) -> tuple[Any, ...]:
        self._need("sign", "[")
        found = [self._need("value")]
        while self._took("sign", ","):
            found.append(self._need("value"))
        self._need("sign", "]")
        if len(found) > MAX_VALUES:
            raise BadQuery(f"a list has at most {MAX_VALUES} values")
        return tuple(found)

    def _sign(self) -> str:
        if not self._peek("sign") or self._tokens[self._at].value in "()[],":
            raise self._wrong("a comparison")
        sign = str(self._need("sign"))
        return {"=<": "<=", "=>": ">="}.get(sign, sign)

    def _peek(self, kind: str, value: object = None) -> bool:
        token = self._tokens[self._at] if self._at < len(self._tokens) else None
        return token is not None and token.kind == kind and value in (None, token.value)

    def _took(self, kind: str, value: str) -> bool:
        found = self._peek(kind, value)
        self._at += found
        return found

    def _need(self, kind: str, value: object = None) -> Any:
        if not self._peek(kind, value):
            names = {"value": "a value in quotes or a number", "field": "a field"}
            raise self._wrong(repr(value) if value else names.get(kind, kind))
        self._at += 1
        return self._tokens[self._at - 1].value

    def _wrong(self, wanted: str) -> BadQuery:
        if self._at >= len(self._tokens):
            return BadQuery(f"the query ends where {wanted} should be")
        token = self._tokens[self._at]
        return BadQuery(f"character {token.at + 1}: {wanted} should be where {str(token.value)[:40]!r} is")


def _moment(value: Any) -> float:
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        raise BadQuery(f"created_date: {value!r} is not a time; write for example '2026-01-31T12:00:00'") from None
