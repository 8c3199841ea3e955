"""The command of an attempt: set it up once, run it once per generation, and say how it ended."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from osmo_ray.runtime import container, hold, network, process, pyenv, reasons
from osmo_ray.runtime.errors import RuntimeFailure
from osmo_ray.runtime.launch import Running, Start, hold_network, start
from osmo_ray.runtime.sandbox import Sandbox as Jail
from osmo_ray.spec.attempt import Phase
from osmo_ray.spec.model import Sandbox
from osmo_ray.spec.reason import Reason

if TYPE_CHECKING:
    from osmo_ray.runtime.supervisor import Supervisor

_CHUNK = 1 << 20
_KILL_WAIT, _ENGINE_WAIT = 30.0, 10.0


@dataclass(frozen=True, slots=True)
class Ending:
    """How a generation ended: the code to report, and why it is a failure."""

    code: int
    reason: Reason | None = None

    @property
    def failed(self) -> bool:
        return self.reason is not None


class Command:
    """Runs in the supervisor, whose loop it uses."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.sup = supervisor
        self.plan, self.folder, self.place = supervisor.plan, supervisor.folder, supervisor.place
        self.sandbox: Jail | None = None
        self.mounts: list[tuple[str, str]] = []
        self.running: Running | None = None
        self._told = b""
        self._over = False
        self._holder = 0
        self._verdict: Reason | None = None
        self.began = False

    # --- once ----------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Files, folders, limits. Raises RuntimeFailure."""
        if not self.plan.argv:
            raise RuntimeFailure(reasons.INVALID_COMMAND, Reason("NoCommand", "the task has no command"))
        if self.sup.job.mode == "container":
            self._get_image()
        for path in (self.folder.data_in, self.folder.data_out, self.folder.private):
            path.mkdir(exist_ok=True)
        files = self.place.write_files(self.place.tokens(self.sup.orders.hosts))
        self.place.write_hosts(self.sup.orders.hosts)
        try:
            if self.sup.job.mode == "namespaces":
                self._prepare_sandbox(files)
            elif self.sup.job.mode == "container":
                self.mounts = container.mounts(self.place, files)
            else:
                self._refuse_mounts()
                for name in ("home", "tmp", "cwd"):
                    (self.folder.private / name).mkdir(exist_ok=True)
                self.place.copy_files(files)
        except OSError as error:
            raise reasons.start_failed(f"the task's folders could not be made: {error}") from error
        if self.sup.meter.cgroup is not None:
            try:
                self.sup.meter.cgroup.make(self.plan.memory, self.plan.cpu)
            except OSError:
                self.sup.meter.cgroup = None

    def _get_image(self) -> None:
        """Pull it; a task that does not insist on a container becomes a process when that fails."""
        engine, image = self.sup.job.engine, self.plan.image

        def pulled() -> dict[str, Any]:
            failure = container.pull(engine, image, self.sup.job.why, self.plan.secrets.registry, self.folder.path)
            if failure is not None:
                raise failure
            return {}

        try:
            self.sup.call(pulled)
        except RuntimeFailure as failure:
            self.sup.log.say(failure.reason.sentence)
            if self.plan.sandbox is Sandbox.CONTAINER:
                raise
            self.sup.become_process(f"{failure.reason.sentence}, so it runs as a process on the host")
            self.place = self.sup.place

    def _prepare_sandbox(self, files: list[tuple[str, Any]]) -> None:
        layout = self.place.layout
        if layout is None:
            raise reasons.start_failed("this host has no layout for namespaces; start the node's host again")
        private = self.sup.job.address_is_own
        conf = network.resolv_conf(network.Network.load(self.sup.spool.root), private=private)
        (self.folder.path / "resolv.conf").write_text(conf)
        (self.folder.path / "hostname").write_text(self.place.hostname + "\n")
        self.sandbox = Jail(self.folder, layout, self.sup.host.devices(self.sup.job.gpus), private)
        if self.plan.privileged:
            raise reasons.start_failed("a privileged task runs in a container only; write `sandbox: container`")
        self.sandbox.prepare(files)
        for source, target in _mounts(self.plan.mounts):
            self.sandbox.share(source, target)
        if self.place.packages:
            self.sandbox.show(self.place.packages, pyenv.INSIDE)

    def _refuse_mounts(self) -> None:
        """Without a file system of its own a task finds the node's folders where they are, and nowhere else."""
        for source, target in _mounts(self.plan.mounts):
            if source != target:
                raise reasons.bad_mount(source, target, f"this host has no namespaces ({self.sup.job.why})")

    # --- each generation -----------------------------------------------------------------------------------------

    def run(self, generation: int) -> Ending | None:
        """Start it and stay until its end; None when an order to restart came. Raises Stopped after ending it."""
        from osmo_ray.runtime.supervisor import Stopped

        oom_before = self.sup.meter.cgroup.oom_kills() if self.sup.meter.cgroup else 0
        begun = time.monotonic()
        self._begin(generation, self._what())
        self.began = True
        self.sup.checkpoints.begin()
        self.sup.report(Phase.RUNNING)
        try:
            self._stay(lambda: self._over or self.sup.orders.restart > generation)
        except Stopped as stop:
            self._terminate(stop.grace)
            self._end()
            raise
        if not self._over:
            self.sup.log.say(f"restarted in place (generation {self.sup.orders.restart})")
            self.kill()
            return None
        self._end()
        return self._judge(time.monotonic() - begun, oom_before)

    def pause(self, generation: int) -> None:
        """The sandbox stays up with nothing running in it, for people who look inside. OSError when it cannot."""
        if self.sup.job.mode == "container":
            self._begin(generation, (hold.stay(self.sup), container.engine_environment({})))
        else:
            self._begin(generation, ((), {"PATH": self.place.path()}))

    def last_checkpoint(self, generation: int) -> str:
        """Upload the task's folders once more, with nothing of the task running; what went wrong, or nothing."""
        self.sup.checkpoints.end()
        paused = self.sup.job.mode == "namespaces"
        try:
            if paused:
                self.pause(generation)
                until = time.monotonic() + _KILL_WAIT
                while not self._is_up() and time.monotonic() < until:
                    self.sup.pump(self._is_up, time.monotonic() + 0.02)
            init = self.running.init if self.running else os.getpid()
            return str(self.sup.call(lambda: {"told": self.sup.checkpoints.last(init)})["told"])
        finally:
            if paused:
                self.kill()

    def _is_up(self) -> bool:
        """The paused sandbox has its file system."""
        return self._over or self.running is None or bool(process.children(self.running.init))

    def _what(self) -> tuple[tuple[str, ...], dict[str, str]]:
        tokens = self.place.tokens(self.sup.orders.hosts)
        environment = self.place.environment(tokens)
        argv = self.place.argv(tokens, environment)
        if self.sup.job.mode == "container":
            hold.go(self.sup)
            line = container.argv(self.sup, argv, environment, self.mounts, self._network_holder())
            return line, container.engine_environment(environment)
        return argv, environment

    def _network_holder(self) -> int:
        """A process in the network that the container is to join; 0 for the engine's own network."""
        if self._holder or not self.sup.job.address_is_own:
            return self._holder
        net_fd, _ = self.sup.connect()
        what = Start((), {}, "/", -1, net=self.sup.net, net_fd=net_fd, address=self.sup.job.address)
        try:
            self._holder = hold_network(what)
        except OSError as error:
            raise reasons.start_failed(f"the container's network could not be made: {error}") from error
        return self._holder

    def _begin(self, generation: int, what: tuple[tuple[str, ...], dict[str, str]]) -> None:
        argv, environment = what
        self.sup.mounts.begin()
        log_in, log_out = os.pipe2(os.O_CLOEXEC)
        try:
            fcntl.fcntl(log_out, fcntl.F_SETPIPE_SZ, _CHUNK)
        except OSError:
            pass  # the user's share of large pipes is used up
        net_fd, user_fd = -1, None
        if self.sandbox is not None:
            net_fd, user_fd = self.sup.connect()
        entrances = self.sup.meter.cgroup.entrances() if self.sup.meter.cgroup else ()
        try:
            self.running = start(
                Start(
                    argv, environment, self._cwd(), log_out, self.sandbox, self.sup.net, net_fd, user_fd,
                    self.sup.job.address if self.sandbox and self.sandbox.private_network else "",
                    self.place.hostname, generation, entrances, self.sup.job.mode == "container",
                )
            )  # fmt: skip
        finally:
            for fd in (log_out, *entrances):
                os.close(fd)
        self._told, self._over, self._verdict = b"", False, None
        os.set_blocking(log_in, False)
        self.sup.log_in = log_in
        self.sup.watch(log_in, self._read_log)
        self.sup.watch(self.running.status, self._read_status)

    def _cwd(self) -> str:
        return "/" if self.place.inside else str(self.folder.private / "cwd")

    def _read_log(self) -> None:
        for _ in range(8):
            try:
                data = os.read(self.sup.log_in, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                self.sup.forget(self.sup.log_in)
                self.sup.log_in = -1
                return
            self.sup.log.output(data)

    def _read_status(self) -> None:
        if self.running is None:
            return
        data = os.read(self.running.status, 65536)
        self._told += data
        if not data:
            self._over = True
            self.sup.forget(self.running.status)

    def _stay(self, until: Any) -> None:
        """The loop, with a look at the limits now and then."""
        pause = 0.05
        while not until():
            self.sup.pump(until, time.monotonic() + pause)
            pause = min(pause * 2, self.sup.options.sample)
            if not until():
                self._watch_limits()
                self.sup.checkpoints.step(self.running.init if self.running else 0)

    def _watch_limits(self) -> None:
        if self.running is None or self._verdict is not None:
            return
        self.sup.mounts.look()
        if self.sup.mounts.broken is not None:
            self._kill_now()
            return
        now = self.sup.meter.look(self.running.init)
        if self.sup.meter.cgroup is None and now > self.plan.memory:
            self._verdict = reasons.out_of_memory(self.plan, now, self.sup.log.tail(), self.sup.meter.watched)
        elif self.sup.meter.look_at_disk() > self.plan.storage:
            self._verdict = reasons.out_of_storage(self.plan, self.sup.meter.disk_peak)
        if self._verdict is not None:
            self._kill_now()

    def _kill_now(self) -> None:
        if self.sup.job.mode == "container":
            # The engine ends its container and cleans up; killing the engine itself would leave it confused.
            container.kill(self.sup)
            self.sup.mounts.end()
            self._stay_until_over(_ENGINE_WAIT)
        if self.running is not None and not self._over:
            self.running.kill()
        self.sup.mounts.end()  # who waits for a file of one is killed only then
        if self.sup.meter.cgroup is not None:
            self.sup.meter.cgroup.kill()

    def _terminate(self, grace: float) -> None:
        """TERM, and KILL when the grace is over."""
        if self.running is not None and not self._over:
            self.running.terminate()
            self._stay_until_over(grace)
        if not self._over:
            self._kill_now()
            self._stay_until_over(_KILL_WAIT)

    def kill(self) -> None:
        """End the generation now."""
        if self.running is not None:
            self._kill_now()
            self._stay_until_over(_KILL_WAIT)
            self._end()

    def _stay_until_over(self, limit: float) -> None:
        stopping, self.sup.stopping = self.sup.stopping, True  # one order to stop is enough
        try:
            self.sup.pump(lambda: self._over, time.monotonic() + limit)
        finally:
            self.sup.stopping = stopping

    def _end(self) -> None:
        """Nothing of the generation is left, and all it wrote is in the log."""
        if self.running is None:
            return
        if not self._over:
            self.sup.forget(self.running.status)
            self._over = True
        os.close(self.running.gate)
        os_wait(self.running.init)
        self.running = None
        stopping, self.sup.stopping = self.sup.stopping, True
        try:
            self.sup.pump(lambda: self.sup.log_in < 0, time.monotonic() + 2.0)
        finally:
            self.sup.stopping = stopping
        if self.sup.log_in >= 0:
            self.sup.forget(self.sup.log_in)
            self.sup.log_in = -1
        self.sup.log.ended()
        end = self._end_value()
        self.sup.meter.ended(float(end.get("cpu", 0.0)), int(end.get("peak", 0)))
        self.sup.meter.look_at_disk(now=True)

    def _end_value(self) -> dict[str, Any]:
        return dict(json.loads(self._told)) if self._told else {}

    # --- the verdict ---------------------------------------------------------------------------------------------

    def _judge(self, seconds: float, oom_before: int) -> Ending:
        end = self._end_value()
        if "error" in end:
            failure = self._not_started(end)
            return Ending(failure.exit_code, failure.reason)
        if self._verdict is not None:
            return Ending(reasons.EVICTED, self._verdict)
        self.sup.mounts.look()
        if self.sup.mounts.broken is not None:
            return Ending(reasons.DOWNLOAD_FAILED, self.sup.mounts.broken)
        code = int(end["exit"]) if "exit" in end else 128 + int(end.get("signal", 9))
        meter = self.sup.meter
        usage = meter.usage()
        if code and meter.cgroup is not None and meter.cgroup.oom_kills() > oom_before:
            reason = reasons.out_of_memory(self.plan, usage["memory_peak"], self.sup.log.tail(), meter.watched)
            return Ending(reasons.EVICTED, reason)
        if self.sup.job.mode == "container":
            refused = container.failure(self.sup, code)
            if refused is not None:
                return Ending(refused.exit_code, refused.reason)
        if code == 0:
            return Ending(0)
        tail = self.sup.log.tail()
        return Ending(code, reasons.command_failed(self.plan, code, seconds, usage, tail, meter.watched))

    def _not_started(self, end: dict[str, Any]) -> RuntimeFailure:
        message = str(end["message"])
        if end["error"] == "missing":
            failure = reasons.command_not_found(message, self.plan, host=True)
        elif end["error"] == "interpreter":
            failure = reasons.start_failed(f"{message} names an interpreter (its #! line) that is not on this host")
        elif end["error"] == "format":
            failure = reasons.start_failed(f"{message}: no program; begin a script with #! and its interpreter")
        elif end.get("errno") == errno.ENOSPC:
            failure = reasons.start_failed(f"the disk is full: {message}")
        else:
            failure = reasons.start_failed(message)
        self.sup.log.say(failure.reason.sentence)
        return failure


def _mounts(mounts: Sequence[str]) -> list[tuple[str, str]]:
    """(source, target); a mount without a target has the same path inside."""
    pairs = (one.partition(":") for one in mounts)
    return [(source, target or source) for source, _, target in pairs]


def os_wait(pid: int) -> None:
    """Reap a child that is about to end."""
    try:
        os.waitpid(pid, 0) if pid > 0 else None
    except ChildProcessError:
        pass
