"""Our own clients' framing inside the binary messages of a session's websocket, asked for by `?frames=typed`.

The contract's wire carries bare bytes. This one also carries standard error, the end of input, signals, and how much
was taken: a side sends at most `WINDOW` bytes that the other has not taken yet, so that nothing in between has to
hold more, whatever it is.
"""

from __future__ import annotations

from enum import IntEnum

PARAMETER, TYPED = "frames", "typed"
WINDOW = 512 << 10
PIECE = 32 << 10
"""Bytes that one message holds at most, and that are taken before it is said."""
EXIT = "exit "
"""What the reason of a normal close begins with, before the exit code of a session."""


class Say(IntEnum):
    """The first byte of a message."""

    DATA = 0
    ERRORS = 1
    RESIZE = 2  # rows and columns, two bytes each
    SIGNAL = 3  # one byte
    END = 4
    TAKEN = 5  # four bytes: how many of DATA and ERRORS were taken since the last one


def resize(rows: int, cols: int) -> bytes:
    """A message that tells the size of the terminal."""
    return bytes([Say.RESIZE]) + rows.to_bytes(2, "big") + cols.to_bytes(2, "big")


def taken(count: int) -> bytes:
    """A message that makes room for `count` bytes."""
    return bytes([Say.TAKEN]) + count.to_bytes(4, "big")


def read_resize(body: bytes) -> tuple[int, int]:
    """Rows and columns; ValueError for anything else."""
    if len(body) != 4:
        raise ValueError("a size has four bytes")
    return int.from_bytes(body[:2], "big"), int.from_bytes(body[2:], "big")


def read_taken(body: bytes) -> int:
    if len(body) != 4:
        raise ValueError("a count has four bytes")
    return int.from_bytes(body, "big")
