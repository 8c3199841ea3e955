"""The private file system of one attempt.

`prepare` makes the folders once, before the command has ever run; `enter` mounts them, at every start. Nothing is made
in `enter` below folders that the command may have changed, so a link that it left there leads nobody astray.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from osmo_ray.runtime import reasons
from osmo_ray.runtime import syscalls as sys
from osmo_ray.runtime.layout import NOT_HERE, Entry, Layout
from osmo_ray.runtime.spool import Folder

INPUT, OUTPUT, TOOLS = "/osmo/data/input", "/osmo/data/output", "/osmo/bin"
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_PROC_FIXED = ("sys", "irq", "bus", "fs", "sysrq-trigger")
_PROC_MASKED = ("kcore", "keys", "timer_list", "sched_debug", "latency_stats", "acpi", "scsi")
_SKELETON_LIMIT = 4000
_VAR_TMP = "/var/tmp"  # noqa: S108 - the task's own


@dataclass(slots=True)
class Mount:
    """One thing to show: host `source` at `target` inside."""

    source: str
    target: str
    writable: bool = False


@dataclass(slots=True)
class Sandbox:
    """One attempt's file system on the host, and what is mounted into it."""

    folder: Folder
    layout: Layout
    devices: tuple[str, ...] = ()
    private_network: bool = True
    mounts: list[Mount] = field(default_factory=list)
    skeletons: dict[str, Callable[[Path], None]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder.private / "root"

    def _upper(self, name: str) -> Path:
        return self.folder.private / "up" / name

    def _work(self, name: str) -> Path:
        return self.folder.private / "work" / name

    # --- once, before the first start ------------------------------------------------------------------------

    def prepare(self, files: list[tuple[str, Path]]) -> None:
        """Make the folders; `files` are (absolute path inside, source). Raises RuntimeFailure for a path that
        cannot be had."""
        for name in ("proc", "sys", "dev", "run", "root", "home", INPUT[1:], OUTPUT[1:], TOOLS[1:], "var"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in ("tmp", "var-tmp"):
            path = self.root / "tmp" if name == "tmp" else self.folder.private / name
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o1777)
        for path in (self.folder.data_in, self.folder.data_out):
            path.mkdir(exist_ok=True)
        for entry in self.layout.entries:
            self._prepare(entry)
        for seen in self.layout.visible:
            if self.layout.entry(seen) is None:
                _make_like(Path(seen), self.root / seen[1:])
        self._network_files()
        for target, source in files:
            self._place(target, source)

    def show(self, source: str, target: str) -> None:
        """Let a folder of the host appear, read-only, at `target`, which nothing else uses."""
        (self.root / target[1:]).mkdir(parents=True, exist_ok=True)
        self.mounts.append(Mount(source, target))

    def share(self, source: str, target: str) -> None:
        """Let a folder or file of the host appear at `target`, to be written too. Raises RuntimeFailure."""
        path = os.path.normpath(target)
        if not path.startswith("/") or path == "/" or any(path == p or path.startswith(p + "/") for p in NOT_HERE):
            raise reasons.bad_mount(source, target, "it must be an absolute path outside /proc, /sys and /dev")
        if path.startswith("/osmo"):
            raise reasons.bad_mount(source, target, "paths below /osmo belong to the platform")
        if not Path(source).exists():
            raise reasons.bad_mount(source, target, f"this node has no {source}")
        entry = self.layout.entry(path)
        make = _touch if Path(source).is_file() else _folder
        if entry is None or path.count("/") == 1:
            make(self.root / path[1:])
        elif entry.kind == "overlay" and not _below(path, (*self.layout.hidden, *entry.below)):
            make(self._upper(entry.name) / path[len(entry.name) + 2 :])
        elif not Path(path).exists():
            self.skeletons[path] = make
        self.mounts.append(Mount(source, path, writable=True))

    def _prepare(self, entry: Entry) -> None:
        place = self.root / entry.name
        if entry.kind == "link":
            place.symlink_to(entry.target)
            return
        place.mkdir(exist_ok=True)
        if entry.kind == "overlay":
            self._upper(entry.name).mkdir(parents=True)
            self._upper(entry.name).chmod(stat.S_IMODE(Path("/", entry.name).stat().st_mode))
            self._work(entry.name).mkdir(parents=True)

    def _network_files(self) -> None:
        """`hosts` is a file of ours that is rewritten while the command runs; resolv.conf and hostname are fixed."""
        self._place("/etc/hosts", self.folder.path / "hosts")
        for name in ("resolv.conf", "hostname"):
            self._place(f"/etc/{name}", self.folder.path / name)

    def _place(self, target: str, source: Path) -> None:
        """Let `source` appear, read-only, at `target`."""
        path = os.path.normpath(target)
        if not path.startswith("/") or path == "/" or any(path == p or path.startswith(p + "/") for p in NOT_HERE):
            raise reasons.bad_file(target, "it must be an absolute path outside /proc, /sys and /dev")
        if path.startswith(OUTPUT + "/"):
            self._place_in_output(path, source)
            return
        if path.startswith("/osmo"):
            raise reasons.bad_file(target, f"paths below /osmo belong to the platform, except {OUTPUT}")
        entry = self.layout.entry(path)
        if entry is not None and path.count("/") > 1:
            # A link on the way (/var/run) leads to where the host's tree leads.
            path = str(Path(path).parent.resolve() / Path(path).name)
            entry = self.layout.entry(path)
        if path.startswith(_VAR_TMP + "/"):
            _touch(self.folder.private / "var-tmp" / path[len(_VAR_TMP) + 1 :])
        elif entry is None or path.count("/") == 1:
            _touch(self.root / path[1:])
        elif entry.kind == "overlay" and not _below(path, (*self.layout.hidden, *entry.below)):
            self._touch_upper(path)
        elif not Path(path).is_file():
            self.skeletons[path] = _touch
        self.mounts.append(Mount(str(source), path))

    def _place_in_output(self, path: str, source: Path) -> None:
        """A file in the output folder is part of the output: it is copied, not mounted."""
        place = self.folder.data_out / path[len(OUTPUT) + 1 :]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(source.read_bytes())
        place.chmod(0o444)

    def _touch_upper(self, path: str) -> None:
        parts = path[1:].split("/")
        upper, lower = self._upper(parts[0]), Path("/", parts[0])
        for part in parts[1:-1]:
            upper, lower = upper / part, lower / part
            if not upper.exists():
                upper.mkdir()
                if lower.is_dir():
                    upper.chmod(stat.S_IMODE(lower.stat().st_mode))
        _touch(upper / parts[-1])

    # --- at every start, inside the new namespaces -----------------------------------------------------------

    def enter(self) -> None:
        """Mount everything and make it the root of this process. Needs a mount namespace of its own."""
        root = str(self.root)
        sys.mount("", "/", flags=sys.MS_REC | sys.MS_PRIVATE)
        sys.bind(root, root, recursive=False)
        for entry in self.layout.entries:
            self._mount(entry)
        for folder, paths in self._skeletons().items():
            self._skeleton(folder, paths)
        self._hide()
        self._mount_data()
        for one in self.mounts:
            sys.bind(one.source, root + one.target, recursive=False)
            if not one.writable:
                sys.read_only(root + one.target, recursive=False)
        self._devices()
        self._kernel()
        os.chdir(root)
        sys.pivot_root(".", ".")
        sys.umount(".")
        os.chdir("/")

    def _mount(self, entry: Entry) -> None:
        place, source = str(self.root / entry.name), f"/{entry.name}"
        if entry.kind == "overlay":
            data = f"lowerdir={source},upperdir={self._upper(entry.name)},workdir={self._work(entry.name)}"
            # A renamed folder of the host must not come back under a name that nothing hides.
            data += ",userxattr" if self.layout.user else ",redirect_dir=nofollow"
            sys.mount("overlay", place, "overlay", data=data)
            for path in entry.below:
                _show_if_there(path, str(self.root) + path)
        elif entry.kind == "bind":
            _show(source, place)

    def _skeletons(self) -> Mapping[Path, list[str]]:
        """The folders that lack something, and what."""
        found: dict[Path, list[str]] = {}
        for path in self.skeletons:
            existing = Path(path).parent
            while not existing.is_dir():
                existing = existing.parent
            found.setdefault(existing, []).append(path)
        return found

    def _skeleton(self, folder: Path, paths: list[str]) -> None:
        """Where no overlay can be had, a folder is made of its parts so that something can be added to it."""
        entries = list(folder.iterdir())
        if len(entries) > _SKELETON_LIMIT:
            raise reasons.bad_file(
                paths[0], f"{folder} has more than {_SKELETON_LIMIT} entries and no overlay can be had"
            )
        place = str(self.root) + str(folder)
        sys.mount("tmpfs", place, "tmpfs", data="mode=755")
        for entry in entries:
            inside = Path(place, entry.name)
            if entry.is_symlink():
                inside.symlink_to(entry.readlink())
            elif entry.is_dir() or entry.is_file():
                inside.mkdir() if entry.is_dir() else _touch(inside)
                _show(str(entry), str(inside))
        for path in paths:
            self.skeletons[path](Path(str(self.root) + path))

    def _hide(self) -> None:
        """Nothing of the platform and no secret of the host is seen; what must be seen in there comes after."""
        root = str(self.root)
        covered = []
        for path in self.layout.hidden:
            place = Path(root + path)
            if place.is_dir():
                sys.mount("tmpfs", str(place), "tmpfs", sys.MS_NOSUID | sys.MS_NODEV, "mode=755,size=64k")
                covered.append(str(place))
            elif place.exists():
                sys.bind("/dev/null", str(place), recursive=False)
        for path in self.layout.visible:
            if self.layout.entry(path) is not None:
                _make_like(Path(path), Path(root + path))  # in a fresh tmpfs of ours, see above
            _show(path, root + path)
        for one in covered:
            sys.read_only(one, recursive=False)

    def _mount_data(self) -> None:
        root = str(self.root)
        sys.bind(str(self.folder.data_in), root + INPUT)
        sys.bind(str(self.folder.data_out), root + OUTPUT)
        if (self.root / "var/tmp").is_dir():
            sys.bind(str(self.folder.private / "var-tmp"), root + _VAR_TMP)
        if self.layout.tools:
            _show(self.layout.tools, root + TOOLS)

    def _devices(self) -> None:
        dev = str(self.root / "dev")
        sys.mount("tmpfs", dev, "tmpfs", sys.MS_NOSUID, "mode=755,size=64k")
        for name in (*_DEVICES, *self.devices):
            _touch(Path(dev, name))
            sys.bind(f"/dev/{name}", f"{dev}/{name}", recursive=False)
        for name in ("pts", "shm"):
            Path(dev, name).mkdir()
        sys.mount(
            "devpts", f"{dev}/pts", "devpts", sys.MS_NOSUID | sys.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"
        )  # fmt: skip
        sys.mount("tmpfs", f"{dev}/shm", "tmpfs", sys.MS_NOSUID | sys.MS_NODEV, "mode=1777")
        Path(dev, "ptmx").symlink_to("pts/ptmx")
        Path(dev, "fd").symlink_to("/proc/self/fd")
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            Path(dev, name).symlink_to(f"/proc/self/fd/{number}")

    def _kernel(self) -> None:
        """/proc of the new pid namespace. Root outside a user namespace could change the host through it, so what
        changes anything is read-only, and what tells about memory is masked."""
        proc, plain = str(self.root / "proc"), sys.MS_NOSUID | sys.MS_NODEV | sys.MS_NOEXEC
        sys.mount("proc", proc, "proc", plain)
        if self.private_network:
            sys.mount("sysfs", str(self.root / "sys"), "sysfs", plain | sys.MS_RDONLY)
        if self.layout.user:
            return
        for name in _PROC_FIXED:
            if Path(proc, name).exists():
                sys.bind(f"{proc}/{name}", f"{proc}/{name}", recursive=False)
                sys.read_only(f"{proc}/{name}", recursive=False)
        for name in _PROC_MASKED:
            if Path(proc, name).is_file():
                sys.bind("/dev/null", f"{proc}/{name}", recursive=False)


def _folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))


def _make_like(like: Path, place: Path) -> None:
    if like.is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        _touch(place)


def _show(source: str, place: str) -> None:
    sys.bind(source, place)
    sys.read_only(place)


def _show_if_there(source: str, place: str) -> None:
    """For mounts below a folder of the host: one that went away since they were listed is an empty folder here."""
    try:
        sys.bind(source, place)
    except OSError:
        return
    sys.read_only(place)


def _below(path: str, folders: tuple[str, ...]) -> bool:
    return any(path == one or path.startswith(one + "/") for one in folders)
