"""Whether a folder is fit for SQLite.

SQLite's write-ahead log shares memory between processes and needs locks that work; over a network filesystem neither
holds, and two hosts would silently corrupt the database. So the filesystem type is looked up before anything is made.
"""

from __future__ import annotations

import os
from pathlib import Path

from osmo_ray.store.protocol import StoreError

_NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "pvfs2"),
        *("ocfs2", "gfs2", "glusterfs", "coda", "davfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs"),
        *("fuse.davfs2", "fuse.rclone", "fuse.gcsfuse", "fuse.blobfuse2", "fuse.juicefs", "fuse.curlftpfs"),
        *("fuse.mount-s3", "fuse.mountpoint-s3", "fuse.goofys", "fuse.nfs", "fuse.smb", "fuse.afp_infra"),
    }
)
_MOUNTS = Path("/proc/self/mountinfo")


def refuse_network(folder: Path, mounts: str | None = None) -> None:
    """Raises a permanent `StoreError` when `folder` is on a network filesystem. `mounts` is the text of mountinfo."""
    kind, mount = filesystem_of(folder, _read_mounts() if mounts is None else mounts)
    if kind in _NETWORK:
        raise StoreError(
            f"{folder} is on a network filesystem ({kind} at {mount}), where SQLite loses data; "
            "put OSMO_HOME on a local disk, or set OSMO_DATABASE_URL to a PostgreSQL",
            permanent=True,
        )


def filesystem_of(folder: Path, mounts: str) -> tuple[str, str]:
    """(type, mount point) of the filesystem that holds `folder`, which need not exist yet; `("", "")` if unknown."""
    path = f"{folder.resolve()}/"
    best = ("", "")
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        columns, kind = before.split(), after.split()
        if len(columns) < 5 or not kind:
            continue
        mount = _unescape(columns[4])
        if path.startswith(mount.rstrip("/") + "/") and len(mount) >= len(best[1]):  # a later mount hides an earlier
            best = (kind[0], mount)
    return best


def _unescape(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def _read_mounts() -> str:
    try:
        return _MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return ""


def free_bytes(folder: Path) -> int:
    """What an ordinary user may still write there."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
