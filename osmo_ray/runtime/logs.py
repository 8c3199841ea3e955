"""An attempt's log: stamped as it comes, shipped to the store in segments, read back by offset.

A live log and a stored one have the same bytes, so a follower goes from one to the other by its offset alone. A
segment's name is the offset of its first byte; the last one says so (`-end`).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from osmo_ray.objects.protocol import ObjectStore
from osmo_ray.runtime.masking import Masker
from osmo_ray.spec.attempt import AttemptKey, LogChunk

OUTPUT, PLATFORM = b"O", b"P"
_LONGEST = 64 << 10
_END = "-end.log"


def log_prefix(workflow_uuid: str, key: AttemptKey) -> str:
    """Where an attempt's segments lie in the store."""
    return f"logs/{workflow_uuid}/{key}/"


def segment_name(offset: int, *, last: bool) -> str:
    return f"{offset:016d}{_END if last else '.log'}"


@dataclass(slots=True)
class Stamper:
    """Turns what a command writes into stamped lines, a chunk at a time; holds back at most one unfinished line."""

    rest: bytes = b""

    def feed(self, data: bytes, now: float) -> bytes:
        """The whole lines, stamped; what follows the last newline waits."""
        cut = data.rfind(b"\n")
        if cut < 0:
            self.rest += data
            return self.flush(now) if len(self.rest) > _LONGEST else b""
        whole = self.rest + data[:cut]
        self.rest = data[cut + 1 :]
        return _stamp(whole, now)

    def flush(self, now: float) -> bytes:
        """The unfinished line, finished."""
        if not self.rest:
            return b""
        line, self.rest = self.rest, b""
        return _stamp(line, now)


def _stamp(lines: bytes, now: float, kind: bytes = OUTPUT) -> bytes:
    prefix = b"%d %b " % (int(now * 1000), kind)
    return prefix + lines.replace(b"\n", b"\n" + prefix) + b"\n"


def platform_line(text: str, now: float) -> bytes:
    """A line of the platform's own."""
    return _stamp(text.replace("\r", "").rstrip("\n").encode(errors="replace"), now, PLATFORM)


@dataclass(slots=True)
class Log:
    """The file, append only, and how much of it has been shipped."""

    path: Path
    fd: int = -1
    size: int = 0
    stamper: Stamper = field(default_factory=Stamper)
    last_data: float = 0.0
    masker: Masker = field(default_factory=lambda: Masker(()))

    def open(self) -> None:
        self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.fd).st_size

    def write(self, data: bytes) -> None:
        """Append. When the disk is full the bytes are lost, and the command goes on."""
        view = memoryview(data)
        try:
            while view:
                done = os.write(self.fd, view)
                self.size += done
                view = view[done:]
        except OSError:
            return

    def output(self, data: bytes) -> None:
        """What the command wrote."""
        now = time.time()
        self.last_data = now
        self.write(self.stamper.feed(self.masker.feed(data), now))

    def ended(self) -> None:
        """The command writes no more: what could have become a secret, and the unfinished line, go on."""
        self.write(self.stamper.feed(self.masker.end(), time.time()))
        self.flush()

    def say(self, text: str) -> None:
        """A line of the platform's own."""
        self.flush()
        self.write(platform_line(self.masker.whole(text), time.time()))

    def flush(self) -> None:
        self.write(self.stamper.flush(time.time()))

    def tail(self, lines: int = 5) -> list[str]:
        """The last lines of the command's output, without stamps."""
        with self.path.open("rb") as file:
            file.seek(max(self.size - 16384, 0))
            found = file.read().split(b"\n")
        texts = [parts[2] for line in found if len(parts := line.split(b" ", 2)) == 3 and parts[1] == OUTPUT]
        return [text.decode(errors="replace")[:200] for text in texts[-lines:]]


def ship(store: ObjectStore, prefix: str, log: Path, start: int, end: int | None, *, chunk: int = 16 << 20) -> int:
    """Copy the log from byte `start` on into segments; `end=None` means all of it, and that it is the whole log.
    Returns where the next segment begins."""
    last = end is None
    with log.open("rb") as file:
        size = os.fstat(file.fileno()).st_size if end is None else end
        file.seek(start)
        while True:
            data = file.read(min(chunk, size - start))
            final = last and start + len(data) >= size
            if data or final:
                store.write(prefix + segment_name(start, last=final), data)
            start += len(data)
            if start >= size or not data:
                return start


def stored_log(store: ObjectStore, workflow_uuid: str, key: AttemptKey, offset: int, limit: int) -> LogChunk:
    """Part of an attempt's shipped log; the same offsets as the live one. `end` only when its last segment is there
    and read to the end; an attempt of which nothing was shipped yet gives an empty chunk that is no end."""
    prefix = log_prefix(workflow_uuid, key)
    segments = []
    for info in store.list(prefix):
        name = info.key.rpartition("/")[2]
        if name[:16].isdigit():
            segments.append((int(name[:16]), info.size, name.endswith(_END), info.key))
    at, parts, left = offset, [], limit
    # The same bytes can stand in two segments when a shipper was killed and begun again: starts may repeat.
    for start, size, _, name in sorted(segments):
        if start <= at < start + size and left > 0:
            data = store.read(name, at - start, min(at - start + left, size))
            parts.append(data)
            at, left = at + len(data), left - len(data)
    ended = any(last and at >= start + size for start, size, last, _ in segments)
    return LogChunk(b"".join(parts), at, ended)


def live_log(path: Path, offset: int, limit: int, *, ended: bool) -> LogChunk:
    """Part of the log in the spool."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(limit)
            end = ended and offset + len(data) >= os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return LogChunk(b"", offset, ended)
    return LogChunk(data, offset + len(data), end)
