"""Folders of a running task, copied to a URL again and again, and once more when its command has ended.

Whoever reads is in the task's own file system with the task's own view: a link that leads elsewhere leads there, not
into the host's files. It hands open files to whoever uploads, who has the keys and the network and sees no path. A file
that has not changed since it was sent is not sent again; what is there at the URL is never removed.
"""

from __future__ import annotations

import array
import json
import os
import re
import signal
import socket
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NoReturn

from osmo_ray.objects.keyed import store_options
from osmo_ray.objects.protocol import ObjectError, ObjectStore
from osmo_ray.runtime import container, process, transfer, work
from osmo_ray.runtime import syscalls as sys
from osmo_ray.runtime.logs import Log
from osmo_ray.runtime.nolinks import opened
from osmo_ray.runtime.place import Place
from osmo_ray.spec.attempt import CheckpointPlan
from osmo_ray.spec.quantity import show_bytes, show_seconds
from osmo_ray.spec.tokens import expand

_WIDTH = 8
_PATIENCE = 60.0
"""Seconds that a launcher may take for the next file."""
_MESSAGE = 64 << 10
READER = "run/reader"
"""The socket at which a launcher hands out open files, below the folder that it shares."""
_ENTER = (("user", sys.CLONE_NEWUSER), ("mnt", sys.CLONE_NEWNS))
_Sent = dict[str, tuple[int, float]]
"""Path below the folder -> size and time of change (ns, of a container s) of what was sent."""


@dataclass(slots=True)
class _Entry:
    """One folder: `due` is when its next upload begins, `pid` the child that uploads now, or 0."""

    number: int
    plan: CheckpointPlan
    due: float
    pid: int = 0


@dataclass(slots=True)
class Checkpoints:
    """Those of one attempt. `step` forks; `last` is for a child, since it takes its time."""

    place: Place
    log: Log
    _entries: list[_Entry] = field(default_factory=list)

    def begin(self) -> None:
        """The command starts: the first uploads are due after their time."""
        self.end()
        now = time.monotonic()
        plans = self.place.job.plan.checkpoints
        self._entries = [_Entry(i, plan, now + plan.frequency) for i, plan in enumerate(plans)]

    def step(self, init: int) -> None:
        """Look after the children, and start what is due. `init` is the first process of the command."""
        for entry in self._entries:
            if entry.pid and os.waitpid(entry.pid, os.WNOHANG)[0]:
                entry.pid, entry.due = 0, time.monotonic() + entry.plan.frequency
            if not entry.pid and time.monotonic() >= entry.due and (self._in_pod or process.children(init)):
                entry.pid = os.fork()
                if entry.pid == 0:
                    self._child(entry, init)

    def end(self) -> None:
        """No child of ours goes on."""
        for entry in self._entries:
            if entry.pid:
                process.send(entry.pid, signal.SIGKILL)
                os.waitpid(entry.pid, 0)
                entry.pid = 0

    def last(self, init: int) -> str:
        """Upload every folder once more; what went wrong, as one sentence, or nothing."""
        entries = [_Entry(i, plan, 0.0) for i, plan in enumerate(self.place.job.plan.checkpoints)]
        return "; ".join(filter(None, (self._upload(entry, init, whole=True) for entry in entries)))

    @property
    def _in_pod(self) -> bool:
        """The command's file system is another container's; its launcher hands out open files."""
        return self.place.job.mode == "pod"

    def _state(self, entry: _Entry) -> Path:
        """What was sent; in a pod nothing that the task can write is believed."""
        folder = Path(tempfile.gettempdir()) if self._in_pod else self.place.folder.path
        return folder / f"checkpoint-{entry.number}.json"

    def _child(self, entry: _Entry, init: int) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGUSR1, signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            self._upload(entry, init)
        finally:
            os._exit(0)

    def _upload(self, entry: _Entry, init: int, *, whole: bool = False) -> str:
        tokens = self.place.tokens({})
        url, path = expand(entry.plan.url, tokens), expand(entry.plan.path, tokens)
        path = path if path.startswith("/") else f"/{path}"
        state = self._state(entry)
        begun = time.monotonic()
        try:
            store = work.open_store(url, **store_options(self.place.job.plan.secrets.data, url))
            sent = _load(state)
            if self.place.job.mode == "container":
                if whole:  # its times may be whole seconds, in which a file can change once more
                    sent = {}
                found = _from_container(self.place, path)
                count, size = _send_one_by_one(store, found, entry.plan.regex, sent)
            elif self._in_pod:
                files = _from_launcher(self.place.folder.path, path, entry.plan.regex, sent)
                count, size = _send_all(store, files, sent)
            else:
                count, size = _send_all(store, _from_folder(init, path, entry.plan.regex, sent), sent)
            state.write_text(json.dumps(sent))
        except (ObjectError, OSError, ValueError, tarfile.TarError) as error:
            told = f"checkpoint of {path} to {url} failed: {error}"
            self.log.say(told)
            return told
        amount = f"{count} file{'s' * (count != 1)}, {show_bytes(size)}"
        self.log.say(f"checkpoint: {amount} of {path} to {url} in {show_seconds(time.monotonic() - begun)}")
        return ""


