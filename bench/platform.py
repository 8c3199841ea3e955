"""A platform of its own for measurements, and the CPU and memory of its parts.

CPU is read from /proc/PID/stat of the processes that make up the control plane, so that the tasks themselves, their
sandboxes and whatever else the machine does are apart.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TICK = 1000 / os.sysconf("SC_CLK_TCK")
CONTROL_PLANE = ("ray::ControllerActor", "ray::NodeAgent", "ray::ServeReplica")


@dataclass
class Bench:
    """A running platform below `home`."""

    home: Path
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def call(self, method: str, path: str, body: object = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(
            self.url + path, method=method, data=data, headers={"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def submit(self, text: str) -> str:
        return str(self.call("POST", "/api/pool/default/workflow", {"file": text})["name"])

    def wait(self, id: str, limit: float = 300) -> str:
        """Looks into the database: asking the API costs CPU that is not the workflow's."""
        until = time.monotonic() + limit
        with closing(sqlite3.connect(f"file:{self.home}/osmo.db?mode=ro", uri=True)) as state:
            while time.monotonic() < until:
                status = str(state.execute("SELECT status FROM workflows WHERE id = ?", (id,)).fetchone()[0])
                if status not in ("PENDING", "RUNNING", "WAITING"):
                    return status
                time.sleep(0.05)
        raise TimeoutError(id)

    def pids(self, marks: tuple[str, ...]) -> list[int]:
        """Processes of this platform by the beginning of their names."""
        ours = f"OSMO_HOME={self.home}\0".encode()
        return [p for p, line in commands() if line.startswith(marks) and ours in read(f"/proc/{p}/environ")]

    def cpu(self) -> float:
        """Milliseconds that the control plane has used."""
        return sum(cpu_of(pid) for pid in self.pids(CONTROL_PLANE))


@contextmanager
def platform(**settings: str) -> Iterator[Bench]:
    """A platform in a temporary home, with these `OSMO_*` settings."""
    home = Path(tempfile.mkdtemp(prefix="osmo-bench-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "OSMO_"))}
    environ |= {"OSMO_HOME": str(home), **{f"OSMO_{k.upper()}": v for k, v in settings.items()}}
    osmo = [sys.executable, "-c", "from osmo_ray.program import main; raise SystemExit(main())"]
    try:
        subprocess.run([*osmo, "up", "--port", str(port)], env=environ, check=True, stdout=subprocess.DEVNULL)
        yield Bench(home, port)
    finally:
        subprocess.run([*osmo, "down"], env=environ, check=False, stdout=subprocess.DEVNULL)
        shutil.rmtree(home, ignore_errors=True)


def commands() -> list[tuple[int, str]]:
    pids = [int(e.name) for e in Path("/proc").iterdir() if e.name.isdigit()]
    return [(p, read(f"/proc/{p}/cmdline").replace(b"\0", b" ").decode(errors="replace").strip()) for p in pids]


def cpu_of(pid: int) -> float:
    fields = read(f"/proc/{pid}/stat").decode(errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK if fields else 0.0


def pss_of(pid: int) -> float:
    """MiB."""
    for line in read(f"/proc/{pid}/smaps_rollup").decode().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
