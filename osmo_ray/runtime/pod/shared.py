"""The folder that the containers of a pod share: the documented paths, and `run` for what is ours.

The task may do there what it likes. So nothing in it is opened through a link (`nolinks`), and what was opened once
stays: the log and the output folder are known by their descriptors.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from osmo_ray.runtime.nolinks import opened
from osmo_ray.runtime.spool import Folder


@dataclass(frozen=True, slots=True)
class PodFolder(Folder):
    """An attempt's folder as the programs around the command name it."""

    kept_log: str = ""
    kept_output: str = ""
    """Other names for them, once they are open: what the task puts in their place is not read."""

    @property
    def log(self) -> Path:
        return Path(self.kept_log) if self.kept_log else self.path / "run/log"

    @property
    def data_in(self) -> Path:
        return self.path / "data/input"

    @property
    def data_out(self) -> Path:
        return Path(self.kept_output) if self.kept_output else self.path / "data/output"


@dataclass(frozen=True, slots=True)
class Words:
    """What the launcher and the container beside it tell each other by files of `run` being there. OSError when `run`
    is no folder."""

    root: Path

    def __contains__(self, name: str) -> bool:
        run = self._run()
        try:
            os.stat(name, dir_fd=run, follow_symlinks=False)
        except FileNotFoundError:
            return False
        finally:
            os.close(run)
        return True

    def say(self, name: str) -> None:
        os.close(opened(self.root, f"run/{name}", os.O_WRONLY | os.O_CREAT))

    def take_back(self, name: str) -> None:
        run = self._run()
        try:
            os.unlink(name, dir_fd=run)
        finally:
            os.close(run)

    def _run(self) -> int:
        return opened(self.root, "run", os.O_PATH | os.O_DIRECTORY)


def kept_open(root: Path) -> PodFolder:
    """The folder with its log and output opened once. They are never closed: a child may read them. OSError when
    either is not what the task was given."""
    log = opened(root, "run/log", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    if not stat.S_ISREG(os.fstat(log).st_mode):
        raise OSError(errno.EINVAL, "the log is no file", str(root / "run/log"))
    output = opened(root, "data/output", os.O_RDONLY | os.O_DIRECTORY)
    return PodFolder(root, kept_log=f"/proc/self/fd/{log}", kept_output=f"/proc/self/fd/{output}")
