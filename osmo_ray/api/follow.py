"""Following the logs of a workflow: merged by time, or of one task, until the end.

Nothing is buffered beyond a few megabytes. A client that reads slowly slows its own stream down, since every line
stays in a file; only when it falls behind a task that still writes, it is taken forward and told how many lines it
missed. Attempts are opened when the merge reaches their start, so that a long chain of tasks costs one open log.
"""

from __future__ import annotations

import asyncio
import re
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterable

from osmo_ray.api.errors import ApiError
from osmo_ray.api.loglines import AttemptLog, Line
from osmo_ray.api.services import Services
from osmo_ray.store.protocol import StoreError, TaskRow

BUDGET = 4 << 20
"""Bytes that one round may read over all open logs."""
TOGETHER = 64 << 20
"""Bytes that the rounds of all readers of this process may hold."""
PIECE = 256 << 10
_LEAST = 16 << 10
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
        self._behind: dict[AttemptLog, Behind] = {}
        _readers.add(self)

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
            pieces = _pieces(lines, match)
            del lines
            while pieces:
                yield pieces.popleft()

    async def pieces(self, match: Filter | None) -> AsyncIterator[bytes]:
        """Everything from here on, in pieces of whole lines, until the workflow (or the attempt) has ended."""
        while True:
            await self._look()
            lines = await self._round(self._patience())
            pieces = _pieces(lines, match)
            del lines  # a slow client holds the bytes that it has not taken, and nothing else
            while pieces:
                begin = time.monotonic()
                yield pieces.popleft()
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
            budget = min(BUDGET, TOGETHER // len(_readers))
            limit = max(min(PIECE, budget // max(len(self._open), 1)), _LEAST)
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
        self._behind = {log: self._behind.get(log) or Behind(log) for log in self._open if not log.ended}
        for log, behind in self._behind.items():
            if skipped := await behind.catch_up():
                text = f"skipped {skipped} lines, because this reader is too slow; all of them: osmo workflow logs -t"
                yield log.format.say(self._services.clock(), f"{text} {log.name}")[1]


_readers: weakref.WeakSet[Following] = weakref.WeakSet()


class Behind:
    """How far a slow reader is behind a log that grows. Holds places in it, and nothing of what it says."""

    def __init__(self, log: AttemptLog) -> None:
        self._log = log
        self._seen = log.offset
        self._places: deque[tuple[int, int]] = deque()
        """Beginnings of lines after the reader's place: the offset, and how many lines end since the one before."""

    async def catch_up(self) -> int:
        """Take the reader forward to within `BEHIND` bytes of the present; says how many lines it missed."""
        await self._look()
        skipped, place = 0, 0
        while self._places and self._seen - (place or self._log.offset) > BEHIND:
            before = place
            place, lines = self._places.popleft()
            skipped += lines if before else await self._lines_to(place)
        if place:
            self._log.go_to(place)
        return skipped

    async def _look(self) -> None:
        """Read on to the present, and forget what the reader has read meanwhile."""
        while self._places and self._places[0][0] <= self._log.offset:
            self._places.popleft()
        self._seen = max(self._seen, self._log.offset)
        while True:
            chunk = await self._log.read(PIECE, 0.0, self._seen)
            if whole := chunk.data.rfind(b"\n") + 1:
                self._places.append((self._seen + whole, chunk.data.count(b"\n")))
            self._seen = chunk.next
            if chunk.end or len(chunk.data) < PIECE:
                return

    async def _lines_to(self, place: int) -> int:
        """Lines that end between the reader and a place."""
        at, lines = self._log.offset, 0
        while at < place:
            chunk = await self._log.read(min(place - at, PIECE), 0.0, at)
            if not chunk.data:
                break
            lines += chunk.data.count(b"\n")
            at = chunk.next
        return lines


def _pieces(lines: list[bytes], match: Filter | None) -> deque[bytes]:
    kept = lines if match is None else [line for line in lines if match.keep(line)]
    step = 2000
    return deque(b"".join(kept[begin : begin + step]) for begin in range(0, len(kept), step))
