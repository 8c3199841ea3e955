"""A version back into a folder: byte for byte, with modes, times, links and empty folders.

A file appears under its name only when it is whole and verified (a temporary name, then a rename), so a restore that
dies leaves nothing that looks finished; run again with `resume`, it keeps what has the right digest. Nothing is ever
written through a symbolic link.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from blake3 import blake3

from osmo_ray.data.chunking import pack_parts
from osmo_ray.data.errors import DataError
from osmo_ray.data.manifest import Entry, Kind
from osmo_ray.data.reads import Run
from osmo_ray.objects.copying import write_all
from osmo_ray.objects.datasets.cache import NodeCache
from osmo_ray.objects.datasets.reading import Reader

_THREADS = 4
_PART = b".osmo-part-"
_GROUP = 4096


def restore(
    entries: Iterable[Entry], target: Path, reader: Reader, *, resume: bool = False, cache: NodeCache | None = None
) -> int:
    """Write these rows (in order of path) below `target`; the number of bytes that were written, or with a cache those
    that it did not have. A folder that is not empty is refused unless `resume` is set, which keeps files that are
    already right and replaces the others."""
    root = os.fsencode(target)
    _root(root, resume)
    folders: list[tuple[bytes, Entry]] = []
    done = 0
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="osmo-restore") as pool:
        for group in _groups(entries):
            files = []
            for entry in group:
                path = root + b"/" + entry.path
                if entry.kind is Kind.FOLDER:
                    _folder(path, resume)
                    folders.append((path, entry))
                elif not (resume and _right(path, entry, reader)):
                    files.append((path, entry))
            done += _from_cache(files, reader, cache, pool) if cache else _files(files, reader, pool)
    for path, entry in reversed(folders):
        os.chmod(path, entry.mode)  # noqa: PTH101 - bytes paths throughout
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
    return done


def _root(root: bytes, resume: bool) -> None:
    os.makedirs(root, exist_ok=True)  # noqa: PTH103
    if not resume and any(os.scandir(root)):
        raise DataError(f"{os.fsdecode(root)} is not empty; choose another folder, or resume")


def _groups(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    group: list[Entry] = []
    for entry in entries:
        group.append(entry)
        if len(group) == _GROUP:
            yield group
            group = []
    yield group


def _folder(path: bytes, resume: bool) -> None:
    try:
        os.mkdir(path, 0o700)  # noqa: PTH102
    except FileExistsError:
        if not resume or not stat.S_ISDIR(os.lstat(path).st_mode):
            raise DataError(f"{os.fsdecode(path)} is in the way; move it, or choose another folder") from None
        os.chmod(path, 0o700)  # noqa: PTH101


def _right(path: bytes, entry: Entry, reader: Reader) -> bool:
    """Whether the file or link is already what it should be; its mode and time are set if so."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    if entry.kind is Kind.LINK:
        return stat.S_ISLNK(found.st_mode) and os.readlink(path) == entry.target  # noqa: PTH115
    if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
        return False
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        at = 0
        for part in entry.chunks():
            if reader.hasher(os.pread(opened, part.size, at)) != part.id:
                return False
            at += part.size
        _finish(opened, entry)
    finally:
        os.close(opened)
    return True


def _files(files: list[tuple[bytes, Entry]], reader: Reader, pool: ThreadPoolExecutor) -> int:
    small = [(entry.digest, (path, entry)) for path, entry in files if entry.digest and entry.parts is None]
    flying: list[Future[None]] = [pool.submit(_write_run, run, reader) for run in reader.plan(small)]
    for path, entry in files:
        if entry.kind is Kind.LINK:
            _link(path, entry)
        elif not entry.size:
            _write_small(path, entry, b"")
    for future in flying:
        future.result()
    for path, entry in files:
        if entry.parts is not None:
            _write_large(path, entry, reader, pool)
    return sum(entry.size for _, entry in files)


def _from_cache(files: list[tuple[bytes, Entry]], reader: Reader, cache: NodeCache, pool: ThreadPoolExecutor) -> int:
    """Through the node's cache, in portions that fit into it; files too large for it go past."""
    past = [one for one in files if not one[1].digest or one[1].size > cache.largest]
    done = _files(past, reader, pool)
    for portion in _portions([f for f in files if f[1].digest and f[1].size <= cache.largest], 2 * cache.largest):
        done += cache.fill([entry for _, entry in portion], reader, pool)
        list(pool.map(lambda given: _give(given, cache, reader), portion))
    return done


def _portions(files: list[tuple[bytes, Entry]], limit: int) -> Iterator[list[tuple[bytes, Entry]]]:
    portion: list[tuple[bytes, Entry]] = []
    size = 0
    for one in files:
        if portion and size + one[1].size > limit:
            yield portion
            portion, size = [], 0
        portion.append(one)
        size += one[1].size
    yield portion


def _give(given: tuple[bytes, Entry], cache: NodeCache, reader: Reader) -> None:
    path, entry = given
    part = _temporary(path)
    cache.give(entry, Path(os.fsdecode(part)), reader)
    os.replace(part, path)  # noqa: PTH105


def _write_run(run: Run[tuple[bytes, tuple[bytes, Entry]]], reader: Reader) -> None:
    for (path, entry), data in reader.read(run):
        if len(data) != entry.size:
            raise DataError(f"{os.fsdecode(path)} has {len(data)} bytes in the bucket, {entry.size} in the manifest")
        _write_small(path, entry, data)


def _write_small(path: bytes, entry: Entry, data: bytes | memoryview) -> None:
    part = _temporary(path)
    opened = os.open(part, _NEW, 0o600)
    try:
        if data:
            write_all(opened, data)  # type: ignore[arg-type]  # a view is written as bytes are
        _finish(opened, entry)
    finally:
        os.close(opened)
    os.replace(part, path)  # noqa: PTH105


def _write_large(path: bytes, entry: Entry, reader: Reader, pool: ThreadPoolExecutor) -> None:
    parts = entry.chunks()
    if reader.hasher.of_parts(pack_parts(parts)) != entry.digest or sum(p.size for p in parts) != entry.size:
        raise DataError(f"the manifest contradicts itself about {os.fsdecode(path)}")
    starts, at = [], 0
    for piece in parts:
        starts.append((piece.id, at))
        at += piece.size
    temporary = _temporary(path)
    opened = os.open(temporary, _NEW, 0o600)
    try:
        os.truncate(opened, entry.size)
        list(pool.map(lambda run: _write_at(opened, run, reader), reader.plan(starts)))
        _finish(opened, entry)
    finally:
        os.close(opened)
    os.replace(temporary, path)  # noqa: PTH105


def _write_at(opened: int, run: Run[tuple[bytes, int]], reader: Reader) -> None:
    for start, data in reader.read(run):
        done = 0
        while done < len(data):
            done += os.pwrite(opened, memoryview(data)[done:], start + done)


def _link(path: bytes, entry: Entry) -> None:
    assert entry.target is not None
    part = _temporary(path)
    os.symlink(entry.target, part)  # noqa: PTH211
    os.utime(part, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)
    os.replace(part, path)  # noqa: PTH105


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


def _temporary(path: bytes) -> bytes:
    """A name beside the final one that a crashed restore may have left."""
    part = os.path.dirname(path) + b"/" + _PART + blake3(path).hexdigest(8).encode()  # noqa: PTH120
    try:
        os.unlink(part)  # noqa: PTH108
    except FileNotFoundError:
        pass
    return part


def _finish(opened: int, entry: Entry) -> None:
    os.fchmod(opened, entry.mode)
    os.utime(opened, ns=(entry.mtime_ns, entry.mtime_ns))
