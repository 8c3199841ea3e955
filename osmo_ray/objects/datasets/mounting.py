"""A version as a folder of this host, read-only, by FUSE: nothing is fetched before it is read.

A version never changes, so the kernel may keep what it has read for as long as it likes. Files come through the node's
cache, small ones whole, large ones piece by piece (`segments.py`). Needs `/dev/fuse`, `fusermount3` and the extra
`mount`; where one is missing, the refusal says which. When its program dies, the kernel answers whoever still reads
with an error: nobody waits for ever.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osmo_ray.data.chunking import WHOLE
from osmo_ray.data.errors import DataError
from osmo_ray.data.manifest import Entry, Kind
from osmo_ray.objects.datasets.cache import NodeCache
from osmo_ray.objects.datasets.dataset import Dataset
from osmo_ray.objects.datasets.filesystem import Tree
from osmo_ray.objects.datasets.segments import Large, Pieces
from osmo_ray.objects.protocol import ObjectError

_TYPES = {Kind.FILE: stat.S_IFREG, Kind.FOLDER: stat.S_IFDIR, Kind.LINK: stat.S_IFLNK}
_FOREVER = 365 * 86400


@dataclass(frozen=True, slots=True)
class How:
    """Of one mount. `regex` chooses files as in a download; `others` lets other users of the host in (root only);
    `ready` is called when it is there, `trouble` with a sentence about each read that failed."""

    regex: str = ""
    others: bool = False
    ready: Callable[[], None] = lambda: None
    trouble: Callable[[str], None] = lambda sentence: None


def mount(dataset: Dataset, selector: str, target: Path, cache: NodeCache, how: How = How()) -> None:
    """Serve the version at the empty folder `target` until it is unmounted or the program gets SIGINT or SIGTERM. Call
    it in the main thread. Raises `DataError` where this host does not allow it."""
    if problem := cannot(target):
        raise DataError(problem)
    import mfusepy

    view = View(Tree(dataset, selector, how.regex), cache, how.trouble)
    times = {"entry_timeout": _FOREVER, "attr_timeout": _FOREVER, "negative_timeout": _FOREVER}
    try:
        mfusepy.FUSE(
            _operations(view, how.ready), str(target), foreground=True, ro=True, fsname=f"osmo:{dataset.name}",
            default_permissions=True, kernel_cache=True, allow_other=how.others, **times,
        )  # fmt: skip
    except RuntimeError as error:
        raise DataError(f"cannot mount at {target}: FUSE refuses ({error})") from None


def cannot(target: Path) -> str:
    """Why nothing can be mounted there, in a sentence; empty if it can."""
    instead = "download the version, or read it by osmo.data.open"
    if problem := lacking():
        return f"{problem}; {instead}"
    if not target.is_dir():
        return f"{target} is no folder; make it first"
    return f"{target} is not empty; choose another folder" if any(target.iterdir()) else ""


def lacking() -> str:
    """What this host lacks for any mount; empty if nothing."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return f"this host has no /dev/fuse that {_who()} may use (containers need --device /dev/fuse)"
    if shutil.which("fusermount3") is None and os.geteuid() != 0:
        return "fusermount3 is missing (Debian: apt-get install fuse3)"
    try:
        import mfusepy  # noqa: F401
    except ImportError:
        return "the Python package mfusepy is missing: pip install 'osmo-ray[mount]'"
    except OSError:
        return "libfuse is missing (Debian: apt-get install fuse3)"
    return ""


def _who() -> str:
    return "root" if os.geteuid() == 0 else "this user"


@dataclass
class _Opened:
    """A file that somebody reads: `local` is one of the cache, `large` one of several pieces."""

    entry: Entry
    local: int = -1
    large: Large | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class View:
    """One version, asked by paths that begin with `/`. Raises `OSError`. For many threads."""

    def __init__(self, tree: Tree, cache: NodeCache, trouble: Callable[[str], None] = lambda sentence: None) -> None:
        self._tree, self._pieces, self._trouble = tree, Pieces(cache, tree.reader), trouble
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
        with self._as_errno(path):
            if opened.entry.size >= WHOLE:
                opened.large = Large(opened.entry, self._pieces)
            elif opened.entry.size:
                opened.local = self._pieces.open(opened.entry)
        with self._lock:
            self._count += 1
            self._opened[self._count] = opened
            return self._count

    def read(self, handle: int, size: int, offset: int) -> bytes:
        opened = self._opened[handle]
        if opened.large is None:
            return os.pread(opened.local, size, offset) if opened.local >= 0 else b""
        with opened.lock, self._as_errno(os.fsdecode(opened.entry.path)):
            return opened.large.read(offset, offset + size)

    def close(self, handle: int) -> None:
        with self._lock:
            opened = self._opened.pop(handle)
        if opened.large is not None:
            opened.large.close()
        elif opened.local >= 0:
            os.close(opened.local)

    @contextmanager
    def _as_errno(self, path: str) -> Iterator[None]:
        """Bytes that cannot be had, or are wrong, are an input/output error: never other bytes."""
        try:
            yield
        except (DataError, ObjectError, OSError) as error:
            self._trouble(f"{path.lstrip('/')} cannot be read: {error}")
            raise OSError(errno.EIO, str(error)) from error

    def _entry(self, path: str) -> Entry:
        entry = self._tree.at(_inner(path))
        if entry is None:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return entry


def _inner(path: str) -> bytes:
    return os.fsencode(path.strip("/"))


def _owner() -> dict[str, int]:
    return {"st_uid": os.getuid(), "st_gid": os.getgid()}


def _operations(view: View, ready: Callable[[], None]) -> Any:
    """The same as FUSE's library wants it; whatever it is not given here is refused by the library."""
    import mfusepy

    class Operations(mfusepy.Operations):  # type: ignore[misc]  # it has no types
        use_ns = True

        def init(self, path: str) -> None:
            ready()

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
