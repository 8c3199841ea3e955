"""A version as a folder of this host, read-only, by FUSE: nothing is fetched before it is read.

A version never changes, so the kernel may keep what it has read for as long as it likes. Small files come whole through
the node's cache; of larger ones a read fetches and verifies the chunks around it, further ahead while it goes on in
order. Needs `/dev/fuse`, `fusermount3` and the extra `mount`; where one is missing, the refusal says which.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osmo_ray.data.chunking import WHOLE
from osmo_ray.data.errors import DataError
from osmo_ray.data.manifest import Entry, Kind
from osmo_ray.objects.datasets.cache import NodeCache
from osmo_ray.objects.datasets.dataset import Dataset
from osmo_ray.objects.datasets.filesystem import Tree, read_range
from osmo_ray.objects.protocol import ObjectError

_TYPES = {Kind.FILE: stat.S_IFREG, Kind.FOLDER: stat.S_IFDIR, Kind.LINK: stat.S_IFLNK}
_FIRST, _MOST = 512 << 10, 16 << 20
"""Bytes of a large file that are fetched around a read: from `_FIRST`, doubled while reads go on in order."""
_FOREVER = 365 * 86400


def mount(dataset: Dataset, selector: str, target: Path, cache: NodeCache) -> None:
    """Serve the version at the empty folder `target` until it is unmounted or the program gets SIGINT or SIGTERM. Call
    it in the main thread. Raises `DataError` where this host does not allow it."""
    if problem := cannot(target):
        raise DataError(problem)
    import mfusepy

    view = View(Tree(dataset, selector), cache)
    times = {"entry_timeout": _FOREVER, "attr_timeout": _FOREVER, "negative_timeout": _FOREVER}
    try:
        mfusepy.FUSE(
            _operations(view), str(target), foreground=True, ro=True, fsname=f"osmo:{dataset.name}",
            default_permissions=True, kernel_cache=True, **times,
        )  # fmt: skip
    except RuntimeError as error:
        raise DataError(f"cannot mount at {target}: FUSE refuses ({error}); see what fusermount3 says") from None


def cannot(target: Path) -> str:
    """Why nothing can be mounted there, in a sentence; empty if it can."""
    instead = "download the version, or read it by osmo.data.open"
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return f"this host has no /dev/fuse that {_who()} may use (containers need --device /dev/fuse); {instead}"
    if shutil.which("fusermount3") is None and os.geteuid() != 0:
        return f"fusermount3 is missing (Debian: apt-get install fuse3); {instead}"
    try:
        import mfusepy  # noqa: F401
    except ImportError:
        return f"the Python package mfusepy is missing: pip install 'osmo-ray[mount]'; or {instead}"
    except OSError:
        return f"libfuse is missing (Debian: apt-get install fuse3); {instead}"
    if not target.is_dir():
        return f"{target} is no folder; make it first"
    return f"{target} is not empty; choose another folder" if any(target.iterdir()) else ""


def _who() -> str:
    return "root" if os.geteuid() == 0 else "this user"


@dataclass
class _Opened:
    """A file that somebody reads. `at` and `held` are a window of a large one; `ahead` is how much to fetch next."""

    entry: Entry
    local: int = -1
    at: int = 0
    held: bytes = b""
    ahead: int = _FIRST
    lock: threading.Lock = field(default_factory=threading.Lock)


class View:
    """One version, asked by paths that begin with `/`. Raises `OSError`. For many threads."""

    def __init__(self, tree: Tree, cache: NodeCache) -> None:
        self._tree, self._cache = tree, cache
        self._opened: dict[int, _Opened] = {}
        self._count = 0
        self._lock = threading.Lock()

    def attributes(self, path: str) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2, **_owner()}
        entry = self._entry(path)
        size = len(entry.target or b"") if entry.kind is Kind.LINK else entry.size
        times = dict.fromkeys(("st_mtime", "st_ctime", "st_atime"), entry.mtime_ns)
        mode = _TYPES[entry.kind] | (entry.mode & ~0o222)
        return {"st_mode": mode, "st_size": size, "st_nlink": 1, "st_blocks": -(-size // 512), **times, **_owner()}

    def names(self, path: str) -> list[str]:
        inner = _inner(path)
        if inner and self._entry(path).kind is not Kind.FOLDER:
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return [os.fsdecode(entry.path.rpartition(b"/")[2]) for entry in self._tree.children(inner)]

    def link(self, path: str) -> str:
        entry = self._entry(path)
        if entry.target is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return os.fsdecode(entry.target)

    def open(self, path: str) -> int:
        opened = _Opened(self._entry(path))
        if 0 < opened.entry.size < WHOLE:
            with _as_errno():
                opened.local = os.open(self._cache.path(opened.entry, self._tree.reader), os.O_RDONLY | os.O_CLOEXEC)
        with self._lock:
            self._count += 1
            self._opened[self._count] = opened
            return self._count

    def read(self, handle: int, size: int, offset: int) -> bytes:
        opened = self._opened[handle]
        if opened.local >= 0:
            return os.pread(opened.local, size, offset)
        end = min(offset + size, opened.entry.size)
        with opened.lock, _as_errno():
            if not opened.at <= offset <= end <= opened.at + len(opened.held):
                self._fill(opened, offset, end)
            return opened.held[offset - opened.at : end - opened.at]

    def close(self, handle: int) -> None:
        with self._lock:
            opened = self._opened.pop(handle)
        if opened.local >= 0:
            os.close(opened.local)

    def _fill(self, opened: _Opened, offset: int, end: int) -> None:
        """The window that begins here; larger than the last one if that was read to its end."""
        on = opened.at <= offset <= opened.at + len(opened.held) and opened.held
        opened.ahead = min(2 * opened.ahead, _MOST) if on else _FIRST
        until = min(max(end, offset + opened.ahead), opened.entry.size)
        opened.held = read_range(self._tree.reader, opened.entry, offset, until)
        opened.at = offset

    def _entry(self, path: str) -> Entry:
        entry = self._tree.at(_inner(path))
        if entry is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return entry


class _as_errno:  # noqa: N801 - a context manager
    """Bytes that cannot be had, or are wrong, are an input/output error: never other bytes."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if isinstance(error, DataError | ObjectError):
            raise OSError(errno.EIO, str(error)) from error


def _inner(path: str) -> bytes:
    return os.fsencode(path.strip("/"))


def _owner() -> dict[str, int]:
    return {"st_uid": os.getuid(), "st_gid": os.getgid()}


def _operations(view: View) -> Any:
    """The same as FUSE's library wants it; whatever it is not given here is refused by the library."""
    import mfusepy

    class Operations(mfusepy.Operations):  # type: ignore[misc]  # it has no types
        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
            return view.attributes(path)

        def readdir(self, path: str, fh: int) -> list[str]:
            return [".", "..", *view.names(path)]

        def readlink(self, path: str) -> str:
            return view.link(path)

        def open(self, path: str, flags: int) -> int:
            return view.open(path)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            return view.read(fh, size, offset)

        def release(self, path: str, fh: int) -> int:
            view.close(fh)
            return 0

    return Operations()
