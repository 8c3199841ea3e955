"""What surrounds the rendering of a template: special tokens kept out of it, and the values put into it.

Rendering itself happens in a small process of its own (`providers.template`), because a template is a program of a
stranger. Here is the pure part. The special tokens (`{{output}}`, `{{input:0}}`, `{{host:x}}`, `{{workflow_id}}`,
`{{uuid}}`, spelled without blanks) are replaced before and put back after, since only the place where a task runs
knows what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from osmo_ray.spec.document import Section, Source, compose
from osmo_ray.spec.errors import Problem, SpecError

TOKEN = re.compile(r"\{\{(?:output|workflow_id|uuid|(?:input|host|matrix):[^\s{}]+)\}\}")
# Control characters cannot stand in a workflow file, so the shields can be told from all that a person wrote.
_SHIELD = re.compile("\x01(\\d+)\x02")
_OPENING = ("{{", "{%", "{#")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered section: its text, and for each line the line of the section (from 0) that it came from, or None
    when that is unknown."""

    text: str
    lines: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Shielded:
    """A text whose tokens are hidden. `active` is False when nothing is left for a renderer to do."""

    text: str
    tokens: tuple[str, ...]
    active: bool

    def reveal(self, rendered: str) -> str:
        """Put the tokens back."""
        return _SHIELD.sub(self._token, rendered)

    def _token(self, match: re.Match[str]) -> str:
        number = int(match[1])
        return self.tokens[number] if number < len(self.tokens) else ""


def shield(text: str) -> Shielded:
    """Hide the special tokens of a text."""
    tokens: list[str] = []

    def hide(match: re.Match[str]) -> str:
        tokens.append(match[0])
        return f"\x01{len(tokens) - 1}\x02"

    hidden = TOKEN.sub(hide, text)
    return Shielded(hidden, tuple(tokens), any(mark in hidden for mark in _OPENING))


def is_templated(text: str) -> bool:
    """Whether a client has to have this file rendered before it can look into it."""
    return "default-values" in text or shield(text).active


def defaults(section: Section | None, written: list[str]) -> dict[str, Any]:
    """The values of `default-values`; the section is YAML and never a template. Raises `SpecError`."""
    if section is None:
        return {}
    tree = compose(Source(section.text, written, section.line))
    value = tree.value["default-values"]
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SpecError([tree.problem(("default-values",), "must be a mapping of variable names to values")])
    return value


def overlay(base: Mapping[str, Any], set_: Iterable[str], set_string: Iterable[str]) -> dict[str, Any]:
    """Defaults, then `--set`, then `--set-string`. Raises `SpecError` for a setting without `=`."""
    values = dict(base)
    for text in set_:
        name, value = _split(text, "--set")
        values[name] = _number(value)
    for text in set_string:
        name, value = _split(text, "--set-string")
        values[name] = value
    return values


def overlay_environment(settings: Iterable[str]) -> dict[str, str]:
    """`--set-env`: `A=b=c` sets `A` to `b`, as clients have always seen it. Raises `SpecError` without `=`."""
    found: dict[str, str] = {}
    for text in settings:
        pieces = text.split("=")
        if len(pieces) < 2 or not pieces[0]:
            raise SpecError([Problem(f"--set-env {text!r}: needs the form NAME=VALUE")])
        found[pieces[0]] = pieces[1]
    return found


def _split(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SpecError([Problem(f"{option} {text!r}: needs the form name=value")])
    return name, value


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
