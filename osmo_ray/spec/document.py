"""From the text of a workflow file to plain values whose places are known.

A file is first cut at its top-level keys, because only the `workflow` section is a template and the values of
`default-values` must be known before it is one. Each section is then composed into YAML nodes, which keep line and
column, and the nodes become plain values. Files come from strangers: tags, depth, the number of nodes and what aliases
unfold to are limited, and a key that stands twice is refused.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from osmo_ray.spec.errors import Problem, SpecError

MAX_TEXT = 8 << 20
"""Bytes of one file, with the local files that the command line put into it."""
MAX_NODES = 200_000
MAX_DEPTH = 40
_MAX_KNOWN = 1000
_LONGEST_WORD = 100
"""Looking for near names costs time with their number and length; hostile files have many long ones."""
SECTIONS = ("version", "workflow", "default-values")

Path = tuple[str | int, ...]
"""The way to a value: names of mappings, positions in lists."""

_TOP = re.compile(r"^([A-Za-z][A-Za-z0-9_-]*):", re.MULTILINE)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SCALARS = yaml.constructor.SafeConstructor()
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Section:
    """A top-level key with everything up to the next one; `line` counts from 1."""

    name: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """A text and where each of its lines stands in the file that a person wrote.

    `lines[i]` is the number (from 1) of the written line behind line `i` of `text`, 0 where none is known; without
    `lines`, line `i` is line `first + i`. `written` holds the lines of that file.
    """

    text: str
    written: Sequence[str]
    first: int = 1
    lines: Sequence[int] | None = None

    def problem(self, message: str, row: int, column: int, path: str = "", hint: str = "") -> Problem:
        """A `Problem` at `row` and `column` of `text`, both from 0, told in places of the written file."""
        line = self.first + row
        if self.lines is not None:
            line = self.lines[row] if row < len(self.lines) else 0
        if not 0 < line <= len(self.written):
            return Problem(message, path, hint=hint)
        source = self.written[line - 1]
        ours = self.text.split("\n", row + 1)[row] if row < self.text.count("\n") + 1 else ""
        if ours != source:
            column = len(source) - len(source.lstrip())
        return Problem(message, path, line, min(column, len(source)) + 1, source, hint)


@dataclass(slots=True)
class Tree:
    """The plain values of a document and, for places, the nodes that they came from."""

    value: Any
    root: yaml.Node
    source: Source
    _keys: dict[int, dict[str, tuple[yaml.Node, yaml.Node]]] = field(default_factory=dict)

    def problem(self, path: Path, message: str, hint: str = "", *, key: bool = False) -> Problem:
        """A `Problem` at the value that `path` leads to (at its name, when `key`), or as near as there is a place."""
        mark = self._mark(path, key)
        return self.source.problem(message, mark.line, mark.column, show_path(path), hint)

    def has(self, path: Path) -> bool:
        """Whether the file itself names `path`."""
        node: yaml.Node | None = self.root
        for step in path:
            _, node = self._child(node, step)
            if node is None:
                return False
        return True

    def _mark(self, path: Path, key: bool) -> Any:
        node: yaml.Node | None = self.root
        mark = self.root.start_mark
        for depth, step in enumerate(path, 1):
            name, node = self._child(node, step)
            if node is None:
                break
            mark = name.start_mark if name is not None and (key and depth == len(path)) else node.start_mark
        return mark

    def _child(self, node: yaml.Node | None, step: str | int) -> tuple[yaml.Node | None, yaml.Node | None]:
        if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            return None, node.value[step]
        if isinstance(node, yaml.MappingNode):
            if id(node) not in self._keys:
                self._keys[id(node)] = {str(name.value): (name, value) for name, value in node.value}
            return self._keys[id(node)].get(str(step), (None, None))
        return None, None


def show_path(path: Path) -> str:
    """`("workflow", "tasks", 2, "command")` -> `workflow.tasks[2].command`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean 'command'?`, or nothing when no known word is near."""
    lowered = {k.lower(): k for k in itertools.islice(known, _MAX_KNOWN)}
    near = difflib.get_close_matches(word[:_LONGEST_WORD].lower(), lowered, n=1, cutoff=0.6)
    return f"did you mean {lowered[near[0]]!r}?" if near else ""


def cut(text: str) -> dict[str, Section]:
    """The top-level sections of a file by name. Raises `SpecError` for an unknown or repeated key, a file without
    `workflow`, one that is too large, and one with control characters."""
    text = clean(text)
    written = text.split("\n")
    problems: list[Problem] = []
    found: dict[str, Section] = {}
    heads = list(_TOP.finditer(text))
    for head, following in zip(heads, [*heads[1:], None], strict=False):
        name = head[1]
        line = text.count("\n", 0, head.start()) + 1
        place = {"line": line, "column": 1, "source": written[line - 1]}
        if name not in SECTIONS:
            hint = suggest(name, SECTIONS) or f"the keys of a file are {', '.join(SECTIONS)}"
            problems.append(Problem(f"unknown top-level key {name!r}", hint=hint, **place))  # type: ignore[arg-type]
        elif name in found:
            hint = f"it already stands in line {found[name].line}; keep one"
            problems.append(Problem(f"top-level key {name!r} stands twice", hint=hint, **place))  # type: ignore[arg-type]
        else:
            found[name] = Section(name, line, text[head.start() : following.start() if following else len(text)])
    if "workflow" not in found and not problems:
        problems.append(Problem("the file has no top-level key 'workflow'", hint="begin it with 'workflow:'"))
    if problems:
        raise SpecError(problems)
    return found


def clean(text: str) -> str:
    """The text with one kind of line end and no byte order mark; raises `SpecError` for what cannot be a file."""
    if len(text) > MAX_TEXT:
        raise SpecError(f"the file has {len(text) >> 20} MiB, more than the {MAX_TEXT >> 20} MiB that are read")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if bad := _CONTROL.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        column = bad.start() - text.rfind("\n", 0, bad.start())
        message = f"control character {bad[0]!r}: the file is not text"
        raise SpecError([Problem(message, line=line, column=column, hint="save it as UTF-8 text without it")])
    return text


def compose(source: Source) -> Tree:
    """The values and nodes of one YAML document. Raises `SpecError` with the place of the mistake."""
    try:
        _survey(source)
        loader = _LOADER(source.text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = " ".join(part for part in (error.problem, error.context) if part) or "not YAML"
        row, column = (mark.line, mark.column) if mark else (0, 0)
        problem = source.problem(f"not valid YAML: {message}", row, column, hint=_yaml_hint(source.text, row))
        raise SpecError([problem]) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise SpecError(f"not valid YAML: {str(error).splitlines()[0] if str(error) else 'nested too deep'}") from None
    if root is None:
        raise SpecError("the file is empty")
    return Tree(_Reader(source).value(root, 0), root, source)


def _survey(source: Source) -> None:
    """Refuse deep or endless documents before nodes are made: the parser in C recurses without a limit of its own."""
    loader = _LOADER(source.text)
    depth = events = 0
    try:
        while (kind := type(event := loader.get_event())) is not yaml.StreamEndEvent:
            events += 1
            if kind is yaml.SequenceStartEvent or kind is yaml.MappingStartEvent:
                depth += 1
            elif kind is yaml.SequenceEndEvent or kind is yaml.MappingEndEvent:
                depth -= 1
            if depth > MAX_DEPTH or events > MAX_NODES:
                what = f"nested deeper than {MAX_DEPTH} levels" if depth > MAX_DEPTH else "too many values"
                mark = event.start_mark
                raise SpecError([source.problem(f"not a workflow file: {what}", mark.line, mark.column)])
    finally:
        loader.dispose()


def _yaml_hint(text: str, row: int) -> str:
    lines = text.split("\n")
    line = lines[row] if row < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip()) + 1]:
        return "indent with blanks, YAML allows no tabs there"
    if "{{" in line:
        return 'put quotes around a value that begins with a token: "{{output}}/file"'
    return ""


class _Reader:
    """Nodes to plain values, with a budget of nodes and text that aliases cannot outgrow."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.nodes = 0
        self.text = 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        self.nodes += 1
        if depth > MAX_DEPTH:
            self._fail(node, f"nested deeper than {MAX_DEPTH} levels", "an alias may not contain itself")
        if self.nodes > MAX_NODES or self.text > 2 * MAX_TEXT:
            self._fail(node, "the aliases of this file unfold to too much", "write it without aliases")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.SequenceNode):
            self._plain_tag(node, "seq")
            return [self.value(child, depth + 1) for child in node.value]
        self._plain_tag(node, "map")
        return self._mapping(node, depth)

    def _mapping(self, node: Any, depth: int) -> dict[str, Any]:
        own: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                hint = 'a value that begins with a token needs quotes: "{{output}}/file"'
                self._fail(key, "a key must be a word, not a list or mapping", hint)
            if key.tag == _TAG + "merge":
                for part in child.value if isinstance(child, yaml.SequenceNode) else [child]:
                    if not isinstance(part, yaml.MappingNode):
                        self._fail(child, "'<<' merges a mapping or a list of mappings")
                    merged = {**self.value(part, depth + 1), **merged}
                continue
            if key.tag == _TAG + "null":
                self._fail(key, "a key may not be empty")
            if key.value in own:
                self._fail(key, f"key {key.value!r} stands twice in one mapping", "keep one of them")
            own[key.value] = self.value(child, depth + 1)
        return {**merged, **own} if merged else own

    def _scalar(self, node: Any) -> Any:
        tag, text = node.tag, node.value
        self.text += len(text)
        if tag == _TAG + "str":
            return text
        if tag == _TAG + "null":
            return None
        try:
            if tag == _TAG + "bool":
                return _SCALARS.construct_yaml_bool(node)
            if tag == _TAG + "int":
                return _SCALARS.construct_yaml_int(node)
            if tag == _TAG + "float":
                return _SCALARS.construct_yaml_float(node)
        except (ValueError, KeyError, IndexError, OverflowError):
            self._fail(node, f"{text[:40]!r} is not a {tag.rsplit(':', 1)[1]}", "put quotes around it if it is text")
        if tag in (_TAG + "timestamp", _TAG + "value"):
            return text
        return self._plain_tag(node, "str")

    def _plain_tag(self, node: Any, kind: str) -> None:
        if node.tag != _TAG + kind:
            self._fail(node, f"YAML tag {node.tag.replace(_TAG, '!!')!r} is not part of the language", "remove the tag")

    def _fail(self, node: Any, message: str, hint: str = "") -> None:
        mark = node.start_mark
        raise SpecError([self.source.problem(message, mark.line, mark.column, hint=hint)])