def _load(state: Path) -> _Sent:
    try:
        return {name: (size, at) for name, (size, at) in json.loads(state.read_text()).items()}
    except (OSError, ValueError):
        return {}


# -- uploading


def _send_all(store: ObjectStore, found: Iterator[tuple[str, int, int, int]], sent: _Sent) -> tuple[int, int]:
    """Upload open files (path, size, time, descriptor), a few at a time. Returns how many and how many bytes."""
    total, count = 0, 0
    running: list[tuple[str, int, int, Future[int]]] = []
    with ThreadPoolExecutor(_WIDTH) as pool:
        for path, size, at, fd in found:
            running.append((path, size, at, pool.submit(_put, store, path, fd)))
            if len(running) >= 2 * _WIDTH:
                total, count = total + _settle(running.pop(0), sent), count + 1
        for one in running:
            total, count = total + _settle(one, sent), count + 1
    return count, total


def _settle(one: tuple[str, int, int, Future[int]], sent: _Sent) -> int:
    path, size, at, done = one
    done.result()
    sent[path] = (size, at)
    return size


def _put(store: ObjectStore, path: str, fd: int) -> int:
    with os.fdopen(fd, "rb") as source:
        return _write(store, path, source)


def _write(store: ObjectStore, path: str, source: BinaryIO) -> int:
    def again() -> int:
        source.seek(0)
        return store.write(transfer.key_of(path), source)

    return transfer.retrying(again)


def _send_one_by_one(
    store: ObjectStore, found: Iterator[tuple[str, tarfile.TarInfo, BinaryIO]], regex: str, sent: _Sent
) -> tuple[int, int]:
    match = re.compile(regex).match if regex else None
    count = size = 0
    for path, info, source in found:
        mark = (info.size, info.mtime)
        if (match is not None and not match(path)) or sent.get(path) == mark:
            continue
        store.write(transfer.key_of(path), source)
        sent[path], count, size = mark, count + 1, size + info.size
    return count, size


# -- reading


