"""Uploads that go on in the background: a program of its own session that looks at a folder and sends what changed to a
task, until the task has ended or somebody stops it.

All that is known of one stands in a file below the client's state folder; it holds a lock on it as long as it lives, so
nobody takes a dead one for alive, nor another process for it.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TextIO

from osmo_ray.cli.command import Command, print_json, table
from osmo_ray.cli.inside.naming import task_of
from osmo_ray.cli.inside.rsync import copy
from osmo_ray.sdk.client import Client
from osmo_ray.sdk.errors import ClientError

_LOOK, _LOOK_SHARE = 1.0, 20
"""Seconds between two looks at the folder; and it takes one part of so many of the time at most."""
_ASK, _PATIENCE = 5.0, 600.0
"""Seconds between two questions for the task, and for how long a silent platform is asked."""
_FORGET = 7 * 86400.0
_STOP_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class Sync:
    """One upload that goes on. Times in seconds since the epoch; `state` is waiting, copying, watching or ended."""

    url: str
    workflow: str
    task: str
    local: str
    remote: str
    options: tuple[str, ...] = ()
    state: str = "waiting"
    copies: int = 0
    last: float = 0.0
    error: str = ""
    pid: int = 0
    changed: float = field(default_factory=time.time)

    @property
    def file(self) -> Path:
        name = hashlib.sha256("\0".join((self.url, self.workflow, self.task, self.local, self.remote)).encode())
        return folder() / f"{name.hexdigest()[:16]}.json"


def folder() -> Path:
    """Where these files are; made when missing, for their owner alone."""
    named, base = os.environ.get("OSMO_LOG_FILE_DIR"), os.environ.get("XDG_STATE_HOME")
    place = Path(named) if named else (Path(base) if base else Path.home() / ".local/state") / "osmo"
    (place / "rsync").mkdir(parents=True, exist_ok=True, mode=0o700)
    return place / "rsync"


def known() -> Iterator[tuple[Sync, bool]]:
    """Every upload that was begun here, and whether it goes on. Old ones that ended are forgotten."""
    for file in sorted(folder().glob("*.json")):
        try:
            value = json.loads(file.read_text())
            sync = Sync(**{**value, "options": tuple(value["options"])})
        except (OSError, ValueError, TypeError, KeyError):
            continue
        lives = _locked(file)
        if not lives and sync.changed < time.time() - _FORGET:
            for one in (file, file.with_suffix(".lock"), file.with_suffix(".log")):
                one.unlink(missing_ok=True)
            continue
        yield sync, lives


def _locked(file: Path) -> bool:
    try:
        with file.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def save(sync: Sync) -> None:
    fresh = sync.file.with_suffix(f".new{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(asdict(sync), file)
    fresh.replace(sync.file)


def begin(sync: Sync) -> bool:
    """Start it, unless the same one goes on already."""
    if _locked(sync.file):
        return False
    save(sync)
    with sync.file.with_suffix(".log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-P", "-m", "osmo_ray.cli.inside.background", str(sync.file)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
            env={**os.environ, "OSMO_URL": sync.url},
        )  # fmt: skip
    return True


# --- the program in the background -----------------------------------------------------------------------------------


class Stop(Exception):
    """Somebody wants it to end."""


def main(file: Path) -> int:
    """Its whole life."""
    value = json.loads(file.read_text())
    with file.with_suffix(".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        signal.signal(signal.SIGTERM, _stop)
        keeper = Keeper(Sync(**{**value, "options": tuple(value["options"]), "pid": os.getpid()}))
        try:
            keeper.run()
        except Stop:
            keeper.tell(state="ended", error="stopped")
    return 0


def _stop(*_: object) -> None:
    raise Stop


class Keeper:
    """Looks, sends, asks whether the task still runs."""

    def __init__(self, sync: Sync) -> None:
        self.sync = sync
        self.sent = ""
        self.seen = ""
        self.pause = _LOOK
        self._ask_at = 0.0
        self._heard = time.monotonic()
        self._runs = False

    def tell(self, **news: object) -> None:
        self.sync = replace(self.sync, changed=time.time(), **news)  # type: ignore[arg-type]
        save(self.sync)

    def run(self) -> None:
        self.tell(state="waiting")
        while self.goes_on():
            now = self.look()
            if self._runs and now != self.sent and now == self.seen:
                self.send(now)
            self.seen = now
            time.sleep(self.pause)
        self.tell(state="ended")

    def look(self) -> str:
        """What the folder is like: names, sizes and times of change."""
        begun = time.monotonic()
        found = signature(Path(self.sync.local))
        self.pause = max(_LOOK, (time.monotonic() - begun) * _LOOK_SHARE)
        return found

    def send(self, now: str) -> None:
        self.tell(state="copying")
        code = copy(self.sync.workflow, self.sync.task, self.sync.local, self.sync.remote, self.sync.options)
        if code == 0:
            self.sent = now
            self.tell(state="watching", copies=self.sync.copies + 1, last=time.time(), error="")
        else:
            self.seen = ""  # once more, after another look
            self.tell(state="watching", error=f"rsync ended with {code}; trying again")

    def goes_on(self) -> bool:
        """Whether the task has not ended, asked now and then."""
        if time.monotonic() < self._ask_at:
            return True
        self._ask_at = time.monotonic() + _ASK
        try:
            with Client() as client:
                found = client.http.json("GET", f"/api/workflow/{self.sync.workflow}/task/{self.sync.task}")
        except ClientError as error:
            gone = 0 < error.status < 500 and error.status not in (408, 425, 429)
            if gone or time.monotonic() - self._heard > _PATIENCE:
                self.tell(error=str(error))
                return False
            return True
        self._heard = time.monotonic()
        status = str(found["status"])
        self._runs = status == "RUNNING"
        return not status.startswith(("COMPLETED", "FAILED"))


def signature(root: Path) -> str:
    """One text that differs when a file below `root` does, by name, size, mode or time of change."""
    digest = hashlib.sha256()

    def note(path: str, info: os.stat_result) -> None:
        digest.update(f"{path}\0{info.st_size}\0{info.st_mtime_ns}\0{info.st_mode}\n".encode(errors="surrogateescape"))

    try:
        note(str(root), root.stat())
    except OSError as error:
        return f"unreadable {error.errno}"
    for place, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            path = f"{place}/{name}"
            try:
                note(path, os.lstat(path))
            except OSError:
                continue
    return digest.hexdigest()


# --- verbs -----------------------------------------------------------------------------------------------------------


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id", nargs="?", default="", help="only those to this workflow")


def _status(args: argparse.Namespace) -> int:
    found = [(s, lives) for s, lives in known() if args.workflow_id in ("", s.workflow)]
    if args.format_type == "json":
        print_json(
            {"syncs": [{**asdict(s), "alive": lives, "log": str(s.file.with_suffix(".log"))} for s, lives in found]}
        )
        return 0
    if not found:
        print("no uploads in the background", file=sys.stderr)
        return 0
    rows = [
        [s.workflow, s.task, s.state if lives else "ended", str(s.copies), _when(s.last), s.local, s.remote, s.error]
        for s, lives in found
    ]
    print(table(["Workflow", "Task", "State", "Copies", "Last", "Local", "Remote", "Error"], rows))
    return 0


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)) if at else ""


def _stop_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workflow_id", nargs="?", default="", help="those to this workflow")
    parser.add_argument("task", nargs="?", default="", help="only those to this task")
    parser.add_argument("--all", action="store_true", help="all of this host")


def _stop_verb(args: argparse.Namespace) -> int:
    if not args.workflow_id and not args.all:
        print("osmo: name a workflow, or --all", file=sys.stderr)
        return 2
    workflow, _, task = args.workflow_id.partition("/")
    stopped = 0
    for sync, lives in known():
        if lives and workflow in ("", sync.workflow) and (args.task or task) in ("", sync.task):
            _end(sync)
            stopped += 1
            print(f"{sync.workflow}/{sync.task}: stopped ({sync.local} -> {sync.remote})")
    if not stopped:
        print("nothing of that goes on", file=sys.stderr)
    return 0


def _end(sync: Sync) -> None:
    """Its lock was seen held, so the pid is its own; wait until it has let go."""
    if sync.pid:
        os.kill(sync.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_LIMIT
    while _locked(sync.file) and time.monotonic() < deadline:
        time.sleep(0.05)


def after_submit(client: Client, workflow: str, path: str, out: TextIO) -> None:
    """What `submit --rsync LOCAL:REMOTE` does once there is a workflow. Raises `ClientError`."""
    local, _, remote = path.partition(":")
    if not Path(local).exists():
        raise ClientError(f"{local}: no such file or folder to upload", status=400, code="USAGE")
    _, task = task_of(client, workflow)
    begin(Sync(client.login.url, workflow, task, absolute(local), remote))
    print(f"Uploading {local} to {workflow}/{task}:{remote or '.'} until it ends; osmo workflow rsync status", file=out)


def absolute(local: str) -> str:
    """The same path from anywhere; a slash at its end says `what is in it` to rsync and is kept."""
    return str(Path(local).absolute()) + "/" * (local.endswith("/") and local != "/")


STATUS = Command(_status_arguments, _status)
STOP = Command(_stop_arguments, _stop_verb, json=False)

if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
