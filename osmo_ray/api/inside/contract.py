"""The byte stream of the contract's exec socket: a size in JSON, then what is typed, with changes of size between.

A change is `\\0RESIZE:` and the same JSON; it may come in pieces, and other zero bytes are the user's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from osmo_ray.backends.inside import Size

_MARK = b"\0RESIZE:"
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
            size, data = _size(data, 0)
            if size is None:
                if len(data) > _LONGEST or not b"{".startswith(data[:1]):
                    raise NoSize("the first frame must be the size of the terminal: {Rows: ..., Cols: ...}")
                self.held = data
                return
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
        while data:
            at = _mark(data)
            if at < 0:
                yield data
                return
            if at:
                yield data[:at]
                data = data[at:]
            if len(data) > len(_MARK):
                size, rest = _size(data, len(_MARK))
                if size is not None:
                    yield size
                    data = rest
                    continue
                if len(data) > len(_MARK) + _LONGEST or data[len(_MARK) : len(_MARK) + 1] != b"{":
                    yield data[:1]
                    data = data[1:]
                    continue
            self.held = data
            return


def _mark(data: bytes) -> int:
    """Where the mark, or what may become one at the end, begins; -1 if nowhere."""
    at = data.find(b"\0")
    while at >= 0:
        part = data[at : at + len(_MARK)]
        if _MARK.startswith(part):
            return at
        at = data.find(b"\0", at + 1)
    return -1


def _size(data: bytes, start: int) -> tuple[Size | None, bytes]:
    """The JSON at `start` as a size, and what follows it; None when it is not whole, or none."""
    end = data.find(b"}", start, start + _LONGEST)
    if end < 0 or data[start : start + 1] != b"{":
        return None, data
    try:
        value = {str(k).lower(): v for k, v in json.loads(data[start : end + 1]).items()}
        return Size(int(value["rows"]), int(value["cols"])), data[end + 1 :]
    except (ValueError, KeyError, TypeError):
        return None, data
