"""`osmo doctor`: what this host can do, and what to install for what it cannot."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from osmo_ray import settings as settings_room
from osmo_ray.platform.head import listening
from osmo_ray.runtime import NodeHost
from osmo_ray.runtime.options import Options
from osmo_ray.settings import Settings
from osmo_ray.spec.attempt import NodeReport
from osmo_ray.spec.quantity import show_bytes

GOOD, NOTE, BAD = "ok", "note", "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: `level` is ok, note (works with less) or bad (does not work)."""

    name: str
    level: str
    text: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format-type", "-t", choices=("text", "json"), default="text")


def run(args: argparse.Namespace) -> int:
    """0 unless something is bad."""
    settings = settings_room.load()
    findings = examine(settings)
    if args.format_type == "json":
        print(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        for f in findings:
            print(f"[{f.level:^4}] {f.name:<12} {f.text}")
    return 1 if any(f.level == BAD for f in findings) else 0


def examine(settings: Settings) -> list[Finding]:
    checks: tuple[Callable[[Settings], list[Finding]], ...] = (_python, _host, _sandbox, _disk, _port, _clock)
    return [finding for check in checks for finding in check(settings)]


def _python(settings: Settings) -> list[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    return [Finding("python", GOOD if good else BAD, f"{version} at {sys.executable}")]


def _host(settings: Settings) -> list[Finding]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    text = f"{socket.gethostname()}: {os.cpu_count()} cores, {show_bytes(memory)}, {os.uname().release}"
    return [Finding("host", GOOD if memory > 3 << 30 else NOTE, text)]


def _sandbox(settings: Settings) -> list[Finding]:
    """The runtime's own probes, in a spool of their own: the very ones that decide how a task runs."""
    report = asyncio.run(_examine(settings))
    gpus = Finding("gpus", GOOD, f"{report.gpu} found" if report.gpu else "none found")
    sandbox = Finding("sandbox", NOTE if report.sandbox.startswith("none") else GOOD, report.sandbox)
    return [sandbox, gpus, *(Finding("note", NOTE, f"{r.code}: {r.sentence}") for r in report.reasons)]


async def _examine(settings: Settings) -> NodeReport:
    with tempfile.TemporaryDirectory(prefix="osmo-doctor-") as folder:
        host = NodeHost(Path(folder), "doctor", "127.0.0.1", settings.storage, Options(sandbox=settings.sandbox))
        await host.start()
        try:
            return host.report()
        finally:
            await host.shutdown()


def _disk(settings: Settings) -> list[Finding]:
    place = settings.home
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    level = GOOD if free > 4 * settings.disk_reserve else NOTE if free > settings.disk_reserve else BAD
    return [
        Finding(
            "disk",
            level,
            f"{show_bytes(free)} free at {place} (new work is refused below {show_bytes(settings.disk_reserve)})",
        )
    ]


def _port(settings: Settings) -> list[Finding]:
    taken = listening(settings.host, settings.port)
    text = f"{settings.host}:{settings.port} " + ("is in use (by osmo, or choose --port)" if taken else "is free")
    return [Finding("port", NOTE if taken else GOOD, text)]


def _clock(settings: Settings) -> list[Finding]:
    """A clock that was never set makes leases and certificates wrong."""
    sane = time.time() > 1_700_000_000
    synced = Path("/run/systemd/timesync/synchronized").exists() or shutil.which("chronyc") or shutil.which("ntpd")
    if not sane:
        return [Finding("clock", BAD, f"says {time.ctime()}, which cannot be right")]
    return [
        Finding(
            "clock",
            GOOD if synced else NOTE,
            time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
            + ("" if synced else "; no time service seen (matters when several hosts join)"),
        )
    ]
