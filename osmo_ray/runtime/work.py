"""The slow parts of an attempt, each done in a forked child of the supervisor: inputs, outputs, the log."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from osmo_ray.data.errors import DataError
from osmo_ray.objects.keyed import store_options, store_url
from osmo_ray.objects.protocol import NoSuchObject, ObjectError, ObjectStore
from osmo_ray.runtime import kpis, process, reasons, transfer
from osmo_ray.runtime.errors import RuntimeFailure
from osmo_ray.runtime.logs import Log, ship
from osmo_ray.runtime.place import Place
from osmo_ray.spec.attempt import DatasetPlan, InputPlan, OutputPlan
from osmo_ray.spec.quantity import show_bytes, show_seconds
from osmo_ray.spec.reason import Reason

# After the last try at shipping the rest of a log, the end is told all the same.
_SHIP_LIMIT = 120


def open_store(url: str, **options: Any) -> ObjectStore:
    """The store behind a URL as users write it. Imported late: a store on the network brings large libraries along."""
    from osmo_ray.objects import open_store as found

    store: ObjectStore = found(store_url(url), **options)
    return store


def child(act: Callable[[], dict[str, Any]], result: int) -> NoReturn:
    """A forked child's whole life: do it, tell the result, go."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGUSR1, signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        value = act()
    except RuntimeFailure as failure:
        value = {"failed": failure.exit_code, "reason": failure.reason.to_json()}
    except Exception as error:
        value = {"failed": 0, "reason": Reason("RuntimeFault", f"{type(error).__name__}: {error}").to_json()}
    try:
        data = json.dumps(value).encode()
        while data:
            data = data[os.write(result, data) :]
    finally:
        os._exit(0)


def result(data: bytes) -> dict[str, Any]:
    """What a child told. Raises RuntimeFailure for what it failed at."""
    if not data:
        raise reasons.start_failed("the process that moves data was killed")
    value = dict(json.loads(data))
    if "failed" in value:
        code = int(value["failed"]) or reasons.START_ERROR
        raise RuntimeFailure(code, Reason.from_json(value["reason"]))
    return value


def fetch(place: Place, log: Log) -> dict[str, Any]:
    """Fill the input folders. The value holds, as `mounts`, the (input, dataset) that are left to be mounted."""
    store = None
    mounts: list[tuple[int, int]] = []
    for number, one in enumerate(place.job.plan.inputs):
        folder, begun = place.folder.data_in / str(number), time.monotonic()
        try:
            if one.kind == "dataset":
                mounts += _fetch_datasets(place, log, number, one)
                continue
            if one.kind == "prefix":
                store = store or open_store(place.job.storage_url)
                tree = transfer.download(store, one.source, folder, one.regex)
            else:
                tree = _fetch_url(one.source, folder, one.regex, store_options(place.job.plan.secrets.data, one.source))
        except NoSuchObject as error:
            raise reasons.download_failed(one.source, f"nothing whole is there ({error})") from error
        except (ObjectError, DataError, OSError, ValueError) as error:
            log.say(f"input {number} ({one.source}) failed: {error}")
            raise reasons.download_failed(one.source, error) from error
        log.say(f"input {number}: {_amount(tree)} from {one.alias or one.source} in {_took(begun)}")
    return {"mounts": mounts}


def _fetch_url(url: str, folder: Path, regex: str, how: dict[str, Any]) -> transfer.Tree:
    """A folder of a store, or one object of it."""
    store = open_store(url, **how)
    if next(iter(store.list("")), None) is not None:
        return transfer.download_plain(store, "", folder, regex)
    parent, _, name = url.rstrip("/").rpartition("/")
    return transfer.download_plain(open_store(parent, **how), name, folder, regex)


def _fetch_datasets(place: Place, log: Log, number: int, one: InputPlan) -> list[tuple[int, int]]:
    """Fetch them, or announce them and tell that they are left to be mounted."""
    if one.missing:
        raise ValueError(one.missing)
    left = []
    for index, wanted in enumerate(one.datasets):
        if one.mount and _announced(place, log, number, wanted):
            left.append((number, index))
        else:
            fetch_dataset(place, log, number, index)
    return left


def _announced(place: Place, log: Log, number: int, wanted: DatasetPlan) -> bool:
    """Whether a dataset is left to be mounted. Imported late: most tasks read no dataset."""
    from osmo_ray.runtime import datasets, mounts

    if why := mounts.refused(place.job):
        log.say(not_mounted(number, wanted, why))
        return False
    datasets.announce(place, wanted, place.folder.data_in / str(number) / wanted.name)
    return True


def not_mounted(number: int, wanted: DatasetPlan, why: str) -> str:
    return f"input {number}: {wanted} cannot be mounted, so it is downloaded: {why}"


