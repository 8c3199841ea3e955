"""A real platform for tests: its own home and port, started and stopped through the command line like a user's."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OSMO = (sys.executable, "-c", "from osmo_ray.program import main; raise SystemExit(main())")
SHARED = Path(os.environ.get("OSMO_SHARED", ROOT.parent / "shared"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Platform:
    """`osmo up` below `home`. Short intervals, so that crashes are noticed in test time."""

    home: Path
    port: int = field(default_factory=free_port)
    host: str = "127.0.0.1"
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "OSMO_"))}
        return {
            **kept,
            "OSMO_HOME": str(self.home),
            "OSMO_URL": self.url,
            "OSMO_CONFIG_FILE_DIR": str(self.home / "client"),
            "OSMO_LOG_FILE_DIR": str(self.home / "client"),
            "OSMO_LEASE_TTL": "4",
            "OSMO_ATTEMPT_LEASE": "30",
            "PYTHONPATH": str(ROOT),
            **self.extra,
        }

    def cli(self, *args: str, check: bool = True, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        """Run `osmo ARGS`; an unexpected exit code is a failure that shows the output."""
        done = subprocess.run(
            [*OSMO, *args],
            env=self.environ,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"osmo {' '.join(args)} ended {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def up(self, *args: str) -> None:
        try:
            self.cli("up", "--port", str(self.port), "--cpus", "4", *args, timeout=300)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.tails()}") from error

    def tails(self) -> str:
        """The ends of the platform's own logs, for a failure's report."""
        return "\n".join(f"== {f.name}\n{f.read_text()[-3000:]}" for f in sorted((self.home / "logs").glob("*.log")))

    def down(self) -> None:
        self.cli("down", check=False, timeout=120)

    def get(self, path: str) -> Any:
        request = urllib.request.Request(self.url + path)
        admin = self.home / "admin.token"
        if admin.exists():
            request.add_header("Authorization", f"Bearer {admin.read_text()}")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def submit(self, text: str, *args: str) -> str:
        """Submit YAML text; returns the workflow's id."""
        file = self.home / f"submit-{time.monotonic_ns()}.yaml"
        file.write_text(text)
        told = self.cli("workflow", "submit", str(file), "--format-type", "json", *args).stdout
        return str(json.loads(told)["name"])

    def query(self, id: str) -> Any:
        return self.get(f"/api/workflow/{id}?verbose=true")

    def tasks(self, id: str) -> dict[str, Any]:
        """Newest attempt of each task by name."""
        found: dict[str, Any] = {}
        for group in self.query(id)["groups"]:
            for task in group["tasks"]:
                if task["name"] not in found or task["retry_id"] > found[task["name"]]["retry_id"]:
                    found[task["name"]] = task
        return found

    def wait(self, id: str, limit: float = 120) -> str:
        """The final status of a workflow."""
        return str(
            until(lambda: (s := self._status(id)) and not s.startswith(("PENDING", "RUNNING", "WAITING")) and s, limit)
        )

    def running(self, id: str, *names: str, limit: float = 60) -> None:
        """Wait until these tasks run."""
        until(lambda: all(self.tasks(id)[n]["status"] == "RUNNING" for n in names), limit)

    def _status(self, id: str) -> str:
        try:
            return str(self.query(id)["status"])
        except OSError:
            return ""

    def pids(self, mark: str) -> list[int]:
        """Processes of this platform whose name or command line holds `mark`."""
        ours = f"OSMO_HOME={self.home}\0".encode()
        return [pid for pid in commands(mark) if ours in _read(f"/proc/{pid}/environ")]

    def kill(self, mark: str) -> list[int]:
        """SIGKILL them; at least one must be there."""
        pids = until(lambda: self.pids(mark), 30)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return list(pids)


def commands(mark: str) -> list[int]:
    """Processes whose command line holds `mark`."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    lines = {pid: _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace") for pid in pids}
    return [pid for pid, line in lines.items() if line and mark in line and pid != os.getpid()]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def until(check: Callable[[], Any], limit: float, every: float = 0.2) -> Any:
    """The first true answer of `check`; a failure after `limit` seconds."""
    deadline = time.monotonic() + limit
    answer = None
    while time.monotonic() < deadline:
        try:
            answer = check()
        except OSError:
            answer = None
        if answer:
            return answer
        time.sleep(every)
    raise AssertionError(f"not within {limit} s; last answer: {answer!r}")
