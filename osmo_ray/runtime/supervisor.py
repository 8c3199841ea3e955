"""The life of one attempt: one process, forked from the zygote, that outlives whoever asked for it.

It claims the attempt's folder, fetches inputs, starts the command, keeps its log, watches its limits, carries orders
out, keeps its outputs and says how it ended. Whatever happens to the rest of the platform, either its last line stands
in the spool or its death can be proven.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from osmo_ray.runtime import container, network, process, pyenv, reasons, work
from osmo_ray.runtime import syscalls as sys
from osmo_ray.runtime.cgroups import Cgroup
from osmo_ray.runtime.checkpoints import Checkpoints
from osmo_ray.runtime.codec import Job
from osmo_ray.runtime.command import Command, Ending
from osmo_ray.runtime.errors import RuntimeFailure
from osmo_ray.runtime.host import Host
from osmo_ray.runtime.logs import Log, log_prefix
from osmo_ray.runtime.masking import Masker
from osmo_ray.runtime.meter import Meter
from osmo_ray.runtime.mounts import Mounts
from osmo_ray.runtime.network import Network
from osmo_ray.runtime.options import Options
from osmo_ray.runtime.place import Place
from osmo_ray.runtime.process import Identity
from osmo_ray.runtime.spool import Folder, Spool, replace_file
from osmo_ray.runtime.wakeup import ring
from osmo_ray.spec.attempt import Observation, Phase
from osmo_ray.spec.reason import Reason

_TICK = 1.0
_PARTIAL_AFTER = 1.0
_SOON = 0.1
_CHECKPOINT_LIMIT = 30.0
"""Seconds at least that a task which is ended by order gets for its last checkpoint."""
_URGENT = (Phase.READY, Phase.FINISHED, Phase.LOST)
"""What others wait for. The rest is told a moment later, if it is still news then."""


class Stopped(Exception):
    """The attempt must end: by order, or because its lease ran out."""

    def __init__(self, reason: Reason, grace: float) -> None:
        super().__init__(reason.sentence)
        self.reason = reason
        self.grace = grace


def main(root: Path, key: str) -> None:
    """What the zygote's child runs. Returns when the attempt is over."""
    spool = Spool(root)
    folder = Folder(spool.attempts / key)
    job = folder.job()
    if job is None or not folder.claim(Identity.mine()):
        return
    sys.name_process("osmo-supervise")
    sys.prctl(sys.PR_SET_CHILD_SUBREAPER, 1)
    Supervisor(spool, folder, job).run()


