"""The two ends of a task in a pod: what comes before the user's container, and what stands beside it.

    init    fills the shared folder: inputs, files, the launcher and what it shall run
    beside  keeps the log, opens the barrier, and after the launcher's end keeps the outputs and tells how it went

Both read one `Job` from a Secret that the user's container does not see. Orders come as a file that Kubernetes makes
of the pod's annotations; the result goes out as this container's termination message. So a pod needs no way to the
control plane, only to the storage.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from osmo_ray.runtime import codec, reasons, transfer, work
from osmo_ray.runtime.codec import Job, Orders
from osmo_ray.runtime.errors import RuntimeFailure
from osmo_ray.runtime.logs import Log, log_prefix
from osmo_ray.runtime.place import Place, placed_datasets
from osmo_ray.runtime.sandbox import OUTPUT
from osmo_ray.runtime.spool import Folder, replace_file
from osmo_ray.spec.attempt import AttemptPlan, FilePlan
from osmo_ray.spec.reason import Reason
from osmo_ray.spec.tokens import Tokens, expand, host_label, host_name, variables

SHARED, SECRET, ORDERS = "/osmo", "/osmo-job", "/osmo-orders"
"""Where the folder of both containers, the job and the orders are mounted."""
LAUNCHER = f"{SHARED}/bin/launcher"
MESSAGE = "/dev/termination-log"
_MESSAGE_LIMIT = 3500
_LOOK = 0.05
_SHIP_EVERY, _SHIP_SIZE = 3.0, 4 << 20
_FILES = "run/files"
_REPLACED = Reason("OutputReplaced", "the output folder is no folder any more, but a link or nothing; it was not kept")


@dataclass(frozen=True, slots=True)
class PodFolder(Folder):
    """An attempt's folder where both containers see it: the documented paths, and `run` for what is ours."""

    kept: str = ""
    """Another name for the log, once it is open: what the task puts in its place is not read."""

    @property
    def log(self) -> Path:
        return Path(self.kept) if self.kept else self.path / "run/log"

    @property
    def data_in(self) -> Path:
        return self.path / "data/input"

    @property
    def data_out(self) -> Path:
        return self.path / "data/output"


def file_target(path: str, tokens: Tokens) -> tuple[str, str]:
    """Where a file of the plan goes: (`mount`, absolute path), (`output`, path below the output folder), or
    (`refused`, why)."""
    target = os.path.normpath(expand(path, tokens))
    if target.startswith(OUTPUT + "/"):
        return "output", target[len(OUTPUT) + 1 :]
    if not target.startswith("/") or target == "/" or f"{target}/".startswith("/osmo") or ":" in target:
        return "refused", f"it must be absolute, without colons, and outside /osmo except {OUTPUT}"
    return "mount", target


def file_part(number: int) -> str:
    """The n-th file of a plan, below the shared folder."""
    return f"{_FILES}/{number}"


def opened(root: Path, below: str, flags: int) -> int:
    """A descriptor of what lies below the shared folder, through no link: the task may put one anywhere there, and this
    program can read what the task must not. OSError when there is one."""
    *folders, name = below.split("/")
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = inner
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666, dir_fd=at)
    finally:
        os.close(at)


def place(job: Job, root: Path = Path(SHARED)) -> Place:
    """The attempt as both programs see it."""
    return Place(PodFolder(root), job, None)


def environment(plan: AttemptPlan, tokens: Tokens) -> dict[str, str]:
    """What is added to the image's own environment."""
    values = {name: expand(text, tokens) for name, text in plan.environment.items()}
    return values | {
        "OSMO_WORKFLOW_ID": plan.workflow_id,
        "OSMO_GROUP": plan.group,
        "OSMO_TASK": plan.task,
        "OSMO_RETRY_ID": str(plan.key.retry_id),
        "OSMO_ATTEMPT": str(plan.key),
        "OSMO_OUTPUT": tokens.output,
        **placed_datasets(plan, tokens),
    }


def waits(plan: AttemptPlan) -> bool:
    """Whether the command waits for a word from outside: for the barrier, or for its siblings' names."""
    return plan.barrier or len(plan.peers) > 1


def main(argv: list[str] | None = None) -> int:
    """`python -m osmo_ray.runtime.pod init|beside`"""
    what = (argv or sys.argv[1:])[0]
    job = job_from_json((Path(SECRET) / "job.json").read_text(), with_files=what == "init")
    return {"init": before, "beside": beside}[what](job)


# --- before ----------------------------------------------------------------------------------------------------------


def before(job: Job, root: Path = Path(SHARED)) -> int:
    """Everything that must be there when the command starts. 1 with a message when something could not be had."""
    here = place(job, root)
    log = _open_log(here)
    try:
        _prepare(here, log, root)
    except RuntimeFailure as failure:
        log.say(failure.reason.sentence)
        work.finish(here, log, _shipper(here), keeping=False)
        tell({"exit_code": failure.exit_code, "reason": failure.reason.to_json(), "at": time.time()})
        return 1
    return 0


