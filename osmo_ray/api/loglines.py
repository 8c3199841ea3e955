"""One attempt's log as lines with times, read in pieces from wherever it is now.

A node keeps the log while the attempt runs, the object store keeps it afterwards, and both give the same bytes at the
same offsets; so a reader goes from one to the other without losing or doubling a line.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from osmo_ray.api.services import Services
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.objects.protocol import ObjectError
from osmo_ray.spec.attempt import AttemptKey, LogChunk
from osmo_ray.store.protocol import TaskRow

GRACE = 10.0
"""Seconds after the end of an attempt during which its log may still be on the way to the store."""
Line = tuple[int, bytes]
"""Milliseconds since the epoch, and the whole line as people see it."""


def attempt_head(task: str, retry_id: int) -> str:
    """`train` of the first attempt, `train retry-1` of the second."""
    return f"{task} retry-{retry_id}" if retry_id else task


class Formatter:
    """Stamped bytes of the log file to lines as clients know them: `YYYY/MM/DD HH:MM:SS [task] text`."""

    def __init__(self, task: str, retry_id: int, *, bare: bool = False) -> None:
        head = attempt_head(task, retry_id).encode()
        self._heads = {b"O": b"[%s] " % head, b"P": b"[%s][osmo] " % head}
        self._bare = bare
        self._second = -1
        self._stamp = b""
        self._rest = b""

    def feed(self, data: bytes) -> list[Line]:
        """The whole lines of `data`; an unfinished one waits for the next call."""
        lines = data.split(b"\n")
        lines[0] = self._rest + lines[0]
        self._rest = lines.pop()
        return [self._line(line) for line in lines]

    def forget(self) -> None:
        """Drop the unfinished line."""
        self._rest = b""

    def flush(self) -> list[Line]:
        """The unfinished line, when nothing more will come."""
        rest, self._rest = self._rest, b""
        return [self._line(rest)] if rest else []

    def _line(self, line: bytes) -> Line:
        parts = line.split(b" ", 2)
        if len(parts) != 3 or not parts[0].isdigit():
            return (self._second * 1000 if self._second > 0 else 0, line + b"\n")
        at = int(parts[0])
        if self._bare:
            return (at, parts[2] + b"\n" if parts[1] == b"O" else b"")
        second = at // 1000
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y/%m/%d %H:%M:%S ").encode()
        return (at, self._stamp + self._heads.get(parts[1], self._heads[b"O"]) + parts[2] + b"\n")

    def say(self, at: float, text: str) -> Line:
        """A line of the platform's own at this place of the log."""
        return self._line(b"%d P %s" % (int(at * 1000), text.encode()))


class AttemptLog:
    """A place in one attempt's log. `lines` holds what was read and not yet given away."""

    def __init__(self, services: Services, row: TaskRow, *, bare: bool = False) -> None:
        self._services = services
        self.key = AttemptKey(row.task.uuid, row.task.retry_id)
        self.name = row.task.name
        self.workflow_uuid = row.workflow_uuid
        self.node = row.task.node
        self.ended = row.task.times.ended if row.task.status.finished else 0.0
        self.start = row.task.times.scheduling or row.task.times.initializing or row.task.times.running
        self.format = Formatter(row.task.name, row.task.retry_id, bare=bare)
        self.lines: list[Line] = []
        self.offset = 0
        self.done = False
        self.caught_up = False

    def update(self, row: TaskRow) -> None:
        """Take over what the store says now."""
        self.node = row.task.node
        self.ended = row.task.times.ended if row.task.status.finished else 0.0

    async def fill(self, limit: int, wait: float) -> None:
        """Read one piece; sets `caught_up` when there was nothing more, `done` when nothing more will come."""
        chunk = await self.read(limit, wait)
        self.lines += self.format.feed(chunk.data)
        self.offset = chunk.next
        self.caught_up = not chunk.data
        silent = self.caught_up and self.ended and self._services.clock() - self.ended > 3 * GRACE
        if chunk.end or silent:
            self.lines += self.format.flush()
            self.done = True

    def go_to(self, offset: int) -> None:
        """Read on at another beginning of a line; an unfinished one before it is forgotten."""
        self.offset = offset
        self.format.forget()

    async def read(self, limit: int, wait: float, offset: int | None = None) -> LogChunk:
        """The next piece, or the one at `offset`: from the store once the attempt ended, else from its node."""
        at = self.offset if offset is None else offset
        if self.ended:
            chunk = await self._from_store(at, limit)
            if chunk.data or chunk.end:
                return chunk
        try:
            return await self._services.live_logs.logs(self.key, self.node, at, limit, wait)
        except BackendUnavailable:
            return await self._without_node(at, limit, wait)

    async def _without_node(self, at: int, limit: int, wait: float) -> LogChunk:
        chunk = await self._from_store(at, limit)
        if chunk.data or chunk.end:
            return chunk
        if self.ended and self._services.clock() - self.ended > GRACE:
            if at == 0:
                text = "no log of this attempt was kept: its node was lost before the first lines were stored"
                self.lines.append(self.format.say(self.ended, text))
            return LogChunk(b"", at, True)
        await asyncio.sleep(wait)
        return LogChunk(b"", at, False)

    async def _from_store(self, at: int, limit: int) -> LogChunk:
        try:
            return await asyncio.to_thread(self._services.stored_logs, self.workflow_uuid, self.key, at, limit)
        except ObjectError:
            return LogChunk(b"", at, False)
