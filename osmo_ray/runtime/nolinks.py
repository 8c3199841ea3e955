"""Opening what others may have moved about: below a folder, and through no link.

A task can put a link anywhere in a folder that it may write, while the programs around it can read what it must not:
its job, with the keys of the storage. They open such things here.
"""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def opened(root: Path, below: str, flags: int) -> int:
    """A descriptor of what lies below `root`, which may itself be reached through links. OSError where one stands on
    the rest of the way, or nothing."""
    *folders, name = _parts(below)
    at = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_PATH | _FOLDER, dir_fd=at)
            os.close(at)
            at = inner
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666, dir_fd=at)
    finally:
        os.close(at)


def _parts(below: str) -> list[str]:
    parts = [part for part in below.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise OSError(f"{below!r} leads out of its folder")
    return parts