def _open_log(here: Place) -> Log:
    """Anybody may write here: the user's container can run as any user."""
    os.umask(0)
    for folder in (here.folder.log.parent, here.folder.data_in, here.folder.data_out):
        folder.mkdir(parents=True, exist_ok=True)
    log = Log(here.folder.log)
    log.open()
    here.folder.log.chmod(0o666)
    return log


def _opened_log(here: Place) -> Log:
    log = Log(here.folder.log)
    log.open()
    return log


def _prepare(here: Place, log: Log, root: Path) -> None:
    plan = here.job.plan
    if not plan.argv:
        raise RuntimeFailure(reasons.INVALID_COMMAND, Reason("NoCommand", "the task has no command"))
    tokens = here.tokens({})
    work.fetch(here, log)
    _write_files(here, tokens, root)
    added = environment(plan, tokens)
    start = {
        "argv": [variables(expand(text, tokens), added) for text in plan.argv],
        "env": added,
        "barrier": waits(plan),
        "hold": plan.hold,
    }
    replace_file(root / "run/start.json", json.dumps(start))
    (root / "run/start.json").chmod(0o644)
    (root / "run/lock").touch(0o666)
    _place_launcher(root)


def _place_launcher(root: Path) -> None:
    """The image has it beside this program; the user's container finds it in the shared folder."""
    target = root / "bin/launcher"
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(os.environ.get("OSMO_LAUNCHER", "/usr/local/bin/osmo-launcher"), target)
    target.chmod(0o755)


def _write_files(here: Place, tokens: Tokens, root: Path) -> None:
    spooled = Place(Folder(root / "run"), here.job, None).write_files(tokens)
    for file, (_, source) in zip(here.job.plan.files, spooled, strict=True):
        kind, target = file_target(file.path, tokens)
        if kind == "refused":
            raise reasons.bad_file(file.path, target)
        if kind == "output":
            own = here.folder.data_out / target
            own.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, own)


# --- beside ----------------------------------------------------------------------------------------------------------


class Ended(Exception):
    """The pod is being deleted."""


def beside(job: Job, root: Path = Path(SHARED), orders: Path = Path(ORDERS)) -> int:
    """Stay with the command until its end, then keep what it made."""
    return Beside(job, root, orders).run()


class Beside:
    """The container beside the user's."""

    def __init__(self, job: Job, root: Path, orders: Path) -> None:
        self.job, self.plan, self.root, self.orders_file = job, job.plan, root, orders
        self.place = _with_log_kept(place(job, root), root)
        self.shipper = _shipper(self.place)
        self.mirror = Mirror(self.place.folder.log)
        self.orders: Orders | None = None
        self._stopping = False

    def run(self) -> int:
        """0 when all that was to be kept is kept."""
        signal.signal(signal.SIGTERM, self._stop)
        log = _opened_log(self.place)
        try:
            self._until_end()
        except Ended:
            self._stopping = True
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
        while not (self.root / "run/began").exists():
            self._tick()
            time.sleep(_LOOK)
        with os.fdopen(opened(self.root, "run/lock", os.O_RDWR), "r+b") as lock:
            while not _held(lock.fileno()):
                self._tick()
                time.sleep(_LOOK)
        self._stopping = True

    def _tick(self) -> None:
        self._read_orders()
        self.mirror.step()
        self.shipper.step(self.mirror.offset, _SHIP_EVERY, _SHIP_SIZE)

    def _read_orders(self) -> None:
        """Before the launcher has begun nothing is opened: Kubernetes writes the hosts file anew as it starts the
        user's container."""
        try:
            text = (self.orders_file / "orders").read_text()
        except FileNotFoundError:
            return
        if not text or not (self.root / "run/began").exists():
            return
        orders = codec.orders_from_json(json.loads(text))
        if orders == self.orders:
            return
        if self.orders is None or orders.hosts != self.orders.hosts:
            write_hosts(self.plan, orders.hosts)
        self.orders = orders
        if orders.go >= self.plan.restart:
            (self.root / "run/go").touch()
        if orders.release:
            (self.root / "run/release").touch()

    def _finish(self, log: Log) -> int:
        end = self._end()
        code, reason = judge(self.plan, end, log)
        keeping = bool(self.plan.outputs) and "error" not in end and bool(end)
        replaced = keeping and not self._output_is_ours()
        if replaced:
            log.say(_REPLACED.sentence)
        result = work.finish(self.place, log, self.shipper, keeping=keeping and not replaced)
        if replaced:
            result = {"failure": {"code": reasons.UPLOAD_FAILED, "reason": _REPLACED.to_json()}}
        self.mirror.step()
        if "failure" in result:
            code, reason = int(result["failure"]["code"]), Reason.from_json(result["failure"]["reason"])
        told = {
            "exit_code": code,
            "reason": reason.to_json() if reason else None,
            "output": result.get("output", ""),
            "usage": _usage(end),
            "at": time.time(),
        }
        tell(told)
        return 1 if "failure" in result else 0

    def _end(self) -> dict[str, Any]:
        """What the launcher left; empty when it was killed."""
        try:
            with os.fdopen(opened(self.root, "run/end.json", os.O_RDONLY)) as file:
                return dict(json.load(file))
        except OSError:
            return {}

    def _output_is_ours(self) -> bool:
        """Whether the output folder is still the one that the task was given. Its processes have ended by now."""
        try:
            os.close(opened(self.root, "data/output", os.O_RDONLY | os.O_DIRECTORY))
        except OSError:
            return False
        return True