def fetch_dataset(place: Place, log: Log, number: int, index: int) -> dict[str, Any]:
    """One dataset of an input into its folder."""
    from osmo_ray.runtime import datasets

    one, begun = place.job.plan.inputs[number], time.monotonic()
    wanted = one.datasets[index]
    got = datasets.fetch(place, wanted, place.folder.data_in / str(number) / wanted.name, one.regex)
    files = f"{got.files} file{'s' * (got.files != 1)}, {show_bytes(got.size)}"
    log.say(f"input {number}: {files} from {wanted}, {show_bytes(got.fetched)} of it fetched, in {_took(begun)}")
    return {}


def fetch_instead(place: Place, log: Log, number: int, index: int) -> dict[str, Any]:
    """`fetch_dataset` after a mount failed. Raises RuntimeFailure."""
    try:
        return fetch_dataset(place, log, number, index)
    except (ObjectError, DataError, OSError, ValueError) as error:
        raise reasons.download_failed(place.job.plan.inputs[number].source, error) from error


def _keep_dataset(place: Place, log: Log, number: int, one: OutputPlan) -> None:
    from osmo_ray.runtime import datasets

    if one.missing:
        raise ValueError(one.missing)
    begun = time.monotonic()
    log.say(f"output: {datasets.keep(place, one, number)} in {_took(begun)}")


def keep(place: Place, log: Log) -> dict[str, Any]:
    """Put the output folder wherever the plan says. The value holds the store prefix that was written, and figures."""
    written = ""
    for number, one in enumerate(place.job.plan.outputs):
        begun = time.monotonic()
        try:
            if one.dataset is not None or one.missing:
                _keep_dataset(place, log, number, one)
                continue
            if one.kind == "prefix":
                store = open_store(place.job.storage_url)
                tree, left = transfer.upload(store, one.target, place.folder.data_out, one.regex)
                written = written or one.target
            else:
                there = open_store(one.target, **store_options(place.job.plan.secrets.data, one.target))
                tree, left = transfer.upload_plain(there, "", place.folder.data_out, one.regex)
        except (ObjectError, DataError, OSError, ValueError) as error:
            log.say(f"the output to {one.target} failed: {error}")
            raise reasons.upload_failed(one.target, error) from error
        if tree.files or one.kind != "prefix":
            log.say(f"output: {_amount(tree)} to {one.target} in {_took(begun)}")
        if left:
            log.say(f"output: {len(left)} things that no store can hold were left out, such as {left[0]}")
    return {"output": written, "figures": kpis.figures(place.job.plan.kpis, place.folder.data_out, log.say)}


def finish(place: Place, log: Log, shipper: Shipper, *, keeping: bool) -> dict[str, Any]:
    """The last work: outputs, then the log with what there is to say about them. May hold `output`, `figures`,
    `failure` (code and reason) and `unshipped`."""
    value: dict[str, Any] = {}
    try:
        if keeping:
            value |= keep(place, log)
    except RuntimeFailure as failure:
        value["failure"] = {"code": failure.exit_code, "reason": failure.reason.to_json()}
    try:
        signal.signal(signal.SIGALRM, _too_long)
        signal.alarm(_SHIP_LIMIT)
        shipper.rest()
    except (ObjectError, OSError):
        value["unshipped"] = True
    signal.alarm(0)
    return value


def _too_long(*_: object) -> None:
    raise TimeoutError("the store takes too long")


def _amount(tree: transfer.Tree) -> str:
    return f"{len(tree.files)} file{'s' * (len(tree.files) != 1)}, {show_bytes(tree.size)}"


def _took(begun: float) -> str:
    return show_seconds(time.monotonic() - begun)


@dataclass(slots=True)
class Shipper:
    """Ships a growing log, one child at a time."""

    url: str
    prefix: str
    log: Path
    next: int = 0
    _pid: int = 0
    _until: int = 0
    _begun: float = 0.0

    def step(self, size: int, every: float, chunk: int) -> None:
        """Look after the running child, or start one when it is time."""
        now = time.monotonic()
        self._begun = self._begun or now
        if self._pid and not self._done():
            return
        if size - self.next >= chunk or (size > self.next and now - self._begun >= every):
            self._begun, self._until = now, size
            self._pid = os.fork()
            if self._pid == 0:
                self._ship()

    def _done(self) -> bool:
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return False
        self._pid = 0
        if status == 0:
            self.next = self._until
        return True

    def _ship(self) -> NoReturn:
        try:
            signal.set_wakeup_fd(-1)
            ship(open_store(self.url), self.prefix, self.log, self.next, self._until)
            os._exit(0)
        finally:
            os._exit(1)

    def end(self) -> None:
        """No child of ours goes on."""
        if self._pid:
            process.send(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0

    def rest(self) -> None:
        """Everything that is left, marked as the end. To be done in a child."""
        store = open_store(self.url)
        transfer.retrying(lambda: ship(store, self.prefix, self.log, self.next, None))
