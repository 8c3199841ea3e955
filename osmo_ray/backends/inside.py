"""The look inside a running task: what `Backend.exec` and `Backend.connect` give.

A session or a stream holds at most a few hundred KiB on its way: `send` waits while the other side is slow, and what
nobody receives stops whoever writes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from osmo_ray.spec.reason import Reason


class NotInside(Exception):
    """There is no session, for a reason that a person can read: the task does not run, nothing listens there."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.sentence)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Size:
    """Of a terminal, in characters."""

    rows: int = 24
    cols: int = 80


@dataclass(frozen=True, slots=True)
class Output:
    """Something that a command wrote; `errors` when it came from its standard error (never with a terminal)."""

    data: bytes
    errors: bool = False


class Session(Protocol):
    """A command that runs inside a task. Closing it ends the command and all that it started."""

    async def send(self, data: bytes) -> None:
        """More of its input. Raises ConnectionError when the session is over."""
        ...

    async def end(self) -> None:
        """Its input is over; with a terminal, as if the end was typed."""
        ...

    async def resize(self, size: Size) -> None: ...

    async def signal(self, number: int) -> None:
        """To what is in front on the terminal, else to the command."""
        ...

    async def receive(self) -> Output | None:
        """What it wrote next; None when it has ended, or the session broke."""
        ...

    @property
    def code(self) -> int | None:
        """Its exit code (128 + signal when killed), once `receive` gave None; None when it is not known."""
        ...

    async def close(self) -> None: ...


class Stream(Protocol):
    """A connection to a port of a task. For UDP each piece is a datagram with six bytes before it: IPv4 address and
    port, big endian, of the sender outside."""

    async def send(self, data: bytes) -> None:
        """Raises ConnectionError when the connection is over."""
        ...

    async def end(self) -> None:
        """Nothing more comes from this side."""
        ...

    async def receive(self) -> bytes:
        """The next bytes; empty at the end."""
        ...

    async def close(self) -> None: ...
