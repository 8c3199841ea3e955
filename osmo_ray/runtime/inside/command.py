"""A command in the sandbox of an attempt: under a terminal of the sandbox's own, or with three pipes."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import struct
import termios
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from osmo_ray.runtime import container, process
from osmo_ray.runtime import syscalls as sys
from osmo_ray.runtime.inside.frames import EXIT, SIZE, Ask, Kind, clip
from osmo_ray.runtime.inside.pump import Pump, Source
from osmo_ray.runtime.inside.target import Target

_NOT_FOUND, _NOT_RUN = 127, 126
_LAST_WORDS = 0.1
"""Seconds of silence after which nothing more is expected of a command that ended."""
_MOST_LAST_WORDS = 1 << 20
_HANG_UP = 2.0
_UNLOCK, _PEER = 0x40045431, 0x5441
"""TIOCSPTLCK and TIOCGPTPEER, which the standard library does not name."""
_MOST_SIGNALS, _REAL_TIME = 64, 32


def serve(target: Target, ask: Ask, end: socket.socket, mark: Mapping[str, str]) -> None:
    """Run it to its end. `mark` is a variable that everything it starts inherits. Raises OSError and `NotThere` for
    what keeps it from beginning."""
    environment = {**target.environment(), "TERM": ask.term, **mark}
    argv, cwd = ask.argv, target.cwd()
    entrances = target.entrances()
    task = os.pidfd_open(target.init.pid)
    if target.mode == "container":
        target.await_container()
        argv = container.exec_argv(target.job, argv, {"TERM": ask.term, **mark}, tty=ask.tty)
        environment = dict(os.environ)
    elif target.mode == "namespaces":
        target.enter("user", "mnt", "net", "pid", "uts", "ipc")
    ends = _terminal(ask) if ask.tty else _pipes()
    inside = target.mode == "namespaces"
    pid = os.fork()
    if pid == 0:
        _become(ends, argv, environment, cwd, entrances, inside=inside)
    ends.close_theirs()
    found = [f"{name}={value}" for name, value in mark.items()] if target.mode == "container" else [""]
    Running(ends, pid, end, task, found[0]).run()


@dataclass(slots=True)
class Ends:
    """Our ends of the command's files (`master` of a terminal, or pipes) and theirs (0, 1, 2)."""

    theirs: tuple[int, int, int]
    master: int = -1
    write: int = -1
    read: int = -1
    errors: int = -1

    def close_theirs(self) -> None:
        for fd in set(self.theirs):
            os.close(fd)

    def ours(self) -> tuple[int, ...]:
        return tuple(fd for fd in (self.master, self.write, self.read, self.errors) if fd >= 0)


