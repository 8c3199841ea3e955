"""The spool: a folder per host in which everything about attempts stands, so that nobody's death loses any of it.

<root>/attempts/<task uuid>-<retry>/     made once (mkdir), gone when the store has settled the attempt
    status        a line of JSON with the plan and what the host gave it, without which the folder does not count; then
                  one observation per line, of which the last whole one is the state
    secrets.json  what of its user's credentials the attempt gets, if any; gone with its end
    claim         pid, start time and boot of the one supervisor
    orders.json   replaced by renaming, a signal says look again
    log           the stamped log
    in/ out/      data; fs/ is the private file system
<root>/epoch      the highest epoch heard
<root>/lease      until when a controller vouches for this host (boot clock)
<root>/graves/    hourly files of deleted groups and settled attempts, kept for a day
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osmo_ray.runtime import codec
from osmo_ray.runtime.codec import Job, Orders
from osmo_ray.runtime.process import Identity
from osmo_ray.spec.attempt import AttemptKey, AttemptPlan, Observation, Phase, Secrets

DAY = 86400.0
FINAL = (Phase.FINISHED, Phase.LOST)


def replace_file(path: Path, text: str, *, durable: bool = False) -> None:
    """The old or the new contents, never a part. `durable` also survives a power cut."""
    other = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(other, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    other.replace(path)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def read_json(path: Path) -> dict[str, Any] | None:
    """The file's object, or None when there is no such file."""
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None


def boot_clock() -> float:
    """Seconds since boot, sleep included: the same for all processes, and no administrator can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


_SPENT = ("hold", "fs", "in", "out", "files", "secrets.json", "hosts", "resolv.conf", "hostname")
"""Parts of an attempt's folder that nobody reads after its end."""
_KEPT = ("status", "claim", "log")
"""What is left then."""


