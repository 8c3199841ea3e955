"""The container beside the user's: it stays with the command until its end, then keeps what it made."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from osmo_ray.objects.protocol import ObjectError
from osmo_ray.runtime import codec, reasons, work
from osmo_ray.runtime.checkpoints import Checkpoints
from osmo_ray.runtime.codec import Job, Orders
from osmo_ray.runtime.errors import RuntimeFailure
from osmo_ray.runtime.logs import Log
from osmo_ray.runtime.masking import Masker
from osmo_ray.runtime.mirror import Mirror
from osmo_ray.runtime.nolinks import opened
from osmo_ray.runtime.pod.names import ORDERS, SHARED, place
from osmo_ray.runtime.pod.patience import AFTER, patiently
from osmo_ray.runtime.pod.shared import Words, kept_open
from osmo_ray.runtime.pod.telling import judge, shipper, tell, usage
from osmo_ray.spec.attempt import AttemptPlan
from osmo_ray.spec.reason import Reason
from osmo_ray.spec.tokens import host_label, host_name

_LOOK = 0.05
_SHIP_EVERY, _SHIP_SIZE = 3.0, 4 << 20


class Ended(Exception):
    """The pod is being deleted."""


def beside(job: Job, root: Path = Path(SHARED), orders: Path = Path(ORDERS)) -> int:
    """Stay with the command until its end, then keep what it made."""
    return Beside(job, root, orders).run()


class Beside:
    """One attempt, from beside."""

    def __init__(self, job: Job, root: Path, orders: Path) -> None:
        self.job, self.plan, self.root, self.orders_file = job, job.plan, root, orders
        self.place = replace(place(job, root), folder=kept_open(root))
        self.words = Words(root)
        self.shipper = shipper(self.place)
        self.mirror = Mirror(self.place.folder.log)
        self.orders: Orders | None = None
        self._stopping = False
        self._checkpoints: Checkpoints | None = None
        self._not_kept = ""

    def run(self) -> int:
        """0 when all that was to be kept is kept."""
        signal.signal(signal.SIGTERM, self._stop)
        log = Log(self.place.folder.log, masker=Masker(self.plan.secrets.masked))
        log.open()
        self._checkpoints = Checkpoints(self.place, log) if self.plan.checkpoints else None
        try:
            self._until_end()
        except Ended:
            self._stopping = True
            self._last_checkpoint()
            self.shipper.end()
            work.finish(self.place, log, self.shipper, keeping=False)
            return 0
        log.size = self.place.folder.log.stat().st_size
        self.shipper.end()
        return self._finish(log)

    def _stop(self, *_: object) -> None:
        """Deleted before the end: unless the command has ended already, for then its outputs come first."""
        if not self._stopping:
            raise Ended

    def _until_end(self) -> None:
        while "began" not in self.words:
            self._tick()
            time.sleep(_LOOK)
        if self._checkpoints:
            self._checkpoints.begin()
        with os.fdopen(opened(self.root, "run/lock", os.O_RDWR), "r+b") as lock:
            while not _held(lock.fileno()):
                self._tick()
                time.sleep(_LOOK)
        self._stopping = True

    def _tick(self) -> None:
        self._read_orders()
        if self._checkpoints and "ended" in self.words:
            self.words.take_back("ended")
            self._last_checkpoint()
        elif self._checkpoints and "reader" in self.words:
            self._checkpoints.step(0)
        self.mirror.step()
        self.shipper.step(self.mirror.offset, _SHIP_EVERY, _SHIP_SIZE)

    def _last_checkpoint(self) -> None:
        """Once more, while the launcher still stands in the command's files; then it may go, or run again."""
        if self._checkpoints and "reader" in self.words:
            self._checkpoints.end()
            self._not_kept = self._checkpoints.last(0)
            self._checkpoints.begin()
            self.words.say("kept")

    def _read_orders(self) -> None:
        """Before the launcher has begun nothing is opened: Kubernetes writes the hosts file anew as it starts the
        user's container."""
        try:
            text = (self.orders_file / "orders").read_text()
        except FileNotFoundError:
            return
        if not text or "began" not in self.words:
            return
        orders = codec.orders_from_json(json.loads(text))
        if orders == self.orders:
            return
        if self.orders is None or orders.hosts != self.orders.hosts:
            write_hosts(self.plan, orders.hosts)
        self.orders = orders
        if orders.go >= self.plan.restart:
            self.words.say("go")
        if orders.release:
            self.words.say("release")

    def _finish(self, log: Log) -> int:
        end = self._end()
        code, reason = judge(self.plan, end, log)
        keeping = bool(self.plan.outputs) and "error" not in end and bool(end)
        result = self._kept(log) if keeping else {}
        self._shipped(log)
        self.mirror.step()
        if self._not_kept and code == 0:
            failure = reasons.checkpoint_failed(self._not_kept)
            code, reason = failure.exit_code, failure.reason
        if "failure" in result:
            code, reason = int(result["failure"]["code"]), Reason.from_json(result["failure"]["reason"])
        told = {
            "exit_code": code,
            "reason": reason.without(log.masker.whole).to_json() if reason else None,
            "output": result.get("output", ""),
            "usage": {**usage(end), **result.get("figures", {})},
            "at": time.time(),
        }
        tell(told)
        return 1 if "failure" in result else 0

    def _kept(self, log: Log) -> dict[str, Any]:
        """The outputs; the log is shown meanwhile."""
        try:
            return patiently(AFTER, lambda: work.keep(self.place, log), self.mirror.step)
        except RuntimeFailure as failure:
            return {"failure": {"code": failure.exit_code, "reason": failure.reason.to_json()}}

    def _shipped(self, log: Log) -> None:
        """The rest of the log. When it cannot be had there, the end is told all the same."""

        def ship() -> None:
            if work.finish(self.place, log, self.shipper, keeping=False).get("unshipped"):
                raise ObjectError("the log could not be kept yet", permanent=False)

        with suppress(ObjectError):
            patiently(AFTER, ship)

    def _end(self) -> dict[str, Any]:
        """What the launcher left; empty when it was killed."""
        try:
            with os.fdopen(opened(self.root, "run/end.json", os.O_RDONLY)) as file:
                return dict(json.load(file))
        except OSError:
            return {}


def write_hosts(plan: AttemptPlan, hosts: Mapping[str, str], path: Path = Path("/etc/hosts")) -> None:
    """The siblings' names into the hosts file that all containers of the pod share. Where it cannot be written (a
    pod that forbids root), names of siblings are not found, and only then."""
    mark = f"# siblings in {plan.workflow_id}"
    try:
        kept = path.read_text().partition(mark)[0].rstrip("\n")
        lines = [
            f"{address} {host_name(task, plan.workflow_id)} {host_label(task)}"
            for task, address in sorted(hosts.items())
        ]
        path.write_text("\n".join([kept, mark, *lines]) + "\n")
    except OSError as error:
        sys.stderr.write(f"osmo-ctrl: {path} cannot be written: {error}\n")


def _held(fd: int) -> bool:
    """Whether the launcher's lock could be had, so that it is gone."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
