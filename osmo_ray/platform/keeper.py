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
LOOK_LIMIT = 20.0
"""Longer than the API itself waits for the controller before it says how that is."""
PATIENCE = 3
"""Looks in a row that must fail before something is done about it."""
TRIES = 3
"""Times that parts are brought up in vain before Ray itself is started anew."""
RESTART_PAUSE = 5.0
READY, WAITING, MISSING = "ready", "waiting", "missing"


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
            self.files.save_settings(self.settings)
            try:
                self._helper("osmo_ray.platform.prepare")
                self._begin()
                self._watch()
            except (head.HeadError, RuntimeError) as error:
                if not self.stopped.is_set():
                    log.exception("the platform could not be started")
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
        if not self._until(lambda: self._look() == READY, 60) and not self.stopped.is_set():
            raise RuntimeError(f"the API did not become ready; see {self.files.logs}")
        self._save(phase="ready")

    def _bring_up(self) -> None:
        self._helper("osmo_ray.platform.bring_up", self.state.ray_address, self.state.head_node)

    def _watch(self) -> None:
        """A database that is away is waited for: nothing that could be started again would bring it back."""
        missing = tried = 0
        while not self.stopped.wait(LOOK_EVERY):
            if not self.state.head.alive:
                log.error("the Ray head is gone; starting a new one")
                self._restart(1.0)
                missing = tried = 0
                continue
            seen = self._look()
            missing = missing + 1 if seen == MISSING else 0
            tried = 0 if seen != MISSING else tried
            if missing >= PATIENCE:
                log.warning("parts of the platform do not answer (%d looks); bringing them up again", missing)
                missing, tried = 0, tried + 1
                self._again(tried)

    def _again(self, times: int) -> None:
        """Put back what is missing; if that fails or does not help, the head itself is at fault."""
        try:
            if times > TRIES:
                raise RuntimeError(f"parts were brought up {TRIES} times, and still do not answer")
            self._bring_up()
        except RuntimeError as error:
            log.error("%s; restarting Ray", error)
            self._restart(15.0)

    def _restart(self, grace: float) -> None:
        """A new head, tried until it stands: a platform that was up once is never given up."""
        while not self.stopped.is_set():
            head.stop(self.state.head, self.files, grace)
            try:
                self._begin()
                return
            except (head.HeadError, RuntimeError) as error:
                if self._look() == WAITING:
                    log.warning("everything is started and waits: %s", error)
                    self._save(phase="ready")
                    return
                log.error("%s; trying again", error)
                self.stopped.wait(RESTART_PAUSE)

    def _end(self) -> None:
        if self.state.head.alive:
            head.stop(self.state.head, self.files)
        if not self.state.phase.startswith("failed"):
            self._save(phase="stopped")

    # -- help

    def _look(self) -> str:
        """How it is: `READY`; `WAITING`, for a database, the lease or a node; or `MISSING`, parts do not answer."""
        try:
            with urllib.request.urlopen(f"{self.state.url}/ready", timeout=LOOK_LIMIT) as answer:  # noqa: S310
                return READY if json.load(answer).get("ready") else MISSING
        except urllib.error.HTTPError as error:
            return _judge(error)
        except (OSError, ValueError):
            return MISSING

    def _helper(self, module: str, *args: str) -> None:
        """Run a module of ours to its end; RuntimeError if it fails."""
        variables = {**head.clean(os.environ), **head.environment(self.files, self.settings.host)}
        path = self.files.logs / "services.log"
        with path.open("ab") as out:
            try:
                subprocess.run(
                    [sys.executable, "-m", module, *args],
                    env={**variables, **self.settings.environment()},
                    stdout=out,
                    stderr=out,
                    stdin=subprocess.DEVNULL,
                    check=True,
                    timeout=180,
                )
            except subprocess.SubprocessError as error:
                raise RuntimeError(f"{module} failed ({error}); see {path}") from error

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


def _judge(answer: urllib.error.HTTPError) -> str:
    """What an answer that is not 200 means; only our own API tells its parts, and a controller that lives its role."""
    try:
        parts = json.load(answer)["parts"]
        controller = parts["controller"]
    except (OSError, ValueError, KeyError, TypeError):
        return MISSING
    return WAITING if "leading" in controller else MISSING


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
