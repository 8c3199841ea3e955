"""What goes over the socket of one session: frames of a kind, a length and bytes.

Nothing in a frame is more than bytes, numbers or JSON of known keys, so it may come from anybody.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from osmo_ray.spec.attempt import AttemptKey

HEAD = struct.Struct(">BI")
SIZE = struct.Struct(">HH")
EXIT = struct.Struct(">i")
LONGEST = 1 << 20
"""Bytes that one frame may hold."""


class Kind(IntEnum):
    """What a frame is. To the session: DATA, END, RESIZE, SIGNAL. From it: STARTED first, DATA and ERRORS, then EXIT
    (or REFUSED, if it never began). Over a connection: STARTED or REFUSED, then DATA and END both ways."""

    DATA = 0
    ERRORS = 1
    RESIZE = 2
    SIGNAL = 3
    END = 4
    EXIT = 5
    REFUSED = 6
    STARTED = 7


class BadFrame(ValueError):
    """The other side does not speak this."""


def frame(kind: Kind, data: bytes = b"") -> bytes:
    """One frame as bytes."""
    return HEAD.pack(kind, len(data)) + data


@dataclass(slots=True)
class Frames:
    """Bytes in, whole frames out."""

    rest: bytearray = field(default_factory=bytearray)

    def feed(self, data: bytes) -> Iterator[tuple[Kind, bytes]]:
        """The frames that are whole now. Raises `BadFrame`."""
        self.rest += data
        while len(self.rest) >= HEAD.size:
            kind, length = HEAD.unpack_from(self.rest)
            if length > LONGEST or kind > max(Kind):
                raise BadFrame(f"a frame of kind {kind} and {length} bytes")
            if len(self.rest) < HEAD.size + length:
                return
            body = bytes(self.rest[HEAD.size : HEAD.size + length])
            del self.rest[: HEAD.size + length]
            yield Kind(kind), body


@dataclass(frozen=True, slots=True)
class Ask:
    """What a session is to do: run `argv` (with a terminal of `rows` x `cols` when `tty`), or connect to `port`."""

    key: AttemptKey
    argv: tuple[str, ...] = ()
    tty: bool = False
    rows: int = 24
    cols: int = 80
    term: str = "xterm"
    port: int = 0
    udp: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "key": str(self.key), "argv": list(self.argv), "tty": self.tty, "rows": self.rows, "cols": self.cols,
            "term": self.term, "port": self.port, "udp": self.udp,
        }  # fmt: skip

    @staticmethod
    def from_json(value: dict[str, Any]) -> Ask:
        """Raises KeyError, TypeError or ValueError for what `to_json` did not write."""
        argv = tuple(str(word) for word in value["argv"])
        return Ask(
            AttemptKey.parse(str(value["key"])), argv, bool(value["tty"]), clip(int(value["rows"])),
            clip(int(value["cols"])), str(value["term"]), int(value["port"]), bool(value["udp"]),
        )  # fmt: skip


def clip(number: int) -> int:
    """A number of rows or columns that a terminal can have."""
    return min(max(number, 1), 0xFFFF)
