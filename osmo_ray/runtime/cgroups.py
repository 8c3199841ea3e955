"""Limits and peaks by cgroup, version 1 or 2, wherever this host lets us make one.

A node gets one parent folder, an attempt one below it. Where none can be had the supervisor samples /proc instead and
says so; `find` gives the reason.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from osmo_ray.runtime.process import send

_V1 = ("memory", "cpu", "pids", "cpuacct")
_PERIOD = 100_000
_MAX_PIDS = 32768


@dataclass(frozen=True, slots=True)
class Parent:
    """Where attempts get their cgroups: controller to folder for version 1, `""` to folder for version 2."""

    version: int
    folders: dict[str, str]

    def child(self, name: str) -> Cgroup:
        return Cgroup(self.version, {c: Path(f) / name for c, f in self.folders.items()})

    def remove(self) -> None:
        """Take the parent away, when nothing is left below it."""
        for folder in self.folders.values():
            for path in [*Path(folder).glob("*/"), Path(folder)]:
                _rmdir(path)


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One attempt's."""

    version: int
    folders: dict[str, Path]

    def make(self, memory: int, cpu: float) -> None:
        """Create it with its limits: bytes of memory, and cores as a ceiling on time."""
        for folder in self.folders.values():
            folder.mkdir(exist_ok=True)
        quota = max(int(cpu * _PERIOD), 1000)
        if self.version == 2:
            base = self.folders[""]
            _write(base / "memory.max", str(memory))
            _write(base / "memory.swap.max", "0")
            _write(base / "memory.oom.group", "1")
            _write(base / "cpu.max", f"{quota} {_PERIOD}")
            _write(base / "cpu.weight", str(min(max(int(cpu * 100), 1), 10000)))
            _write(base / "pids.max", str(_MAX_PIDS))
            return
        _write(self._at("memory", "memory.limit_in_bytes"), str(memory))
        _write(self._at("memory", "memory.memsw.limit_in_bytes"), str(memory))
        _write(self._at("cpu", "cpu.cfs_period_us"), str(_PERIOD))
        _write(self._at("cpu", "cpu.cfs_quota_us"), str(quota))
        _write(self._at("cpu", "cpu.shares"), str(max(int(cpu * 1024), 2)))
        _write(self._at("pids", "pids.max"), str(_MAX_PIDS))

    def _at(self, controller: str, name: str) -> Path | None:
        folder = self.folders.get(controller)
        return None if folder is None else folder / name

    @property
    def limits_memory(self) -> bool:
        return self.version == 2 or "memory" in self.folders

    def entrances(self) -> tuple[int, ...]:
        """Open files; a process that writes `0` to each is inside."""
        return tuple(os.open(f / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for f in self.folders.values())

    def memory(self) -> int:
        """Bytes now."""
        if self.version == 2:
            return _number(self.folders[""] / "memory.current")
        return _number(self._at("memory", "memory.usage_in_bytes"))

    def memory_peak(self) -> int:
        """The highest so far; 0 where the kernel (before 5.19, version 2) does not keep it."""
        if self.version == 2:
            return _number(self.folders[""] / "memory.peak")
        return _number(self._at("memory", "memory.max_usage_in_bytes"))

    def cpu(self) -> float:
        """Seconds so far."""
        if self.version == 2:
            return _field(self.folders[""] / "cpu.stat", "usage_usec") / 1e6
        return _number(self._at("cpuacct", "cpuacct.usage")) / 1e9

    def oom_kills(self) -> int:
        """How often the kernel killed something in here for memory."""
        if self.version == 2:
            return _field(self.folders[""] / "memory.events", "oom_kill")
        return _field(self._at("memory", "memory.oom_control"), "oom_kill")

    def kill(self) -> None:
        """KILL whatever is inside."""
        if self.version == 2 and _write(self.folders[""] / "cgroup.kill", "1"):
            return
        for pid in self.pids():
            send(pid, 9)

    def pids(self) -> list[int]:
        """Who is inside."""
        for folder in self.folders.values():
            try:
                return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
            except OSError:
                continue
        return []

    def remove(self) -> None:
        for folder in self.folders.values():
            _rmdir(folder)


# --- finding a place ---------------------------------------------------------------------------------------------


def find(root: Path, option: str) -> tuple[Parent | None, str]:
    """A parent cgroup for the node whose spool is `root`, and what was found, in a sentence."""
    if option == "off":
        return None, "cgroups are switched off by option"
    name = "osmo-" + hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:10]
    own = _own()
    mounts = _mounts()
    for place in [option] if option else _v2_places(mounts, own):
        parent = _try_v2(Path(place) / name)
        if parent is not None:
            return parent, f"cgroup version 2 at {parent.folders['']}"
    folders = {c: f for c in _V1 if (f := _try_v1(mounts, own, c, name))}
    if "memory" in folders:
        return Parent(1, folders), f"cgroup version 1 ({', '.join(folders)})"
    return None, "no cgroup can be made here, so memory is sampled and not limited by the kernel"


def _own() -> dict[str, str]:
    """Controller (`""` for version 2) to the path of this process's cgroup."""
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def _mounts() -> dict[str, str]:
    """Controller to mount point."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        place = left.split(" ")[4]
        if kind == "cgroup2":
            found[""] = place
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, place)
    return found


def _v2_places(mounts: dict[str, str], own: dict[str, str]) -> list[str]:
    """The cgroup we are in (when it is delegated and empty but for us, that is its parent), then the root."""
    if "" not in mounts:
        return []
    here = Path(mounts[""] + own.get("", "/"))
    return list(dict.fromkeys([str(here), str(here.parent if own.get("", "/") != "/" else here), mounts[""]]))


def _try_v2(folder: Path) -> Parent | None:
    try:
        have = (folder.parent / "cgroup.controllers").read_text().split()
        if not {"memory", "cpu"} <= set(have):
            return None
        enabled = (folder.parent / "cgroup.subtree_control").read_text().split()
        missing = [f"+{c}" for c in ("memory", "cpu", "pids") if c in have and c not in enabled]
        if missing and not _write(folder.parent / "cgroup.subtree_control", " ".join(missing)):
            return None
        folder.mkdir(exist_ok=True)
        wanted = " ".join(f"+{c}" for c in ("memory", "cpu", "pids") if c in have)
        if _write(folder / "cgroup.subtree_control", wanted):
            return Parent(2, {"": str(folder)})
        _rmdir(folder)
    except OSError:
        pass
    return None


def _try_v1(mounts: dict[str, str], own: dict[str, str], controller: str, name: str) -> str:
    if controller not in mounts:
        return ""
    for base in (mounts[controller] + own.get(controller, "/"), mounts[controller]):
        folder = Path(base) / name
        try:
            folder.mkdir(exist_ok=True)
        except OSError:
            continue
        if os.access(folder / "cgroup.procs", os.W_OK):
            return str(folder)
    return ""


def _write(path: Path | None, text: str) -> bool:
    if path is None:
        return False
    try:
        path.write_text(text)
    except OSError:
        return False
    return True


def _number(path: Path | None) -> int:
    try:
        return int(path.read_text()) if path else 0
    except (OSError, ValueError):
        return 0


def _field(path: Path | None, name: str) -> int:
    try:
        lines = path.read_text().splitlines() if path else []
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + " ")), 0)


def _rmdir(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        pass
