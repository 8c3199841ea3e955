"""Moving bytes between a session's socket and what is behind it, with little memory and no waiting on one side only.

A side whose bytes are not taken is not read from either, so whoever is slow slows the other down.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

from osmo_ray.runtime.inside.frames import Frames, Kind, frame

FULL = 256 << 10
"""Bytes that wait on their way before their source is no longer read."""
PIECE = 64 << 10


@dataclass(slots=True)
class Source:
    """A file that is read until its end, each piece given to `take`; `ended` is told once."""

    fd: int
    take: Callable[[bytes], None]
    ended: Callable[[], None]


@dataclass(slots=True)
class Pump:
    """The worker's event loop. `act` gets the caller's frames; `sink` is where `to_sink` goes, -1 for nowhere."""

    end: socket.socket
    act: Callable[[Kind, bytes], None]
    sink: int = -1
    sources: dict[int, Source] = field(default_factory=dict)
    bells: dict[int, Callable[[], None]] = field(default_factory=dict)
    """Files that are only watched: called each time that they are readable."""
    gone: bool = False
    """The caller went away, so nothing that is left can be delivered."""
    taken: int = 0
    """Bytes that were read from the sources so far."""
    _out: bytearray = field(default_factory=bytearray)
    _in: bytearray = field(default_factory=bytearray)
    _frames: Frames = field(default_factory=Frames)
    _close_sink: Callable[[], None] | None = None

    @property
    def full(self) -> bool:
        """The caller does not take what is queued."""
        return len(self._out) >= FULL

    def say(self, kind: Kind, data: bytes = b"") -> None:
        """Queue a frame for the caller."""
        self._out += frame(kind, data)

    def to_sink(self, data: bytes) -> None:
        """Queue bytes for what is behind the session."""
        if self.sink >= 0:
            self._in += data

    def end_sink(self, close: Callable[[], None]) -> None:
        """Call `close` once all that was queued is written; nothing more is taken."""
        self._close_sink = close

    def run(self, until: Callable[[], bool]) -> None:
        """Until `until()`, or the caller has gone. What is queued for the caller then still waits: see `flush`."""
        self.end.setblocking(False)
        while not self.gone and not until():
            self.step(None)

    def flush(self, limit: float = 30.0) -> None:
        """Deliver what is queued, for as long as the caller takes something at least every `limit` seconds."""
        while self._out and not self.gone:
            poll = select.poll()
            poll.register(self.end, select.POLLOUT)
            if not poll.poll(limit * 1000):
                return
            self._send()

    def step(self, wait: float | None) -> bool:
        """One look at everything, waiting up to `wait` seconds; whether anything happened."""
        poll = select.poll()
        hear = (0 if len(self._in) >= FULL else select.POLLIN) | (select.POLLOUT if self._out else 0)
        poll.register(self.end, hear)
        open_ = () if self.full else tuple(self.sources)
        wanted = dict.fromkeys((*open_, *self.bells), select.POLLIN)
        if self._in and self.sink >= 0:
            wanted[self.sink] = wanted.get(self.sink, 0) | select.POLLOUT
        for fd, events in wanted.items():
            poll.register(fd, events)
        ready = poll.poll(None if wait is None else wait * 1000)
        for fd, events in ready:
            if fd == self.end.fileno():
                self._caller(events)
            else:
                self._file(fd, events)
        self._maybe_close()
        return bool(ready)

    def _caller(self, events: int) -> None:
        if events & select.POLLOUT:
            self._send()
        if events & select.POLLIN:
            self._hear()
        elif events & (select.POLLHUP | select.POLLERR):
            self.gone = True

    def _hear(self) -> None:
        try:
            data = self.end.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.gone = True
            return
        for kind, body in self._frames.feed(data):
            self.act(kind, body)

    def _send(self) -> None:
        try:
            del self._out[: self.end.send(self._out[:PIECE])]
        except BlockingIOError:
            return
        except OSError:
            self.gone = True

    def _file(self, fd: int, events: int) -> None:
        if fd in self.bells:
            self.bells[fd]()
            return
        if events & (select.POLLOUT | select.POLLERR) and fd == self.sink and self._in:
            self._write()
        if events & (select.POLLIN | select.POLLHUP | select.POLLERR) and fd in self.sources:
            self._read(self.sources[fd])

    def _write(self) -> None:
        try:
            del self._in[: os.write(self.sink, self._in[:PIECE])]
        except BlockingIOError:
            return
        except OSError:
            self._in.clear()
            self.sink = -1

    def _read(self, source: Source) -> None:
        try:
            data = os.read(source.fd, PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.taken += len(data)
            source.take(data)
        else:
            del self.sources[source.fd]
            source.ended()

    def _maybe_close(self) -> None:
        if self._close_sink is not None and not self._in:
            close, self._close_sink = self._close_sink, None
            self.sink = -1
            close()
