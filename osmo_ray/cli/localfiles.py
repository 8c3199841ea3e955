"""`localpath` in a workflow file: the text of a file beside it, put in before the file is sent.

The text goes into the place of the `localpath` on the same line, so that every line of the file keeps its number and
the platform's errors point to lines that the user knows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from osmo_ray.sdk.errors import ClientError

MAX_FILE = 4 << 20


def has_local_files(text: str) -> bool:
    """Whether the file names local ones at all."""
    return "localpath" in text


def inline(text: str, base: Path) -> str:
    """`text` with each `localpath: X` of a `files` entry replaced by the contents of `base/X`.

    `text` must be YAML by now (rendered). Raises `ClientError` for a file that is missing, too large or not text.
    """
    import yaml

    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError):
        return text  # the platform tells the mistake, with its place
    edits = sorted(_edits(root, base), reverse=True)
    for start, end, replacement in edits:
        text = text[:start] + replacement + text[end:]
    return text


def _edits(root: Any, base: Path) -> Iterator[tuple[int, int, str]]:
    seen: set[int] = set()
    for files in _values(root, "files", seen):
        for entry in getattr(files, "value", ()) if _kind(files) == "sequence" else ():
            if _kind(entry) != "mapping":
                continue
            for key, value in entry.value:
                if key.value == "localpath" and _kind(value) == "scalar":
                    yield key.start_mark.index, value.end_mark.index, f"contents: {_quoted(_read(base, value.value))}"


def _values(node: Any, name: str, seen: set[int]) -> Iterator[Any]:
    """Every value of a key called `name` below `node`; aliased nodes once."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if _kind(node) == "mapping":
        for key, value in node.value:
            if getattr(key, "value", None) == name:
                yield value
            yield from _values(value, name, seen)
    elif _kind(node) == "sequence":
        for child in node.value:
            yield from _values(child, name, seen)


def _kind(node: Any) -> str:
    return str(getattr(node, "id", ""))


def _read(base: Path, name: str) -> str:
    path = base / name
    if not path.is_file():
        what = "is a folder, and only files can be sent" if path.is_dir() else "does not exist"
        raise ClientError(f"localpath {name}: {path} {what}", status=400, code="USAGE")
    if path.stat().st_size > MAX_FILE:
        raise ClientError(f"localpath {name}: larger than {MAX_FILE >> 20} MiB", status=400, code="USAGE")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        hint = "only text can be sent; put binary files into a dataset or an image"
        raise ClientError(f"localpath {name}: {path} is not UTF-8 text; {hint}", status=400, code="USAGE") from None


def _quoted(text: str) -> str:
    """The text as one double-quoted YAML scalar on one line."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    return '"' + "".join(escapes.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(char: str) -> str:
    number = ord(char)
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 else f"\\U{number:08x}"
