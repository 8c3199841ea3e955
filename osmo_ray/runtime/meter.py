"""What an attempt uses: memory, CPU and disk, now and at most, by cgroup or by looking at its processes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from osmo_ray.runtime import process
from osmo_ray.runtime.cgroups import Cgroup

_DISK_EVERY, _DISK_SHARE = 5.0, 20.0


@dataclass(slots=True)
class Meter:
    """One attempt's peaks. `cgroup` is None where there is none; then memory is sampled."""

    cgroup: Cgroup | None
    disk_paths: tuple[Path, ...]
    memory_peak: int = 0
    disk_peak: int = 0
    cpu_before: float = 0.0
    """Of earlier generations, as their init told."""
    cpu_sampled: float = 0.0
    _disk_due: float = field(default=0.0)

    @property
    def watched(self) -> str:
        """How the figures were found, where that limits them."""
        return "" if self.cgroup is not None else " (sampled)"

    def look(self, init: int) -> int:
        """Sample the processes below `init`; returns bytes of memory now."""
        if self.cgroup is not None:
            now = self.cgroup.memory()
            self.memory_peak = max(self.memory_peak, self.cgroup.memory_peak(), now)
            return now
        seen = process.sample(process.tree(init))
        self.memory_peak = max(self.memory_peak, seen.memory)
        self.cpu_sampled = max(self.cpu_sampled, seen.cpu)
        return seen.memory

    def look_at_disk(self, *, now: bool = False) -> int:
        """Bytes written, looked at rarely enough to cost little; returns the newest known."""
        begun = time.monotonic()
        if not now and begun < self._disk_due:
            return self.disk_peak
        used = sum(disk_used(path) for path in self.disk_paths)
        self.disk_peak = max(self.disk_peak, used)
        took = time.monotonic() - begun
        self._disk_due = begun + max(_DISK_EVERY, took * _DISK_SHARE)
        return used

    def ended(self, cpu: float, peak: int) -> None:
        """A generation is over; its init told `cpu` seconds and the largest process's peak (0: not known)."""
        if self.cgroup is None:
            self.memory_peak = max(self.memory_peak, peak)
        self.cpu_before += max(cpu, self.cpu_sampled)
        self.cpu_sampled = 0.0

    def usage(self) -> dict[str, float]:
        """The final figures."""
        if self.cgroup is not None:
            self.memory_peak = max(self.memory_peak, self.cgroup.memory_peak())
        cpu = max(self.cgroup.cpu() if self.cgroup else 0.0, self.cpu_before)
        return {
            "memory_peak": float(self.memory_peak),
            "cpu_seconds": round(cpu, 6),
            "disk_peak": float(self.disk_peak),
        }


def disk_used(path: Path) -> int:
    """Bytes on disk below a folder; other mounts, links and what cannot be read do not count."""
    total = 0
    waiting = [os.fspath(path)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
    return total