@dataclass(frozen=True, slots=True)
class Folder:
    """One attempt's folder."""

    path: Path

    @property
    def key(self) -> AttemptKey:
        return AttemptKey.parse(self.path.name)

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def data_in(self) -> Path:
        return self.path / "in"

    @property
    def data_out(self) -> Path:
        return self.path / "out"

    @property
    def private(self) -> Path:
        """Everything the command itself may write, except its output."""
        return self.path / "fs"

    def job(self) -> Job | None:
        """The accepted job, or None when the host died while taking it."""
        try:
            with (self.path / "status").open("rb") as file:
                line = file.readline()
        except FileNotFoundError:
            return None
        if not line.endswith(b"\n"):
            return None
        job, secrets = codec.job_from_json(json.loads(line)), read_json(self.path / "secrets.json")
        if secrets is None:
            return job
        return replace(job, plan=replace(job.plan, secrets=codec.secrets_from_json(secrets)))

    def orders(self, plan: AttemptPlan) -> Orders:
        """The newest orders; before any were given, those that its plan holds."""
        value = read_json(self.path / "orders.json")
        return Orders().updated(plan) if value is None else codec.orders_from_json(value)

    def order(self, orders: Orders) -> None:
        """Replace the orders; the caller then signals the supervisor."""
        replace_file(self.path / "orders.json", json.dumps(codec.orders_to_json(orders)))

    def mode(self, job: Job) -> str:
        """How the attempt really runs: a container that could not be had may have become a process."""
        try:
            return (self.path / "mode").read_text()
        except FileNotFoundError:
            return job.mode

    def claim(self, who: Identity) -> bool:
        """Become this attempt's one supervisor; False when there has been one before."""
        mine = self.path / f".claim.{who.pid}"
        mine.write_text(json.dumps(who.to_json()))
        try:
            os.link(mine, self.path / "claim")
        except FileExistsError:
            return False
        finally:
            mine.unlink()
        return True

    def claimed(self) -> Identity | None:
        """Who supervises or has supervised this attempt."""
        value = read_json(self.path / "claim")
        return None if value is None else Identity.from_json(value)

    def report(self, seen: Observation) -> None:
        """Append an observation; a final one is on disk before this returns."""
        line = _line(codec.observation_to_json(seen))
        fd = os.open(self.path / "status", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
            if seen.phase in FINAL:
                os.fdatasync(fd)
        finally:
            os.close(fd)

    def begin(self, job: Job, seen: Observation) -> int:
        """Write the job and its first observation; where to go on reading."""
        data = _line(codec.job_to_json(job)) + _line(codec.observation_to_json(seen))
        fd = os.open(self.path / "status", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            written = os.write(fd, data)
        finally:
            os.close(fd)
        if written < len(data):
            raise OSError(errno.ENOSPC, "the disk is full", str(self.path))
        return written

    def observations(self, node: str, offset: int = 0) -> tuple[list[Observation], int]:
        """The whole observations from byte `offset` on, and where to go on."""
        try:
            fd = os.open(self.path / "status", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return [], offset
        try:
            data = os.pread(fd, max(os.fstat(fd).st_size - offset, 0), offset)
        finally:
            os.close(fd)
        lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
        told = lines if offset else lines[1:]
        seen = [codec.observation_from_json(json.loads(line), self.key, node) for line in told]
        return seen, offset + sum(map(len, lines))

    def remove_spent(self) -> None:
        """Take away what only the command needed, whatever modes it left there."""
        for name in _SPENT:
            if (path := self.path / name).is_dir():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take the folder away. Without `status` it does not count, so that goes first."""
        for name in _KEPT:
            (self.path / name).unlink(missing_ok=True)
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # it is not empty: a rare file, or its supervisor has not tidied up yet
            self._remove_all()

    def _remove_all(self) -> None:
        aside = self.path.with_name(f".gone-{self.path.name}")
        try:
            self.path.rename(aside)
        except FileNotFoundError:
            return
        with os.scandir(aside) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(Path(entry.path))
                else:
                    Path(entry.path).unlink()
        aside.rmdir()


def remove_tree(path: Path) -> None:
    """rmtree that first opens folders whose mode forbids it. Follows no link."""

    def retry(function: Callable[..., Any], name: str, info: Any) -> None:
        if isinstance(info[1], FileNotFoundError):
            return
        for folder in (Path(name).parent, Path(name)):
            if stat.S_ISDIR(folder.lstat().st_mode):
                folder.chmod(0o700)
        if Path(name).is_dir() and not Path(name).is_symlink():
            shutil.rmtree(name, ignore_errors=True)
        else:
            Path(name).unlink(missing_ok=True)

    shutil.rmtree(path, onerror=retry)


class Spool:
    """The folder of one host."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.attempts = root / "attempts"

    def prepare(self) -> None:
        """Make the folders; only this user may look inside."""
        for path in (self.root, self.attempts, self.root / "graves"):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o700)

    def folder(self, key: AttemptKey) -> Folder:
        return Folder(self.attempts / str(key))

    def folders(self) -> Iterator[Folder]:
        """Every attempt's folder, whole or not."""
        for path in sorted(self.attempts.iterdir()):
            if not path.name.startswith("."):
                yield Folder(path)

    def accept(self, job: Job, seen: Observation) -> tuple[Folder, int] | None:
        """Take an attempt: its folder, and how far its status is known; None when it is here already. After a crash
        half-way the folder holds no whole job, and the next start removes it."""
        folder = self.folder(job.plan.key)
        try:
            folder.path.mkdir(mode=0o700)
        except FileExistsError:
            return None
        try:
            if job.plan.secrets != Secrets():
                replace_file(folder.path / "secrets.json", json.dumps(codec.secrets_to_json(job.plan.secrets)))
            return folder, folder.begin(job, seen)
        except OSError:  # half of an attempt would keep the whole one out
            remove_tree(folder.path)
            raise

    def sweep(self) -> None:
        """Remove what a crash left: folders never accepted, and those half removed."""
        for path in list(self.attempts.iterdir()):
            if path.name.startswith(".") or Folder(path).job() is None:
                remove_tree(path)
        for path in (self.root / "graves").iterdir():
            if path.stat().st_mtime < time.time() - DAY:
                path.unlink()

    # --- the epoch -------------------------------------------------------------------------------------------

    def epoch(self) -> int:
        try:
            return int((self.root / "epoch").read_text())
        except FileNotFoundError:
            return -1

    def raise_epoch(self, epoch: int) -> None:
        replace_file(self.root / "epoch", str(epoch), durable=True)

    # --- the lease -------------------------------------------------------------------------------------------

    def renew(self, ttl: float) -> None:
        """Vouch for this host for `ttl` seconds from now."""
        replace_file(self.root / "lease", f"{boot_clock() + ttl:.3f}")

    def lease_left(self) -> float:
        """Seconds until the lease ends, negative after it; infinite when nobody ever gave one."""
        try:
            return float((self.root / "lease").read_text()) - boot_clock()
        except FileNotFoundError:
            return float("inf")

    # --- graves: what must not come back ---------------------------------------------------------------------

    def bury(self, kind: str, names: list[str]) -> None:
        """Remember deleted groups (`g`) or settled attempts (`k`) for a day."""
        path = self.root / "graves" / str(int(time.time() // 3600))
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, "".join(f"{kind} {name}\n" for name in names).encode())
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def buried(self) -> set[str]:
        """Everything buried, as `g <uuid>` and `k <key>`."""
        found: set[str] = set()
        for path in (self.root / "graves").iterdir():
            found.update(path.read_text().splitlines())
        return found
