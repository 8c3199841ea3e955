"""Bytes from one open file into another by the cheapest way the kernel has.

A reflink shares the blocks and costs nothing; `copy_file_range` stays in the kernel; reading and writing works
everywhere. Which of them applies depends on both filesystems, so each is tried in turn.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from osmo_ray.objects.protocol import ObjectError

_FICLONE = 0x40049409  # linux/fs.h
_CHUNK = 1 << 20
_TRY_NEXT = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM, errno.EBADF, errno.ETXTBSY}
)


def copy(source: int, target: int) -> int:
    """Everything of the file descriptor `source` into the empty `target`. Returns the number of bytes."""
    if _reflink(source, target):
        return os.fstat(target).st_size
    done = _in_kernel(source, target)
    return done + _by_hand(source, target)


def _reflink(source: int, target: int) -> bool:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _TRY_NEXT:
            raise
        return False
    return True


def _in_kernel(source: int, target: int) -> int:
    """What `copy_file_range` moved; both offsets stand behind it, so that the rest can follow by hand."""
    done = 0
    while True:
        try:
            moved = os.copy_file_range(source, target, 1 << 30)
        except OSError as error:
            if error.errno not in _TRY_NEXT:
                raise
            return done
        if moved == 0:  # the end, or a filesystem (such as /proc) that cannot say: reading decides
            return done
        done += moved


def _by_hand(source: int, target: int) -> int:
    done = 0
    while data := os.read(source, _CHUNK):
        write_all(target, data)
        done += len(data)
    return done


def write_all(target: int, data: bytes) -> None:
    """All of `data` at the current offset, whatever a single write takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


@contextmanager
def open_regular(source: Path) -> Iterator[tuple[int, int]]:
    """(file descriptor, size) of a regular file to upload. Symbolic links, pipes, devices and folders are refused
    with a permanent `ObjectError`: what a task left behind may point anywhere, and a pipe would hang."""
    try:
        opened = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ObjectError(f"cannot read {source}: {error.strerror}", permanent=True) from error
    try:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode):
            raise ObjectError(f"cannot upload {source}: it is not a regular file", permanent=True)
        yield opened, found.st_size
    finally:
        os.close(opened)
