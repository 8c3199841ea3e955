"""The Python client: submit a workflow, wait for it, read its logs, fetch what it wrote.

    client = Client()
    name = client.submit(Path("train.yaml").read_text(), set=["epochs=3"])
    state = client.wait(name)
    client.download(name, Path("results"))

Only the standard library is imported.
"""

from __future__ import annotations

import builtins
import tarfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from osmo_ray.sdk.errors import ClientError, Unreachable
from osmo_ray.sdk.http import Http
from osmo_ray.sdk.login import Login, resolve
from osmo_ray.sdk.values import Downloaded, OutputFile, WorkflowState

_PATIENCE = 90.0
"""Seconds for which `wait` and `follow` bear a platform that does not answer."""

_EASE = 10.0
"""Polls leave the platform this many times as long alone as it took to answer: large workflows are asked less often."""
_LONGEST = 5.0
"""Seconds between polls at most: an answer that took long may have waited for a platform that was away."""


class Client:
    """One platform, by its address, as one user.

    Without arguments it is the platform that the command line talks to. Errors are `ClientError`, which says what
    the platform said.
    """

    def __init__(self, url: str = "", *, user: str = "", token: str = "", timeout: float = 60.0) -> None:
        found = resolve(url)
        grant = None if user or token else found.grant
        self.login = Login(found.url, user or found.user, token or found.token, grant)
        self.http = Http(self.login, timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    # -- submitting

    def submit(
        self,
        text: str,
        *,
        pool: str = "",
        set: Iterable[str] = (),
        set_string: Iterable[str] = (),
        env: Iterable[str] = (),
        priority: str = "NORMAL",
        template: str = "",
        app: tuple[str, int] | None = None,
    ) -> str:
        """Submit a workflow file and return the id of the workflow. `set`, `set_string` and `env` are `name=value`
        texts; `template` is the file before it was rendered, when `text` is a rendered one; `app` are uuid and version
        of the app that it is of."""
        body = self._body(text, set, set_string, template)
        of = {"app_uuid": app[0], "app_version": app[1]} if app else {}
        answer = self._post(pool, body, env_vars=list(env), priority=priority.upper(), **of)
        return str(answer["name"])

    def resubmit(self, name: str, *, pool: str = "", env: Iterable[str] = (), priority: str = "NORMAL") -> str:
        """Submit what `name` was made of once more."""
        answer = self._post(pool, None, workflow_id=name, env_vars=list(env), priority=priority.upper())
        return str(answer["name"])

    def restart(
        self,
        name: str,
        *,
        pool: str = "",
        tasks: Iterable[str] = (),
        text: str = "",
        set: Iterable[str] = (),
        set_string: Iterable[str] = (),
        env: Iterable[str] = (),
        template: str = "",
    ) -> str:
        """Run what failed of `name` again, in its own pool by default; what completed is not repeated but read. `tasks`
        are run again in any case, with all that depends on them; `text` is a newer workflow file to run them by."""
        chosen = pool or str(self.view(name, skip_groups=True)["pool"] or self.pool())
        params = {"from_task": list(tasks), "env_vars": list(env)}
        body = self._body(text, set, set_string, template) if text else None
        answer = self.http.json("POST", f"/api/pool/{chosen}/workflow/{name}/restart", params, body)
        return str(answer["name"])

    def validate(self, text: str, *, pool: str = "", set: Iterable[str] = (), set_string: Iterable[str] = ()) -> str:
        """What the platform says of a file that it would accept; raises `ClientError` with `problems` otherwise."""
        answer = self._post(pool, self._body(text, set, set_string, ""), validation_only=True)
        return str(answer["logs"])

    def render(self, text: str, *, pool: str = "", set: Iterable[str] = (), set_string: Iterable[str] = ()) -> str:
        """The file with its templates filled in."""
        return str(self._post(pool, self._body(text, set, set_string, ""), dry_run=True)["spec"])

    def _body(self, text: str, set: Iterable[str], set_string: Iterable[str], template: str) -> dict[str, Any]:
        return {
            "file": text,
            "set_variables": list(set),
            "set_string_variables": list(set_string),
            "uploaded_templated_spec": template or None,
        }

    def _post(self, pool: str, body: object, **params: Any) -> Any:
        return self.http.json("POST", f"/api/pool/{pool or self.pool()}/workflow", params, body)

    def pool(self) -> str:
        """The pool of the user's profile."""
        found = self.http.json("GET", "/api/profile/settings")["profile"].get("pool")
        if not found:
            raise ClientError("No pool is set; name one with --pool or: osmo profile set pool NAME", status=400)
        return str(found)

    # -- looking

    def workflow(self, name: str) -> WorkflowState:
        """The state of a workflow."""
        return WorkflowState.from_json(self.view(name))

    def view(self, name: str, **params: Any) -> Any:
        """The same as the JSON of the API."""
        return self.http.json("GET", f"/api/workflow/{name}", params)

    def list(self, **filters: Any) -> builtins.list[dict[str, Any]]:
        """The JSON entries of workflows, newest first; `filters` are the API's (`limit`, `statuses`, `users`,
        `all_users`, `name`, `pools` ...). By default the caller's own of all pools."""
        params = {"order": "DESC", "limit": 20, "all_pools": not filters.get("pools"), **filters}
        return builtins.list(self.http.json("GET", "/api/workflow", params)["workflows"])

    def explain(self, name: str, **params: Any) -> Any:
        """Why the tasks of a workflow wait or failed, as the JSON of the API."""
        return self.http.json("GET", f"/api/x/workflow/{name}/explain", params)

    def follow(self, name: str, poll: float = 0.5) -> Iterator[WorkflowState]:
        """The state now, and each time it has changed, until the end. Bears a platform that restarts."""
        last: WorkflowState | None = None
        self.http.patience, kept = _PATIENCE, self.http.patience
        try:
            while last is None or not last.finished:
                begin = time.monotonic()
                state = self.workflow(name)
                took = time.monotonic() - begin
                if state != last:
                    last = state
                    yield state
                if not state.finished:
                    time.sleep(max(poll, min(_EASE * took, _LONGEST)))
        finally:
            self.http.patience = kept

    def wait(self, name: str, timeout: float | None = None, poll: float = 0.5) -> WorkflowState:
        """The final state. Raises `TimeoutError` after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        self.http.patience, kept = _PATIENCE, self.http.patience
        try:
            while True:
                state = WorkflowState.from_json(self.view(name, skip_groups=True))
                if state.finished:
                    return self.workflow(name)
                if deadline is not None and time.monotonic() + poll > deadline:
                    raise TimeoutError(f"{name} is still {state.status} after {timeout:g} seconds")
                time.sleep(poll)
        finally:
            self.http.patience = kept

    def logs(self, name: str, **wanted: Any) -> Iterator[str]:
        """Lines of the log, following until the workflow (or the task) has ended; `wanted` as for `log_batches`."""
        return _flat(self.log_batches(name, **wanted))

    def log_batches(
        self,
        name: str,
        *,
        task: str = "",
        retry_id: int | None = None,
        last: int | None = None,
        query: str = "",
        follow: bool = True,
    ) -> Iterator[builtins.list[str]]:
        """Lines as they arrive together. Bears a platform that restarts: it asks again, and passes over what it has
        told of each task (with `last`, a break is an error)."""
        params = {"task_name": task or None, "retry_id": retry_id, "last_n_lines": last, "query": query or None}
        path = f"/api/workflow/{name}/logs"
        return self._resuming(name, path, {**params, "follow": follow}, whole=not task, again=last is None)

    def events(self, name: str, *, task: str = "", retry_id: int | None = None, follow: bool = True) -> Iterator[str]:
        """Lines of the history, in the same way."""
        params = {"task_name": task or None, "retry_id": retry_id, "follow": follow}
        path = f"/api/workflow/{name}/events"
        return _flat(self._resuming(name, path, params, whole=not task, again=True))

    def _resuming(
        self, name: str, path: str, params: dict[str, Any], *, whole: bool, again: bool
    ) -> Iterator[builtins.list[str]]:
        """A stream of lines. `whole`: it ends with the workflow; `again`: it may be asked for anew after a break."""
        told, follow = Counter[str](), bool(params["follow"])
        self.view(name, skip_groups=True)  # an unknown name, or nobody there, is said at once
        self.http.patience, kept = _PATIENCE, self.http.patience
        try:
            while True:
                try:
                    yield from _untold(self._batches(path, params), told)
                    if not follow or not whole or self.workflow(name).finished:
                        return
                    time.sleep(0.5)  # cut off in the middle, and not by its end
                except Unreachable:
                    if not again or not follow:
                        raise
                    self.view(name)  # waits until it is back, and raises if it stays away
        finally:
            self.http.patience = kept

    def _batches(self, path: str, params: dict[str, Any]) -> Iterator[builtins.list[str]]:
        rest = b""
        for data in self.http.pieces(path, params):
            *lines, rest = (rest + data).split(b"\n")
            yield [line.decode(errors="replace") for line in lines]
        if rest:
            yield [rest.decode(errors="replace")]

    # -- changing

    def sweeps(self, name: str) -> Any:
        """The sweeps of a workflow, as the JSON of the API."""
        return self.http.json("GET", f"/api/x/workflow/{name}/sweeps")["sweeps"]

    def cancel(self, name: str, message: str = "", *, force: bool = False, tasks: Iterable[str] = ()) -> None:
        """End a workflow, or only the groups of some tasks and sweeps and what depends on them."""
        params = {"message": message or None, "force": force, "task": list(tasks)}
        self.http.json("POST", f"/api/workflow/{name}/cancel", params)

    def delete(self, name: str, patience: float = 30.0) -> None:
        """Remove a finished workflow with its logs and outputs; waits while nodes still clean up after it."""
        deadline = time.monotonic() + patience
        while True:
            try:
                self.http.json("DELETE", f"/api/x/workflow/{name}")
                return
            except ClientError as error:
                if error.status != 409 or time.monotonic() > deadline:
                    raise
            time.sleep(0.3)

    # -- results

    def outputs(self, name: str, task: str = "") -> builtins.list[OutputFile]:
        """The files that the tasks of a workflow wrote."""
        listed = self.http.json("GET", f"/api/x/workflow/{name}/outputs", {"task": task or None})
        return [OutputFile(t["task"], f["path"], f["size"]) for t in listed["tasks"] for f in t["files"]]

    def download(self, name: str, folder: Path, task: str = "") -> Downloaded:
        """Put what `task` wrote into `folder`, or what every task wrote into a folder of its name there."""
        if task:
            return self._unpack(name, task, folder)
        listed = self.http.json("GET", f"/api/x/workflow/{name}/outputs")["tasks"]
        found = [self._unpack(name, t["task"], folder / t["task"]) for t in listed if t["count"]]
        skipped = tuple(s for one in found for s in one.skipped)
        return Downloaded(sum(one.files for one in found), sum(one.bytes for one in found), skipped)

    def _unpack(self, name: str, task: str, folder: Path) -> Downloaded:
        folder.mkdir(parents=True, exist_ok=True)
        files = size = 0
        skipped: builtins.list[str] = []
        with (
            self.http.stream(f"/api/x/workflow/{name}/outputs/{task}.tar") as answer,
            tarfile.open(fileobj=answer, mode="r|") as archive,
        ):
            for member in archive:
                if not _extract(archive, member, folder):
                    skipped.append(member.name)
                    continue
                files, size = files + member.isfile(), size + member.size
        return Downloaded(files, size, tuple(skipped))


def _flat(batches: Iterator[list[str]]) -> Iterator[str]:
    """Closed with its caller, and the stream with it."""
    for lines in batches:
        yield from lines


def _untold(batches: Iterator[builtins.list[str]], told: Counter[str]) -> Iterator[builtins.list[str]]:
    """Those of a log read anew that were not told before. Tasks write side by side, so each is counted for itself: by
    `[task` of `YYYY/MM/DD HH:MM:SS [task] text`."""
    seen = Counter[str]()
    for lines in batches:
        new = []
        for line in lines:
            who = line[20:].partition("]")[0]
            seen[who] += 1
            if seen[who] > told[who]:
                told[who] += 1
                new.append(line)
        yield new


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> bool:
    """Put one member below `folder`; False for one that would leave it. Before 3.11.4 Python has no filter for this:
    there only plain files and folders are taken."""
    if hasattr(tarfile, "data_filter"):
        try:
            archive.extract(member, folder, filter="data")
        except tarfile.FilterError:
            return False
        return True
    inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
    if not inside or not (member.isfile() or member.isdir()):
        return False
    member.mode &= 0o755
    archive.extract(member, folder, set_attrs=member.isfile())
    return True
