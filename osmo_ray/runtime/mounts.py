"""Datasets that are mounted for a task instead of fetched: nothing of them comes before it is read.

A process of the supervisor's, outside the task's sandbox, serves each version by FUSE in the attempt's input folder;
the sandbox or the container shows that folder. What may happen to it is told, and hangs nobody:

* it dies: the kernel answers every read with an error at once, and the supervisor ends the task with a reason;
* the supervisor dies: the kernel ends this process too, which takes its mount away; so does whoever proves the death;
* the task is ended while it waits for a store that does not answer: this process is ended, and the wait with it.

Where nothing can be mounted the input is fetched as any other, and the log says why.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from osmo_ray.runtime import process, reasons, work
from osmo_ray.runtime import syscalls as sys
from osmo_ray.spec.attempt import DatasetPlan
from osmo_ray.spec.reason import Reason

if TYPE_CHECKING:
    from osmo_ray.runtime.codec import Job
    from osmo_ray.runtime.supervisor import Supervisor

_READY_LIMIT, _END_LIMIT = 120.0, 2.0
_SENTENCES = 20
"""Reads that failed of which one mount tells; a task may try many times."""


def refused(job: Job) -> str:
    """Why a task that runs like this gets no mounts, in a sentence; empty if it may."""
    if job.mode == "pod":
        return "a pod has no right to mount"
    if job.mode == "container" and (job.engine != "podman" or os.geteuid() != 0):
        return "containers see mounts of this node under root's podman only"
    from osmo_ray.objects.datasets import mounting

    return mounting.lacking()


def release(folder: Path) -> None:
    """Take away what is mounted below a folder, be it alive or not."""
    inside = os.path.realpath(folder) + "/"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        at = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), line.split(" ")[4])
        if at.startswith(inside):
            unmount(at)


def unmount(target: str) -> None:
    """Now or when its last user goes; nothing if it is not mounted."""
    if os.geteuid() == 0:
        with suppress(OSError):
            sys.umount(target)
    elif helper := shutil.which("fusermount3"):
        subprocess.run([helper, "-u", "-z", "-q", target], capture_output=True, check=False, timeout=30)


@dataclass(slots=True)
class _Mounted:
    """One version and the process that serves it; `pid` is 0 when none does."""

    number: int
    place: int
    wanted: DatasetPlan
    regex: str
    target: Path
    pid: int = 0
    pipe: int = -1
    ready: bool = False
    failed: str = ""
    rest: bytes = b""


class Mounts:
    """Those of one attempt. Used by the supervisor's one thread."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.sup = supervisor
        self._all: list[_Mounted] = []
        self.broken: Reason | None = None
        """Why the command cannot go on."""

    def first(self, asked: list[list[int]]) -> None:
        """Mount what `work.fetch` left to be mounted, (input, dataset) each; what cannot be is fetched instead."""
        for number, place in asked:
            wanted = self.sup.plan.inputs[number]
            one = wanted.datasets[place]
            target = self.sup.folder.data_in / str(number) / one.name
            mounted = _Mounted(number, place, one, wanted.regex, target)
            begun = time.monotonic()
            if self._begin(mounted):
                self._all.append(mounted)
                took = f"mounted in {time.monotonic() - begun:.1f}s, to be fetched as it is read"
                self.sup.log.say(f"input {number}: {one} {took}")
            else:
                self.sup.log.say(work.not_mounted(number, one, mounted.failed))
                self._fetch(mounted)

    def begin(self) -> None:
        """All of them are there, before a command starts. Raises RuntimeFailure."""
        for one in self._all:
            if not one.pid and not self._begin(one):
                raise reasons.mount_failed(str(one.wanted), one.failed)
        self.broken = None

    def end(self) -> None:
        """None of them is there any more, and nobody waits for one."""
        for one in self._all:
            if one.pid:
                process.send(one.pid, signal.SIGTERM)
        until = time.monotonic() + _END_LIMIT
        for one in self._all:
            while one.pid and not _gone(one.pid) and time.monotonic() < until:
                time.sleep(0.01)
            self._close(one)

    def look(self) -> None:
        """See whether one has died; `broken` says so then."""
        for one in self._all:
            if one.pid and _gone(one.pid):
                self._died(one)

    # --- one of them ---------------------------------------------------------------------------------------------

    def _begin(self, one: _Mounted) -> bool:
        """Start its process and wait until the files are there; `failed` says why they are not."""
        told_in, told_out = os.pipe2(os.O_CLOEXEC)
        one.ready, one.failed, one.rest = False, "", b""
        one.pid = os.fork()
        if one.pid == 0:
            _serve(self.sup, one, told_out)
        os.close(told_out)
        os.set_blocking(told_in, False)
        one.pipe = told_in
        self.sup.watch(told_in, lambda: self._read(one))
        try:
            self.sup.pump(lambda: one.ready or one.pipe < 0, time.monotonic() + _READY_LIMIT)
        except BaseException:
            self._close(one)
            raise
        if not one.ready:
            one.failed = one.failed or "it was not there in time"
            self._close(one)
        return one.ready

    def _read(self, one: _Mounted) -> None:
        data = os.read(one.pipe, 65536)
        if not data:
            self.sup.forget(one.pipe)
            one.pipe = -1
            if one.ready and one.pid:
                self._died(one)
            return
        *lines, one.rest = (one.rest + data).split(b"\n")
        for line in lines:
            what, sentence = json.loads(line)
            if what == "ready":
                one.ready = True
            elif what == "failed":
                one.failed = sentence
            else:
                self.sup.log.say(f"input {one.number} ({one.wanted}): {sentence}")

    def _died(self, one: _Mounted) -> None:
        self._close(one)
        self.broken = reasons.mount_died(str(one.wanted))
        self.sup.log.say(self.broken.sentence)

    def _close(self, one: _Mounted) -> None:
        """Its process has gone, so has the mount, and all it told is in the log."""
        pid, one.pid = one.pid, 0
        if pid:
            process.send(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(pid, 0)
        if one.pipe >= 0:
            with suppress(BlockingIOError):
                self._read(one)
        if one.pipe >= 0:
            self.sup.forget(one.pipe)
            one.pipe = -1
        unmount(str(one.target))

    def _fetch(self, one: _Mounted) -> None:
        self.sup.call(lambda: work.fetch_instead(self.sup.place, self.sup.log, one.number, one.place))


def _gone(pid: int) -> bool:
    """Whether a child has ended; it is not reaped."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _serve(sup: Supervisor, one: _Mounted, told: int) -> NoReturn:
    """The life of the process that serves one version."""
    count = 0

    def tell(what: str, sentence: str = "") -> None:
        os.write(told, json.dumps([what, sentence[:1000]]).encode() + b"\n")

    def trouble(sentence: str) -> None:
        nonlocal count
        count += 1
        if count <= _SENTENCES:
            tell("said", sentence)

    parent = os.getppid()
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGUSR1, signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        sys.prctl(sys.PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        sys.name_process("osmo-mount")
        said = os.memfd_create("osmo-said")
        os.dup2(said, 2)  # FUSE tells its reasons there
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        from osmo_ray.runtime import datasets

        end = datasets.serve(sup.place, one.wanted, one.target, one.regex, lambda: tell("ready"), trouble)
        tell("said", end)
    except Exception as error:
        more = os.pread(2, 500, 0).decode(errors="replace").strip().splitlines()
        tell("failed", ": ".join([str(error) or type(error).__name__, *more[:1]]))
    finally:
        os._exit(0)
