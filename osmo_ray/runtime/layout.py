"""What a task's root file system is made of on this host, found out once and kept for all supervisors.

A task sees the host's programs and libraries, never its people's homes, its secrets or the platform. The system's own
folders are overlays where the kernel allows it, so that a task can write and our files can appear anywhere; other
folders are shown read-only.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

# Made afresh in every sandbox, never shown.
PRIVATE = ("proc", "sys", "dev", "tmp", "run", "root", "home", "osmo", "boot", "lost+found")
SYSTEM = ("bin", "etc", "lib", "lib32", "lib64", "libx32", "opt", "sbin", "srv", "usr", "var")
SECRET = (
    "/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/ssh", "/etc/ssl/private", "/etc/sudoers",
    "/etc/sudoers.d", "/etc/kubernetes", "/etc/rancher", "/var/lib/docker", "/var/lib/containers",
    "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/rancher", "/var/spool/cron", "/var/backups", "/var/log",
)  # fmt: skip
NOT_HERE = ("/proc", "/sys", "/dev")


@dataclass(frozen=True, slots=True)
class Entry:
    """One top-level name: `kind` is `link` (to `target`), `overlay` or `bind`."""

    name: str
    kind: str
    target: str = ""
    below: tuple[str, ...] = ()
    """Mounts below an overlay, which must be shown again: an overlay does not cross into them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """`user`: a user namespace is needed. `hidden` and `visible` are absolute paths."""

    entries: tuple[Entry, ...]
    user: bool
    hidden: tuple[str, ...]
    visible: tuple[str, ...]
    tools: str
    """A folder of programs that images usually have, last on PATH; empty if there is none."""

    def entry(self, path: str) -> Entry | None:
        """The entry that an absolute path lies in."""
        top = path.split("/")[1]
        return next((entry for entry in self.entries if entry.name == top), None)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))

    @staticmethod
    def load(path: Path) -> Layout:
        value = json.loads(path.read_text())
        entries = tuple(Entry(**e | {"below": tuple(e["below"])}) for e in value["entries"])
        return Layout(
            entries, value["user"], tuple(value["hidden"]), tuple(value["visible"]), value["tools"]
        )  # fmt: skip


def find(
    overlays: frozenset[str], *, user: bool, hidden: tuple[str, ...], visible: tuple[str, ...], tools: str
) -> Layout:
    """The layout of this host when `overlays` are the system folders over which an overlay can be mounted."""
    entries = []
    mounts = mount_points()
    for path in sorted(Path("/").iterdir()):
        name = path.name
        if name in PRIVATE:
            continue
        if path.is_symlink():
            entries.append(Entry(name, "link", str(path.readlink())))
        elif path.is_dir() and os.access(path, os.R_OK | os.X_OK) and str(path) not in hidden:
            below = tuple(m for m in mounts if m.startswith(f"/{name}/"))
            kind = "overlay" if name in overlays else "bind"
            entries.append(Entry(name, kind, below=below if kind == "overlay" else ()))
    secret = tuple(p for p in (*hidden, *SECRET) if Path(p).exists())
    return Layout(tuple(entries), user, _reduce(secret, entries), _seen(visible, entries, secret), tools)


def _reduce(hidden: tuple[str, ...], entries: list[Entry]) -> tuple[str, ...]:
    """Real paths that would be seen, outermost only."""
    shown = {e.name for e in entries if e.kind != "link"}
    real = sorted({os.path.realpath(p) for p in hidden})
    outer: list[str] = []
    for path in real:
        if path.split("/")[1] in shown and not any(path.startswith(o + "/") for o in outer):
            outer.append(path)
    return tuple(outer)


def _seen(visible: tuple[str, ...], entries: list[Entry], hidden: tuple[str, ...]) -> tuple[str, ...]:
    """Paths that need to be shown by themselves, because the rest of their folder is not."""
    shown = {e.name for e in entries if e.kind != "link"}
    real = sorted({os.path.realpath(p) for p in visible if Path(p).exists()})
    covered = [os.path.realpath(h) for h in hidden]
    return tuple(p for p in real if p.split("/")[1] not in shown or any(p.startswith(h + "/") for h in covered))


def python_home() -> str:
    """The interpreter's own folder: tasks use `python3` even when it lies in somebody's home."""
    return sys.base_prefix


def mount_points() -> list[str]:
    """Where something is mounted, as this process sees it."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split(" ")[4].encode().decode("unicode_escape") for line in lines]
