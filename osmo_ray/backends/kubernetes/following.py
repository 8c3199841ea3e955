"""Live logs: what `osmo-ctrl` repeats of an attempt's log, followed through the API server while somebody reads.

Each line comes after its offset in the log, so a follower that has to begin anew, or that meets a log of which the
node has thrown the beginning away, still knows where it is. What was read lies in an unnamed temporary file.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping

from osmo_ray.backends.kubernetes.client import ApiError, KubeApi
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.spec.attempt import LogChunk

_IDLE = 30.0
_AGAIN = 0.3


class Follower:
    """One attempt's log."""

    def __init__(self, api: KubeApi, path: str, query: Mapping[str, str]) -> None:
        self._api, self._path, self._query = api, path, query
        self._file = tempfile.TemporaryFile(prefix="osmo-log-")  # noqa: SIM115 - closed in `close`
        self._first = -1
        """Offset of the first byte that we have."""
        self._next = 0
        self._over = False
        self._fault = ""
        self._news = asyncio.Event()
        self.asked = time.monotonic()
        self._task = asyncio.ensure_future(self._run())

    @property
    def idle(self) -> bool:
        return time.monotonic() - self.asked > _IDLE

    async def read(self, offset: int, limit: int, wait: float, *, ended: bool) -> LogChunk:
        """Bytes from `offset`; `ended` says that the attempt is over, so that the end of the stream is the log's."""
        self.asked = time.monotonic()
        until = self.asked + wait
        while True:
            if self._first >= 0 and offset < self._first:
                raise BackendUnavailable("the node has thrown the beginning of this log away; the store has it")
            if offset < self._next:
                data = os.pread(self._file.fileno(), min(limit, self._next - offset), offset - self._first)
                at = offset + len(data)
                return LogChunk(data, at, ended and self._over and at >= self._next)
            if self._over and ended:
                if self._fault:
                    raise BackendUnavailable(self._fault)
                return LogChunk(b"", offset, True)
            left = until - time.monotonic()
            if left <= 0:
                return LogChunk(b"", offset, False)
            if self._over:
                await asyncio.sleep(min(_AGAIN, left))
                if self._task.done():
                    self._begin()
            await self._until_news(min(left, 1.0))

    def close(self) -> None:
        self._task.cancel()
        self._file.close()

    async def _until_news(self, limit: float) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(limit):
                await self._news.wait()
        except TimeoutError:
            pass

    def _begin(self) -> None:
        self._over, self._fault = False, ""
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        rest = b""
        try:
            async for piece in self._api.lines(self._path, self._query):
                whole, newline, rest = (rest + piece).rpartition(b"\n")
                if newline:
                    self._take(whole + newline)
        except ApiError as error:  # its container has not started, or is gone
            self._fault = str(error)
        except BackendUnavailable as error:
            self._fault = str(error)
        finally:
            self._over = True
            self._news.set()

    def _take(self, data: bytes) -> None:
        for line in data.splitlines(keepends=True):
            number, _, text = line.partition(b" ")
            if not number.isdigit():
                continue  # a word of a crashing interpreter, not of the log
            offset = int(number)
            if self._first < 0:
                self._first = self._next = offset
            if offset == self._next:
                os.pwrite(self._file.fileno(), text, offset - self._first)
                self._next += len(text)
        self._news.set()
