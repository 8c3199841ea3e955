"""What the figures stand beside, measured in the same run: raw Ray, plain processes, an empty replica."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

_RAY = """
import json, os, resource, sys, time
import ray

def cpu():
    total = 0
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = open(f"/proc/{entry}/stat").read().rpartition(")")[2].split()
                if int(fields[3]) == session or entry == str(os.getpid()):
                    total += int(fields[11]) + int(fields[12])
            except OSError:
                pass
    return total * 1000 / os.sysconf("SC_CLK_TCK")

session = os.getsid(0)
ray.init(num_cpus=4, include_dashboard=False, logging_level="ERROR", log_to_driver=False)

@ray.remote
def nothing(*_):
    return None

ray.get([nothing.remote() for _ in range(50)])
begun = cpu(); ray.get([nothing.remote() for _ in range(500)]); fan = (cpu() - begun) / 500
begun = cpu()
last = None
for _ in range(50):
    last = nothing.remote(last)
    ray.get(last)
line = (cpu() - begun) / 50

@ray.remote
class Empty:
    def pid(self):
        return os.getpid()

empty = Empty.remote()
pid = ray.get(empty.pid.remote())
from ray import serve
@serve.deployment
class Nothing:
    def __call__(self):
        return os.getpid()
handle = serve.run(Nothing.bind())
replica = handle.remote().result()
time.sleep(5)

def pss(pid):
    for row in open(f"/proc/{pid}/smaps_rollup"):
        if row.startswith("Pss:"):
            return int(row.split()[1]) / 1024

print(json.dumps({"fan": fan, "line": line, "worker": pss(pid), "replica": pss(replica)}))
serve.shutdown()
ray.shutdown()
"""
_found: dict[str, float] = {}


def _ray() -> dict[str, float]:
    """One cluster of plain Ray answers all questions about it."""
    if not _found:
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "OSMO_"))}
        folder = tempfile.mkdtemp(prefix="bench-ray-")
        environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{folder}/token", "RAY_TMPDIR": folder}
        Path(folder, "token").write_text("0" * 64)
        done = subprocess.run(
            [sys.executable, "-c", _RAY],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
            start_new_session=True,
        )
        _found.update(json.loads(next(row for row in done.stdout.splitlines() if row.startswith("{"))))
        shutil.rmtree(folder, ignore_errors=True)
    return _found


def ray_tasks() -> tuple[float, float]:
    """CPU per no-op task in ms over all of its processes: fan-out, chain."""
    found = _ray()
    return found["fan"], found["line"]


def empty_worker_and_replica() -> tuple[float, float]:
    """PSS in MiB of an actor and of a Serve replica that do nothing."""
    found = _ray()
    return found["worker"], found["replica"]


def subprocesses(count: int = 300) -> float:
    """Plain `true` per second, sixteen at a time."""
    begun = time.monotonic()
    running: list[subprocess.Popen[bytes]] = []
    for _ in range(count):
        running.append(subprocess.Popen(["/bin/true"]))
        if len(running) == 16:
            running.pop(0).wait()
    for process in running:
        process.wait()
    return count / (time.monotonic() - begun)


def spawn() -> str:
    def once() -> float:
        begun = time.time()
        told = subprocess.run(["date", "+%s.%N"], capture_output=True, text=True, check=True).stdout
        return (float(told) - begun) * 1000

    return f"plain subprocess {statistics.median(once() for _ in range(15)):.1f} ms"


def python() -> float:
    def once() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000

    return statistics.median(once() for _ in range(11))


def text(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read().decode())


def lines(url: str) -> Iterator[bytes]:
    with urllib.request.urlopen(url, timeout=300) as answer:
        yield from answer


def load(url: str, seconds: float = 5.0) -> tuple[float, float]:
    """(p50 in ms on one connection, requests per second on 32)."""
    import httpx

    with httpx.Client(timeout=30) as client:
        for _ in range(20):
            client.get(url).raise_for_status()
        times = []
        for _ in range(200):
            begun = time.perf_counter()
            client.get(url).raise_for_status()
            times.append((time.perf_counter() - begun) * 1000)

    async def many() -> float:
        count, until = 0, time.monotonic() + seconds
        async with httpx.AsyncClient(timeout=30) as client:

            async def worker() -> None:
                nonlocal count
                while time.monotonic() < until:
                    (await client.get(url)).raise_for_status()
                    count += 1

            await asyncio.gather(*(worker() for _ in range(32)))
        return count / seconds

    return statistics.median(times), asyncio.run(many())


_UVICORN = """
import sys, uvicorn
from osmo_ray import settings
from osmo_ray.api import application
from osmo_ray.api.app import services_from
app = application.build(services_from(settings.load()))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
"""


def under_uvicorn(home: Path, path: str) -> tuple[float, float]:
    """The same application over the same database, without Serve."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environ = {**os.environ, "OSMO_HOME": str(home)}
    process = subprocess.Popen([sys.executable, "-c", _UVICORN, str(port)], env=environ)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                text(f"http://127.0.0.1:{port}/health")
                break
            time.sleep(0.1)
        return load(f"http://127.0.0.1:{port}{path}")
    finally:
        process.terminate()
        process.wait(10)
