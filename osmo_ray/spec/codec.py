"""A workflow's spec as plain JSON values, and back, exactly.

The store keeps specs in this form. What equals its default is left out, so that a spec of hundreds of tasks stays
small; keys that are unknown when reading are passed over, so that older code reads what newer code wrote.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from osmo_ray.spec import model
from osmo_ray.spec.model import WorkflowSpec

_KIND = "kind"
_KINDS: dict[str, type] = {
    "task": model.TaskInput,
    "dataset": model.DatasetInput,
    "url": model.UrlInput,
    "code": model.CodeInput,
    "to_url": model.UrlOutput,
    "to_dataset": model.DatasetOutput,
    "update_dataset": model.UpdateDatasetOutput,
}
"""The nouns that stand in a union name themselves by the key `kind`."""
_KIND_OF = {kind: name for name, kind in _KINDS.items()}

_Reader = Callable[[Any], Any]


def to_json(spec: WorkflowSpec) -> dict[str, object]:
    """Only dicts, lists, strings, numbers, booleans and None."""
    return cast(dict[str, object], _plain(spec))


def from_json(value: Mapping[str, object]) -> WorkflowSpec:
    """What `to_json` wrote. Raises ValueError when a value is not such a spec."""
    try:
        return cast(WorkflowSpec, _reader(WorkflowSpec)(value))
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"this is not a workflow spec as the store keeps it: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if is_dataclass(value):
        return _plain_noun(value)
    return value


def _plain_noun(noun: Any) -> dict[str, Any]:
    kind = type(noun)
    found = {_KIND: _KIND_OF[kind]} if kind in _KIND_OF else {}
    for name, default in _defaults(cast(Any, kind)):
        value = getattr(noun, name)
        if default is MISSING or value != default:
            found[name] = _plain(value)
    return found


@cache
def _defaults(kind: Any) -> tuple[tuple[str, Any], ...]:
    return tuple((f.name, _default(f)) for f in fields(kind))


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


@cache
def _reader(kind: Any) -> _Reader:
    """How to read a value of this type back."""
    if is_dataclass(kind):
        return _noun_reader(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:
        item = _reader(arguments[0])
        return lambda value: tuple([item(v) for v in value])
    if origin in (Mapping, dict):
        item = _reader(arguments[1])
        return _same if item is _same else lambda value: {k: item(v) for k, v in value.items()}
    if origin in (Union, types.UnionType):
        return _union_reader(arguments)
    return _same


def _same(value: Any) -> Any:
    return value


def _union_reader(arguments: tuple[Any, ...]) -> _Reader:
    nouns: list[Any] = [a for a in arguments if is_dataclass(a)]
    if not nouns:
        return _same
    if all(noun in _KIND_OF for noun in nouns):
        return _by_kind
    read = _reader(nouns[0])
    return lambda value: None if value is None else read(value)


def _by_kind(value: Mapping[str, Any]) -> Any:
    return _reader(_KINDS[value[_KIND]])(value)


def _noun_reader(kind: Any) -> _Reader:
    hints = get_type_hints(kind)
    readers = {f.name: _reader(hints[f.name]) for f in fields(kind)}

    def read(value: Mapping[str, Any]) -> Any:
        return kind(**{name: readers[name](item) for name, item in value.items() if name in readers})

    return read
