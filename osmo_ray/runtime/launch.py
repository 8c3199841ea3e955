"""Start one command: its namespaces, its first process, and word of how it ended.

    supervisor -> helper (enters the namespaces, then goes) -> init (first process inside) -> command

Init mounts the file system, starts the command, waits for everything below it and tells the end through a pipe.
When the supervisor dies init dies, and with it the whole pid namespace; without namespaces init ends its tree itself.
Nothing here starts an interpreter: all are forks of the supervisor.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from osmo_ray.runtime import network
from osmo_ray.runtime import syscalls as sys
from osmo_ray.runtime.network import Network
from osmo_ray.runtime.process import kill_tree, send
from osmo_ray.runtime.sandbox import Sandbox

_PATIENCE = 8
_RESET = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD, signal.SIGPIPE)


@dataclass(frozen=True, slots=True)
class Start:
    """What to start. `output` is the file both streams go to; `cgroup` are open `cgroup.procs` files."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str
    output: int
    sandbox: Sandbox | None = None
    net: Network | None = None
    net_fd: int = -1
    user_fd: int | None = None
    address: str = ""
    hostname: str = ""
    generation: int = 0
    cgroup: tuple[int, ...] = ()
    patient: bool = False
    """What the command leaves running gets a while to end by itself: an engine's clean-up."""


@dataclass(frozen=True, slots=True)
class Running:
    """`init` is its pid on the host; `status` gives one JSON object when all is over; `gate` stays open as long as
    the supervisor lives."""

    init: int
    status: int
    gate: int

    def terminate(self) -> None:
        send(self.init, signal.SIGTERM)

    def kill(self) -> None:
        """End the whole tree. The caller is its subreaper, so what escapes init lands here."""
        kill_tree(self.init)
        send(self.init, signal.SIGKILL)

    def close(self) -> None:
        for fd in (self.status, self.gate):
            os.close(fd)


def start(what: Start) -> Running:
    """Start it; how it went is told through `status`: `{"exit": n}`, `{"signal": n}` or `{"error": ...}`."""
    status_in, status_out = os.pipe()
    gate_in, gate_out = os.pipe()

    def init() -> NoReturn:
        os.close(gate_out)
        os.close(status_in)
        _init(what, gate_in, status_out)

    pid = _fork(init) if what.sandbox is None else _enter_and_fork(what, status_out, init)
    os.close(status_out)
    os.close(gate_in)
    os.write(gate_out, b"g")
    return Running(pid, status_in, gate_out)


