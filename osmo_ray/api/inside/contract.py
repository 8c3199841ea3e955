"""The byte stream of the contract's exec socket: a size in JSON, then what is typed, with changes of size between.

A change is `\\0RESIZE:` and the same JSON; it may come in pieces, and other zero bytes are the user's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from osmo_ray.backends.inside import Size

_MARK = b"\0RESIZE:"
_MARKS = re.compile(b"|".join([re.escape(_MARK), *(re.escape(_MARK[:n]) + rb"\Z" for n in range(1, len(_MARK)))]))
"""A whole mark, or what may become one at the end."""
_LONGEST = 200
"""Bytes that a size in JSON has at most."""


class NoSize(ValueError):
    """The stream does not begin with a size."""


@dataclass(slots=True)
class Typing:
    """Bytes in, what they mean out: a `Size`, or bytes for the command. `held` is what could still become a size."""

    held: bytes = b""
    begun: bool = False

    def feed(self, data: bytes) -> Iterator[Size | bytes]:
        """Raises `NoSize` when the first thing is none."""
        data, self.held = self.held + data, b""
        if not self.begun:
            size, end = _size(data, 0)
            if size is None:
                if len(data) > _LONGEST or not b"{".startswith(data[:1]):
                    raise NoSize("the first frame must be the size of the terminal: {Rows: ..., Cols: ...}")
                self.held = data
                return
            data = data[end:]
            self.begun = True
            yield size
        yield from self._split(data)

    def flush(self) -> bytes:
        """No more came for a while, so what was held is the user's; not before the first size."""
        if not self.begun:
            return b""
        held, self.held = self.held, b""
        return held

    def _split(self, data: bytes) -> Iterator[Size | bytes]:
        begin = 0
        for found in _MARKS.finditer(data):
            size, end = _size(data, found.end()) if found[0] == _MARK else (None, 0)
            if size is None and _is_typed(found, data):
                continue
            if found.start() > begin:
                yield data[begin : found.start()]
            if size is None:
                self.held = data[found.start() :]
                return
            yield size
            begin = end
        if begin < len(data):
            yield data[begin:]


def _is_typed(found: re.Match[bytes], data: bytes) -> bool:
    """Whether it is clear that what follows a whole mark is no size, so that the mark is the user's."""
    rest = len(data) - found.end()
    return found[0] == _MARK and rest > 0 and (rest > _LONGEST or data[found.end()] != ord("{"))


def _size(data: bytes, start: int) -> tuple[Size | None, int]:
    """The JSON at `start` as a size, and where it ends; None when it is not whole, or none."""
    end = data.find(b"}", start, start + _LONGEST)
    if end < 0 or data[start : start + 1] != b"{":
        return None, start
    try:
        value = {str(k).lower(): v for k, v in json.loads(data[start : end + 1]).items()}
        return Size(int(value["rows"]), int(value["cols"])), end + 1
    except (ValueError, KeyError, TypeError):
        return None, start
