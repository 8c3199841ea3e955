"""A folder as an object store: what a laptop and a single host use.

Every object appears whole or not at all, and is on the disk before a verb returns: a temporary file is written,
fsynced and then renamed (`write`) or linked (`create`, which is what makes it conditional), and the folder is fsynced
after that. Only the standard library is imported, because the small process beside each task imports this module.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from osmo_ray.objects.copying import copy, open_regular, write_all
from osmo_ray.objects.keys import check_key, check_prefix
from osmo_ray.objects.protocol import AlreadyExists, NoSuchObject, ObjectError, ObjectInfo

_TEMPORARY = ".osmo-tmp"
_LEFTOVER_AGE = 86400.0
_RACES = 1000
"""How often in a row a `delete` may remove the folder that a writer has just made."""
_PERMANENT = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.EINVAL,
        errno.EOPNOTSUPP,
        errno.ENOENT,
        errno.ENOTEMPTY,
    }
)
_ABSENT = (FileNotFoundError, NotADirectoryError)
_serial = itertools.count()


class LocalStore:
    """Objects are files below `root`; `durable=False` leaves out the fsyncs, for caches that may be lost."""

    conditional = True

    def __init__(self, root: Path | str, *, durable: bool = True) -> None:
        self.root = Path(root).expanduser().absolute()
        self.url = self.root.as_uri()
        self._base = str(self.root)
        self._durable = durable
        self._swept = False

    def stat(self, key: str) -> ObjectInfo:
        path = self._path(key)
        with _errors(key):
            found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            raise NoSuchObject(key)
        return ObjectInfo(key, found.st_size, found.st_mtime)

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """See the protocol; a range beyond the end gives what there is."""
        with _errors(key), self._opened(key) as source:
            size = os.fstat(source).st_size
            left = max((size if end is None else min(end, size)) - start, 0)
            parts = []
            while left and (data := os.pread(source, left, start)):
                parts.append(data)
                start, left = start + len(data), left - len(data)
        return b"".join(parts)

    def open(self, key: str) -> int:
        """A file descriptor to read the object, which stays as it is whatever is written meanwhile; to be closed."""
        with _errors(key), self._opened(key) as opened:
            return os.dup(opened)

    def write(self, key: str, source: BinaryIO | bytes) -> int:
        return self._put(key, lambda target: _pour(source, target), os.replace)

    def create(self, key: str, data: bytes) -> None:
        self._put(key, lambda target: _pour(data, target), os.link)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        below = check_prefix(prefix)
        return self._walk(below)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            path = self._path(key)
            with _errors(key):
                try:
                    os.unlink(path)  # noqa: PTH108 - a plain string is what the hot path has
                except (*_ABSENT, IsADirectoryError):
                    continue
                self._prune(os.path.dirname(path))  # noqa: PTH120

    def download(self, key: str, target: Path) -> int:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{_unique()}")
        with _errors(key), self._opened(key) as source:
            try:
                with _new_file(str(part)) as sink:
                    size = copy(source, sink)
                part.replace(target)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        return size

    def upload(self, source: Path, key: str) -> int:
        """Symbolic links, pipes and devices are refused: what a task left behind may point anywhere."""
        check_key(key)
        with open_regular(source) as (opened, _):
            return self._put(key, lambda target: copy(opened, target), os.replace)

    def sign(self, key: str, verb: str, ttl: float) -> str:
        raise ObjectError(
            f"a folder ({self.root}) has no URLs to give away; start the platform with --storage-gateway",
            permanent=True,
        )

    def _path(self, key: str) -> str:
        check_key(key)
        if key.split("/", 1)[0] == _TEMPORARY:
            raise ObjectError(f"bad object key {key!r}: {_TEMPORARY} is the store's own folder", permanent=True)
        return f"{self._base}/{key}"

    @contextmanager
    def _opened(self, key: str) -> Iterator[int]:
        opened = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise NoSuchObject(key)
            yield opened
        finally:
            os.close(opened)

    def _put(self, key: str, fill: Callable[[int], int], publish: Callable[[str, str], None]) -> int:
        path = self._path(key)
        with _errors(key, writing=True), self._temporary() as part:
            with _new_file(part) as sink:
                size = fill(sink)
                if self._durable:
                    os.fsync(sink)
            self._publish(part, path, publish)
        return size

    def _publish(self, part: str, path: str, publish: Callable[[str, str], None]) -> None:
        """Rename or link into place. The folder may be pruned by a `delete` at any moment: then it is made again."""
        folder = os.path.dirname(path)  # noqa: PTH120
        for tries_left in reversed(range(_RACES)):
            try:
                made = self._make(folder)
                publish(part, path)
                break
            except FileNotFoundError:
                if not tries_left:
                    raise
        if self._durable:
            for changed in (folder, *made):
                _sync_folder(changed)

    def _make(self, folder: str) -> tuple[str, ...]:
        """Make the folder; the parents that got a new entry, which are to be fsynced too."""
        try:
            os.mkdir(folder)  # noqa: PTH102
        except FileExistsError:
            return ()
        except FileNotFoundError:
            above = self._make(os.path.dirname(folder))  # noqa: PTH120
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)  # noqa: PTH102
            return (os.path.dirname(folder), *above)  # noqa: PTH120
        return (os.path.dirname(folder),)  # noqa: PTH120

    def _prune(self, folder: str) -> None:
        while len(folder) > len(self._base):
            try:
                os.rmdir(folder)  # noqa: PTH106
            except OSError:
                return
            folder = os.path.dirname(folder)  # noqa: PTH120

    @contextmanager
    def _temporary(self) -> Iterator[str]:
        """A path that nobody else uses, on the same filesystem; gone afterwards unless it was renamed."""
        folder = f"{self._base}/{_TEMPORARY}"
        os.makedirs(folder, mode=0o700, exist_ok=True)  # noqa: PTH103
        if not self._swept:
            self._swept = True
            _sweep(folder)
        part = f"{folder}/{_unique()}"
        try:
            yield part
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)  # noqa: PTH108

    def _walk(self, below: str) -> Iterator[ObjectInfo]:
        """In order of key: a folder sorts as its name with the `/` that its keys have."""
        with _errors(below):
            try:
                entries = list(os.scandir(f"{self._base}/{below}"))
            except _ABSENT:
                return
        folders = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        for entry in sorted(entries, key=lambda e: f"{e.name}/" if e.name in folders else e.name):
            key = below + entry.name
            if entry.name in folders:
                if key != _TEMPORARY:
                    yield from self._walk(f"{key}/")
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):  # deleted since
                    found = entry.stat(follow_symlinks=False)
                    yield ObjectInfo(key, found.st_size, found.st_mtime)


def _pour(source: BinaryIO | bytes, target: int) -> int:
    if isinstance(source, bytes | bytearray | memoryview):
        write_all(target, bytes(source))
        return len(source)
    size = 0
    while data := source.read(1 << 20):
        write_all(target, data)
        size += len(data)
    return size


@contextmanager
def _new_file(path: str) -> Iterator[int]:
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        yield opened
    finally:
        os.close(opened)


def _unique() -> str:
    return f"{os.getpid()}-{next(_serial)}-{os.urandom(4).hex()}"


def _sync_folder(folder: str) -> None:
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:  # pruned since: then the object is deleted as well
        return
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _sweep(folder: str) -> None:
    """Remove what writers left behind that were killed long ago."""
    oldest = time.time() - _LEFTOVER_AGE
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < oldest:
                    os.unlink(entry.path)  # noqa: PTH108


@contextmanager
def _errors(key: str, *, writing: bool = False) -> Iterator[None]:
    """OSErrors as the protocol's. When reading, an absent path or a folder is an absent object."""
    try:
        yield
    except FileExistsError:
        raise AlreadyExists(key) from None
    except (*_ABSENT, IsADirectoryError) as error:
        if not writing:
            raise NoSuchObject(key) from None
        raise ObjectError(
            f"cannot write {key}: a folder or object of that name is in the way", permanent=True
        ) from error
    except OSError as error:
        permanent = error.errno in _PERMANENT
        raise ObjectError(f"{key}: {error.strerror or error}", permanent=permanent) from error
