"""Tasks in containers, by podman or docker: an argument list for the engine's own program, which the supervisor runs
as it would run the command itself.

The container keeps its name until the attempt ends, so that a restart in place starts the same file system again.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from osmo_ray.runtime import hold, reasons
from osmo_ray.runtime.errors import RuntimeFailure
from osmo_ray.runtime.place import Place
from osmo_ray.runtime.sandbox import INPUT, OUTPUT
from osmo_ray.spec.attempt import RegistryLogin
from osmo_ray.spec.reason import Reason

if TYPE_CHECKING:
    from osmo_ray.runtime.codec import Job
    from osmo_ray.runtime.supervisor import Supervisor

_ANSWER_LIMIT, _PULL_LIMIT, _REACH_LIMIT = 8.0, 1800.0, 1.5
_REMEMBER = 600.0
_BELIEVE = 15.0
# Names whose value in the engine's own environment would change the engine.
_ENGINE_NAMES = ("PATH", "HOME", "USER", "TMPDIR", "LANG", "TERM")
_ENGINE_PREFIXES = ("XDG_", "DOCKER_", "CONTAINER", "PODMAN_", "BUILDAH_", "STORAGE_", "LD_", "GODEBUG", "NOTIFY_")
_OURS = ("PATH", "HOME", "USER", "LANG", "TERM", "HOSTNAME", "TMPDIR")


@dataclass(slots=True)
class Engine:
    """`name` is `podman`, `docker` or empty; `why` says it in a sentence."""

    name: str
    why: str
    before: tuple[str, ...] = ()
    """Options of the engine itself that containers need on this host."""
    extra: tuple[str, ...] = ()
    """Options of `run` that they need."""
    _tried: bool = False
    _local: set[str] = field(default_factory=set)
    _searched: str | None = None
    _absent: dict[str, float] = field(default_factory=dict)
    _registries: dict[str, tuple[float, bool]] = field(default_factory=dict)

    def ready(self, root: Path) -> bool:
        """Whether it really starts containers: tried once, when the first task wants one, with what older engines
        and narrow hosts need."""
        if self._tried or not self.name:
            return bool(self.name)
        self._tried = True
        empty = root / "empty"
        empty.mkdir(exist_ok=True)
        said = ""
        for before, extra in _ways(self.name):
            argv = [self.name, *before, "run", "--rm", *extra, "--network", "none", "--rootfs", str(empty), "/nothing"]
            if self.name == "docker":
                return True  # its daemon has rights and limits of its own
            code, said = _say(argv)
            if code == 127 or "no such file" in said.lower() or "not found" in said.lower():
                self.before, self.extra = before, extra
                return True
        self.why = f"{self.name} starts no container: {said}"
        self.name = ""
        return False

    def usable(self, image: str, root: Path) -> tuple[bool, str]:
        """Whether a task that does not insist should run in a container of `image`, and why."""
        known, why = self._gets(image)
        return (True, why) if known and self.ready(root) else (False, self.why if known else why)

    def _gets(self, image: str) -> tuple[bool, str]:
        if not self.name:
            return False, self.why
        if self._has(image):
            return True, f"{self.name} has the image"
        registry = registry_of(image) or self._default()
        if not registry:
            return False, f"{self.name} has no image {image}, which names no registry, and it has none to search"
        if self._reaches(registry):
            return True, f"{self.name} can pull the image from {registry}"
        return False, f"{self.name} has no image {image} and the registry {registry} does not answer"

    def _has(self, image: str) -> bool:
        """Asking an engine costs a tenth of a second and more, so an absence is believed for a while."""
        if image in self._local:
            return True
        if time.monotonic() - self._absent.get(image, float("-inf")) < _BELIEVE:
            return False
        if has_image(self.name, image):
            self._local.add(image)
            return True
        self._absent[image] = time.monotonic()
        return False

    def _default(self) -> str:
        """Where the engine looks for images that name no registry; its own configuration says."""
        if self._searched is None:
            self._searched = default_registry(self.name)
        return self._searched

    def _reaches(self, registry: str) -> bool:
        known = self._registries.get(registry)
        if known is not None and time.monotonic() - known[0] < _REMEMBER:
            return known[1]
        host, _, port = registry.partition(":")
        try:
            socket.create_connection((host, int(port or 443)), _REACH_LIMIT).close()
            found = True
        except (OSError, ValueError):
            found = False
        self._registries[registry] = (time.monotonic(), found)
        return found

    def remove(self, key: str) -> None:
        """End and remove an attempt's container. After its monitor was killed, podman needs to be told twice."""
        now = ["--time", "0"] if self.name == "podman" else []
        for _ in range(4 if self.name else 0):
            if _run([self.name, "rm", "--force", *now, "--volumes", container_name(key)]) == 0:
                return
            time.sleep(0.1)

    def joins(self) -> bool:
        """Whether its containers can have addresses of the tasks' network: root's podman can enter a namespace."""
        return self.name == "podman" and os.geteuid() == 0


