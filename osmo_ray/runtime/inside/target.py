"""Where an attempt is, seen from a fresh process of its host: the first process of its sandbox, and how to get in."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from osmo_ray.runtime import container, process, pyenv
from osmo_ray.runtime import syscalls as sys
from osmo_ray.runtime.codec import Job
from osmo_ray.runtime.host import Host
from osmo_ray.runtime.place import Place
from osmo_ray.runtime.process import Identity
from osmo_ray.runtime.spool import Folder, Spool
from osmo_ray.spec.attempt import AttemptKey

_KINDS = {
    "user": sys.CLONE_NEWUSER,
    "mnt": sys.CLONE_NEWNS,
    "net": sys.CLONE_NEWNET,
    "pid": sys.CLONE_NEWPID,
    "uts": sys.CLONE_NEWUTS,
    "ipc": sys.CLONE_NEWIPC,
}
_INIT = "osmo-init"
_PATIENCE, _LOOK = 5.0, 0.005
_YOUNG = 60.0


class NotThere(LookupError):
    """There is nothing to look into now; the message says why in a sentence."""


@dataclass(frozen=True, slots=True)
class Target:
    """A running attempt of this host. `mode` is how it really runs; `init` is the first process of its command."""

    folder: Folder
    job: Job
    mode: str
    host: Host
    init: Identity
    supervisor: Identity

    @staticmethod
    def find(root: Path, key: AttemptKey) -> Target:
        """Raises `NotThere`."""
        folder = Spool(root).folder(key)
        job, supervisor = folder.job(), folder.claimed()
        if job is None or supervisor is None or not supervisor.alive():
            raise NotThere("the task does not run on this node (any more)")
        init = _begun(supervisor)
        return Target(folder, job, folder.mode(job), Host.load(root), init, supervisor)

    @property
    def place(self) -> Place:
        """The same as the supervisor's: tokens, environment, paths."""
        wanted = self.job.plan.requirements
        root = self.folder.path.parent.parent
        packages = str(pyenv.folder(root, wanted)) if wanted and self.mode != "container" else ""
        layout = self.host.layout if self.mode == "namespaces" else None
        return Place(self.folder, self.job, layout, self.host.tools, packages)

    def environment(self) -> dict[str, str]:
        """What the command itself was given."""
        place = self.place
        return place.environment(place.tokens(self.folder.orders(self.job.plan).hosts))

    def cwd(self) -> str:
        return "/" if self.mode != "none" else str(self.folder.private / "cwd")

    def entrances(self) -> tuple[int, ...]:
        """Open files of the attempt's cgroup; empty where there is none."""
        if self.host.cgroup is None or self.mode == "container":
            return ()
        try:
            return self.host.cgroup.child(self.folder.path.name).entrances()
        except OSError:
            return ()

    def await_container(self) -> None:
        """The engine takes a while to start a young task's container. Raises `NotThere`."""
        deadline = time.time() + _PATIENCE
        young = (self.folder.path / "claim").stat().st_mtime > time.time() - _YOUNG
        while young:
            try:
                container.first_process(self.job.engine, str(self.job.plan.key))
                return
            except ProcessLookupError as error:
                if time.time() > deadline:
                    raise NotThere(f"the task's container is not running at this moment: {error}") from error
            time.sleep(_LOOK)

    def enter(self, *names: str) -> None:
        """Take this process into namespaces of the sandbox; children go into its pid namespace. A process of one
        thread only. Raises `NotThere`, OSError."""
        fds = _open(self._holder(names), names)
        if not self.init.alive():
            raise NotThere("the task ended just now")
        for name in (n for n in _KINDS if n in fds):
            sys.setns(fds[name], _KINDS[name])
            os.close(fds[name])

    def _holder(self, names: tuple[str, ...]) -> int:
        """The process whose namespaces are meant. A container's network is that of a process we keep for it, or that
        of its own first process."""
        if self.mode != "container" or "net" not in names:
            return self.init.pid
        own = _link(self.supervisor.pid, "net")
        for one in process.children(self.supervisor.pid):
            if one != self.init.pid and _link(one, "net") != own:
                return one
        return container.first_process(self.job.engine, str(self.job.plan.key))


def _begun(supervisor: Identity) -> Identity:
    """The first process of the command. It has moved into the sandbox's file system before it starts the command: a
    session that came earlier would find itself among the host's files."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        inits = [one for one in process.children(supervisor.pid) if _name(one) == _INIT]
        init = Identity.of(inits[-1]) if inits else None
        if init is not None and process.children(init.pid):
            return init
        if time.monotonic() > deadline or not supervisor.alive():
            raise NotThere("the task's command is not running at this moment")
        time.sleep(_LOOK)


def _open(pid: int, names: tuple[str, ...]) -> dict[str, int]:
    """Those namespaces of `pid` that are not this process's own."""
    found = {}
    for name in names:
        if _link(pid, name) != _link(os.getpid(), name):
            found[name] = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    return found


def _link(pid: int, name: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/{name}").readlink())
    except OSError:
        return ""


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