class Supervisor:
    """One attempt, from claim to the last line."""

    def __init__(self, spool: Spool, folder: Folder, job: Job) -> None:
        self.spool, self.folder, self.job, self.plan = spool, folder, job, job.plan
        self.options = Options.load(spool.root / "options.json")
        self.host = Host.load(spool.root)
        layout = self.host.layout if job.mode == "namespaces" else None
        self.place = Place(folder, job, layout, self.host.tools, self._packages(job.mode))
        self.orders = folder.orders(job.plan)
        self.generation = 0
        self.runs = 0
        """How often the command was started; more than the generations where it ran again in place."""
        self.log = Log(folder.log, masker=Masker(self.plan.secrets.masked))
        self.log_in = -1
        self.stopping = False
        self.shipper = work.Shipper(job.storage_url, log_prefix(self.plan.workflow_uuid, self.plan.key), folder.log)
        self.meter = Meter(self._cgroup(), (folder.private, folder.data_out))
        self.checkpoints = Checkpoints(self.place, self.log)
        self.mounts = Mounts(self)
        self.call_limit = float("inf")
        """When work in a child is given up, on the monotonic clock."""
        self.command: Command | None = None
        self.net: Network | None = None
        self._poll = select.poll()
        self._watched: dict[int, Callable[[], None]] = {}
        self._next_tick = 0.0
        self._ring_at = float("inf")

    # --- the whole life ----------------------------------------------------------------------------------------

    def run(self) -> None:
        """From the claim to the last line; never raises."""
        self.log.open()
        self._listen()
        try:
            self._live()
        except Stopped as stop:
            self._end_stopped(stop.reason, stop.grace)
        except RuntimeFailure as failure:
            self._finish(failure.exit_code, failure.reason)
        except Exception as error:  # a fault of ours must still be told
            what = f"the runtime failed: {type(error).__name__}: {error}"
            self.log.say(what)
            self._finish(reasons.START_ERROR, reasons.start_failed(what).reason)
        finally:
            self._clean()

    def _live(self) -> None:
        self._check()
        self.report(Phase.PREPARING)
        if self.plan.secrets.missing:
            raise reasons.start_failed(self.plan.secrets.missing)
        if self.plan.inputs:
            self.mounts.first(self.call(lambda: work.fetch(self.place, self.log)).get("mounts", []))
        if self.plan.requirements and self.job.mode != "container":
            self.call(self._environment)
        command = Command(self)
        command.prepare()
        self.command = command
        while True:
            self._barrier()
            self.runs += 1
            ending = command.run(self.generation)
            if ending is None:
                continue  # ended by an order to restart
            ending = self._last_checkpoint(command, ending)
            if ending.failed and self.plan.hold > 0 and self._hold(command, ending):
                continue
            break
        self._finish(ending.code, ending.reason, ran=True)

    def _last_checkpoint(self, command: Command, ending: Ending) -> Ending:
        """What the command left is kept once more; a success that cannot be kept is none."""
        if not self.plan.checkpoints:
            return ending
        failed = command.last_checkpoint(self.generation)
        if not failed or ending.failed:
            return ending
        failure = reasons.checkpoint_failed(failed)
        return Ending(failure.exit_code, failure.reason)

    def _packages(self, mode: str) -> str:
        """The folder of the task's Python environment on this host; empty where there is none."""
        wanted = self.plan.requirements
        return str(pyenv.folder(self.spool.root, wanted)) if wanted and mode != "container" else ""

    def _environment(self) -> dict[str, Any]:
        """The packages that the task wants, built once per node."""
        begun = time.monotonic()
        if pyenv.make(self.spool.root, self.plan.requirements):
            packages = ", ".join(self.plan.requirements)
            self.log.say(f"environment with {packages} built in {time.monotonic() - begun:.1f}s; this node keeps it")
        return {}

    def become_process(self, why: str) -> None:
        """No container after all: run as this host runs processes, and say so."""
        self.job = replace(self.job, mode=self.host.mode, why=why)
        replace_file(self.folder.path / "mode", self.job.mode)
        layout = self.host.layout if self.job.mode == "namespaces" else None
        self.place = Place(self.folder, self.job, layout, self.host.tools, self._packages(self.job.mode))
        self.checkpoints = Checkpoints(self.place, self.log)
        self.meter = Meter(self._cgroup(), self.meter.disk_paths)
        self.report(Phase.PREPARING, reason=Reason("HowItRuns", why, {"mode": self.job.mode}))
        if self.plan.requirements:
            self.call(self._environment)

    def _cgroup(self) -> Cgroup | None:
        """This attempt's; a container's limits are the engine's."""
        if self.host.cgroup is None or self.job.mode == "container":
            return None
        return self.host.cgroup.child(self.folder.path.name)

    def _barrier(self) -> None:
        """Wait until the generation's barrier is open; an order to restart meanwhile only raises the generation."""
        self.generation = self.orders.restart
        if self.plan.barrier and self.orders.go < self.generation:
            self.report(Phase.READY)
            self.pump(lambda: self.orders.go >= self.orders.restart)
            self.generation = self.orders.restart

    def _hold(self, command: Command, ending: Ending) -> bool:
        """Stay after a failure; True when the time ends with an order to run again."""
        if ending.reason is None or self.orders.release:
            return False
        asked = self.orders.rerun
        try:
            command.pause(self.generation)
        except OSError as error:
            self.log.say(reasons.not_held(str(error)).sentence)
            return False
        self.report(Phase.RUNNING, reason=reasons.held(self.plan, time.time() + self.plan.hold, ending.reason))
        try:
            self.pump(lambda: self._let_go(asked), time.monotonic() + self.plan.hold)
        finally:
            command.kill()
        if self.orders.restart > self.generation:
            return True
        if self.orders.rerun <= asked:
            return False
        self.log.say(f"-------- exit code {ending.code}; runs again in place (run {self.runs + 1}) --------")
        self.report(Phase.RUNNING, reason=reasons.runs_again(self.runs + 1))
        return True

    def _let_go(self, asked: int) -> bool:
        """Whether an order ends the hold that began when `asked` reruns had been asked for."""
        return self.orders.release or self.orders.rerun > asked or self.orders.restart > self.generation

    def _finish(self, code: int, reason: Reason | None, *, ran: bool = False) -> None:
        """Keep outputs and log, then say the end. An order to stop still ends this."""
        keeping = ran and bool(self.plan.outputs)
        if keeping:
            self.report(Phase.UPLOADING)
        try:
            result = self._last_work(keeping=keeping)
        except Stopped as stop:
            self._end_stopped(stop.reason, 0.0)
            return
        if "failure" in result:
            code, reason = int(result["failure"]["code"]), Reason.from_json(result["failure"]["reason"])
        output = str(result.get("output", ""))
        usage = {**self.meter.usage(), **result.get("figures", {})}
        self.report(Phase.FINISHED, exit_code=code, reason=reason, output=output, usage=usage)

    def _end_stopped(self, reason: Reason, grace: float) -> None:
        self.stopping = True
        self.log.say(reason.sentence)
        if self.plan.checkpoints and self.command is not None and self.command.began and grace > 0:
            self.call_limit = time.monotonic() + max(grace, _CHECKPOINT_LIMIT)
            try:
                self.command.last_checkpoint(self.generation)
            except RuntimeFailure as failure:
                self.log.say(failure.reason.sentence)
            self.call_limit = float("inf")
        self._last_work(keeping=False)
        self.report(Phase.LOST, reason=reason, usage=self.meter.usage())

    def _last_work(self, *, keeping: bool) -> dict[str, Any]:
        """Outputs, then the rest of the log: it outlives the node, or stays in the spool with a mark until it does."""
        self.mounts.end()
        self.log.flush()
        self.shipper.end()
        try:
            result = self.call(lambda: work.finish(self.place, self.log, self.shipper, keeping=keeping))
        except RuntimeFailure as failure:
            result = {"unshipped": True}
            if keeping:
                result["failure"] = {"code": failure.exit_code, "reason": failure.reason.to_json()}
        if result.get("unshipped"):
            (self.folder.path / "unshipped").touch()
        return result

    def _clean(self) -> None:
        self.mounts.end()
        process.kill_tree(os.getpid())
        if self.job.mode == "container":
            container.Engine(self.job.engine, "").remove(str(self.plan.key))
        if self.meter.cgroup is not None:
            self.meter.cgroup.kill()
            self._reap()
            self.meter.cgroup.remove()
        self._remove_spent()

    def _remove_spent(self) -> None:
        """The end is told; what only the command needed goes here rather than in the agent, which has better to do.
        Whatever is left goes with the folder."""
        try:
            os.nice(5)
            self.folder.remove_spent()
        except OSError:
            return

    def _reap(self) -> None:
        try:
            while os.waitpid(-1, 0)[0]:
                pass
        except ChildProcessError:
            pass

    # --- telling -------------------------------------------------------------------------------------------------

    def report(
        self,
        phase: Phase,
        *,
        reason: Reason | None = None,
        exit_code: int | None = None,
        output: str = "",
        usage: dict[str, float] | None = None,
    ) -> None:
        """Write an observation into the spool and wake the host. No secret stands in it."""
        if reason is not None and self.plan.secrets.masked:
            reason = reason.without(self.log.masker.whole)
        seen = Observation(
            self.plan.key, phase, time.time(), address=self.job.address, restart=self.generation,
            exit_code=exit_code, output=output, reason=reason, usage=usage or {},
        )  # fmt: skip
        self.folder.report(seen)
        if phase in _URGENT or reason is not None:
            self._ring()
        else:
            self._ring_at = min(self._ring_at, time.monotonic() + _SOON)

    def _ring(self) -> None:
        self._ring_at = float("inf")
        ring(self.spool.root, self.folder.path.name)

    # --- the event loop ----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        bell_in, bell_out = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(bell_out, warn_on_full_buffer=False)
        for number in (signal.SIGUSR1, signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self.watch(bell_in, lambda: self._bell(bell_in))
        self.orders = self.folder.orders(self.plan)

    def _bell(self, bell: int) -> None:
        if any(number != signal.SIGCHLD for number in os.read(bell, 512)):
            self._read_orders()

    def watch(self, fd: int, act: Callable[[], None]) -> None:
        """Call `act` when `fd` is readable or closed."""
        self._watched[fd] = act
        self._poll.register(fd, select.POLLIN)

    def forget(self, fd: int) -> None:
        """Watch no more, and close."""
        self._poll.unregister(fd)
        del self._watched[fd]
        os.close(fd)

    def pump(self, until: Callable[[], bool], deadline: float = float("inf")) -> None:
        """Let things happen until `until()` or the monotonic `deadline`. Raises Stopped."""
        while not until():
            now = time.monotonic()
            if now >= deadline:
                return
            if now >= self._next_tick:
                self._tick(now)
            if now >= self._ring_at:
                self._ring()
            self._check()
            wait = min(self._next_tick, self._ring_at, deadline) - now
            for fd, _ in self._poll.poll(max(wait, 0) * 1000 + 1):
                if fd in self._watched:
                    self._watched[fd]()
            self._check()

    def _check(self) -> None:
        if self.stopping:
            return
        if self.orders.stop:
            self.stopping = True
            raise Stopped(reasons.stopped(self.orders.why), self.orders.grace)

    def _tick(self, now: float) -> None:
        self._next_tick = now + (_TICK if self.meter.cgroup is not None else min(_TICK, self.options.sample))
        if self.log.stamper.rest and time.time() - self.log.last_data > _PARTIAL_AFTER:
            self.log.flush()
        self._read_orders()
        self.shipper.step(self.log.size, self.options.ship_every, self.options.ship_size)
        left = self.spool.lease_left()
        if left < 0 and not self.stopping:
            self.stopping = True
            raise Stopped(reasons.lease_expired(-left), self.options.grace)

    def _read_orders(self) -> None:
        orders = self.folder.orders(self.plan)
        if orders.hosts != self.orders.hosts and self.job.mode != "none":
            self.place.write_hosts(orders.hosts)
        self.orders = orders

    # --- work in a child, so that it can be stopped ------------------------------------------------------------

    def call(self, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do something slow in a forked child while orders and lease are looked after. Raises RuntimeFailure, and
        Stopped after killing the child."""
        result_in, result_out = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            work.child(act, result_out)
        os.close(result_out)
        parts: list[bytes] = []
        os.set_blocking(result_in, False)
        self.watch(result_in, lambda: parts.append(os.read(result_in, 65536)))
        try:
            self.pump(lambda: bool(parts) and parts[-1] == b"", self.call_limit)
            if not parts or parts[-1] != b"":
                process.send(pid, signal.SIGKILL)
        except Stopped:
            process.send(pid, signal.SIGKILL)
            raise
        finally:
            self.forget(result_in)
            os.waitpid(pid, 0)
        return work.result(b"".join(parts))

    def connect(self) -> tuple[int, int | None]:
        """Open this node's namespaces, waiting for the holder when it is being replaced, and keep them open under
        known numbers, so that a new holder finds them."""
        deadline = time.monotonic() + 15.0
        while True:
            self.net = Network.load(self.spool.root)
            try:
                if self.net is None:
                    raise ProcessLookupError("no process holds the tasks' network")
                net, user = self.net.open()
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise reasons.start_failed(f"the tasks' network is not there: {error}") from error
                self.pump(lambda: False, time.monotonic() + 0.1)
        os.dup2(net, network.KEPT_FD, inheritable=False)
        os.close(net)
        if user is not None:
            os.dup2(user, network.KEPT_FD + 1, inheritable=False)
            os.close(user)
        return network.KEPT_FD, None if user is None else network.KEPT_FD + 1
