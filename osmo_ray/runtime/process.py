"""Processes by identity: a pid may be another's tomorrow, a pid with its start time and boot may not."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
# Fields of /proc/<pid>/stat after the name, counted from 0.
_STATE, _UTIME, _CSTIME, _STARTED = 0, 11, 14, 19


@cache
def boot_id() -> str:
    """This boot of this host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True, slots=True)
class Identity:
    """One process for ever: pid, start time in clock ticks since boot, boot."""

    pid: int
    started: int
    boot: str

    @staticmethod
    def of(pid: int) -> Identity | None:
        """The process that has this pid now, None if there is none (or only its zombie)."""
        values = _stat(pid)
        if values is None or values[_STATE] in ("Z", "X"):
            return None
        return Identity(pid, int(values[_STARTED]), boot_id())

    @staticmethod
    def mine() -> Identity:
        found = Identity.of(os.getpid())
        if found is None:
            raise RuntimeError("/proc does not show this process; mount proc on /proc")
        return found

    def alive(self) -> bool:
        return self.boot == boot_id() and Identity.of(self.pid) == self

    def signal(self, number: int) -> bool:
        """Send a signal to exactly this process; False when it is gone."""
        try:
            fd = os.pidfd_open(self.pid)
        except (ProcessLookupError, PermissionError):
            return False
        try:
            if not self.alive():
                return False
            signal.pidfd_send_signal(fd, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(fd)
        return True

    def to_json(self) -> dict[str, Any]:
        return {"pid": self.pid, "started": self.started, "boot": self.boot}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Identity:
        return Identity(int(value["pid"]), int(value["started"]), str(value["boot"]))


def _stat(pid: int) -> list[str] | None:
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return data[data.rfind(b")") + 2 :].decode().split()


def children(pid: int) -> list[int]:
    """The children of a process, of all its threads."""
    found: list[int] = []
    try:
        threads = [path.name for path in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return found
    for thread in threads:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
        except OSError:
            continue
    return found


def tree(pid: int) -> list[int]:
    """All descendants of a process, itself not."""
    found: list[int] = []
    waiting = children(pid)
    while waiting:
        one = waiting.pop()
        found.append(one)
        waiting += children(one)
    return found


def kill_tree(pid: int) -> int:
    """KILL all descendants of `pid`, again until none is found (they may be forking); returns how many."""
    killed = 0
    for _ in range(100):
        found = [one for one in tree(pid) if Identity.of(one) is not None]
        if not found:
            break
        for one in found:
            send(one, signal.SIGKILL)
        killed += len(found)
    return killed


def send(pid: int, number: int) -> None:
    """Signal a process that may be gone; 0 and below, which mean groups, are nobody."""
    if pid <= 0:
        return
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


@dataclass(frozen=True, slots=True)
class Sample:
    """What some processes use together: resident bytes of their own, and CPU seconds so far."""

    memory: int
    cpu: float


def sample(pids: Iterable[int]) -> Sample:
    """Add up processes. Pages shared between processes (libraries) are counted once at most."""
    own = shared = 0
    ticks = 0
    for pid in pids:
        values = _stat(pid)
        try:
            _, resident, common, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
        except OSError:
            continue
        if values is None:
            continue
        own += resident - common
        shared = max(shared, common)
        ticks += sum(int(v) for v in values[_UTIME : _CSTIME + 1])
    return Sample((own + shared) * _PAGE, ticks / _TICKS)


def marked(text: str) -> list[int]:
    """Processes whose environment at start held `text` (`NAME=value`): the last way to find a task's orphans."""
    needle = b"\0" + text.encode() + b"\0"
    found = []
    for name in [path.name for path in Path("/proc").iterdir()]:
        if name.isdigit() and int(name) != os.getpid():
            try:
                environment = Path(f"/proc/{name}/environ").read_bytes()
            except OSError:
                continue
            if needle in b"\0" + environment + b"\0":
                found.append(int(name))
    return found
