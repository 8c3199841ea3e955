"""The keeper: the one process that `osmo up` leaves behind. It starts a Ray head and brings back what dies.

Ray restarts the actors it knows; nobody restarts Ray. So this stays small and plain: no Ray client, no event loop,
one look every two seconds.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

from osmo_ray import settings as settings_room
from osmo_ray.logs import configure
from osmo_ray.platform import head
from osmo_ray.platform.files import Files, Process, State
from osmo_ray.settings import Settings

log = logging.getLogger("osmo_ray.platform.keeper")  # also when run as a program
LOOK_EVERY = 2.0
PATIENCE = 3
"""Looks in a row that must fail before something is done about it."""


class Keeper:
    """Owns one head. `run` returns when it was told to stop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.files = Files(settings.home)
        self.stopped = threading.Event()
        self.state = State()

    def run(self) -> int:
        """0 after a stop, 1 when the platform cannot be started."""
        self.files.prepare()
        with self.files.lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.error("another keeper runs for %s", self.settings.home)
                return 1
            self._end_leftovers()
            try:
                self._migrate()
                self._begin()
                self._watch()
            except (head.HeadError, RuntimeError) as error:
                log.exception("the platform could not be kept up")
                self._save(phase=f"failed: {error}")
                return 1
            finally:
                self._end()
        return 0

    # -- steps

    def _end_leftovers(self) -> None:
        """A keeper that was killed left its head; tasks live in sessions of their own and are adopted later."""
        before = self.files.state()
        if before.head.alive:
            log.warning("ending the Ray head %d that an earlier keeper left", before.head.pid)
            head.stop(before.head, self.files)

    def _migrate(self) -> None:
        self._helper("osmo_ray.platform.migrate")

    def _begin(self) -> None:
        self._save(phase="starting ray", keeper=Process.of(os.getpid()))
        started = head.start(self.settings, self.files, self.files.logs / "ray.log")
        url = f"http://{self.settings.host}:{self.settings.port}"
        self._save(
            phase="starting services",
            head=started.process,
            ray_address=started.address,
            dashboard=started.dashboard,
            head_node=started.node,
            url=url,
        )
        self._bring_up()
        if not self._until(self._ready, 60):
            raise RuntimeError(f"the API did not become ready; see {self.files.logs}")
        self._save(phase="ready")

    def _bring_up(self) -> None:
        self._helper("osmo_ray.platform.bring_up", self.state.ray_address, self.state.head_node)

    def _watch(self) -> None:
        failed = 0
        while not self.stopped.wait(LOOK_EVERY):
            if not self.state.head.alive:
                log.error("the Ray head is gone; starting a new one")
                head.stop(self.state.head, self.files, 1.0)
                self._begin()
                failed = 0
                continue
            failed = 0 if self._ready() else failed + 1
            if failed >= PATIENCE:
                log.warning("the platform is not ready (%d looks); bringing its parts up again", failed)
                failed = 0
                self._again()

    def _again(self) -> None:
        """Put back what is missing; if even that fails, the head itself is at fault."""
        try:
            self._bring_up()
        except RuntimeError as error:
            log.error("%s; restarting Ray", error)
            head.stop(self.state.head, self.files)
            self._begin()

    def _end(self) -> None:
        if self.state.head.alive:
            head.stop(self.state.head, self.files)
        if not self.state.phase.startswith("failed"):
            self._save(phase="stopped")

    # -- help

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.state.url}/ready", timeout=10) as answer:  # noqa: S310
                return bool(json.load(answer).get("ready"))
        except (OSError, ValueError, urllib.error.URLError):
            return False

    def _helper(self, module: str, *args: str) -> None:
        """Run a module of ours to its end; RuntimeError if it fails."""
        variables = {**head.clean(os.environ), **head.environment(self.files, self.settings.host)}
        with (self.files.logs / "services.log").open("ab") as out:
            done = subprocess.run(
                [sys.executable, "-m", module, *args],
                env={**variables, **self.settings.environment()},
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                check=False,
                timeout=180,
            )
        if done.returncode:
            raise RuntimeError(f"{module} ended with code {done.returncode}; see {self.files.logs / 'services.log'}")

    def _until(self, check: Callable[[], bool], seconds: float) -> bool:
        for _ in range(int(seconds / 0.2)):
            if check():
                return True
            if self.stopped.wait(0.2):
                return False
        return False

    def _save(self, **values: object) -> None:
        self.state = replace(self.state, **values)  # type: ignore[arg-type]
        self.files.save(self.state)


def main() -> int:
    """Run until TERM or INT."""
    settings = settings_room.load()
    configure(settings.log_level)
    keeper = Keeper(settings)

    def stop(number: int, frame: FrameType | None) -> None:
        keeper.stopped.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return keeper.run()


if __name__ == "__main__":
    raise SystemExit(main())