def find(option: str) -> Engine:
    """The engine of this host that answers."""
    if option == "off":
        return Engine("", "container engines are switched off by option")
    tried = []
    for name in ("podman", "docker") if option == "auto" else (option,):
        if shutil.which(name) is None:
            tried.append(f"{name} is not installed")
        elif _run([name, "ps", "--quiet"]) == 0:
            return Engine(name, f"{name} answers")
        else:
            tried.append(f"{name} does not answer")
    return Engine("", ", ".join(tried))


def _ways(name: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Options to try. A host may forbid raising limits (then they are set to what we have), and crun refuses hosts
    with both versions of cgroups (runc does not)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = ("--ulimit", f"nofile={soft}:{hard}", "--ulimit", "nproc=4096:4096")
    ways: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((), ()), ((), limits)]
    if name == "podman" and shutil.which("runc"):
        ways += [(("--runtime", "runc"), ()), (("--runtime", "runc"), limits)]
    return ways


def _say(argv: list[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            argv, capture_output=True, timeout=_ANSWER_LIMIT * 2, check=False, stdin=subprocess.DEVNULL
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return -1, str(error)
    return done.returncode, done.stderr.decode(errors="replace").strip()[-300:]


def _run(argv: list[str], limit: float = _ANSWER_LIMIT) -> int:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=limit, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return -1
    return done.returncode


def has_image(engine: str, image: str) -> bool:
    return _run([engine, "image", "inspect", image]) == 0


def registry_of(image: str) -> str:
    """The registry's host that an image reference names, or nothing."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else ""


def default_registry(engine: str) -> str:
    """The host that this engine asks for images without one; empty when it asks nobody."""
    form = "{{.IndexServerAddress}}" if engine == "docker" else "{{json .Registries}}"
    try:
        told = subprocess.run(
            [engine, "info", "--format", form], capture_output=True, text=True, timeout=_ANSWER_LIMIT, check=False
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
    if engine == "docker":
        return urlsplit(told).netloc
    try:
        return str((json.loads(told or "{}").get("search") or [""])[0])
    except ValueError:
        return ""


def container_name(key: str) -> str:
    return f"osmo-{key}"


def pull(
    engine: str, image: str, why: str, login: RegistryLogin | None = None, folder: Path | None = None
) -> RuntimeFailure | None:
    """Get the image if it is not there; the failure if it cannot be had. A login stands in a file in `folder` for as
    long as the pull lasts."""
    if not engine:
        return _no_image(image, why)
    if has_image(engine, image):
        return None
    before, after = _login(engine, login, folder)
    try:
        done = subprocess.run(
            [engine, *before, "pull", "--quiet", *after, image], capture_output=True, timeout=_PULL_LIMIT, check=False,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return _no_image(image, f"not there after {_PULL_LIMIT:.0f} s")
    finally:
        if folder is not None:
            (folder / "config.json").unlink(missing_ok=True)
    if done.returncode == 0:
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return _no_image(image, lines[-1][:200] if lines else f"{engine} pull gave {done.returncode}")


def _login(engine: str, login: RegistryLogin | None, folder: Path | None) -> tuple[list[str], list[str]]:
    """Options of the engine and of its `pull` that log in to a registry."""
    if login is None or folder is None:
        return [], []
    word = base64.b64encode(f"{login.username}:{login.auth}".encode()).decode()
    file = folder / "config.json"
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump({"auths": {login.registry: {"auth": word}}}, out)
    return (["--config", str(folder)], []) if engine == "docker" else ([], ["--authfile", str(file)])


def _no_image(image: str, why: str) -> RuntimeFailure:
    sentence = f"the image {image} cannot be had: {why}"
    return RuntimeFailure(reasons.IMAGE_PULL, Reason("ImagePull", sentence, {"image": image}))


def mounts(place: Place, files: list[tuple[str, Path]]) -> list[tuple[str, str]]:
    """(source, target) of files to show read-only; files of the output folder are copied there."""
    shown = []
    for target, source in files:
        path = os.path.normpath(target)
        if path.startswith(OUTPUT + "/"):
            own = place.folder.data_out / path[len(OUTPUT) + 1 :]
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_bytes(source.read_bytes())
        elif not path.startswith("/") or path.startswith("/osmo") or ":" in path:
            raise reasons.bad_file(target, f"it must be absolute, without colons, and outside /osmo except {OUTPUT}")
        else:
            shown.append((str(source), path))
    return shown


def argv(
    sup: Supervisor,
    command: tuple[str, ...],
    environment: Mapping[str, str],
    shown: list[tuple[str, str]],
    network_pid: int,
) -> tuple[str, ...]:
    """The engine's command line for this generation."""
    plan, name = sup.plan, container_name(str(sup.plan.key))
    if sup.runs > 1 and exists(sup.job.engine, name):
        return start_again(sup.job)
    line = [
        sup.job.engine, *sup.job.engine_global, "run", *sup.job.engine_run, "--name", name,
        "--hostname", sup.place.hostname, "--pull", "never",
        *(("--privileged",) if plan.privileged else ("--security-opt", "no-new-privileges")),
        "--pids-limit", "32768", "--cpus", str(plan.cpu),
        "--memory", str(plan.memory), "--memory-swap", str(plan.memory), "--workdir", "/",
        "--volume", f"{sup.folder.data_in}:{INPUT}", "--volume", f"{sup.folder.data_out}:{OUTPUT}",
    ]  # fmt: skip
    for source, target in shown:
        line += ["--volume", f"{source}:{target}:ro"]
    for mount in plan.mounts:
        source, _, target = mount.partition(":")
        line += ["--volume", f"{source}:{target or source}"]
    if plan.network == "node":
        line += ["--network", "host"]
    elif network_pid:
        line += ["--network", f"ns:/proc/{network_pid}/ns/net"]
    line += ["--volume", f"{sup.folder.path / 'hosts'}:/etc/hosts:ro"]
    for number in sup.job.gpus:
        line += ["--device", f"nvidia.com/gpu={number}"]
    secret = plan.secrets.environment
    if told := [name for name in secret if _is_engines(name)]:
        # It would have to stand on the command line, for every user of the host to read.
        raise reasons.start_failed(f"the variable {told[0]} cannot carry a secret into a container; name it otherwise")
    given = {k: v for k, v in environment.items() if k not in _OURS or k in plan.environment}
    for key, value in given.items():
        # A value on the command line could be read by other users of the host.
        line += ["--env", f"{key}={value}" if _is_engines(key) else key]
    if (own := hold.program(sup)) is not None:
        line += ["--volume", f"{own.parent}:{hold.INSIDE}:ro"]
        return (*line, "--entrypoint", f"{hold.INSIDE}/{own.name}", plan.image, *command)
    return (*line, "--entrypoint", command[0], plan.image, *command[1:])


def exists(engine: str, name: str) -> bool:
    """Whether the engine has a container of this name, running or not."""
    return _run([engine, "container", "inspect", name]) == 0


def start_again(job: Job) -> tuple[str, ...]:
    """The engine's command line that starts the attempt's container anew, with its file system as it is."""
    return (job.engine, *job.engine_global, "start", "--attach", container_name(str(job.plan.key)))


def _is_engines(name: str) -> bool:
    return name in _ENGINE_NAMES or name.startswith(_ENGINE_PREFIXES)


def engine_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The engine's own environment, and the task's values that `--env NAME` takes from it."""
    return {**{k: v for k, v in environment.items() if not _is_engines(k)}, **os.environ}


def kill(sup: Supervisor) -> None:
    """KILL what runs in the attempt's container."""
    _run([sup.job.engine, "kill", container_name(str(sup.plan.key))])


def failure(sup: Supervisor, code: int) -> RuntimeFailure | None:
    """What the engine's exit code says about a container that did not start or was killed for memory."""
    name = container_name(str(sup.plan.key))
    if refused := hold.refused(sup, code):
        if code == hold.NOT_FOUND:
            return reasons.command_not_found(sup.plan.argv[0], sup.plan, host=False)
        return reasons.start_failed(f"{refused} (in the image {sup.plan.image})")
    if code == 127 and not _started(sup.job.engine, name):
        return reasons.command_not_found(sup.plan.argv[0], sup.plan, host=False)
    if code in (125, 126) and not _started(sup.job.engine, name):
        tail = sup.log.tail(2)
        return reasons.start_failed(f"{sup.job.engine} could not start the container: {' '.join(tail)[:300]}")
    if code == 137 and _inspect(sup.job.engine, name, "{{.State.OOMKilled}}") == "true":
        reason = reasons.out_of_memory(sup.plan, sup.plan.memory, sup.log.tail(), "")
        return RuntimeFailure(reasons.EVICTED, reason)
    return None


def first_process(engine: str, key: str) -> int:
    """The pid on this host of a container's first process. Raises ProcessLookupError."""
    told = _inspect(engine, container_name(key), "{{.State.Pid}}")
    if not told.isdigit() or told == "0":
        raise ProcessLookupError(f"{engine} runs no container of this task")
    return int(told)


def exec_argv(job: Job, command: Sequence[str], environment: Mapping[str, str], *, tty: bool) -> tuple[str, ...]:
    """The engine's command line that runs `command` in the attempt's container."""
    line = [job.engine, *job.engine_global, "exec", "--interactive", *(("--tty",) if tty else ())]
    for name, value in environment.items():
        line += ["--env", f"{name}={value}"]
    return (*line, container_name(str(job.plan.key)), *command)


def _started(engine: str, name: str) -> bool:
    return _inspect(engine, name, "{{.State.StartedAt.IsZero}}") == "false"


def _inspect(engine: str, name: str, what: str) -> str:
    argv = [engine, "container", "inspect", "--format", what, name]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_ANSWER_LIMIT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode().strip()
