"""The files of a node that any task on it may need again, by content.

A file is fetched once per node and then given to each task by a reflink, a copy, or (where the task may not write) a
hard link. It is verified when it enters, and again whenever its inode or its change time is not what it was then:
a neighbour with a hard link might have been able to write. The folder keeps below its limit by
removing what was used longest ago.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from osmo_ray.data.chunking import Part
from osmo_ray.data.errors import DataError
from osmo_ray.data.manifest import Entry
from osmo_ray.data.reads import Run
from osmo_ray.objects.copying import copy, write_all
from osmo_ray.objects.datasets.reading import Reader

_SPACE = 0.9
"""A full cache is emptied down to this share of its limit."""


class NodeCache:
    """`root` is a folder of this node's own, `limit` bytes. For many threads and processes at once."""

    def __init__(self, root: Path, limit: int) -> None:
        self._files, self._limit = root / "files", limit
        self._files.mkdir(parents=True, exist_ok=True)
        self._lock_file = root / "lock"
        self._verified: dict[Path, tuple[int, int, int]] = {}
        self.fetched = 0
        """Bytes that this process brought from the bucket, file by file."""

    def path(self, entry: Entry, reader: Reader) -> Path:
        """The file's content under a name in the cache, fetched if need be; only to be read, and soon: it may be
        evicted at any time (a file that is open stays readable)."""
        if entry.digest is None:
            raise DataError(f"{entry.path.decode(errors='replace')!r} has no content to cache")
        target = self._place(entry.digest)
        if not self._sound(target, entry, reader):
            self._fetch(target, entry, reader)
        return target

    def has(self, entry: Entry) -> bool:
        """Whether its content is here; it may be evicted the next moment, and is verified only when it is asked for."""
        return entry.digest is not None and self._place(entry.digest).exists()

    def fill(self, entries: Iterable[Entry], reader: Reader, pool: ThreadPoolExecutor) -> int:
        """Fetch what is not here yet of these files, in few reads; the number of bytes that were fetched."""
        missing = {e.digest: e for e in entries if e.digest is not None and not self._place(e.digest).exists()}
        small = [(digest, e) for digest, e in missing.items() if e.parts is None]
        flying = [pool.submit(self._put_run, run, reader) for run in reader.plan(small)] if small else []
        for digest, entry in missing.items():
            if entry.parts is not None:
                self._fetch(self._place(digest), entry, reader)
        for future in flying:
            future.result()
        self.trim()
        return sum(entry.size for entry in missing.values())

    def _put_run(self, run: Run[tuple[bytes, Entry]], reader: Reader) -> None:
        for entry, data in reader.read(run):
            assert entry.digest is not None
            if len(data) != entry.size:
                raise DataError(f"{entry.path!r} has {len(data)} bytes in the bucket, {entry.size} in the manifest")
            target = self._place(entry.digest)
            target.parent.mkdir(parents=True, exist_ok=True)
            part = target.with_name(f".{uuid.uuid4().hex}")
            try:
                with part.open("xb") as sink:
                    write_all(sink.fileno(), bytes(data))
                    os.fchmod(sink.fileno(), 0o444)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)

    def give(self, entry: Entry, target: Path, reader: Reader, *, link: bool = False) -> None:
        """The file at `target`, which must not exist: a hard link with `link` (then nobody may write to it), else a
        copy of its own (a reflink where the filesystem has them) with the manifest's mode and time."""
        for _ in range(3):
            source = self.path(entry, reader)
            try:
                if link:
                    os.link(source, target)
                else:
                    _copy(source, target, entry)
                return
            except FileNotFoundError:  # evicted in between, unless the folder is missing
                if not target.parent.is_dir():
                    raise
        raise DataError(f"the node's cache of {self._limit} bytes is too small for what runs here; enlarge it")

    @property
    def largest(self) -> int:
        """Files above this would push out too much of what others need."""
        return self._limit // 4

    def size(self) -> int:
        return sum(size for _, size, _ in self._listed())

    def trim(self) -> int:
        """Evict until there is room again; the number of bytes freed."""
        with self._locked():
            found = sorted(self._listed())
            total = sum(size for _, size, _ in found)
            if total <= self._limit:
                return 0
            freed = 0
            for _, size, path in found:
                if total - freed <= self._limit * _SPACE:
                    break
                path.unlink(missing_ok=True)
                freed += size
            return freed

    def _place(self, digest: bytes) -> Path:
        name = digest.hex()
        return self._files / name[:2] / name

    def _sound(self, path: Path, entry: Entry, reader: Reader) -> bool:
        try:
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            if os.fstat(opened).st_size != entry.size:
                return False
            if self._verified.get(path) != _signs(opened):
                for at, part in _starts(entry):
                    if reader.hasher(os.pread(opened, part.size, at)) != part.id:
                        return False
            os.utime(opened)
            self._verified[path] = _signs(opened)
            return True
        finally:
            os.close(opened)

    def _fetch(self, target: Path, entry: Entry, reader: Reader) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{uuid.uuid4().hex}")
        try:
            with part.open("xb") as sink:
                for run in reader.plan([(chunk.id, at) for at, chunk in _starts(entry)]):
                    for at, data in reader.read(run):
                        os.lseek(sink.fileno(), at, os.SEEK_SET)
                        write_all(sink.fileno(), bytes(data))
                os.fchmod(sink.fileno(), 0o444)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        self.fetched += entry.size
        self.trim()

    def _listed(self) -> Iterator[tuple[int, int, Path]]:
        for folder in os.scandir(self._files):
            for file in os.scandir(folder.path):
                try:
                    status = file.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                yield status.st_mtime_ns, status.st_size, Path(file.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock_file.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _signs(opened: int) -> tuple[int, int, int]:
    """What changes when anybody writes to the file, or puts another in its place."""
    found = os.fstat(opened)
    return found.st_ino, found.st_ctime_ns, found.st_size


def _starts(entry: Entry) -> Iterable[tuple[int, Part]]:
    at = 0
    for part in entry.chunks():
        yield at, part
        at += part.size


def _copy(source: Path, target: Path, entry: Entry) -> None:
    with source.open("rb") as opened, target.open("xb") as sink:
        copy(opened.fileno(), sink.fileno())
        os.fchmod(sink.fileno(), entry.mode)
        os.utime(sink.fileno(), ns=(entry.mtime_ns, entry.mtime_ns))