def _with_log_kept(here: Place, root: Path) -> Place:
    """The log opened once; from here on it is known by its descriptor. It is never closed: a child may read it."""
    here.folder.log.parent.mkdir(parents=True, exist_ok=True)
    fd = opened(root, "run/log", os.O_RDWR | os.O_APPEND | os.O_CREAT)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.EINVAL, "the log is no file", str(here.folder.log))
    return replace(here, folder=PodFolder(here.folder.path, kept=f"/proc/self/fd/{fd}"))


def judge(plan: AttemptPlan, end: Mapping[str, Any], log: Log) -> tuple[int | None, Reason | None]:
    """The exit code and why it is a failure; no code when only Kubernetes knows, since the launcher was killed."""
    if not end:
        return None, None
    if "error" in end:
        message = str(end["message"])
        if end["error"] == "missing":
            failure = reasons.command_not_found(message, plan, host=False)
        else:
            failure = reasons.start_failed(f"{message} (in the image {plan.image})")
        log.say(failure.reason.sentence)
        return failure.exit_code, failure.reason
    code = 128 + int(end["signal"]) if end.get("signal") else int(end.get("exit", 0))
    if code == 0:
        return 0, None
    seconds = float(end["ended"]) - float(end["began"])
    return code, reasons.command_failed(plan, code, seconds, _usage(end), log.tail(), "")


def _usage(end: Mapping[str, Any]) -> dict[str, float]:
    if not end:
        return {}
    return {"memory_peak": float(end.get("peak", 0)), "cpu_seconds": float(end.get("cpu", 0.0))}


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


@dataclass(slots=True)
class Mirror:
    """The log on our own output, each line after its offset, so that a follower through Kubernetes knows where it is
    even after the node has thrown an old part away."""

    log: Path
    offset: int = 0
    rest: bytes = b""

    def step(self) -> None:
        """What is new, whole lines only."""
        try:
            with self.log.open("rb") as file:
                file.seek(self.offset)
                data = file.read(1 << 20)
        except FileNotFoundError:
            return
        cut = data.rfind(b"\n") + 1
        out = []
        for line in data[:cut].splitlines(keepends=True):
            out.append(b"%d " % self.offset + line)
            self.offset += len(line)
        if out:
            sys.stdout.buffer.write(b"".join(out))
            sys.stdout.buffer.flush()


# --- telling ---------------------------------------------------------------------------------------------------------


def tell(result: Mapping[str, Any], path: Path = Path(MESSAGE)) -> None:
    """The termination message. Kubernetes keeps 4096 bytes of it, so a long reason is cut until it fits."""
    text = json.dumps(result)
    for size in (300, 100, 20):
        reason = result.get("reason")
        if len(text) <= _MESSAGE_LIMIT or not reason:
            break
        evidence = {name: str(value)[-size:] for name, value in list(reason["evidence"].items())[:6]}
        short = {**reason, "sentence": reason["sentence"][: 2 * size], "evidence": evidence}
        text = json.dumps({**result, "reason": short})
    path.write_text(text)


def _shipper(here: Place) -> work.Shipper:
    prefix = log_prefix(here.job.plan.workflow_uuid, here.job.plan.key)
    return work.Shipper(here.job.storage_url, prefix, here.folder.log)


def job_to_json(plan: AttemptPlan, storage_url: str, files_at: str) -> str:
    """What the Secret holds. Orders and names of siblings come later, by the annotation; files that are too large for
    a Secret are in the storage, under the key `files_at`."""
    kept = replace(plan, hosts={}, files=() if files_at else plan.files)
    return json.dumps(codec.job_to_json(Job(kept, "pod", storage_url=storage_url)) | {"files_at": files_at})


def job_from_json(text: str, *, with_files: bool) -> Job:
    """What `job_to_json` wrote; with its files, wherever they are."""
    value = json.loads(text)
    job = codec.job_from_json(value)
    if not with_files or not value["files_at"]:
        return job
    store = work.open_store(job.storage_url)
    files = json.loads(transfer.retrying(lambda: store.read(value["files_at"])))
    return replace(job, plan=replace(job.plan, files=tuple(FilePlan(**file) for file in files)))


def files_to_json(files: Sequence[FilePlan]) -> bytes:
    """Files as they wait in the storage."""
    return json.dumps([{"path": f.path, "contents": f.contents, "base64": f.base64} for f in files]).encode()


if __name__ == "__main__":
    raise SystemExit(main())
