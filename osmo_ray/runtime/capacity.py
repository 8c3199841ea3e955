"""What a node has and what its attempts use."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from osmo_ray.runtime import process
from osmo_ray.runtime.cgroups import Parent
from osmo_ray.runtime.codec import Job
from osmo_ray.runtime.container import Engine
from osmo_ray.runtime.host import Host
from osmo_ray.runtime.options import Options
from osmo_ray.runtime.process import Identity
from osmo_ray.spec.attempt import AttemptKey, NodeReport
from osmo_ray.spec.reason import Reason

_QUERY_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class UsageSample:
    """One running attempt now: `cpu` in cores since the sample before, `memory` in bytes, `gpu` in GPUs busy."""

    key: AttemptKey
    at: float
    cpu: float
    memory: int
    gpu: float


def find_gpus(option: int) -> tuple[int, ...]:
    """Numbers of the GPUs: `option` logical ones, or what nvidia-smi lists."""
    if option >= 0:
        return tuple(range(option))
    return tuple(sorted(_nvidia("index")))


def _nvidia(what: str) -> dict[int, float]:
    """GPU number to a value of nvidia-smi's; empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    try:
        query = [tool, f"--query-gpu=index,{what}", "--format=csv,noheader,nounits"]
        done = subprocess.run(query, capture_output=True, timeout=_QUERY_LIMIT, check=True)
        rows = [line.split(",") for line in done.stdout.decode().splitlines()]
        return {int(row[0]): float(row[1]) for row in rows}
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return {}


@dataclass(slots=True)
class Samples:
    """Cores are a difference, so the last sample is kept."""

    last: dict[AttemptKey, tuple[float, float]] = field(default_factory=dict)

    def take(
        self, running: Sequence[tuple[AttemptKey, Job, Identity | None]], cgroup: Parent | None
    ) -> list[UsageSample]:
        """A sample of each; attempts without a supervisor yet are left out."""
        busy = _nvidia("utilization.gpu") if any(job.gpus for _, job, _ in running) else {}
        found = []
        for key, job, who in running:
            if who is None:
                continue
            cpu, memory = _used(key, who, cgroup)
            gpu = sum(busy.get(number, 0.0) for number in job.gpus) / 100.0
            now = time.monotonic()
            before = self.last.get(key, (now, cpu))
            self.last[key] = (now, cpu)
            cores = max(cpu - before[1], 0.0) / (now - before[0]) if now > before[0] else 0.0
            found.append(UsageSample(key, time.time(), cores, memory, gpu))
        return found

    def forget(self, key: AttemptKey) -> None:
        self.last.pop(key, None)


def _used(key: AttemptKey, who: Identity, cgroup: Parent | None) -> tuple[float, int]:
    if cgroup is not None:
        own = cgroup.child(str(key))
        if own.pids():
            return own.cpu(), own.memory()
    seen = process.sample(pid for init in process.children(who.pid) for pid in process.tree(init))
    return seen.cpu, seen.memory


def node_report(
    root: Path, name: str, address: str, options: Options, host: Host, engine: Engine, gpus: tuple[int, ...], out: str
) -> NodeReport:
    """The node as workflows may use it, and in sentences what it cannot do."""
    return NodeReport(
        name=name,
        address=address,
        cpu=options.cpu or float(len(os.sched_getaffinity(0))),
        memory=options.memory or total_memory(),
        gpu=len(gpus),
        storage=shutil.disk_usage(root).free,
        platform=options.platform,
        labels=dict(options.labels),
        sandbox=f"{host.mode}: {host.why}",
        reasons=tuple(_shortcomings(host, engine, out)),
    )


def _shortcomings(host: Host, engine: Engine, out: str) -> list[Reason]:
    found = []
    if host.mode == "none":
        found.append(Reason("NoNamespaces", f"tasks run without a private file system and network: {host.why}"))
    elif not host.bridge:
        found.append(Reason("NoTaskNetwork", f"tasks share the node's network: {host.bridge_why}"))
    elif out:
        found.append(Reason("NoWayOut", f"tasks reach each other but nothing beyond this node: {out}"))
    if host.cgroup is None:
        found.append(Reason("NoCgroup", host.cgroup_why))
    if not engine.name:
        found.append(Reason("NoEngine", f"no container can run here: {engine.why}"))
    return found


def total_memory() -> int:
    """Bytes of this host, or of the cgroup that holds us when that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return total
