"""What this host can do for tasks, found out once by trying, and kept for all supervisors.

`examine` runs in a forked child of the zygote, because it goes into namespaces that one cannot leave.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from osmo_ray.runtime import cgroups, layout, network
from osmo_ray.runtime import syscalls as sys
from osmo_ray.runtime.cgroups import Parent
from osmo_ray.runtime.layout import Layout
from osmo_ray.runtime.netlink import Netlink, own_namespace
from osmo_ray.runtime.options import Options
from osmo_ray.runtime.spool import read_json, remove_tree, replace_file

_GPU_SHARED = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


@dataclass(frozen=True, slots=True)
class Host:
    """`mode`: `namespaces` or `none`; `why` says it in a sentence. `bridge`: tasks can have their own addresses."""

    mode: str
    why: str
    layout: Layout | None
    tools: str
    cgroup: Parent | None
    cgroup_why: str
    bridge: bool
    bridge_why: str

    @staticmethod
    def load(root: Path) -> Host:
        value = read_json(root / "host.json")
        if value is None:
            raise FileNotFoundError(f"{root / 'host.json'}: this host was never examined; start its NodeHost")
        cgroup = value.pop("cgroup")
        found = Layout.load(root / "layout.json") if value["mode"] == "namespaces" else None
        return Host(**value, layout=found, cgroup=Parent(**cgroup) if cgroup else None)

    def save(self, root: Path) -> None:
        if self.layout is not None:
            self.layout.save(root / "layout.json")
        value = {name: getattr(self, name) for name in self.__slots__ if name not in ("layout", "cgroup")}
        value["cgroup"] = asdict(self.cgroup) if self.cgroup else None
        replace_file(root / "host.json", json.dumps(value))

    def devices(self, gpus: tuple[int, ...]) -> tuple[str, ...]:
        """Device files below /dev that an attempt with these GPUs needs."""
        if not gpus:
            return ()
        names = [*(f"nvidia{number}" for number in gpus), *_GPU_SHARED]
        return tuple(name for name in names if Path("/dev", name).exists())


def examine(root: Path) -> None:
    """Find out and save. Runs where it may do what it likes with its namespaces."""
    options = Options.load(root / "options.json")
    tools = _tools(root)
    cgroup, cgroup_why = cgroups.find(root, options.cgroup)
    mode, why, overlays = _namespaces(root, options)
    found = None
    if mode == "namespaces":
        hidden = (*options.hidden, str(root.resolve()))
        visible = (*options.visible, layout.python_home())
        user = os.geteuid() != 0
        found = layout.find(frozenset(overlays), user=user, hidden=hidden, visible=visible, tools=tools)
    bridge_why = "" if mode == "none" else _try(_can_bridge)
    Host(mode, why, found, tools, cgroup, cgroup_why, mode == "namespaces" and not bridge_why, bridge_why).save(root)


def _namespaces(root: Path, options: Options) -> tuple[str, str, list[str]]:
    if options.sandbox == "none":
        return "none", "namespaces are switched off by option", []
    trial = root / "trial"
    remove_tree(trial) if trial.exists() else None
    trial.mkdir()
    overlays: list[str] = []
    try:
        why = _try(_can_isolate)
        if why:
            return "none", f"this host does not allow private namespaces: {why}", []
        for name in layout.SYSTEM:
            path = Path("/", name)
            if path.is_dir() and not path.is_symlink() and not _try(lambda name=name: _can_overlay(name, trial)):  # type: ignore[misc]
                overlays.append(name)
    finally:
        remove_tree(trial)
    how = "as root" if os.geteuid() == 0 else "in a user namespace"
    kept = "with overlays" if overlays else "without overlays, system folders are read-only"
    return "namespaces", f"private mount, pid, network, uts and ipc namespaces, made {how}, {kept}", overlays


def _try(act: Callable[[], None]) -> str:
    """Do it in a forked child; what went wrong, or nothing."""
    result_in, result_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except Exception as error:
            os.write(result_out, (str(error) or type(error).__name__).encode())
        os._exit(0)
    os.close(result_out)
    os.waitpid(pid, 0)
    with os.fdopen(result_in, "rb") as file:
        return file.read().decode(errors="replace")


def _own_world(more: int = 0) -> None:
    if os.geteuid() != 0:
        network.become_root_of_own()
    sys.unshare(sys.CLONE_NEWNS | more)
    sys.mount("", "/", flags=sys.MS_REC | sys.MS_PRIVATE)


def _can_isolate() -> None:
    _own_world(sys.CLONE_NEWPID | sys.CLONE_NEWNET | sys.CLONE_NEWUTS | sys.CLONE_NEWIPC)
    told_in, told_out = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            sys.mount("proc", "/proc", "proc")
            sys.mount("tmpfs", "/tmp", "tmpfs")  # noqa: S108 - of our own namespace
        except OSError as error:
            os.write(told_out, str(error).encode())
        os._exit(0)
    os.close(told_out)
    os.waitpid(pid, 0)
    told = os.read(told_in, 4096).decode()
    if told:
        raise OSError(told)


def _can_overlay(name: str, trial: Path) -> None:
    _own_world()
    upper, work, place = trial / f"u{name}", trial / f"w{name}", trial / f"m{name}"
    for path in (upper, work, place):
        path.mkdir()
    data = f"lowerdir=/{name},upperdir={upper},workdir={work}"
    data += ",userxattr" if os.geteuid() != 0 or _mapped() else ",redirect_dir=nofollow"
    sys.mount("overlay", str(place), "overlay", data=data)
    (place / ".osmo-trial").write_text("x")


def _mapped() -> bool:
    """Whether this process is in a user namespace of few ids."""
    return Path("/proc/self/uid_map").read_text().split()[2] == "1"


def _can_bridge() -> None:
    _own_world(sys.CLONE_NEWNET)
    link = Netlink()
    link.bridge(network.BRIDGE)
    other = own_namespace("net")
    link.veth("trial", link.index(network.BRIDGE), "peer", other)


def _tools(root: Path) -> str:
    """A folder of what images usually bring: busybox under all its names, and this Python, last on PATH."""
    folder = root / "tools"
    if folder.exists():  # running tasks look into it
        return str(folder)
    folder.mkdir()
    busybox = shutil.which("busybox") or shutil.which("busybox", path="/bin:/usr/bin:/sbin")
    if busybox is not None:
        listed = subprocess.run([busybox, "--list"], capture_output=True, check=False, timeout=10)
        for name in listed.stdout.decode().split():
            if "/" not in name and name not in ("su", "login", "passwd", "mount", "umount"):
                (folder / name).symlink_to(os.path.realpath(busybox))
    python = Path(layout.python_home(), "bin", "python3")
    if python.exists():
        for name in ("python3", "python"):
            (folder / name).symlink_to(python)
    return str(folder)
