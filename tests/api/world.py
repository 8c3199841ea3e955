"""A platform without nodes: a test plays the controller and the tasks."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from osmo_ray.api import application
from osmo_ray.api.services import Services
from osmo_ray.backends.protocol import BackendUnavailable
from osmo_ray.engine.decide import decide_all
from osmo_ray.engine.events import Event, Observed, Placed
from osmo_ray.engine.model import Task, Workflow
from osmo_ray.engine.plans import output_prefix
from osmo_ray.objects.local import LocalStore
from osmo_ray.providers import secrets
from osmo_ray.providers.passes import Passes
from osmo_ray.providers.quota import YamlQuota
from osmo_ray.providers.template import ProcessRenderer
from osmo_ray.runtime.logs import log_prefix, segment_name, stored_log
from osmo_ray.runtime.transfer import upload
from osmo_ray.settings import Settings
from osmo_ray.spec.attempt import AttemptKey, LogChunk, NodeReport, Observation, Phase
from osmo_ray.spec.reason import Reason
from osmo_ray.store.sql import SqlStore

NODE = NodeReport("n1", "127.0.0.1", 4.0, 8 << 30, 1, 100 << 30, sandbox="namespaces: bubblewrap works here")
HELLO = """workflow:
  name: hello
  tasks:
  - name: a
    image: ubuntu:24.04
    command: [echo, hello]
  - name: b
    image: ubuntu:24.04
    command: [cat, "{{input:0}}/x"]
    inputs:
    - task: a
"""


@dataclass
class LiveLog:
    data: bytes = b""
    end: bool = False


class Nodes:
    """The logs that nodes would give; `down` ones cannot be asked."""

    def __init__(self) -> None:
        self.logs_of: dict[AttemptKey, LiveLog] = {}
        self.down: set[str] = set()
        self.calls = 0

    async def logs(self, key: AttemptKey, node: str, offset: int, limit: int, wait: float) -> LogChunk:
        self.calls += 1
        if node in self.down or key not in self.logs_of:
            raise BackendUnavailable(node)
        log = self.logs_of[key]
        if offset >= len(log.data) and not log.end:
            await asyncio.sleep(min(wait, 0.05))
        data = log.data[offset : offset + limit]
        return LogChunk(data, offset + len(data), log.end and offset + len(data) >= len(log.data))


class World:
    """Store, objects, logs and the application over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = 1_800_000_000.0
        self.store = SqlStore(f"sqlite:///{folder / 'osmo.db'}")
        self.store.migrate()
        self.objects = LocalStore(folder / "storage", durable=False)
        self.nodes = Nodes()
        self.woken = 0
        self.settings = Settings(home=folder, disk_reserve=0)
        self._ids = itertools.count(1)
        self.renderer = ProcessRenderer(workers=1)
        key = folder / "secret.key"
        self.vault = secrets.load(key)
        self.store.save_nodes("local", [NODE], self.now)
        self.services = Services(
            store=self.store,
            settings=self.settings,
            objects=self.objects,
            live_logs=self.nodes,
            stored_logs=lambda uuid, key, offset, limit: stored_log(self.objects, uuid, key, offset, limit),
            renderer=self.renderer,
            wake=self._wake,
            quota=YamlQuota(folder / "quota.yaml"),
            vault=self.vault,
            passes=Passes(secrets.read_keys(key)),
            clock=lambda: self.now,
            new_id=lambda: f"{next(self._ids):032x}",
        )

    def _wake(self) -> None:
        self.woken += 1

    def app(self, **settings: Any) -> Any:
        changed = replace(self.services, settings=replace(self.settings, **settings))
        return application.build(changed)

    def client(self, host: str = "127.0.0.1", peer: str = "127.0.0.1", **settings: Any) -> TestClient:
        """A client that comes from `peer` and calls the platform `host`."""
        base = f"http://{host}:8000"
        return TestClient(self.app(**settings), base_url=base, client=(peer, 50000), raise_server_exceptions=False)

    def close(self) -> None:
        self.renderer.close()
        self.store.close()

    # -- playing the controller

    def submit(self, text: str = HELLO, user: str = "ann", **query: Any) -> str:
        with self.client() as client:
            reply = client.post(
                "/api/pool/default/workflow", params=query, json={"file": text}, headers={"x-osmo-user": user}
            )
        assert reply.status_code == 200, reply.text
        return str(reply.json()["name"])

    def happen(self, name: str, *events: Event) -> Workflow:
        workflow = self.store.find(name)
        assert workflow is not None
        decision = decide_all(workflow, events, self.now)
        assert not self.store.commit([decision])
        after = self.store.find(name)
        assert after is not None
        return after

    def task(self, name: str, task: str) -> Task:
        workflow = self.store.find(name)
        assert workflow is not None
        return next(t for g in workflow.groups for t in g.tasks if t.name == task)

    def start(self, name: str, *tasks: str, node: str = "n1") -> list[AttemptKey]:
        """Place these tasks and let them run, with empty logs on their node."""
        keys = []
        for task in tasks:
            workflow = self.store.find(name)
            assert workflow is not None
            found = self.task(name, task)
            group = workflow.group_of(found.uuid)
            assert group is not None
            self.happen(name, Placed(group.name, {t.uuid: node for t in group.tasks}))
            key = AttemptKey(found.uuid, found.retry_id)
            self.happen(name, *self._seen(key, (Phase.ACCEPTED, Phase.READY, Phase.RUNNING), node))
            self.nodes.logs_of[key] = LiveLog()
            keys.append(key)
        return keys

    def _seen(self, key: AttemptKey, phases: Sequence[Phase], node: str) -> list[Event]:
        return [Observed(Observation(key, phase, self.now, node=node)) for phase in phases]

    def write(self, key: AttemptKey, *lines: str, at: float | None = None, kind: str = "O") -> None:
        stamp = int((self.now if at is None else at) * 1000)
        log = self.nodes.logs_of.setdefault(key, LiveLog())
        log.data += b"".join(f"{stamp} {kind} {line}\n".encode() for line in lines)

    def finish(
        self,
        name: str,
        key: AttemptKey,
        code: int = 0,
        files: dict[str, bytes] | None = None,
        reason: Reason | None = None,
        usage: dict[str, float] | None = None,
    ) -> Workflow:
        """The command ended: log closed, outputs kept, the news told."""
        self.nodes.logs_of.setdefault(key, LiveLog()).end = True
        workflow = self.store.find(name)
        assert workflow is not None
        output = output_prefix(workflow, next(t for g in workflow.groups for t in g.tasks if t.uuid == key.task_uuid))
        folder = self.folder / "work" / str(key)
        folder.mkdir(parents=True)
        for path, data in (files or {}).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        upload(self.objects, output, folder)
        seen = Observation(
            key,
            Phase.FINISHED,
            self.now,
            node="n1",
            exit_code=code,
            output=output,
            reason=reason,
            usage=usage or {},
        )
        return self.happen(name, Observed(seen))

    def ship(self, name: str, key: AttemptKey) -> None:
        """The log goes to the store, and the node forgets it."""
        workflow = self.store.find(name)
        assert workflow is not None
        log = self.nodes.logs_of.pop(key)
        self.objects.write(log_prefix(workflow.uuid, key) + segment_name(0, last=True), log.data)
