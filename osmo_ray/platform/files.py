"""The files of a running platform below `OSMO_HOME`: who runs, where, and with which secrets.

A process is named by pid *and* start time, so that a reused pid is never mistaken for ours.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from osmo_ray import settings as settings_room
from osmo_ray.settings import Settings


@dataclass(frozen=True, slots=True)
class Process:
    """A process of ours. `started` is field 22 of /proc/PID/stat, in clock ticks since boot."""

    pid: int
    started: int

    @staticmethod
    def of(pid: int) -> Process:
        return Process(pid, _start_time(pid))

    @property
    def alive(self) -> bool:
        return self.started > 0 and _start_time(self.pid) == self.started

    def end(self, grace: float = 10.0) -> None:
        """TERM, wait, KILL; nothing at all when the pid belongs to somebody else by now."""
        if not self.alive:
            return
        os.kill(self.pid, signal.SIGTERM)
        if not self.gone(grace):
            os.kill(self.pid, signal.SIGKILL)
            self.gone(5.0)

    def gone(self, seconds: float) -> bool:
        """Wait for its end."""
        until = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() > until:
                return False
            time.sleep(0.05)
        return True


def _start_time(pid: int) -> int:
    """0 for a process that does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True, slots=True)
class State:
    """What `osmo up` leaves for `status`, `down` and the next `up`."""

    phase: str = "stopped"
    """`starting ray`, `starting services`, `ready`, `stopped` or `failed: ...`."""
    keeper: Process = Process(0, 0)
    head: Process = Process(0, 0)
    url: str = ""
    ray_address: str = ""
    dashboard: str = ""
    head_node: str = ""


class Files:
    """Paths below one home, made with the narrowest modes."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.run = home / "run"
        self.logs = home / "logs"
        self.lock = self.run / "keeper.lock"
        self.ray_token = home / "ray.token"
        self.admin_token = home / "admin.token"
        self._state = self.run / "state.json"
        self._settings = self.run / "settings.json"

    def prepare(self) -> None:
        """Make the folders and the Ray token; safe to repeat."""
        for folder in (self.home, self.run, self.logs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.ray_token.exists():
            write_secret(self.ray_token, secrets.token_hex(32))

    def state(self) -> State:
        try:
            value = json.loads(self._state.read_text())
        except (OSError, ValueError):
            return State()
        value["keeper"] = Process(**value["keeper"])
        value["head"] = Process(**value["head"])
        return State(**value)

    def save(self, state: State) -> None:
        """Replace the state in one step."""
        write_secret(self._state, json.dumps(asdict(state)))

    def running(self) -> Settings | None:
        """What the platform that runs was started with; None when nothing runs."""
        if not self.state().keeper.alive:
            return None
        try:
            return settings_room.load(json.loads(self._settings.read_text()))
        except (OSError, ValueError):
            return None

    def save_settings(self, settings: Settings) -> None:
        """Leave the settings for `running`; a database's password may be among them."""
        write_secret(self._settings, json.dumps(settings.environment()))


def write_secret(path: Path, text: str) -> None:
    """Replace a file that nobody else may read, in one step."""
    part = path.with_suffix(".part")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
    part.replace(path)
