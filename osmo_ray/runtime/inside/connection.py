"""A connection to a port of an attempt, made where its loopback is its own."""

from __future__ import annotations

import errno
import os
import socket
import struct

from osmo_ray.runtime.inside.frames import Ask, Kind
from osmo_ray.runtime.inside.pump import PIECE, Pump, Source
from osmo_ray.runtime.inside.target import NotThere, Target

_PATIENCE = 10.0
SENDER = struct.Struct(">4sH")
"""IPv4 address and port of the local sender, before each datagram."""
_MOST_SENDERS = 256


def serve(target: Target, ask: Ask, end: socket.socket) -> None:
    """Connect to 127.0.0.1:`port` inside and carry bytes, or datagrams, until either side has gone."""
    task = os.pidfd_open(target.init.pid)
    target.enter("user", "net")
    if ask.udp:
        Datagrams(ask.port, end, task).run()
    else:
        _carry(_dial(ask.port), end, task)


def _dial(port: int) -> socket.socket:
    refused: OSError | None = None
    for address in ("127.0.0.1", "::1"):
        try:
            return socket.create_connection((address, port), _PATIENCE)
        except OSError as error:
            refused = refused or error
    if refused is not None and refused.errno == errno.ECONNREFUSED:
        raise NotThere(f"nothing listens on port {port} of the task")
    raise NotThere(f"port {port} of the task does not answer: {refused}")


def _carry(inner: socket.socket, end: socket.socket, task: int) -> None:
    inner.setblocking(False)
    inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    over: list[bool] = []

    def act(kind: Kind, body: bytes) -> None:
        if kind is Kind.DATA:
            pump.to_sink(body)
        elif kind is Kind.END:
            pump.end_sink(lambda: shut(inner))

    def shut(one: socket.socket) -> None:
        try:
            one.shutdown(socket.SHUT_WR)
        except OSError:
            over.append(True)

    def ended() -> None:
        pump.say(Kind.END)
        over.append(True)

    pump = Pump(end, act, sink=inner.fileno())
    pump.sources[inner.fileno()] = Source(inner.fileno(), lambda data: pump.say(Kind.DATA, data), ended)
    pump.bells = {task: lambda: over.append(True)}
    pump.say(Kind.STARTED)
    pump.run(lambda: bool(over))
    pump.flush()


class Datagrams:
    """One socket inside per sender outside. Datagrams that do not fit are lost, as on any wire."""

    def __init__(self, port: int, end: socket.socket, task: int) -> None:
        self._port, self._task = port, task
        self._by_sender: dict[bytes, socket.socket] = {}
        self._pump = Pump(end, self._act)

    def run(self) -> None:
        """Until the caller or the task has gone."""
        over: list[bool] = []
        self._pump.bells = {self._task: lambda: over.append(True)}
        self._pump.say(Kind.STARTED)
        self._pump.run(lambda: bool(over))

    def _act(self, kind: Kind, body: bytes) -> None:
        if kind is not Kind.DATA or len(body) < SENDER.size:
            return
        try:
            self._socket(body[: SENDER.size]).send(body[SENDER.size :])
        except OSError:
            return  # nobody listens there now, or its queue is full

    def _socket(self, sender: bytes) -> socket.socket:
        found = self._by_sender.pop(sender, None)
        if found is None:
            if len(self._by_sender) >= _MOST_SENDERS:
                self._forget(next(iter(self._by_sender)))
            found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            found.connect(("127.0.0.1", self._port))
            self._pump.bells[found.fileno()] = lambda: self._answer(sender)
        self._by_sender[sender] = found  # the newest are last
        return found

    def _forget(self, sender: bytes) -> None:
        old = self._by_sender.pop(sender)
        del self._pump.bells[old.fileno()]
        old.close()

    def _answer(self, sender: bytes) -> None:
        try:
            data = self._by_sender[sender].recv(PIECE)
        except (OSError, KeyError):
            return  # refused by the port, or nothing after all
        if not self._pump.full:
            self._pump.say(Kind.DATA, sender + data)