def _from_container(place: Place, path: str) -> Iterator[tuple[str, tarfile.TarInfo, BinaryIO]]:
    """Regular files of a folder in the attempt's container, running or not, by the engine's own copy."""
    job = place.job
    name = container.container_name(str(job.plan.key))
    argv = [job.engine, *job.engine_global, "cp", f"{name}:{path}/.", "-"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as copy:
        assert copy.stdout is not None
        assert copy.stderr is not None
        try:
            with tarfile.open(fileobj=copy.stdout, mode="r|") as archive:
                for info in archive:
                    inner = os.path.normpath(info.name).lstrip("/")
                    source = archive.extractfile(info) if info.isreg() else None
                    if source is not None and not inner.startswith(".."):
                        yield inner, info, source  # type: ignore[misc]
        except tarfile.ReadError:
            if copy.poll() in (None, 0):
                raise
        told = copy.stderr.read().decode(errors="replace").strip()
        if copy.wait():
            raise OSError(told.splitlines()[-1][:300] if told else f"{job.engine} cp gave {copy.returncode}")


def _from_folder(init: int, path: str, regex: str, sent: _Sent) -> Iterator[tuple[str, int, int, int]]:
    """Regular files below `path` as the process `init` sees it, opened: path, size, time of change, descriptor."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        ours.close()
        _read(theirs, init, path, regex, sent)
    theirs.close()
    try:
        while True:
            data, fds = _receive(ours)
            value = json.loads(data) if data else {"error": "whoever read the folder was killed"}
            if "error" in value:
                raise OSError(value["error"])
            if "end" in value:
                return
            yield str(value["path"]), int(value["size"]), int(value["at"]), fds[0]
    finally:
        ours.close()
        process.send(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _from_launcher(shared: Path, path: str, regex: str, sent: _Sent) -> Iterator[tuple[str, int, int, int]]:
    """The same of another container's file system. Whoever answers may be the task, so nothing is taken on trust."""
    match = re.compile(regex).match if regex else None
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
        link.settimeout(_PATIENCE)
        door = opened(shared, READER, os.O_PATH)
        try:
            link.connect(f"/proc/self/fd/{door}")
        finally:
            os.close(door)
        link.send(path.encode())
        while True:
            data, fds = _receive(link)
            value = _said(data)
            if "error" in value:
                raise OSError(str(value["error"])[:300])
            if "end" in value:
                return
            name, info = str(value.get("path")), os.fstat(fds[0]) if fds else None
            if info is None or not stat.S_ISREG(info.st_mode):
                raise OSError(f"{path}: the task handed out something that is no file")
            inner = os.path.normpath(name) == name and not name.startswith(("/", ".."))
            if not inner or (match and not match(name)) or sent.get(name) == (info.st_size, info.st_mtime_ns):
                os.close(fds[0])
            else:
                yield name, info.st_size, info.st_mtime_ns, fds[0]


def _said(data: bytes) -> dict[str, object]:
    if not data:
        raise OSError("whoever reads the folder has gone")
    value = json.loads(data)
    if not isinstance(value, dict):
        raise OSError("whoever reads the folder speaks another language")
    return value


def _receive(link: socket.socket) -> tuple[bytes, Sequence[int]]:
    data, extra, _, _ = link.recvmsg(_MESSAGE, socket.CMSG_SPACE(4))
    fds = array.array("i")
    for level, kind, body in extra:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(body[: len(body) - len(body) % fds.itemsize])
    return data, fds


def _read(link: socket.socket, init: int, path: str, regex: str, sent: _Sent) -> NoReturn:
    """The reader's whole life. It enters first, and only then touches a path."""

    def tell(value: dict[str, object], fd: int = -1) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
        link.sendmsg([json.dumps(value).encode()], rights)

    try:
        _enter(init)
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        match = re.compile(regex).match if regex else None
        for name, info, fd in _walk(top, "", lambda n: match is None or bool(match(n))):
            if sent.get(name) != (info.st_size, info.st_mtime_ns):
                tell({"path": name, "size": info.st_size, "at": info.st_mtime_ns}, fd)
            os.close(fd)
        tell({"end": True})
    except Exception as error:
        told = f"{path}: {error.strerror}" if isinstance(error, OSError) and error.strerror else str(error)
        tell({"error": told})
    finally:
        os._exit(0)


def _enter(init: int) -> None:
    """Into the file system that `init` has, where that is another than ours."""
    kinds = [(kind, f"/proc/{init}/ns/{name}", f"/proc/self/ns/{name}") for name, kind in _ENTER]
    other = [(kind, theirs) for kind, theirs, mine in kinds if not Path(theirs).samefile(mine)]
    spaces = [(kind, os.open(theirs, os.O_RDONLY | os.O_CLOEXEC)) for kind, theirs in other]
    for kind, fd in spaces:
        sys.setns(fd, kind)
        os.close(fd)


def _walk(folder: int, prefix: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, os.stat_result, int]]:
    """Regular files below an open folder; links are not followed, what goes away meanwhile is passed over."""
    for name in sorted(os.listdir(folder)):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            continue
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            yield from _walk(fd, f"{prefix}{name}/", wanted)
            os.close(fd)
        elif stat.S_ISREG(info.st_mode) and wanted(prefix + name):
            yield prefix + name, info, fd
        else:
            os.close(fd)
