"""What the sections of `bench.datasets` share: data to measure on, clocks, and the peers that measure beside us."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osmo_ray.objects.datasets import Dataset, open_bucket
from osmo_ray.objects.local import LocalStore

MIB = 1 << 20
PEERS = {"RESTIC_PASSWORD": "x", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}


@dataclass(frozen=True)
class Took:
    wall: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.wall:.2f} ({self.cpu:.2f})"


def timed(work: Callable[[], object]) -> Took:
    os.sync()
    before, began = os.times(), time.monotonic()
    work()
    after = os.times()
    return Took(time.monotonic() - began, sum(after[:4]) - sum(before[:4]))


def row(name: str, *cells: object) -> None:
    print(f"  {name:<34}" + "".join(f"{cell!s:>18}" for cell in cells), flush=True)


def run(*command: object, cwd: Path | None = None, env: Mapping[str, str] = {}) -> None:
    told = {name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"}  # rclone refuses it
    given = [str(part) for part in command]
    done = subprocess.run(given, cwd=cwd, env={**told, **PEERS, **env}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr[-400:]}")


def same(left: Path, right: Path) -> None:
    subprocess.run(["diff", "-rq", "--no-dereference", left, right], check=True)


def stored(folder: Path) -> float:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / MIB


def small_files(folder: Path, count: int) -> None:
    dice = np.random.default_rng(7)
    log = np.exp(dice.uniform(np.log(1024), np.log(400 * 1024), count))
    sizes = np.where(dice.random(count) < 0.71, log, dice.uniform(1024, 400 * 1024, count)).astype(int)
    for number, size in enumerate(sizes):
        path = folder / f"d{number % 100:02}" / f"f{number:06}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dice.bytes(int(size)))


def change(folder: Path, share: float) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in random.Random(11).sample(files, max(1, int(len(files) * share))):
        path.write_bytes(os.urandom(path.stat().st_size))


class Ours:
    def __init__(self, work: Path) -> None:
        self.repo = work / "osmo"
        self.dataset = Dataset(open_bucket(LocalStore(self.repo), cache=work / "cache"), "d", create=True)

    def add(self, source: Path) -> None:
        self.dataset.upload([source])

    def restore(self, target: Path) -> None:
        self.dataset.download(target)


class Restic:
    def __init__(self, work: Path, repo: str = "", env: Mapping[str, str] = {}) -> None:
        self.repo, self._env = work / "restic", env
        self._at = repo or str(self.repo)
        run("restic", "-r", self._at, "init", env=env)

    def add(self, source: Path) -> None:
        run("restic", "-r", self._at, "--compression", "off", "backup", ".", cwd=source, env=self._env)

    def restore(self, target: Path) -> None:
        run("restic", "-r", self._at, "restore", "latest", "--target", target, env=self._env)


class Borg:
    def __init__(self, work: Path) -> None:
        self.repo, self._count = work / "borg", 0
        run("borg", "init", "-e", "none", self.repo)

    def add(self, source: Path) -> None:
        self._count += 1
        run("borg", "create", "-C", "none", f"{self.repo}::v{self._count}", ".", cwd=source)

    def restore(self, target: Path) -> None:
        target.mkdir(parents=True)
        run("borg", "extract", f"{self.repo}::v{self._count}", cwd=target)


class Rclone:
    def __init__(self, work: Path, repo: str = "", env: Mapping[str, str] = {}) -> None:
        self.repo, self._env = work / "rclone", env
        self._at = repo or str(self.repo)

    def add(self, source: Path) -> None:
        run("rclone", "sync", "--transfers", 16, "--checkers", 16, source, self._at, env=self._env)

    def restore(self, target: Path) -> None:
        run("rclone", "copy", "--transfers", 16, "--checkers", 16, self._at, target, env=self._env)


class Cp:
    def __init__(self, work: Path) -> None:
        self.repo = work / "cp"
        self.repo.mkdir()

    def add(self, source: Path) -> None:
        self._last = self.repo / str(len(list(self.repo.iterdir())))
        run("cp", "-a", source, self._last)

    def restore(self, target: Path) -> None:
        run("cp", "-a", self._last, target)


def peers(work: Path, *kinds: type) -> Iterator[tuple[str, Any]]:
    yield "osmo-ray", Ours(work)
    for kind in kinds:
        name = kind.__name__.lower()
        if shutil.which(name):
            yield name, kind(work)
        else:
            row(name, "not installed")
