"""The Linux calls that the standard library does not offer, as plain functions that raise OSError.

Everything here is used between a fork and an exec, so nothing allocates threads or imports anything late.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
PR_SET_NAME = 15

_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}
_SYS_MOUNT_SETATTR = 442
_CAP_VERSION_3 = 0x20080522

# What a container usually keeps, without making device nodes and raw sockets.
KEPT_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 29, 31)

_libc = ctypes.CDLL(None, use_errno=True)
_machine = os.uname().machine


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def unshare(flags: int) -> None:
    """Leave namespaces of the given kinds for new ones."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, kind: int) -> None:
    """Enter the namespace behind `fd`."""
    _check(_libc.setns(fd, kind), f"setns({kind:#x})")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); empty strings are passed as no argument."""
    result = _libc.mount(
        os.fsencode(source) or None, os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags),
        os.fsencode(data) or None,
    )  # fmt: skip
    _check(result, f"mount {source or kind} on {target}")


def bind(source: str, target: str, *, recursive: bool = True) -> None:
    """Show `source` at `target`."""
    mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


_AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY, _ATTR_NOSUID = -100, 0x8000, 0x1, 0x2


def read_only(target: str, *, recursive: bool = True) -> None:
    """Make the mount at `target` (and those below it) read-only and without set-uid.

    Before kernel 5.12 only the top mount can be changed, and only if it has no other locked flags."""
    attr = _MountAttr(_ATTR_RDONLY | _ATTR_NOSUID, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(target), flags, ctypes.byref(attr), ctypes.sizeof(attr)
    )
    if result < 0:
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)


def umount(target: str) -> None:
    """Take the mount away, now or when its last user goes."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root; the old one is found at `old`."""
    result = _libc.syscall(_SYS_PIVOT_ROOT[_machine], os.fsencode(new), os.fsencode(old))
    _check(result, f"pivot_root {new}")


def set_hostname(name: str) -> None:
    """The host name of this uts namespace."""
    raw = name.encode()
    _check(_libc.sethostname(raw, len(raw)), "sethostname")


def prctl(option: int, value: int = 0, other: int = 0) -> None:
    """prctl(2) with up to two arguments."""
    zero = ctypes.c_ulong(0)
    _check(_libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(other), zero, zero), f"prctl({option})")


def name_process(name: str) -> None:
    """The short name that `ps` shows."""
    _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def drop_capabilities(keep: tuple[int, ...] = KEPT_CAPABILITIES) -> None:
    """Keep only `keep`, for this process and whatever it executes, and never gain any again."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    for number in range(_last_capability() + 1):
        if number not in keep:
            try:
                prctl(PR_CAPBSET_DROP, number)
            except PermissionError:
                break  # an ordinary user outside any user namespace has none to lose
    try:
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError:
        pass
    mask = sum(1 << number for number in keep) & held_capabilities()
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAP_VERSION_3, 0))
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, 0, high, high, 0))
    _check(_libc.syscall(_SYS_CAPSET[_machine], header, data), "capset")


def held_capabilities() -> int:
    """The permitted set of this process, as a bit mask."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            return int(line.split()[1], 16)
    return 0


def _last_capability() -> int:
    try:
        return int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    except (OSError, ValueError):
        return 40