def _terminal(ask: Ask) -> Ends:
    """A terminal of the namespace that we are in, so that its name means something to the command."""
    master = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _UNLOCK, struct.pack("i", 0))
    peer = fcntl.ioctl(master, _PEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    _resize(master, ask.rows, ask.cols)
    return Ends((peer, peer, peer), master=master)


def _resize(master: int, rows: int, cols: int) -> None:
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def _pipes() -> Ends:
    in_read, in_write = os.pipe2(os.O_CLOEXEC)
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    error_read, error_write = os.pipe2(os.O_CLOEXEC)
    return Ends((in_read, out_write, error_write), write=in_write, read=out_read, errors=error_read)


def _become(
    ends: Ends, argv: tuple[str, ...], environment: Mapping[str, str], cwd: str, entrances: tuple[int, ...], *,
    inside: bool,
) -> NoReturn:  # fmt: skip
    """The child: a session of its own, the attempt's limits and rights, then the command."""
    code = _NOT_RUN
    try:
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        if ends.master >= 0:
            fcntl.ioctl(ends.theirs[0], termios.TIOCSCTTY, 0)
        for number, fd in enumerate(ends.theirs):
            os.dup2(fd, number)
        for fd in entrances:
            os.write(fd, b"0")
        for one in range(1, _REAL_TIME):
            if one not in (signal.SIGKILL, signal.SIGSTOP):
                signal.signal(one, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a worker of Ray has some blocked
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(0o022)
        if inside:
            sys.drop_capabilities()
        else:
            sys.prctl(sys.PR_SET_NO_NEW_PRIVS, 1)
        os.chdir(cwd)
        os.execvpe(argv[0], argv, dict(environment))  # noqa: S606 - no shell is the point
    except FileNotFoundError:
        os.write(2, f"osmo: {argv[0]}: there is no such program in this task\r\n".encode())
        code = _NOT_FOUND
    except OSError as error:
        os.write(2, f"osmo: {argv[0]}: {error.strerror}\r\n".encode())
    finally:
        os._exit(code)


@dataclass(slots=True)
class Running:
    """The command and its caller, until one of them or the task has gone."""

    ends: Ends
    pid: int
    end: socket.socket
    task: int
    mark: str
    """How to find the command's processes where an engine runs them, else empty."""
    pump: Pump = field(init=False)
    code: int | None = None

    def run(self) -> None:
        """To the end, which is told if anybody still listens."""
        self.pump = Pump(self.end, self._act)
        self._connect()
        self.pump.say(Kind.STARTED)
        over = os.pidfd_open(self.pid)
        self.pump.bells = {over: self._ended, self.task: self._task_ended}
        self.pump.run(lambda: self.code is not None)
        self.pump.bells = {}
        if self.pump.gone:
            self._hang_up()
            return
        self._last_words()
        self.pump.say(Kind.EXIT, EXIT.pack(self.code if self.code is not None else 0))
        self.pump.flush()

    def _connect(self) -> None:
        for fd in self.ends.ours():
            os.set_blocking(fd, False)
        ends, pump = self.ends, self.pump
        pump.sink = ends.master if ends.master >= 0 else ends.write
        out = ends.master if ends.master >= 0 else ends.read
        pump.sources[out] = Source(out, lambda data: pump.say(Kind.DATA, data), lambda: None)
        if ends.errors >= 0:
            pump.sources[ends.errors] = Source(ends.errors, lambda data: pump.say(Kind.ERRORS, data), lambda: None)

    def _act(self, kind: Kind, body: bytes) -> None:
        if kind is Kind.DATA:
            self.pump.to_sink(body)
        elif kind is Kind.END:
            self._end_of_input()
        elif kind is Kind.RESIZE and self.ends.master >= 0 and len(body) == SIZE.size:
            rows, cols = SIZE.unpack(body)
            _resize(self.ends.master, clip(rows), clip(cols))
        elif kind is Kind.SIGNAL and len(body) == 1 and 0 < body[0] < _MOST_SIGNALS:
            self._signal(body[0])

    def _end_of_input(self) -> None:
        if self.ends.master >= 0:
            self.pump.to_sink(b"\x04")
        else:
            self.pump.end_sink(lambda: os.close(self.ends.write))

    def _signal(self, number: int) -> None:
        """To what is in front on the terminal, or to the command's group."""
        try:
            if self.mark:
                for pid in process.marked(self.mark):
                    process.send(pid, number)
                return
            front = os.tcgetpgrp(self.ends.master) if self.ends.master >= 0 else 0
            os.killpg(front if front > 0 else self.pid, number)
        except OSError:
            return

    def _ended(self) -> None:
        _, status = os.waitpid(self.pid, 0)
        self.code = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def _task_ended(self) -> None:
        """The kernel or the keeper ends what the session runs; here it is only noticed."""
        del self.pump.bells[self.task]
        process.send(self.pid, signal.SIGKILL)

    def _last_words(self) -> None:
        """What the command wrote before its end, without waiting for what it left running."""
        most = self.pump.taken + _MOST_LAST_WORDS
        while self.pump.sources and not self.pump.gone and self.pump.taken < most:
            if self.pump.full:
                self.pump.flush()
            elif not self.pump.step(_LAST_WORDS):
                return

    def _hang_up(self) -> None:
        """As a terminal does whose line is cut; the keeper ends what does not listen."""
        if self.code is not None:
            return
        try:
            os.killpg(self.pid, signal.SIGHUP)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + _HANG_UP
        while time.monotonic() < deadline and os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            time.sleep(0.02)
