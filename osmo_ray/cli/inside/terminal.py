"""This process's own standard streams as one end of a session."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator

from osmo_ray.sdk.sessions import Channel
from osmo_ray.spec.wire import PIECE


def size() -> tuple[int, int]:
    """Rows and columns of our terminal."""
    found = shutil.get_terminal_size()
    return found.lines, found.columns


@contextlib.contextmanager
def raw() -> Iterator[None]:
    """Each key goes to the task, also those that would end us; restored whatever happens."""
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


async def attend(channel: Channel, *, terminal: bool) -> None:
    """Carry our input to the session and its output to ours, until it has ended."""
    loop = asyncio.get_running_loop()
    waiting: set[asyncio.Task[None]] = set()

    def later(what: int) -> None:
        task = asyncio.ensure_future(_quietly(channel, what))
        waiting.add(task)
        task.add_done_callback(waiting.discard)

    heard = (signal.SIGWINCH,) if terminal else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in heard:
        loop.add_signal_handler(number, later, number)
    threading.Thread(target=_read, args=(loop, channel), daemon=True).start()
    try:
        while (said := await channel.receive()) is not None:
            data, errors = said
            # In a thread: a reader that rests for a while must not keep this connection from being looked after.
            await asyncio.to_thread(_write, 2 if errors else 1, data)
    finally:
        for number in heard:
            loop.remove_signal_handler(number)


async def _quietly(channel: Channel, number: int) -> None:
    with contextlib.suppress(ConnectionError):
        if number == signal.SIGWINCH:
            await channel.resize(*size())
        else:
            await channel.signal(number)


def _read(loop: asyncio.AbstractEventLoop, channel: Channel) -> None:
    """In a thread, since neither files nor all terminals can be waited for; one piece at a time."""
    with contextlib.suppress(OSError, RuntimeError, asyncio.CancelledError):
        while data := os.read(0, PIECE):
            asyncio.run_coroutine_threadsafe(channel.send(data), loop).result()
        asyncio.run_coroutine_threadsafe(channel.end(), loop).result()


def _write(fd: int, data: bytes) -> None:
    sys.stdout.flush()
    while data:
        data = data[os.write(fd, data) :]