def _fork(run: Callable[[], NoReturn]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        run()
    finally:
        os._exit(70)


def _enter_and_fork(what: Start, status: int, init: Callable[[], NoReturn]) -> int:
    """The helper enters the namespaces, forks init and goes; init is then this process's child (a subreaper's)."""
    told_in, told_out = os.pipe()

    def helper() -> NoReturn:
        try:
            _enter(what)
            os.write(told_out, str(_fork(init)).encode())
        except OSError as error:
            _tell(status, {"error": "sandbox", "message": str(error), "errno": error.errno})
        os._exit(0)

    pid = _fork(helper)
    os.close(told_out)
    told = os.read(told_in, 32)
    os.close(told_in)
    os.waitpid(pid, 0)
    return int(told) if told else 0


def hold_network(what: Start) -> int:
    """A child that keeps a network namespace with the attempt's address, for a container engine to put its container
    into; it dies with this process. Returns its pid, when the network is there; OSError when it cannot be had."""
    told_in, told_out = os.pipe()

    def hold() -> NoReturn:
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            sys.unshare(sys.CLONE_NEWNET)
            if what.net is not None:
                network.join(what.net, what.net_fd, what.address, generation=what.generation)
            os.write(told_out, b"y")
        except OSError as error:
            os.write(told_out, str(error).encode())
        os.close(told_out)
        while True:
            signal.pause()

    pid = _fork(hold)
    os.close(told_out)
    told = os.read(told_in, 4096)
    os.close(told_in)
    if told != b"y":
        send(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise OSError(errno.ENONET, told.decode(errors="replace"))
    return pid


def _enter(what: Start) -> None:
    if what.user_fd is not None:
        sys.setns(what.user_fd, sys.CLONE_NEWUSER)
    flags = sys.CLONE_NEWNS | sys.CLONE_NEWUTS | sys.CLONE_NEWIPC | sys.CLONE_NEWPID
    if what.address:
        sys.unshare(flags | sys.CLONE_NEWNET)
        if what.net is None:
            raise OSError(errno.ENONET, "the node has no network for tasks")
        network.join(what.net, what.net_fd, what.address, generation=what.generation)
    else:
        sys.unshare(flags)
    sys.set_hostname(what.hostname)


# --- init ------------------------------------------------------------------------------------------------------------


def _init(what: Start, gate: int, status: int) -> NoReturn:
    forward = _Forward()
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.read(gate, 1)
    _die_with_supervisor(gate, inside=what.sandbox is not None)
    sys.name_process("osmo-init")
    try:
        if what.sandbox is not None:
            what.sandbox.enter()
        error_in, error_out = os.pipe()
        main = _fork(lambda: _command(what, error_out))
        os.close(error_out)
        failure = os.read(error_in, 4096)
    except Exception as error:
        _tell(status, {"error": "sandbox", "message": str(error), "errno": getattr(error, "errno", None)})
        os._exit(0)
    if failure:
        os.write(status, failure)
        os._exit(0)
    os.close(what.output)
    forward.ready(main)
    _wait_for_all(main, status, inside=what.sandbox is not None, patient=what.patient)


class _Forward:
    """Init's handler of TERM: to the command's process group, once there is one; until then it is kept."""

    def __init__(self) -> None:
        self.group = 0
        self.kept = False

    def __call__(self, number: int, _: object) -> None:
        self.kept = True
        if self.group:
            self._send()

    def ready(self, group: int) -> None:
        """The command has begun, so its group is there."""
        self.group = group
        if self.kept:
            self._send()

    def _send(self) -> None:
        try:
            os.killpg(self.group, signal.SIGTERM)
        except ProcessLookupError:
            pass


def _die_with_supervisor(gate: int, *, inside: bool) -> None:
    """Set only now, when the helper has gone: the signal comes at the death of whoever is the parent then."""
    sys.prctl(sys.PR_SET_CHILD_SUBREAPER, 1)
    if inside:
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        signal.signal(signal.SIGUSR2, lambda *_: _end_own_tree())
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGUSR2)
    watch = select.poll()
    watch.register(gate, 0)
    if any(event & select.POLLHUP for _, event in watch.poll(0)):
        os._exit(0)


def _end_own_tree() -> None:
    kill_tree(os.getpid())
    os._exit(0)


def _wait_for_all(main: int, status: int, *, inside: bool, patient: bool) -> NoReturn:
    """The command's end is the end: what it left running is killed, as a container would."""
    while True:
        pid, result = os.waitpid(-1, 0)
        if pid == main:
            break
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if inside:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            pass
    elif patient:
        signal.signal(signal.SIGALRM, lambda *_: kill_tree(os.getpid()))
        signal.alarm(_PATIENCE)
    else:
        kill_tree(os.getpid())
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    own, used = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    end = {"signal": os.WTERMSIG(result)} if os.WIFSIGNALED(result) else {"exit": os.WEXITSTATUS(result)}
    _tell(status, {**end, "cpu": used.ru_utime + used.ru_stime, "peak": _peak(own, used)})
    os._exit(0)


def _peak(own: resource.struct_rusage, used: resource.struct_rusage) -> int:
    """Bytes of the largest process there was. A fork begins with init's own pages in its account, so less than that
    says nothing."""
    return used.ru_maxrss * 1024 if used.ru_maxrss > own.ru_maxrss else 0


def _tell(status: int, value: Mapping[str, Any]) -> None:
    os.write(status, json.dumps(value).encode())


# --- the command -----------------------------------------------------------------------------------------------------


def _rest(error_out: int) -> NoReturn:
    """No command: keep the sandbox up until it is ended."""
    sys.drop_capabilities()
    os.close(error_out)
    while True:
        signal.pause()


def _command(what: Start, error_out: int) -> NoReturn:
    program = what.argv[0] if what.argv else ""
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDONLY)
        for source, target in ((null, 0), (what.output, 1), (what.output, 2)):
            os.dup2(source, target)
        for fd in what.cgroup:
            os.write(fd, b"0")
        for number in _RESET:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # a worker of Ray has some blocked
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.umask(0o022)
        if not what.argv:
            _rest(error_out)
        if what.sandbox is not None:
            sys.drop_capabilities()
        else:
            sys.prctl(sys.PR_SET_NO_NEW_PRIVS, 1)
        os.chdir(what.cwd)
        os.execvpe(program, what.argv, dict(what.environment))  # noqa: S606 - no shell is the point
    except FileNotFoundError:
        kind = "missing" if not Path(program).exists() else "interpreter"
        _tell(error_out, {"error": kind, "message": program})
    except OSError as error:
        kind = "format" if error.errno == errno.ENOEXEC else "exec"
        _tell(error_out, {"error": kind, "message": f"{program}: {os.strerror(error.errno or 0)}"})
    except Exception as error:
        _tell(error_out, {"error": "exec", "message": str(error)})
    os._exit(0)
