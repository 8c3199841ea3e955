"""Following the logs of a workflow: merged by time, or of one task, until the end.

Nothing is buffered beyond a few megabytes. A client that reads slowly slows its own stream down, since every line
stays in a file; only when it falls behind a task that still writes, it is taken forward and told how many lines it
missed. Attempts are opened when the merge reaches their start, so that a long chain of tasks costs one open log.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable

from osmo_ray.api.errors import ApiError
from osmo_ray.api.loglines import AttemptLog, Line
from osmo_ray.api.services import Services
from osmo_ray.store.protocol import StoreError, TaskRow

BUDGET = 4 << 20
"""Bytes that one round may read over all open logs."""
PIECE = 256 << 10
STALL = 5.0
"""Seconds that a client may take for one piece before it counts as slow."""
BEHIND = 8 << 20
"""Bytes that a slow client may be behind a running task."""
MAX_LAST = 100_000
_SLACK = 2000.0
"""Milliseconds by which the clocks of nodes and database may differ."""


class Filter:
    """A regular expression that cannot be made to run for ever: no repeated groups, few repeats, long lines cut."""

    def __init__(self, text: str) -> None:
        if len(text) > 200 or re.search(r"\)\s*[*+{]", text) or len(re.findall(r"(?<!\\)[*+{]", text)) > 3:
            hint = "at most 200 characters and three repeats, and no repeated groups"
            raise ApiError(f"The query {text[:60]!r} is too costly: {hint}.", "USER")
        try:
            self._search = re.compile(text.encode()).search
        except re.error as error:
            raise ApiError(f"The query {text[:60]!r} is not a regular expression: {error}.", "USER") from None

    def keep(self, line: bytes) -> bool:
        return self._search(line, 0, 1000) is not None


class Following:
    """The lines of the attempts that `rows` (asked again and again) names, in order of time."""

    def __init__(self, services: Services, workflow_uuid: str, *, task: str = "", retry_id: int | None = None) -> None:
        self._services, self._workflow = services, workflow_uuid
        self._task, self._retry = task, retry_id
        self._open: list[AttemptLog] = []
        self._waiting: list[AttemptLog] = []
        self._known: dict[str, AttemptLog] = {}
        self._finished = False
        self._looked = 0.0
        self._pause = 0.5

    async def tail(self, number: int, match: Filter | None) -> list[bytes]:
        """The last `number` lines of what there is now."""
        last: deque[bytes] = deque(maxlen=number)
        await self._look()
        while not self._quiet():
            for line in await self._round(0.0):
                if match is None or match.keep(line):
                    last.append(line)
        return list(last)

    async def present(self, match: Filter | None) -> AsyncIterator[bytes]:
        """What there is now, and no waiting for more."""
        await self._look()
        while not self._quiet():
            lines = await self._round(0.0)
            for piece in _pieces(lines if match is None else [line for line in lines if match.keep(line)]):
                yield piece

    async def pieces(self, match: Filter | None) -> AsyncIterator[bytes]:
        """Everything from here on, in pieces of whole lines, until the workflow (or the attempt) has ended."""
        while True:
            await self._look()
            lines = await self._round(self._patience())
            kept = lines if match is None else [line for line in lines if match.keep(line)]
            for piece in _pieces(kept):
                begin = time.monotonic()
                yield piece
                if time.monotonic() - begin > STALL:
                    async for told in self._catch_up():
                        yield told
            if self._finished and not self._open and not self._waiting:
                return

    def _patience(self) -> float:
        return min(0.25 + 0.005 * len(self._open), 2.0)

    def _quiet(self) -> bool:
        return not self._waiting and all(log.done or (log.caught_up and not log.lines) for log in self._open)

    async def _look(self) -> None:
        now = time.monotonic()
        if self._looked and now - self._looked < self._pause:
            return
        self._looked = now
        try:
            workflow = (await asyncio.to_thread(self._services.store.load, [self._workflow]))[:1]
            rows = await asyncio.to_thread(self._services.store.attempts, self._workflow)
        except StoreError as error:
            if error.permanent:
                raise
            return  # the database will be back: what is open is followed on meanwhile
        self._pause = 0.5 + 0.002 * len(rows)
        wanted = [row for row in self._chosen(rows) if row.task.node]
        for row in wanted:
            name = f"{row.task.uuid}-{row.task.retry_id}"
            if name not in self._known:
                self._known[name] = AttemptLog(self._services, row)
                self._waiting.append(self._known[name])
            self._known[name].update(row)
        self._finished = not workflow or workflow[0].status.finished
        if self._task:
            chosen = self._chosen(rows)
            self._finished = self._finished or (bool(chosen) and all(r.task.status.finished for r in chosen))

    def _chosen(self, rows: Iterable[TaskRow]) -> list[TaskRow]:
        if not self._task:
            return list(rows)
        mine = [row for row in rows if row.task.name == self._task]
        if self._retry is None and mine:
            self._retry = max(row.task.retry_id for row in mine)
        return [row for row in mine if row.task.retry_id == self._retry]

    async def _round(self, wait: float) -> list[bytes]:
        """Read where lines are missing, then give away what is certain to be next."""
        self._open_due()
        hungry = [log for log in self._open if not log.done and not log.lines]
        if hungry:
            limit = max(min(PIECE, BUDGET // max(len(self._open), 1)), 16 << 10)
            idle = wait if all(not log.lines for log in self._open) else 0.0
            await asyncio.gather(*(log.fill(limit, idle) for log in hungry))
        elif not self._open and not self._finished:
            await asyncio.sleep(wait)
        lines = self._certain()
        self._open = [log for log in self._open if not log.done or log.lines]
        return lines

    def _open_due(self) -> None:
        reading = [log for log in self._open if not log.done and not log.caught_up]
        horizon = min((log.lines[0][0] if log.lines else log.start * 1000 for log in reading), default=float("inf"))
        self._waiting.sort(key=lambda log: log.start)
        while self._waiting and self._waiting[0].start * 1000 - _SLACK <= horizon:
            log = self._waiting.pop(0)
            self._open.append(log)
            horizon = min(horizon, log.start * 1000)

    def _certain(self) -> list[bytes]:
        """Lines that no open log can still precede: up to the earliest last line of those that have more."""
        limits: list[float] = [
            log.lines[-1][0] for log in self._open if log.lines and not log.done and not log.caught_up
        ]
        limits += [log.start * 1000 - _SLACK for log in self._waiting[:1]]
        horizon = min(limits, default=float("inf"))
        if len(self._open) == 1 and not self._waiting:
            horizon = float("inf")
        found: list[Line] = []
        for log in self._open:
            if not log.lines:
                continue
            if log.lines[-1][0] <= horizon:
                found += log.lines
                log.lines = []
                continue
            cut = next(n for n, line in enumerate(log.lines) if line[0] > horizon)
            found += log.lines[:cut]
            log.lines = log.lines[cut:]
        if len(self._open) > 1:
            found.sort(key=lambda line: line[0])
        return [text for _, text in found]

    async def _catch_up(self) -> AsyncIterator[bytes]:
        for log in self._open:
            if not log.ended and (skipped := await _forward(log)):
                text = f"skipped {skipped} lines, because this reader is too slow; all of them: osmo workflow logs -t"
                yield log.format.say(self._services.clock(), f"{text} {log.name}")[1]


async def _forward(log: AttemptLog) -> int:
    """Read on to the present, keep the newest `BEHIND` bytes, and say how many lines were let go."""
    kept: deque[bytes] = deque()
    size = skipped = 0
    while True:
        chunk = await log.read(PIECE, 0.0)
        log.offset = chunk.next
        kept.append(chunk.data)
        size += len(chunk.data)
        while size > BEHIND:
            gone = kept.popleft()
            size -= len(gone)
            skipped += log.format.skip(gone)
        if chunk.end or len(chunk.data) < PIECE:
            break
    for data in kept:
        log.lines += log.format.feed(data)
    if chunk.end:
        log.lines += log.format.flush()
        log.done = True
    return skipped


def _pieces(lines: list[bytes]) -> Iterable[bytes]:
    step = 2000
    for begin in range(0, len(lines), step):
        yield b"".join(lines[begin : begin + step])
