"""A Ray head of our own: loopback only unless told otherwise, token mode always, ports that nobody else uses."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from osmo_ray.platform.files import Files, Process
from osmo_ray.settings import Settings

START_LIMIT = 90.0


class HeadError(Exception):
    """Ray did not start; the message names the log that says why."""


@dataclass(frozen=True, slots=True)
class Head:
    """A running head: its process, where it listens."""

    process: Process
    address: str
    dashboard: str
    node: str


def environment(files: Files, listen: str) -> dict[str, str]:
    """Variables that every process talking to this Ray needs."""
    values = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(files.ray_token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        # Tasks have sessions of their own and all state is in the store: there is nothing to drain.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
        # One thread of a replica serves a request from end to end: our handlers never block its loop.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    }
    if listen.startswith("127."):
        # Without this switch Ray replaces a loopback address by the host's and listens everywhere.
        values["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    return values


def start(settings: Settings, files: Files, log: Path) -> Head:
    """Start a head as a child in a session of its own; raises `HeadError`."""
    sweep(temp_folder(files))
    listen = settings.host if settings.host not in ("", "localhost") else "127.0.0.1"
    ports = free_ports(listen, 5)
    address = f"{listen}:{ports[0]}"
    node = socket.gethostname()
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"),
        f"--node-ip-address={listen}",
        f"--node-name={node}",
        f"--port={ports[0]}",
        f"--dashboard-host={listen}",
        f"--dashboard-port={ports[1]}",
        f"--dashboard-agent-listen-port={ports[2]}",
        f"--ray-client-server-port={ports[3]}",
        f"--metrics-export-port={ports[4]}",
        f"--temp-dir={temp_folder(files)}",
        f"--object-store-memory={256 << 20}",
        "--include-log-monitor=false",
    ]
    if settings.cpu:
        command.append(f"--num-cpus={max(1, int(settings.cpu))}")
    if settings.gpu >= 0:
        command.append(f"--num-gpus={settings.gpu}")
    with log.open("ab") as out:
        child = subprocess.Popen(
            command,
            env={**clean(os.environ), **environment(files, listen), **settings.environment()},
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    process = Process.of(child.pid)
    _wait(child, listen, ports[0], ports[1], log)
    return Head(process, address, f"http://{listen}:{ports[1]}", node)


def _wait(child: subprocess.Popen[bytes], host: str, gcs: int, dashboard: int, log: Path) -> None:
    until = time.monotonic() + START_LIMIT
    while time.monotonic() < until:
        if child.poll() is not None:
            raise HeadError(f"Ray ended with code {child.returncode} while starting; see {log}")
        if listening(host, gcs) and listening(host, dashboard):
            return
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGKILL)
    raise HeadError(f"Ray did not start within {START_LIMIT:.0f} s; see {log}")


def stop(process: Process, files: Files, grace: float = 15.0) -> None:
    """End the head and everything of its session; other Ray clusters of the host are not touched."""
    process.end(grace)
    with suppress(ChildProcessError):  # it is our child when we are its keeper
        os.waitpid(process.pid, os.WNOHANG)
    for pid in _left(process.pid, files):
        Process.of(pid).end(2.0)


def _left(session: int, files: Files) -> list[int]:
    """What is left of a head: processes of its session and its home, or whose command line names its folder."""
    mark, home = str(temp_folder(files)).encode(), b"\0OSMO_HOME=" + str(files.home).encode() + b"\0"
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            line, environ = (entry / "cmdline").read_bytes(), b"\0" + (entry / "environ").read_bytes() + b"\0"
        except OSError:
            continue
        of_session = int(fields[3]) == session and home in environ  # the number alone may be another's by now
        if (of_session or (mark in line and b"ray" in line)) and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


def temp_folder(files: Files) -> Path:
    """Ray's session folder: short, because of unix socket paths, and one per home."""
    name = hashlib.sha256(str(files.home).encode()).hexdigest()[:10]
    return Path(os.environ.get("TMPDIR", "/tmp")) / f"osmo-ray-{os.getuid()}-{name}"  # noqa: S108


def sweep(folder: Path, keep: int = 2) -> None:
    """Remove the session folders of earlier heads but the newest, whose logs may still explain something. Their names
    begin with their time."""
    sessions = sorted(entry for entry in folder.glob("session_2*") if entry.is_dir() and not entry.is_symlink())
    for old in sessions[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without another cluster's Ray settings."""
    return {k: v for k, v in environ.items() if not k.startswith("RAY_")}


def listening(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((host, port)) == 0


def free_ports(host: str, count: int) -> list[int]:
    """Ports that nobody uses now, below the range from which the kernel hands out ports by itself."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    start = 20000 + (os.getpid() * 37) % 8000
    found: list[int] = []
    for port in range(start, min(start + 4000, low)):
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise HeadError("no free ports between 20000 and 32000")
