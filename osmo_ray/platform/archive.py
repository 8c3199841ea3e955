"""`osmo backup FILE` and `osmo restore FILE`: the state of a platform as one file, for either kind of database.

A backup is one snapshot, taken while everything runs. A restore fills an empty database of a platform that is down;
pointing `OSMO_DATABASE_URL` at PostgreSQL while restoring is how a platform moves there.
"""

from __future__ import annotations

import argparse
import fcntl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from osmo_ray import settings as settings_room
from osmo_ray.platform.files import Files
from osmo_ray.settings import Settings, without_password
from osmo_ray.spec.quantity import show_bytes
from osmo_ray.store import archive
from osmo_ray.store.protocol import StoreError
from osmo_ray.store.sql import SqlStore

NOT_IN_IT = """\
not in it:
  storage   intermediate data, outputs and logs: copy {storage} beside it
  secrets   ray.token, admin.token and gateway.key: not needed, the next `osmo up` makes new ones
  settings  config.yaml and OSMO_... variables"""


@dataclass(frozen=True, slots=True)
class _Verb:
    """A verb that takes a file and may refuse with a sentence."""

    name: str
    told: str
    act: Callable[[Path], None]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("file", metavar="FILE", type=Path, help=self.told)

    def run(self, args: argparse.Namespace) -> int:
        try:
            self.act(args.file)
        except StoreError as error:
            print(f"osmo {self.name}: {error}", file=sys.stderr)
            return 1
        return 0


def _backup(file: Path) -> None:
    settings = _running()
    if settings.database.startswith("sqlite:///") and not Path(settings.database[len("sqlite:///") :]).exists():
        raise StoreError(f"there is no state at {settings.database}; OSMO_HOME or OSMO_DATABASE_URL name another place")
    archive.backup(settings.database, str(file))
    print(f"saved {without_password(settings.database)} in {file} ({show_bytes(file.stat().st_size)})")
    print(NOT_IN_IT.format(storage=settings.storage))


def _running() -> Settings:
    """The settings of the platform that runs, which may have come from the command line of `osmo up`."""
    here = settings_room.load()
    return Files(here.home).running() or here


def _restore(file: Path) -> None:
    settings = settings_room.load()
    files = Files(settings.home)
    if not file.is_file():
        raise StoreError(f"there is no file {file}")
    files.prepare()
    with files.lock.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # what a keeper holds as long as it lives
        except BlockingIOError:
            raise StoreError(f"a platform runs in {settings.home}; stop it first: osmo down") from None
        archive.restore(str(file), settings.database)
        _unfinished(settings)


def _unfinished(settings: Settings) -> None:
    store = SqlStore(settings.database)
    try:
        live = len(store.alive())
    finally:
        store.close()
    print(f"restored {without_password(settings.database)}; start it with: osmo up")
    if live:
        print(f"{live} workflows had not finished; tasks that were running then are run again")
    print(f"their data and logs are looked for in {settings.storage}")


BACKUP = _Verb("backup", "the archive to write (gzip; replaced only when the new one is whole)", _backup)
RESTORE = _Verb("restore", "an archive that `osmo backup` wrote", _restore)
